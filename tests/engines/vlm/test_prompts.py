"""Prompt templates: what they must hold, and what they must not."""

from __future__ import annotations

import pytest

from levl_eval.cards import PromptSpec
from levl_eval.core.errors import UsageError
from levl_eval.engines.vlm.prompts import make_prompt
from tests.engines.vlm.models import make


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{image} {question} {context}", r"nothing fills \{context\}"),
        ("{} {image} {question}", r"nothing fills \{\}"),
        ("{question} {image}", "behind it one"),
        ("{image}", "expected one"),
        ("{image} {question} {question}", "expected one"),
    ],
)
def test_templates_that_are_refused(llama, template, words):
    with pytest.raises(UsageError, match=f"field `prompt.template`: .*{words}"):
        make_prompt(PromptSpec(template=template), llama)


def test_braces_that_are_no_field_stay(llama):
    assert make_prompt(PromptSpec(template='{image} Answer as {"answer": ...}. {question}'), llama).spec.template.startswith(
        "{image}"
    )


def test_a_turn_that_a_plain_prompt_has_not_is_refused_where_it_is_set():
    from levl_eval.cards.registry import task_card
    from levl_eval.runner.language import check_asked

    cards = {"gqa": task_card("gqa"), "pope[prompt.chat=true]": task_card("pope", {"prompt.chat": "true"})}
    for word in ("gqa.prompt.system=x", "gqa.prompt.user=x"):
        with pytest.raises(UsageError, match=r"^gqa\.prompt\.\w+: is not read, as .* plain prompt; .*gqa\.prompt\.chat to true$"):
            check_asked([word], cards, chat=False)
        check_asked([word], cards, chat=True)
    with pytest.raises(UsageError, match=r"^gqa\.prompt\.template: is not read, as .* chat template"):
        check_asked(["gqa.prompt.template=x"], cards, chat=True)
    check_asked(["pope.prompt.system=x", "gqa.prompt.stop=[]", "gqa.recipe.lr=1"], cards, chat=False)


@pytest.mark.parametrize("field", ["prompt.user", "recipe.prompt.system"])
def test_a_dry_run_refuses_a_turn_that_the_run_would_refuse(field, capsys):
    from levl_eval.cli import main

    words = ["run", "--backbone", "random-nano", "--tasks", "gqa", "--device", "cpu", "--set", f"gqa.{field}=x", "--dry-run"]
    assert main(words) == 2 and f"gqa.{field}: is not read" in capsys.readouterr().err
