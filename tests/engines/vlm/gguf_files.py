"""A Llama saved by transformers, written as GGUF by gguf's own writer, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(model: Path, out: Path, kind: str = "F32", template: str | None = None, parts: int = 0) -> Path:
    """``kind``: type of the weights whose rows it divides, F32 elsewhere. parts: number of files it says to be one of."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if parts:
        writer.add_uint16("split.count", parts)
    _tokenizer(writer, model, template)
    for name, values in load_file(model / "model.safetensors").items():
        _weight(writer, name, values.astype(np.float32), config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _tokenizer(writer: gguf.GGUFWriter, model: Path, template: str | None) -> None:
    rules = json.loads((model / "tokenizer.json").read_text())
    vocab = rules["model"]["vocab"]
    special = {t["content"]: t["id"] for t in rules["added_tokens"]}
    tokens = [t for t, _ in sorted({**vocab, **special}.items(), key=lambda item: item[1])]
    names = json.loads((model / "tokenizer_config.json").read_text())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in rules["model"]["merges"]])
    writer.add_bos_token_id(tokens.index(names["bos_token"]))
    writer.add_eos_token_id(tokens.index(names["eos_token"]))
    if template:
        writer.add_chat_template(template)


def _weight(writer: gguf.GGUFWriter, name: str, values: np.ndarray, config: dict, kind: str) -> None:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        target = whole[name]
    else:
        _, _, layer, rest = name.split(".", 3)
        target = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(target.split(".")[2])
        if heads:  # llama.cpp turns pairs of neighbouring rows, transformers halves
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    if kind != "F32" and values.ndim == 2 and values.shape[1] % 32 == 0:
        quantized = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(target, gguf.quantize(values, quantized), raw_dtype=quantized)
    else:
        writer.add_tensor(target, np.ascontiguousarray(values))
