"""What this suite knows of each image architecture of transformers: prefix tokens, final norm, pooling, positions, text.

A family is named by ``model_type`` without ``_vision_model``. What is not in the table is refused, never guessed.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """How to read one architecture.

    prefix: tokens before the patches. norm: path of the final norm below the tower, "" where there is none; ``normed`` tells whether
    ``last_hidden_state`` has passed it. pooled: "cls" (first token), "pooler" (``pooler_output``), "mean" (of the patches), "summary".
    positions: "own" (any size), "flag" (any size, with ``interpolate_pos_encoding``), "fixed". text: how texts are laid out ("eot":
    to the longest of the batch with a mask; "full": to full length without mask; "masked": to full length with one), "" without.
    """

    words: str
    prefix: Callable[[PretrainedConfig], int]
    norm: str = "layernorm"
    normed: bool = True
    pooled: Literal["cls", "pooler", "mean", "summary"] = "cls"
    positions: Literal["own", "flag", "fixed"] = "flag"
    text: Literal["eot", "full", "masked", ""] = ""
    canonical: bool = False  # texts pass canonical() below


def _none(config: PretrainedConfig) -> int:
    return 0


def _one(config: PretrainedConfig) -> int:
    return 1


def _registers(config: PretrainedConfig) -> int:
    return 1 + getattr(config, "num_register_tokens", 0)


_CLS = "CLS after the final norm"
_ATTENTION = "attention pool over the tokens after the final norm"
_CLIP = Family(_CLS, _one, "post_layernorm", normed=False, pooled="pooler", text="eot")
_SIGLIP = Family(_ATTENTION, _none, "post_layernorm", pooled="pooler", text="full", canonical=True)
_DINO = Family(_CLS, _registers, positions="own")
_BEIT = Family(
    "mean of the patch tokens, then the final norm", _one, "pooler.layernorm", normed=False, pooled="pooler", positions="own"
)

FAMILIES: dict[str, Family] = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "siglip": _SIGLIP,
    "siglip2": Family(_ATTENTION, _none, "post_layernorm", pooled="pooler", positions="own", text="full", canonical=True),
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_vit": Family(_CLS, _registers, "norm", positions="own"),
    "dinov3_convnext": Family("mean of the last map, then the final norm", _one, "layer_norm", positions="own"),
    "aimv2": Family(_ATTENTION, _none, "rms_norm", pooled="pooler", positions="fixed", text="eot"),
    "ijepa": Family("mean of the patch tokens after the final norm", _none, pooled="mean"),
    "vit_mae": Family(_CLS, _one),
    "vit": Family(_CLS, _one),
    "vit_msn": Family(_CLS, _one),
    "deit": Family(_CLS + "; the distillation token is left out", lambda config: 2),
    "beit": _BEIT,
    "data2vec-vision": _BEIT,
    "tipsv2": Family(_CLS + ", the one supervised by web captions", _registers, pooled="pooler", positions="own", text="masked"),
    "radio": Family(
        "summary tokens side by side; this architecture has no final norm", lambda c: c.num_cls_tokens + c.num_registers,
        "", pooled="summary", positions="own",
    ),
    "pixio": Family("mean of its class tokens after the final norm", lambda c: c.n_cls_tokens, pooled="pooler", positions="own"),
}  # fmt: skip


def pooling_of(family: str, tower: PreTrainedModel) -> str:
    """What is pooled, in words for records; heads that a checkpoint lacks or norms that stand elsewhere included."""
    config = tower.config
    if family in ("beit", "data2vec-vision") and not config.use_mean_pooling:
        return _CLS
    if family in ("siglip", "siglip2", "aimv2") and not getattr(tower, "use_head", True):
        return "mean of the patch tokens after the final norm; this checkpoint has no attention pool"
    return FAMILIES[family].words


def is_normed(family: str, tower: PreTrainedModel) -> bool:
    """Whether ``last_hidden_state`` has passed the final norm."""
    return FAMILIES[family].normed or (family in ("beit", "data2vec-vision") and not tower.config.use_mean_pooling)


def final_norm(family: str, tower: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The last norm the model itself applies; the identity where it has none."""
    path = FAMILIES[family].norm
    if family in ("beit", "data2vec-vision") and not tower.config.use_mean_pooling:
        path = "layernorm"
    if not path:
        return lambda tokens: tokens
    module = tower
    for name in path.split("."):
        module = getattr(module, name)
    out: Callable[[Tensor], Tensor] = module
    return out


CANONICAL = 2  # version of canonical(); 2: an underscore stands for a space


def canonical(text: str) -> str:
    """A text as SigLIP's authors compare it: underscores are spaces, no other punctuation, lower case,
    single spaces (big_vision's prompt_engineering.canonicalize_text, which open_clip follows too)."""
    return " ".join(text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower().split())
