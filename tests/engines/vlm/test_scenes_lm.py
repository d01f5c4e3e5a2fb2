"""The embedded language model: what its training text shows, that showing it teaches recall, and what the shipped one can read."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from levl_eval.engines.muon import Muon
from levl_eval.tools.scenes_lm.batch import COMPARE, FIND, GATHER, READ, pack
from levl_eval.tools.scenes_lm.reading import WORDS, reading_example
from levl_eval.tools.scenes_lm.text import PROMPT, TOGETHER, corpus, easy_example, make_example, train_tokenizer, with_words
from levl_eval.tools.scenes_lm.train import block_mask, build, guide_at, look_loss, loss_of, widened, words_loss


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(corpus(300), 900)


def words_of(tokenizer, ids):
    return [tokenizer.decode([int(i)]).strip() for i in ids]


def test_the_prompt_is_the_cards_and_its_marks_are_one_token_each(tokenizer):
    from levl_eval.cards import PromptSpec

    assert PromptSpec().template == "{image}" + PROMPT
    text = PROMPT.format(question="Is there a cup?") + " yes"
    assert tokenizer.encode(text).tokens[0] == "\nQuestion:" and len(tokenizer.encode(text).ids) <= 10
    for t in (text, "Größe 12, \nso what", " the cup is red.\nQuestion:\nAnswer:"):
        assert tokenizer.decode(tokenizer.encode(t).ids, skip_special_tokens=False) == t


def test_questions_do_not_see_each_other(tokenizer):
    batch = pack([make_example(i, style="list") for i in range(3)], tokenizer, blind=frozenset({2}))
    m = block_mask(torch.from_numpy(batch.block))[:, 0]
    i, j = (batch.block[0] == 1).nonzero()[0], (batch.block[0] == 2).nonzero()[0]
    d = (batch.block[0] == 0).nonzero()[0]
    assert not m[0][j][:, i].any() and m[0][j][:, d].all() and not m[0][d][:, j].any()
    assert batch.positions[0][i[0]] == batch.positions[0][j[0]] == len(d)
    assert batch.weights[0].sum() >= 2 * len(make_example(0, style="list").questions)  # each answer has a word and its end
    assert (batch.block[2] == 0).sum() == 1 and not any(r == 2 for x in batch.looks.values() for r in x.row)


def test_where_to_look_is_where_it_stands(tokenizer):
    """Read the looks back as words: a word of the question points at phrases that hold it, the answer stands where it is read."""
    seen = {GATHER: 0, FIND: 0, COMPARE: 0, READ: 0}
    for seed in range(60):
        e = make_example(seed, hard=True, swap=0.5)
        b = pack([e], tokenizer)
        held = {at: words_of(tokenizer, [t for t, o in zip(b.words[GATHER].target, b.words[GATHER].owner, strict=True) if o == k])
                for k, at in enumerate(b.words[GATHER].at)}  # fmt: skip
        for kind, looks in b.looks.items():
            for k in range(len(looks)):
                at, targets = looks.at[k], [t for t, o in zip(looks.target, looks.owner, strict=True) if o == k]
                seen[kind] += 1
                assert targets and all(t < at or kind == GATHER for t in targets)
                block = b.block[0][at]
                asked = e.questions[block - 1] if block else None
                word = words_of(tokenizer, [b.ids[0][at]])[0]
                if kind == GATHER:
                    assert set(words_of(tokenizer, b.ids[0][targets])) == set(held[at])
                if kind == FIND:
                    assert word and any(asked.question[: c + 1].endswith(word) for c, _ in asked.cues)
                    assert all(b.block[0][t] == 0 for t in targets)
                if kind == READ:
                    assert b.ids[0][at] == tokenizer.token_to_id("\nAnswer:")
                    last = asked.answer.split()[-1]
                    if len(tokenizer.encode(f" {last}").ids) == 1 and e.style != TOGETHER:
                        assert any(last in held[t] for t in targets), (asked, [held[t] for t in targets])
    assert min(seen.values()) > 30, seen


def test_a_phrase_told_at_once_is_one_position_that_holds_its_words(tokenizer):
    e = next(x for x in map(make_example, range(100)) if x.style == TOGETHER and not x.unsure)
    b = pack([e], tokenizer)
    assert (b.block[0] == 0).sum() == 1 + len(e.phrases)
    for k, p in enumerate(e.phrases):
        assert set(words_of(tokenizer, [w for at, w, _ in b.added if at == k + 1])) <= set(
            p.text.replace(":", " ").replace(",", " ").replace(".", " ").replace(";", " ").split()
        )
        if p.name:
            assert sum(at == k + 1 for at, _, _ in b.added) >= 5


def test_what_is_told_with_doubt_keeps_the_true_name_and_adds_absent_ones(tokenizer):
    e = next(x for x in (make_example(s, swap=0.0) for s in range(100)) if x.style == TOGETHER and x.unsure)
    b = pack([e], tokenizer)
    ends = sum(p.copies for p in e.phrases)
    assert (b.block[0] == 0).sum() == 1 + ends
    at = 1
    for p in e.phrases:
        for _ in range(p.copies):
            here = {tokenizer.decode([w]).strip(): x for k, w, x in b.added if k == at and x > 0}
            if p.name:
                others = {w: x for w, x in here.items() if w in e.absent}
                assert p.name in here and 1 <= len(others) <= 2 and sum(others.values()) < 1.0
            at += 1


def test_further_words_are_a_token_each_and_older_ones_keep_theirs(tokenizer):
    wider = with_words(tokenizer, WORDS)
    known = tokenizer.get_vocab()
    assert {t: n for t, n in wider.get_vocab().items() if n < len(known)} == known
    assert wider.get_vocab_size() == len(wider.get_vocab()) > len(known)
    for word in WORDS:
        assert len(wider.encode(f" {word}").ids) == 1, word
    assert wider.encode(" 42").tokens != wider.encode(" 24").tokens[::-1]  # told at once, 42 is another sum than 24
    for i in range(60):
        for e in (make_example(i), reading_example(i)):
            for text in (" " + e.text, *(PROMPT.format(question=q.question) + f" {q.answer}" for q in e.questions)):
                assert wider.decode(wider.encode(text).ids, skip_special_tokens=False) == text


def test_where_print_letters_and_what_is_compared_are_read(tokenizer):
    """A question's cues end at what they point at, and what is to be answered stands in the phrase where it is read."""
    wider, families = with_words(tokenizer, WORDS), Counter()
    for seed in range(200):
        e = reading_example(seed)
        b = pack([e], wider)
        assert (b.weights[0] > 0).sum() >= 2 * len(e.questions)
        for q in e.questions:
            families[q.family] += 1
            for at, phrases in q.cues:
                words = q.question[: at + 1].split()
                assert phrases and all(words[-1].strip('".,') in e.phrases[k].text for k in phrases), (q, e.text)
            if q.source and q.family != "point":
                assert any(q.answer in e.phrases[k].text for k in q.source), (q, e.text)
            if q.family in ("nearer", "larger", "statement"):
                assert len(q.cues) == 2 and q.compares
    assert len(families) == 14 and min(families.values()) > 5, families


