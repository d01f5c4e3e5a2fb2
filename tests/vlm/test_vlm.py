"""Prompts and models: chat templates, borders of prompt and answer, bad input; the embedded model and its training text."""

from __future__ import annotations

import pytest
import torch

from levl_eval.cards import PromptSpec
from levl_eval.errors import UsageError
from levl_eval.vlm.engine import answer_batch
from levl_eval.vlm.language import load_language_model
from levl_eval.vlm.prompts import make_prompt
from tests.vlm.models import TEXTS, make


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
