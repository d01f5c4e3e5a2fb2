"""A checkpoint in llama2.c's binary layout, with its tokenizer, as a Hugging Face directory."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers

SPACE = "▁"


def _attention(w: np.ndarray, heads: int) -> np.ndarray:
    """llama2.c turns neighbouring pairs of a head's channels, transformers its two halves: [out, in] with the rows reordered."""
    rows, width = w.shape
    return w.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def _model(path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, positions = struct.unpack("7i", raw[:28])
    values, at = np.frombuffer(raw, np.float32, offset=28), 0
    kv = dim // heads * kv_heads

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        found = values[at : at + int(np.prod(shape))].reshape(shape)
        at += found.size
        return found

    state = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    names = (
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)), ("self_attn.k_proj", (kv, dim)), ("self_attn.v_proj", (kv, dim)),
        ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)), ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)), ("mlp.up_proj", (hidden, dim)),
    )  # fmt: skip
    for name, shape in names:
        for i, w in enumerate(take(layers, *shape)):
            turned = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            state[f"model.layers.{i}.{name}.weight"] = _attention(w, turned) if turned else w
    state["model.norm.weight"] = take(dim)
    take(positions, dim // heads // 2), take(positions, dim // heads // 2)  # sines and cosines, which transformers makes itself
    assert vocab > 0 and at == len(values), "an output layer of its own, or another layout"
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=positions, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    wanted = {k: torch.from_numpy(v.copy()) for k, v in state.items()} | {
        "lm_head.weight": torch.from_numpy(state["model.embed_tokens.weight"].copy())
    }
    model.load_state_dict(wanted)
    return model


def _tokenizer(path: Path):
    from transformers import PreTrainedTokenizerFast

    raw, at, pieces, scores = path.read_bytes(), 4, [], []
    while at < len(raw):
        score, size = struct.unpack("fi", raw[at : at + 8])
        pieces.append(raw[at + 8 : at + 8 + size].decode("utf-8", "replace").replace(" ", SPACE))
        scores.append(score)
        at += 8 + size
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = []
    for i in sorted(range(259, len(pieces)), key=lambda i: -scores[i]):  # what sentencepiece joins first scores highest
        p = pieces[i]
        merges += [(p[:k], p[k:]) for k in range(1, len(p)) if p[:k] in vocab and p[k:] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def convert(source: Path, out: Path) -> Path:
    """``source``: the folder with stories260K.bin and tok512.bin."""
    _model(source / "stories260K.bin").save_pretrained(out)
    _tokenizer(source / "tok512.bin").save_pretrained(out)
    return out
