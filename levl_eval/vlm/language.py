"""Frozen language models: any causal model of transformers, by hub name or directory, or the embedded `scenes-lm`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levl_eval.backbones.common import hash_weights, hub
from levl_eval.cards import near
from levl_eval.errors import UsageError
from levl_eval.registry import language_models


@dataclass
class LanguageModel:
    """A frozen causal language model with its tokenizer. ``width`` is that of its input embeddings."""

    name: str
    model: Any
    tokenizer: Any
    sha256: str

    @property
    def width(self) -> int:
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def context(self) -> int:
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30)

    @property
    def bos(self) -> list[int]:
        found = self.tokenizer.bos_token_id
        return [] if found is None else [found]

    @property
    def eos(self) -> int:
        return self.tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        """Tokens of a piece of text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> input embeddings [..., width]."""
        return self.model.get_input_embeddings()(ids)

    def cache_argument(self) -> str:
        """transformers renamed `past_key_values` to `cache`; the old name warns, the new one is unknown to older releases."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"


def load_language_model(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load and freeze. Raises UsageError: unknown name (near misses), incomplete directory, hub not reached."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shipped = language_models()
    source = str(shipped.get(name, Path(name).expanduser()))
    if name not in shipped and not Path(source).is_dir():
        hint = near(name, list(shipped))
        if "/" not in name and hint:
            raise UsageError(
                f"--llm {name}: unknown language model{hint}; give a hub name, a directory, or one of {', '.join(shipped)}"
            )
        source = name
    with hub(f"--llm {name}"):
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"--llm {name}: its tokenizer has no end-of-text token, which ends an answer; set eos_token in tokenizer_config.json"
        )
    model.eval().requires_grad_(False).to(device)
    return LanguageModel(name, model, tokenizer, hash_weights(model))
