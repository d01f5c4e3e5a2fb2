"""The shared-prefix engine against the library's own `generate`, over model families, batch sizes and memory bounds."""

from __future__ import annotations

import string

import pytest
import torch

from levl_eval.cards import PromptSpec
from levl_eval.core.errors import UsageError
from levl_eval.engines.vlm.engine import Bounds, answer_all, answer_alone, answer_batch, score_batch
from levl_eval.engines.vlm.prompts import make_prompt
from tests.engines.vlm.models import KINDS, TEXTS, make


@pytest.fixture(scope="module", params=KINDS)
def language(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


VISUAL = 0.5 * torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(0))
ASKED = [TEXTS, TEXTS[1:3], TEXTS[:1]]


def _everything(language, prompt, bounds, visual=VISUAL):
    out = {i: texts for i, texts, _ in answer_all(language, prompt, lambda i: visual[list(i)], ASKED, bounds)}
    return [out[i] for i in range(len(ASKED))]


@pytest.mark.slow
def test_answers_equal_generate_at_every_batch_size_and_padding_side(language):
    prompt = make_prompt(PromptSpec(max_new_tokens=7, stop=[]), language)
    want = [[answer_alone(language, prompt, v, q) for q in qs] for v, qs in zip(VISUAL, ASKED, strict=True)]
    assert len({a for qs in want for a in qs}) > 3  # the models do say different things
    for side in ("left", "right"):
        language.tokenizer.padding_side = side
        assert answer_batch(language, prompt, VISUAL, ASKED) == want
    small = 2 * language.row_bytes(80) * 2  # two rows at a time
    total = sum(map(len, ASKED))
    for bounds in (*map(Bounds, range(1, total + 2)), Bounds(memory=small), Bounds(memory=1)):
        assert _everything(language, prompt, bounds) == want
    blind = [[answer_alone(language, prompt, None, q) for q in qs] for qs in ASKED]
    assert answer_batch(language, prompt, None, ASKED) == blind
    assert blind != want


def test_nothing_at_all_before_the_question(tmp_path):
    """Without a beginning-of-text token and without an image, padding would see nothing."""
    language = make("qwen2", tmp_path, bos=False)
    prompt = make_prompt(PromptSpec(max_new_tokens=7, stop=[]), language)
    assert prompt.head == ()
    assert answer_batch(language, prompt, None, [TEXTS]) == [[answer_alone(language, prompt, None, q) for q in TEXTS]]


def test_the_library_padded_on_the_left_says_the_same(llama):
    """Ours pads between prefix and question; `generate` on a batch pads before everything. Both equal the answer alone."""
    prompt = make_prompt(PromptSpec(max_new_tokens=7, stop=[]), llama)
    rows = [
        torch.cat([llama.embed(torch.tensor(prompt.head)), VISUAL[0], llama.embed(torch.tensor(prompt.question(llama, q)))])
        for q in TEXTS
    ]
    longest = max(len(r) for r in rows)
    embeds, mask = torch.zeros(len(rows), longest, 32), torch.zeros(len(rows), longest, dtype=torch.long)
    for k, r in enumerate(rows):
        embeds[k, longest - len(r) :], mask[k, longest - len(r) :] = r, 1
    out = llama.model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=7, do_sample=False, pad_token_id=2)
    texts = [llama.tokenizer.decode(x.tolist(), skip_special_tokens=True).strip() for x in out]
    assert answer_batch(llama, prompt, VISUAL[:1], [TEXTS]) == [texts]


def test_a_prefix_runs_once_however_many_chunks(llama, monkeypatch):
    calls = []
    forward = llama.model.forward

    def counting(*args, **kwargs):
        calls.append(kwargs.get("inputs_embeds"))
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", counting)
    prompt = make_prompt(PromptSpec(max_new_tokens=2, stop=[]), llama)
    monkeypatch.setattr(type(llama), "cache_argument", lambda self: "past_key_values")
    answer_batch(llama, prompt, VISUAL[:1], [TEXTS * 3], Bounds(rows=4))
    assert sum(c is not None for c in calls) == 1


