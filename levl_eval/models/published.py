"""config.json of the published forms: what weights do not tell, written by checkpoints.export and read by `official:` and import.

The authors' file names architecture and training only (docs/paper.md). Ours adds, under text_encoder, ``readout``, ``max_length`` and
``positions`` (rows of the model's own position table: files hold GPT-2's 1,024, as the authors' loader expects), and ``preprocess``.
Their training configuration's names ``text_readout`` and ``max_text_length`` at the top are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor

from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import object_at
from levl_eval.data.stream import unrepeated
from levl_eval.models.config import PretrainConfig, head_dims, predictor_dims, readout_of
from levl_eval.models.preprocess import Preprocess

if TYPE_CHECKING:
    from levl_eval.models.checkpoints import Checkpoint

POSITIONS = 1024  # rows of GPT2Config's default position table
READOUTS = ("eot", "pad77", "pad77-all")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as the model cards say (docs/paper.md)


T = TypeVar("T")


def _three(x: Sequence[float]) -> tuple[float, float, float]:
    return float(x[0]), float(x[1]), float(x[2])


def _is_side(x: object) -> TypeGuard[int]:
    return isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= 1 << 14


def _is_three(x: object) -> TypeGuard[Sequence[float]]:
    return isinstance(x, (list, tuple)) and len(x) == 3 and all(isinstance(v, (int, float)) and isfinite(v) for v in x)


def _is_positive(x: object) -> TypeGuard[Sequence[float]]:
    return _is_three(x) and min(x) > 0


def _is_resize(x: object) -> TypeGuard[str]:
    return x in ("squash", "shortest")


def _is_interpolation(x: object) -> TypeGuard[str]:
    return x in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def preprocess_from(values: object, where: str) -> Preprocess:
    """A checkpoint's or config.json's preprocessing. Raises UsageError naming ``where`` and the field."""
    if not isinstance(values, dict):
        raise UsageError(f"{where}: `preprocess` is {type(values).__name__}, expected size, resize, interpolation, mean, std")

    def of(name: str, fits: Callable[[object], TypeGuard[T]]) -> T:
        value: object = values.get(name)
        if not fits(value):
            raise UsageError(f"{where}: field `preprocess.{name}` is {value!r}; repair it or export the model again")
        return value

    return Preprocess(
        of("size", _is_side), of("resize", _is_resize), of("resize_to", _is_side) if values.get("resize_to") is not None else None,
        of("interpolation", _is_interpolation), _three(of("mean", _is_three)), _three(of("std", _is_positive)),
    )  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What config.json of a published directory says; None where it is silent."""

    values: Mapping[str, object]
    path: Path

    @classmethod
    def of(cls, folder: Path) -> Description:
        """Of a directory, empty where it has none. Raises UsageError where it is no JSON object, or gives a field twice."""
        path = folder / "config.json"
        if not path.exists():
            return cls({}, path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unrepeated(path))
        except (ValueError, OSError, RecursionError) as e:
            raise UsageError(f"{path}: not valid JSON; repair or remove it") from e
        if not isinstance(values, dict):
            raise UsageError(f"{path}: expected a JSON object; repair or remove it")
        return cls(values, path)

    def part(self, name: str) -> Mapping[str, object]:
        """A field that is an object; {} where there is none."""
        return object_at(self.values, name)

    def heads(self, side: str, width: int) -> int:
        """Attention heads of a tower ("vision" or "text"), which weights do not tell; else 64 channels a head, as ViT and GPT-2 have."""
        heads = self.part(f"{side}_encoder").get("num_heads", max(1, width // 64))
        if not isinstance(heads, int) or heads < 1 or width % heads:
            raise UsageError(
                f"{self.path}: field `{side}_encoder.num_heads` is {heads!r}, which does not divide {width} channels"
            )
        return heads

    def readout(self) -> str:
        """Of texts; eot where nothing is said (docs/paper.md)."""
        value = self.part("text_encoder").get("readout", self.values.get("text_readout", "eot"))
        if not isinstance(value, str) or value not in READOUTS:
            raise UsageError(f"{self.path}: field `text_encoder.readout` is {value!r}; expected one of {', '.join(READOUTS)}")
        return value

    @property
    def stated_readout(self) -> str:
        """For records: the read-out, or "not stated"."""
        stated = "readout" in self.part("text_encoder") or "text_readout" in self.values
        return self.readout() if stated else "not stated"

    def positions(self, rows: int) -> int:
        """Rows of the model's own position table among the file's ``rows``."""
        return self._count("positions", self.part("text_encoder").get("positions", rows), rows)

    def max_length(self, positions: int) -> int:
        """Of texts, in tokens; 77 where nothing is said."""
        value = self.part("text_encoder").get("max_length", self.values.get("max_text_length", min(positions, 77)))
        return self._count("max_length", value, positions)

    def _count(self, name: str, value: object, limit: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise UsageError(f"{self.path}: field `text_encoder.{name}` is {value!r}; expected 1 to {limit}")
        return value

    def logit(self) -> dict[str, float]:
        """The contrastive baselines' learned scale (its logarithm) and bias, for which the published form has no place."""
        values = self.values.get("logit") or {}
        if not isinstance(values, dict) or not all(k in ("scale", "bias") and isinstance(v, float) for k, v in values.items()):
            raise UsageError(f"{self.path}: field `logit` is {values!r}; expected numbers named scale and bias")
        return values

    def preprocess(self, side: int) -> Preprocess:
        """As it says, else the model cards': shortest side to 256/224 of the size, centre crop, ImageNet statistics (docs/paper.md)."""
        if "preprocess" in self.values:
            return preprocess_from(self.values["preprocess"], str(self.path))
        return Preprocess(side, "shortest", round(side * 256 / 224), "bicubic", IMAGENET_MEAN, IMAGENET_STD)


def described(state: Checkpoint) -> dict[str, object]:
    """config.json of a checkpoint's dictionary (checkpoints.read)."""
    c = PretrainConfig.model_validate(state["config"])
    v, t, predicts = c.vision, c.text, bool(state["vision"]["projector"])
    table, known = state["text"]["encoder"]["wpe.weight"], state.get("known")  # of an imported model, what its own files told
    training = (("dataset", "data", c.data), ("total_steps", "steps", state["step"]), ("batch_size", "batch_size", c.batch_size),
                ("objective", "objective", c.objective))  # fmt: skip
    return {
        "model_type": "levljepa", "model_size": c.model,
        "vision_encoder": {"architecture": "vit", "hidden_size": v.width, "num_layers": v.depth, "num_heads": v.heads,
                           "patch_size": v.patch or 16, "image_size": c.image_size},
        "text_encoder": {"architecture": "gpt2", "hidden_size": t.width, "num_layers": t.depth, "num_heads": t.heads,
                         "vocab_size": len(state["text"]["encoder"]["wte.weight"]), "positions": len(table),
                         "max_length": c.max_length, "readout": readout_of(c)},
        "embed_dim": c.embed_dim, "pre_proj_hidden_dims": head_dims(c),
        "projector_width": c.predictor_width, "projector_depth": c.predictor_depth,
        "projector_hidden_dims": predictor_dims(c) if predicts else None,
        "training": {name: value for name, field, value in training if known is None or field in known},
        "logit": {k: float(v) for k, v in state["logit"].items()}, "preprocess": state["preprocess"],
    }  # fmt: skip


def with_positions(encoder: dict[str, Tensor], rows: int = POSITIONS) -> dict[str, Tensor]:
    """A text encoder's weights with at least ``rows`` positions, those added being 0 and never read."""
    table = encoder["wpe.weight"]
    if len(table) >= rows:
        return encoder
    return {**encoder, "wpe.weight": torch.cat([table, table.new_zeros(rows - len(table), table.shape[1])])}


def cut_positions(encoder: dict[str, Tensor], description: Description) -> dict[str, Tensor]:
    """A text encoder's weights with the model's own positions alone."""
    table = encoder["wpe.weight"]
    return {**encoder, "wpe.weight": table[: description.positions(len(table))].contiguous()}
