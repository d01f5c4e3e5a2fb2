"""Tiny language models with random weights and their tokenizers, for tests."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from levl_eval.engines.vlm.language import LanguageModel, load_language_model

TEXTS = ["Is there a cat?", "What color is the very small dog on the left?", "How many?", "Is it a bird or a boat?", "Why"]
KINDS = ["llama", "llama-tied", "qwen2", "qwen2-sliding", "gpt2", "gemma", "gemma2", "mistral", "cohere", "granite"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(path, chat: bool = False, bos: bool = True) -> int:
    """A byte-level BPE with its special tokens; returns the size of its vocabulary."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator([f"\nQuestion: {t}\nAnswer: yes no cat" for t in TEXTS], trainer)
    from transformers import PreTrainedTokenizerFast

    names = {"eos_token": "<|im_end|>" if chat else "<eos>", "pad_token": "<pad>", **({"bos_token": "<bos>"} if bos else {})}
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    if chat:
        fast.chat_template = CHAT
    fast.save_pretrained(path)
    return raw.get_vocab_size()


def make(kind: str, path, context: int = 256, **tokens) -> LanguageModel:
    """A frozen model of two layers and width 32 whose answers differ with the question."""
    import transformers as t

    torch.manual_seed(3)
    common = {"vocab_size": write_tokenizer(path, **tokens), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    common["initializer_range"] = 0.3
    size = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": context,
    }  # fmt: skip
    if kind == "gpt2":
        return _saved(t.GPT2LMHeadModel(t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=context)), path)
    if kind.startswith("llama"):
        config = t.LlamaConfig(**common, **size, num_key_value_heads=2, tie_word_embeddings=kind == "llama-tied")
        return _saved(t.LlamaForCausalLM(config), path)
    if kind == "qwen2":
        return _saved(t.Qwen2ForCausalLM(t.Qwen2Config(**common, **size, num_key_value_heads=2, tie_word_embeddings=True)), path)
    if kind == "qwen2-sliding":
        window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
        return _saved(t.Qwen2ForCausalLM(t.Qwen2Config(**common, **size, num_key_value_heads=4, **window)), path)
    if kind == "mistral":
        return _saved(t.MistralForCausalLM(t.MistralConfig(**common, **size, num_key_value_heads=2, sliding_window=8)), path)
    if kind == "cohere":  # logits times a scale; parallel attention; tied
        return _saved(t.CohereForCausalLM(t.CohereConfig(**common, **size, num_key_value_heads=2, logit_scale=0.5)), path)
    if kind == "granite":  # four multipliers of its own
        scales = {"embedding_multiplier": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.7, "logits_scaling": 2.0}
        return _saved(t.GraniteForCausalLM(t.GraniteConfig(**common, **size, num_key_value_heads=2, **scales)), path)
    if kind == "mpt":  # ALiBi: distances count places, padding and other questions included
        return _saved(t.MptForCausalLM(t.MptConfig(**common, d_model=32, n_layers=2, n_heads=4, max_seq_len=context)), path)
    if kind == "mamba":
        return _saved(t.MambaForCausalLM(t.MambaConfig(**common, hidden_size=32, num_hidden_layers=2)), path)
    if kind == "gemma":
        return _saved(t.GemmaForCausalLM(t.GemmaConfig(**common, **size, num_key_value_heads=1, head_dim=8)), path)
    config = t.Gemma2Config(**common, **size, num_key_value_heads=2, head_dim=8, sliding_window=8, query_pre_attn_scalar=8)
    return _saved(t.Gemma2ForCausalLM(config), path)


def _saved(model, path) -> LanguageModel:
    model.save_pretrained(path)
    return load_language_model(str(path))