def test_the_memory_bound_holds(llama):
    """Counted on the caches themselves: never more bytes of keys and values than the bound."""
    import transformers

    bound = 40 * llama.row_bytes(60)
    prompt = make_prompt(PromptSpec(max_new_tokens=3, stop=[]), llama)
    seen = []
    update = transformers.cache_utils.DynamicLayer.update

    def watch(self, *args, **kwargs):
        out = update(self, *args, **kwargs)
        seen.append(2 * self.keys.numel() * self.keys.element_size() * 2)  # keys and values of two layers
        return out

    transformers.cache_utils.DynamicLayer.update = watch
    try:
        _ = list(answer_all(llama, prompt, lambda i: VISUAL[list(i)], [TEXTS * 20, TEXTS * 20, TEXTS], Bounds(10**6, bound)))
    finally:
        transformers.cache_utils.DynamicLayer.update = update
    assert 0 < max(seen) <= bound / 2  # the other half is for the prefixes


def test_stop_strings_and_end_tokens_end_an_answer(llama):
    long = make_prompt(PromptSpec(max_new_tokens=12, stop=[]), llama)
    (text,) = answer_batch(llama, long, None, [[TEXTS[0]]])[0]
    mark = text[3:5]
    (cut,) = answer_batch(llama, make_prompt(PromptSpec(max_new_tokens=12, stop=[mark]), llama), None, [[TEXTS[0]]])[0]
    assert cut == text.split(mark)[0].strip()


def test_likelihoods_equal_those_of_whole_sequences(language):
    prompt = make_prompt(PromptSpec(), language)
    choices = ["yes", "a small cat"]
    found = score_batch(language, prompt, VISUAL[:2], [TEXTS[:3], TEXTS[3:]], choices, Bounds(rows=4))
    for i, qs in enumerate((TEXTS[:3], TEXTS[3:])):
        for k, q in enumerate(qs):
            for j, choice in enumerate(choices):
                end = prompt.answer_start(language, choice)
                ids = torch.tensor([*prompt.question(language, q), *end])
                x = torch.cat([language.embed(torch.tensor(prompt.head)), VISUAL[i], language.embed(ids)])[None]
                table = language.model(inputs_embeds=x).logits[0, -len(end) - 1 : -1].log_softmax(-1)
                want = table[torch.arange(len(end)), torch.tensor(end)].sum().item()
                assert found[i][k][j] == pytest.approx(want, abs=2e-4)


@pytest.mark.slow
def test_choices_of_one_token_are_read_where_the_answer_begins(language):
    prompt = make_prompt(PromptSpec(max_new_tokens=4), language)
    short = [w for w in (*string.ascii_lowercase, "the", "is") if len(prompt.answer_start(language, w)) == 1][:2]
    assert len(short) == 2
    for choices in (short, [*short, "a small cat"]):
        want = score_batch(language, prompt, VISUAL, ASKED, choices)
        found = list(answer_all(language, prompt, lambda i: VISUAL[list(i)], ASKED, Bounds(3), choices))
        assert [texts for _, texts, _ in found] == _everything(language, prompt, Bounds())
        for (i, _, values), there in zip(found, want, strict=True):
            assert values == [pytest.approx(row, abs=2e-4) for row in there], i


def test_too_many_image_tokens_are_told(llama):
    prompt = make_prompt(PromptSpec(), llama)
    with pytest.raises(UsageError, match="exceed its context of 256") as e:
        answer_batch(llama, prompt, torch.zeros(1, 250, 32), [[TEXTS[0]]])
    assert "\n" not in str(e.value)
    asked = [TEXTS, ["Why " * 300]]
    # before anything is answered, wherever the question stands
    with pytest.raises(UsageError, match="exceed its context of 256"):
        next(answer_all(llama, prompt, lambda i: VISUAL[list(i)], asked, Bounds(2)))


def test_the_vocabulary_is_multiplied_by_one_block_of_rows(tmp_path, monkeypatch):
    """A view of states costs a copy of the vocabulary's weights a row in bfloat16 on CPUs: 11 GiB where 1 is enough."""
    language = make("llama", tmp_path)
    seen = []
    language.model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    prompt = make_prompt(PromptSpec(max_new_tokens=2), language)
    answer_batch(language, prompt, torch.zeros(2, 3, 32), [TEXTS, TEXTS])
    score_batch(language, prompt, torch.zeros(2, 3, 32), [TEXTS, TEXTS], ["yes", "no"])
    assert len(seen) > 3 and all(states.is_contiguous() for states in seen)