def test_a_wider_model_reads_as_before_what_has_no_further_words(tmp_path, tokenizer):
    """Its own tokens keep their embeddings; each further one begins as the mean of its pieces'."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/tokenizer.json").write_text(tokenizer.to_str())
    model = build(tokenizer.get_vocab_size(), 3)
    model.save_pretrained(tmp_path / "first")
    wider = with_words(tokenizer, WORDS)
    grown = widened(tmp_path / "first", wider)
    old, new = model.get_input_embeddings().weight, grown.get_input_embeddings().weight
    assert new.shape[0] == wider.get_vocab_size() and torch.equal(new[: len(old)], old)
    number = wider.token_to_id("\u0120closer")
    pieces = tokenizer.encode(" closer").ids
    assert number >= len(old) and len(pieces) > 1 and torch.allclose(new[number], old[pieces].mean(0))
    text = torch.tensor([tokenizer.encode(" the cup is red.\nQuestion: Is there a cup?\nAnswer:").ids])
    with torch.no_grad():
        assert torch.allclose(grown(text).logits[..., : len(old)], model(text).logits, atol=1e-5)


def test_look_and_word_losses_against_plain_loops(tokenizer):
    torch.manual_seed(0)
    model = build(tokenizer.get_vocab_size())
    model.set_attn_implementation("eager")
    b = pack([make_example(s, style="list") for s in (3, 4)], tokenizer)
    out = model.model(input_ids=torch.from_numpy(b.ids), output_attentions=True, output_hidden_states=True, use_cache=False)
    for kind, heads in ((GATHER, ((0, 0), (0, 1), (1, 0), (1, 1))), (READ, ((4, 0),))):
        looks, total = b.looks[kind], []
        for layer, head in heads:
            for k in range(len(looks)):
                row = out.attentions[layer][looks.row[k], head, looks.at[k]]
                seen = [float(row[t]) for t, o in zip(looks.target, looks.owner, strict=True) if o == k]
                even = [1 / len(seen) * np.log(1 / len(seen) / max(p, 1e-6)) for p in seen]
                total.append(sum(even) if kind == GATHER else -np.log(max(sum(seen), 1e-6)))
        assert look_loss(out.attentions, kind, looks).item() == pytest.approx(np.mean(total), rel=1e-4)
    held, total = b.words[FIND], []
    for k in range(len(held)):
        p = model.lm_head(model.model.norm(out.hidden_states[3][held.row[k], held.at[k]])).softmax(-1)
        want = [t for t, o in zip(held.target, held.owner, strict=True) if o == k]
        total.append(sum(np.log(1 / len(want) / float(p[t])) / len(want) for t in want))
    assert words_loss(model, out.hidden_states[3], held).item() == pytest.approx(np.mean(total), rel=1e-4)


@pytest.mark.slow
def test_being_shown_teaches_where_to_look(tokenizer):
    """Forty guided steps on easy scenes: heads gather phrases and find things; without the guide they do not."""

    def after(guide: float) -> tuple[float, float]:
        model = build(tokenizer.get_vocab_size())
        model.set_attn_implementation("eager")
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        rest = [p for n, p in model.named_parameters() if "layers" not in n or p.ndim == 1]
        optimizers = [Muon(matrices, lr=3e-3), torch.optim.AdamW(rest, lr=3e-3)]
        for step in range(40):
            _, total = loss_of(model, pack([easy_example(1000 * step + i, 4) for i in range(4)], tokenizer), guide)
            model.zero_grad()
            total.backward()
            for o in optimizers:
                o.step()
        with torch.no_grad():
            b = pack([easy_example(10**6 + i, 4) for i in range(6)], tokenizer)
            out = model.model(input_ids=torch.from_numpy(b.ids), output_attentions=True, use_cache=False)
            return look_loss(out.attentions, GATHER, b.looks[GATHER]).item(), loss_of(model, b)[0].item()

    (shown, loss), (unshown, _) = after(0.3), after(0.0)
    assert shown < 0.75 * unshown and np.isfinite(loss)


def test_the_guide_ends_before_the_training():
    assert [round(guide_at(s, 100, 0.5), 3) for s in (0, 60, 70, 80, 99)] == [0.5, 0.5, 0.25, 0.0, 0.0]


@pytest.mark.slow
def test_training_goes_on_where_it_was_stopped_and_exports(tmp_path, tokenizer):
    """Killed after its first export and started again, the command ends where an undisturbed one ends."""
    call = [
        sys.executable,
        "-m",
        "levl_eval.tools.scenes_lm.train",
        "train",
        "--batch",
        "2",
        "--every",
        "2",
        "--vocab",
        "600",
        "--threads",
        "1",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        out.mkdir()
        tokenizer.save(str(out / "tokenizer.json"))
    subprocess.run([*call, "--steps", "4", "--out", str(whole)], check=True, capture_output=True)
    run = subprocess.Popen([*call, "--steps", "4", "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (cut / "state.pt").exists() and run.poll() is None:
        time.sleep(0.05)
    run.kill()
    run.wait()
    subprocess.run([*call, "--steps", "4", "--out", str(cut), "--export", str(cut / "hf")], check=True, capture_output=True)
    a, b = (torch.load(d / "state.pt", weights_only=True) for d in (whole, cut))
    assert a["step"] == b["step"] == 4 and all(torch.equal(x, b["model"][k]) for k, x in a["model"].items())
    assert json.loads((cut / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert (cut / "hf" / "model.safetensors").exists()


@pytest.mark.slow
def test_embedded_model_reads_and_has_a_floor():
    """The shipped model answers what it reads far above what it answers without reading; no image is involved."""
    from transformers import LlamaForCausalLM

    from levl_eval.cards.registry import ASSETS
    from levl_eval.tools.scenes_lm.train import accuracy

    folder = ASSETS / "scenes-lm"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = accuracy(model, Tokenizer.from_file(str(folder / "tokenizer.json")), 12, seed=5)
    assert table["reading"].value > table["text-only"].value + 0.25
    assert table["reading/exist"].value > 0.95
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
