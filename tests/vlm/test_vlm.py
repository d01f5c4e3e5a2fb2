"""Prompts and models: chat templates, borders of prompt and answer, bad input; the embedded model and its training text."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer

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


def test_embedded_model_reads_and_has_a_floor():
    """The shipped model answers what it reads far above what it answers without reading; no picture is involved."""
    from transformers import LlamaForCausalLM

    from levl_eval.registry import ASSETS
    from levl_eval.vlm.scenes_lm import accuracy

    folder = ASSETS / "scenes-lm"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = accuracy(model, Tokenizer.from_file(str(folder / "tokenizer.json")), 12, seed=5)
    assert table["reading"].value > table["text-only"].value + 0.25
    assert table["reading/exist"].value > 0.95
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_training_text_masks_questions_from_each_other():
    from levl_eval.vlm.scenes_lm import block_mask
    from levl_eval.vlm.scenes_text import corpus, make_example, pack, train_tokenizer

    tok = train_tokenizer(corpus(60), 500)
    batch = pack([make_example(i) for i in range(3)], tok, blind=frozenset({2}))
    m = block_mask(torch.from_numpy(batch.block))[:, 0]
    i, j = (batch.block[0] == 1).nonzero()[0], (batch.block[0] == 2).nonzero()[0]
    d = (batch.block[0] == 0).nonzero()[0]
    assert not m[0][j][:, i].any() and m[0][j][:, d].all() and not m[0][d][:, j].any()
    assert batch.positions[0][i[0]] == batch.positions[0][j[0]] == len(d)
    asked = batch.weights[0] == 1.0
    assert asked.sum() >= 2 * len(make_example(0).questions)  # each answer has a word and its end
    assert (batch.block[2] == 0).sum() == 1
