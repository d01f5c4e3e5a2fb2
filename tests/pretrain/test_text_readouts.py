"""Both published text read-outs against a plain Hugging Face GPT-2 in float64, written here as the authors call it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from levl_eval.models import tokenizer
from levl_eval.models.config import parse_config
from levl_eval.models.towers import build_model, plain_attention

WORDS = "a red cat sits on the mat and two dogs run over green fields while it rains in town".split()


@pytest.fixture(scope="module")
def tok():
    return tokenizer.train([" ".join(WORDS)] * 20, 400)


def _caption(tok, count):
    """A text of exactly ``count`` tokens."""
    words, i = [], 0
    while len(tok.encode(" ".join(words)).ids) < count:
        words.append(WORDS[i % len(WORDS)])
        i += 1
    assert len(tok.encode(" ".join(words)).ids) == count
    return " ".join(words)


def _model(tok, *words):
    config = parse_config(
        ["vision.depth=1", "text.depth=2", "vision.width=24", "text.width=32", "text.heads=2", "embed_dim=12", "head_width=20",
         "predictor_width=16", "predictor_depth=2", "image_size=16", "max_length=77", *words]
    )  # fmt: skip
    torch.manual_seed(0)
    return config, build_model(config, tok.get_vocab_size()).double()


def _plain(model, ids, mask):
    """Every hidden state of transformers' GPT-2 with its defaults (1,024 positions, position ids from 0) on padded rows."""
    from transformers import GPT2Config, GPT2Model

    gpt = GPT2Model(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_inner=128, vocab_size=1000, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    ).double().eval()  # fmt: skip
    state = model.text.encoder.state_dict()
    for name in ("wte", "wpe"):
        table = getattr(gpt, name).weight.data
        rows = state[f"{name}.weight"]
        state[f"{name}.weight"] = torch.cat([rows, table[len(rows) :]])
    gpt.load_state_dict(state)
    return gpt(input_ids=ids, attention_mask=mask).last_hidden_state


def _head(model, x):
    linear = [m for m in model.text.pre_proj if isinstance(m, nn.Linear)]
    norm = model.text.pre_proj[1]
    h = linear[0](x)
    h = (h - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return linear[1](torch.nn.functional.gelu(h))


@pytest.mark.parametrize("attention", ["fused", "plain"])
@pytest.mark.parametrize("count", [5, 40, 77])
def test_pad77_is_the_masked_last_position_of_a_plain_gpt2(tok, count, attention):
    _, model = _model(tok, "text_readout=pad77")
    model.eval()
    if attention == "plain":
        plain_attention(model)
    texts = [_caption(tok, count), _caption(tok, 9)]
    ids, last = (torch.from_numpy(a) for a in tokenizer.encode(tok, texts, 77, "pad77"))
    assert ids.shape == (2, 77)
    mask = torch.zeros(2, 77, dtype=torch.long)
    mask[0, :count] = mask[1, :9] = 1
    assert (ids[mask == 0] == 0).all()  # end-of-text as padding
    with torch.no_grad():
        wanted = _head(model, _plain(model, ids, mask)[:, -1])
        assert torch.allclose(model.embed_texts(ids, last), wanted, rtol=1e-10, atol=1e-12)
        unmasked = _head(model, _plain(model, ids, torch.ones_like(mask))[:, -1])
        assert (unmasked[0] - wanted[0]).abs().max() > 1e-3 or count == 77  # what attending to padding would give


@pytest.mark.parametrize("count", [5, 40, 76])
def test_eot_is_the_last_unmasked_position_of_a_plain_gpt2_however_it_is_padded(tok, count):
    _, model = _model(tok)
    model.eval()
    texts = [_caption(tok, count), _caption(tok, 9)]
    ids, last = (torch.from_numpy(a) for a in tokenizer.encode(tok, texts, 77))
    whole = torch.zeros(2, 77, dtype=torch.long)
    whole[:, : ids.shape[1]] = ids
    mask = torch.zeros(2, 77, dtype=torch.long)
    mask[0, : count + 1] = mask[1, :10] = 1
    with torch.no_grad():
        wanted = _head(model, _plain(model, whole, mask)[torch.arange(2), mask.sum(1) - 1])
        assert torch.allclose(model.embed_texts(ids, last), wanted, rtol=1e-10, atol=1e-12)
        assert torch.allclose(model.embed_texts(whole, last), wanted, rtol=1e-10, atol=1e-12)


def test_a_caption_longer_than_the_maximal_length_is_cut(tok):
    text = _caption(tok, 60) + " " + _caption(tok, 60)
    plain = tok.encode(text).ids
    ids, last = tokenizer.encode(tok, [text], 77, "pad77")
    assert ids[0].tolist() == plain[:77] and last[0] == 76
    ids, last = tokenizer.encode(tok, [text], 77)
    assert ids[0].tolist() == [*plain[:76], 0] and last[0] == 76


def test_gradients_of_pad77_go_through_the_real_tokens_alone(tok):
    _, model = _model(tok, "text_readout=pad77", "text_buckets=4")
    ids, last = (torch.from_numpy(a) for a in tokenizer.encode(tok, [_caption(tok, 5), _caption(tok, 7)] * 8, 77, "pad77"))
    model.train()
    model.embed_texts(ids, last).square().sum().backward()
    moved = model.text.encoder.wpe.weight.grad.abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [*range(7), 76]


def test_attending_to_padding_is_a_named_alternative(tok):
    """What levl-pretrain did before: its earlier checkpoints are read as they were trained."""
    from levl_eval.models.checkpoints import completed

    _, masked = _model(tok, "text_readout=pad77")
    config, unmasked = _model(tok, "text_readout=pad77", "pad77_attends=all")
    ids, last = (torch.from_numpy(a) for a in tokenizer.encode(tok, [_caption(tok, 5)], 77, "pad77"))
    with torch.no_grad():
        wanted = _head(unmasked, _plain(unmasked.eval(), ids, torch.ones_like(ids))[:, -1])
        assert torch.allclose(unmasked.embed_texts(ids, last), wanted, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(masked.eval().embed_texts(ids, last), wanted, atol=1e-3)
    old = config.model_dump(mode="json")
    del old["pad77_attends"]
    assert completed({"config": old})["config"]["pad77_attends"] == "all"
