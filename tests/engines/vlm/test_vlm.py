"""Prompts and models: chat templates, borders of prompt and answer, bad input; the embedded model and its training text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from levl_eval.cards import PromptSpec
from levl_eval.cards.registry import llm_cards
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.data.types import Question
from levl_eval.engines.vlm.engine import answer_batch
from levl_eval.engines.vlm.language import load_language_model
from levl_eval.engines.vlm.packing import check_packing
from levl_eval.engines.vlm.prompts import how_asked, make_prompt
from levl_eval.engines.vlm.scoring import estimates
from levl_eval.runner.language import language_model_parts
from tests.engines.vlm.models import CHAT, TEXTS, make


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


def test_bad_prompts_answers_and_models(llama, tmp_path):
    for template in ("{question}", "{image} {image} {question}", "{question}{image}"):
        with pytest.raises(UsageError, match=r"prompt\.template"):
            make_prompt(PromptSpec(template=template), llama)
    prompt = make_prompt(PromptSpec(), llama)
    with pytest.raises(UsageError, match="answer is empty"):
        prompt.answer(llama, "  ")
    with pytest.raises(UsageError, match="did you mean scenes-lm"):
        load_language_model("scene-lm")
    with pytest.raises(UsageError, match="qwen2.5-1.5b"):
        load_language_model("qwen2.5-1.5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as e:
        load_language_model(str(tmp_path / "empty"))
    assert "\n" not in str(e.value)


def test_answers_never_merge_with_the_prompt(llama):
    prompt = make_prompt(PromptSpec(), llama)
    whole = llama.tokenizer.decode([*prompt.question(llama, TEXTS[0]), *prompt.answer(llama, "cat")[:-1]])
    assert whole == f"\nQuestion: {TEXTS[0]}\nAnswer: cat"
    with pytest.raises(UsageError, match="joins the end of the prompt"):
        make_prompt(PromptSpec(template="{image}\nQuestion: {question}\nAnswer: "), llama)


def test_chat_templates(llama, tmp_path):
    with pytest.raises(UsageError, match="has no chat template"):
        make_prompt(PromptSpec(chat=True), llama)
    model = make("qwen2", tmp_path, chat=True)
    prompt = make_prompt(PromptSpec(chat=True, system="Be brief."), model)
    assert model.tokenizer.decode(list(prompt.head)) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    behind = [*prompt.question(model, "Why?"), *prompt.answer(model, "so")]
    assert model.tokenizer.decode(behind) == (
        "\nWhy?\nAnswer the question using a single word or phrase.<|im_end|>\n<|im_start|>assistant\nso<|im_end|>"
    )
    assert len(answer_batch(model, prompt, torch.zeros(1, 3, 32), [TEXTS])[0]) == len(TEXTS)


def test_a_model_with_a_chat_template_is_asked_by_it_unless_told_otherwise(llama, tmp_path):
    model = make("qwen2", tmp_path, chat=True)
    assert model.chat and language_model_parts(str(tmp_path), sha256_file)["chat"] is True
    assert how_asked(model, PromptSpec()) == "asked through its chat template (`prompt.chat=false` asks otherwise)"
    assert how_asked(model, PromptSpec(chat=False)) == "asked by a plain prompt, as `prompt.chat` says"
    by_itself, chat, plain = (make_prompt(PromptSpec(chat=c), model) for c in (None, True, False))
    assert (by_itself.head, by_itself.tail) == (chat.head, chat.tail) != (plain.head, plain.tail)
    # The prompt ends where the model's own answer begins.
    assert by_itself.tail.endswith("<|im_end|>\n<|im_start|>assistant\n")

    assert not llama.chat and language_model_parts(llama.name, sha256_file)["chat"] is False
    assert how_asked(llama, PromptSpec()) == "asked by a plain prompt"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    settings.pop("chat_template", None)
    # where older versions write it
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
    assert load_language_model(str(tmp_path)).chat and language_model_parts(str(tmp_path), sha256_file)["chat"] is True
    assert {n: c.chat for n, c in llm_cards().items()}[
        "qwen2.5-1.5b"
    ] is False  # a base model's card says no, whatever its tokenizer has


@pytest.mark.parametrize("answer, score, unparsed", [
    ("The answer is no.", "no", False), ("No, there is no cat.", "no", False), ("Yes", "yes", False), ("The answer is yes.", "yes", False),
    ("There isn't one", "yes", True), ("I cannot see that.", "yes", True),
])  # fmt: skip
def test_sentences_of_chat_models_are_scored_by_the_official_rule_with_the_unparsed_share_beside(answer, score, unparsed):
    """POPE's rule reads whatever lacks no or not as yes: the share that says neither stands beside."""
    asked = [Question(str(k), "image", "Is there a cat?", "no", meta={"split": "random"}) for k in range(4)]
    found = estimates("pope", asked, {q.question_id: answer for q in asked})
    assert found["accuracy"].value == (score == "no") and found["unparsed"].value == unparsed


