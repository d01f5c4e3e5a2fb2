"""Frozen language models: any causal model of transformers, by a card's name,
hub name, directory or GGUF file, or the embedded `scenes-lm`."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from levl_eval.backbones.code import tokenizer_digest
from levl_eval.backbones.common import hash_weights
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import Json
from levl_eval.core.offline import hub_or_cache
from levl_eval.core.third_party import without_bars
from levl_eval.models.gguf import read_gguf_header
from levl_eval.models.llm_files import LLMPlace, find_llm
from levl_eval.models.tokenizer import check_words

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class LanguageModel:
    """A frozen causal language model with its tokenizer. ``width`` is that of its input embeddings.

    chat: whether it is asked through its chat template where the prompt does not say. quantization: the types of its weights in a
    GGUF file ("Q4_1"), of which it holds the values in floats; "" where it was not in one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    chat: bool = False
    quantization: str = ""
    _parts: dict[str, object] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        # Answers, and the questions of a run's tasks and backbones, repeat: most of a set's time to be tokenised.
        self._encoded = lru_cache(1 << 17)(lambda text: tuple(self.tokenizer.encode(text, add_special_tokens=False)))

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config.get_text_config()

    @property
    def width(self) -> int:
        out: int = self.model.get_input_embeddings().weight.shape[1]
        return out

    @property
    def dtype(self) -> torch.dtype:
        out: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return out

    @property
    def device(self) -> torch.device:
        out: torch.device = self.model.get_input_embeddings().weight.device
        return out

    @property
    def context(self) -> int:
        return int(getattr(self.config, "max_position_embeddings", None) or getattr(self.config, "n_positions", None) or 1 << 30)

    @property
    def window(self) -> int | None:
        """Width of the sliding attention window of some or all layers, or None where every layer sees everything."""
        width = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        slides = "sliding_attention" in kinds if kinds else getattr(self.config, "use_sliding_window", True)
        return int(width) if width and slides else None

    @property
    def bos(self) -> list[int]:
        token = self.tokenizer.bos_token_id
        return [] if token is None else [token]

    @property
    def eos(self) -> int:
        out: int = self.tokenizer.eos_token_id
        return out

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's and those of the model's generation settings (ends of a turn)."""
        more = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return frozenset({self.eos, *(more if isinstance(more, (list, tuple)) else [] if more is None else [more])})

    def parts(self) -> dict[str, object]:
        """What of it can move an answer or a gradient, as identity parts: weights, settings, tokenizer, template, what ends an answer.

        Not its name or path, nor the device; precision and kind of device are parts of their own where it is used.
        """
        if self._parts is None:  # what takes a moment, once
            settings = digest(_settings(self.model.config.to_dict()))
            self._parts = {"weights": self.sha256, "settings": settings, "tokenizer": tokenizer_digest(self.tokenizer)}
        template = getattr(self.tokenizer, "chat_template", None)
        return {
            **self._parts, "special": [self.bos, self.eos], "ends": sorted(self.ends), "chat": self.chat,
            "template": digest(template if template is None or isinstance(template, (str, dict, list)) else str(template)),
            "spaces": str(getattr(self.tokenizer, "clean_up_tokenization_spaces", None)), "transformers": version("transformers"),
            **({"quantization": self.quantization} if self.quantization else {}),
        }  # fmt: skip

    def ids(self, text: str) -> list[int]:
        """Tokens of a piece of text, without special tokens added."""
        return list(self._encoded(text)) if text else []

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> input embeddings [..., width]."""
        out: Tensor = self.model.get_input_embeddings()(ids)
        return out

    def cache_argument(self) -> str:
        """transformers renamed `past_key_values` to `cache`; the old name warns, the new one is unknown to older releases."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    def row_bytes(self, positions: int) -> int:
        """Memory of one row of so many positions while decoding: its keys and values in every layer, and its logits."""
        c = self.config
        heads = int(getattr(c, "num_attention_heads", 0) or getattr(c, "n_head", 1))
        kept = int(getattr(c, "num_key_value_heads", 0) or heads)
        size = int(getattr(c, "head_dim", 0) or self.width // heads)
        layers = int(getattr(c, "num_hidden_layers", 0) or getattr(c, "n_layer", 1))
        out: int = 2 * layers * kept * size * positions * self.dtype.itemsize + 4 * c.vocab_size
        return out


_NO_SETTINGS = frozenset({"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"})


def _settings(config: object) -> Json:
    """A configuration's fields as plain JSON values, without where it lies and what is a part of its own."""
    if isinstance(config, dict):
        kept = {str(k): _settings(v) for k, v in config.items() if k not in _NO_SETTINGS and not str(k).startswith("_attn")}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(config, (list, tuple)):
        return [_settings(v) for v in config]
    if isinstance(config, float):
        return config.hex()
    return config if config is None or isinstance(config, (bool, int, str)) else str(config)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The card's ``llm_dtype`` for a device; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def _load(place: LLMPlace, dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model, with the fused attention of torch where the architecture has it.

    On a CPU in bfloat16 plain attention is used: the fused kernel's backward is slower there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = _gguf_options(place.gguf) if place.gguf else {}
    source = str(place.gguf.parent) if place.gguf else place.source
    common = {"revision": None if place.gguf else place.revision, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source, **common, **{k: v for k, v in file.items() if k == "gguf_file"})
    attention = "eager" if device.type == "cpu" and dtype == torch.bfloat16 else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation=attention, **common, **file)
    except ValueError as e:
        if "attention" not in str(e).lower():
            raise
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager", **common, **file)
    return tokenizer, _dense(model) if place.gguf else model


def _gguf_options(file: Path) -> dict[str, object]:
    """What transformers' reader is told: weights are unpacked into plain floats, as a connector's gradient needs them."""
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"{file}: reading it needs the package gguf; pip install 'levl-eval[gguf]'")
    import transformers

    config = getattr(transformers, "GgufConfig", None)  # before 5.20 there is no choice: all is unpacked
    return {"gguf_file": file.name, **({"quantization_config": config(dequantize=True)} if config else {})}


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """A model read from GGUF without the marks of its file: it holds floats now, can be saved, and its settings name no path."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def load_language_model(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load and freeze. Raises UsageError: unknown name (near misses), incomplete directory, damaged file, hub not reached, no
    end-of-text token, an architecture that cannot keep an image's questions apart.
    """
    place = find_llm(name)
    quantization = read_gguf_header(place.gguf).quantization if place.gguf else ""
    with hub_or_cache(f"--llm {name}"), without_bars():
        try:
            tokenizer, model = _load(place, dtype, torch.device(device))
        except ValueError as e:
            if place.gguf and "reshape" in str(e):  # gguf's reader takes what the file still has of its last tensor
                raise UsageError(f"{place.gguf}: its last weights are cut short; copy it again") from e
            raise
        check_words(tokenizer, f"--llm {name}")
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"--llm {name}: its tokenizer has no end-of-text token, which ends an answer; set eos_token in tokenizer_config.json"
        )
    model.eval().requires_grad_(False).to(device)
    chat = bool(getattr(tokenizer, "chat_template", None)) if place.chat is None else place.chat
    loaded = LanguageModel(name, model, tokenizer, hash_weights(model), chat, quantization)
    from levl_eval.engines.vlm.packing import check_packing  # which needs this module

    check_packing(loaded)
    return loaded
