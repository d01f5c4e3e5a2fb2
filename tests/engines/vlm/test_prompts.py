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