@pytest.mark.parametrize("scorer", ["pope", "gqa"])
def test_every_metric_has_an_interval_of_enough_draws(scorer):
    rng = np.random.default_rng(3)
    words = ["yes", "no"] if scorer == "pope" else ["red", "blue", "green", "yes"]
    questions, answers, likelihoods = [], {}, {}
    for k in range(240):
        meta = {
            "split": ("random", "popular")[k % 2],
            "groups": {"global": ("color", "thing")[k % 3 > 0]},
            "valid": ["red"],
            "steps": 2,
        }
        meta["types"], meta["entailed"] = {"structural": "query", "semantic": "attr"}, [str(k ^ 1)]
        questions.append(Question(str(k), f"image{k // 4}", "What is it?", words[rng.integers(len(words))], meta=meta))
        answers[str(k)] = words[rng.integers(len(words))]
        likelihoods[str(k)] = rng.normal(size=2).tolist()
    found = estimates(scorer, questions, answers, likelihoods)
    assert {"likelihood_ap", "likelihood_calibration_error"} < found.keys() or {"distribution", "consistency"} < found.keys()
    for name, e in found.items():
        assert e.stderr is not None and e.low is not None and e.low <= e.value <= e.high, name
        assert (e.stderr > 0 and e.low < e.high) or e.value in (0, 1), name
        assert "2000 draws" in e.method or e.method in ("t", "wilson"), (name, e.method)


def test_loading_draws_no_bar_of_its_own(capfd):
    load_language_model("scenes-lm")
    assert "Loading" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["mpt", "mamba"])
def test_a_model_that_cannot_keep_questions_apart_is_told(tmp_path, kind):
    with pytest.raises(UsageError, match=f"a model of kind {kind} does not keep questions .* apart") as e:
        make(kind, tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_logits_would_be_wrong_is_told_and_none_else(llama, monkeypatch, dtype):
    language = load_language_model(llama.name, dtype=dtype)
    forward = language.model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = 2.0 * out.logits
        return out

    monkeypatch.setattr(language.model, "forward", scaled)
    with pytest.raises(UsageError, match="a model of kind llama"):
        check_packing(language)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama"])
def test_a_model_without_its_tokenizers_files_is_one_line(tmp_path, kind):
    """transformers makes an empty tokenizer for some of them: every question would have been no token at all."""
    make(kind, tmp_path, chat=True)
    for file in tmp_path.iterdir():
        if file.name.startswith(("tokenizer", "special", "chat", "vocab", "merges")):
            file.unlink()
    with pytest.raises(UsageError, match=r"tokenizer .*copy tokenizer.json, or its vocabulary's files") as e:
        load_language_model(str(tmp_path))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|user|>{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{{ messages[0].content | replace('{image}', '') }}",
    ],
)
def test_a_chat_template_that_drops_or_repeats_what_is_asked_is_one_line(llama, tmp_path, template):
    language = make("llama", tmp_path, chat=True)
    language.tokenizer.chat_template = template
    with pytest.raises(UsageError, match="does not write the user's turn once and as it is; set `prompt.chat=false`"):
        make_prompt(PromptSpec(chat=True), language)
