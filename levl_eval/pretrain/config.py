"""Configuration of a pretraining run: a YAML file and key=value words, validated, without heavy imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from levl_eval.cards import near, read_yaml
from levl_eval.errors import UsageError

Size = Literal["nano", "tiny", "small", "base"]

# Per size: what the field's defaults become where the user sets nothing. base is the published code's (PAPER 1.4 to 1.6).
SIZES: dict[str, dict[str, Any]] = {
    "nano": {
        "image_size": 64, "vision": {"width": 192, "depth": 4, "heads": 3, "patch": 8}, "text": {"width": 128, "depth": 2, "heads": 4},
        "embed_dim": 128, "head_width": 512, "predictor_width": 256, "sigreg_slices": 1024, "max_length": 32, "vocab_size": 1024,
        "batch_size": 64, "lr": 1e-3, "warmup": 100, "steps": 2000,
    },
    "tiny": {
        "image_size": 224, "vision": {"width": 192, "depth": 12, "heads": 3, "patch": 16}, "text": {"width": 192, "depth": 6, "heads": 3},
        "embed_dim": 192, "head_width": 1024, "predictor_width": 1024, "sigreg_slices": 2048,
    },
    "small": {
        "image_size": 224, "vision": {"width": 384, "depth": 12, "heads": 6, "patch": 16}, "text": {"width": 384, "depth": 12, "heads": 6},
        "embed_dim": 384,
    },
    "base": {
        "image_size": 224, "vision": {"width": 768, "depth": 12, "heads": 12, "patch": 16}, "text": {"width": 768, "depth": 12, "heads": 12},
        "embed_dim": 768,
    },
}  # fmt: skip


class TowerConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int
    depth: int
    heads: int
    patch: int | None = None


class PretrainConfig(BaseModel):
    """Every choice of a run. Defaults are the published code's (PAPER 1) unless a comment says otherwise."""

    model_config = ConfigDict(extra="forbid")
    objective: Literal["levljepa", "clip", "siglip"] = "levljepa"
    model: Size = "nano"
    data: str = "scenes"  # scenes | csv:FILE
    out: str = "runs/pretrain"
    seed: int = 1
    steps: int = Field(50_000, ge=1)
    batch_size: int = Field(256, ge=2)

    image_size: int = Field(224, ge=16)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as the training code has it
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    augmentation: Literal["none", "crop"] = (
        "crop"  # crop: random resized crop, scale 0.8 to 1; no flip, captions say left and right
    )
    vision: TowerConfig
    text: TowerConfig
    embed_dim: int = 768
    head_width: int = 2048
    predictor_width: int = 2048
    predictor_depth: int = 4
    dropout: float = 0.0
    max_length: int = 77
    positions: int | None = None  # rows of the text tower's position table, where there are more than max_length
    text_readout: Literal["eot"] = "eot"
    tokenizer: str = "trained"  # trained | a GPT-2 tokenizer by hub name or directory
    vocab_size: int = 8192  # of a trained tokenizer

    lambda_v: float = 0.02
    lambda_t: float = 0.02
    sigreg_slices: int = 4096
    sigreg_knots: int = 17
    sigreg_t_max: float = 3.0

    lr: float = 2e-4
    final_lr: float = 0.1  # share of lr at the end of the cosine
    warmup: int = 1000
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    device: str = "auto"
    threads: int | None = None

    scenes_pool: int = 40_000  # different pictures
    captions_per_image: int = 4
    max_broken: float = 0.05  # share of unreadable images above which the run stops
    log_every: int = 20
    save_every: int = 200
    resume: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict):
            size = SIZES.get(str(values.get("model", "nano")), SIZES["nano"])
            for part in ("vision", "text"):  # a part given in part keeps the rest of its size's
                if isinstance(values.get(part), dict):
                    values = {**values, part: {**size[part], **values[part]}}
            return {**size, **values}
        return values


def parse_config(words: list[str]) -> PretrainConfig:
    """``[config.yaml] key=value ...`` -> configuration. Later words win. Raises UsageError: file, field, what was expected."""
    values: dict[str, Any] = {}
    for word in words:
        key, eq, text = word.partition("=")
        if not eq:
            if not word.endswith((".yaml", ".yml")):
                raise UsageError(f"{word!r}: expected key=value or a .yaml file{near(word, list(PretrainConfig.model_fields))}")
            values.update(read_yaml(Path(word)))
            continue
        field = key.split(".")[0]
        if field not in PretrainConfig.model_fields:
            raise UsageError(f"{key}: no such field{near(field, list(PretrainConfig.model_fields))}; see `levl-pretrain --help`")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise UsageError(f"{word}: not valid YAML; quote the value") from e
        if "." in key:
            inner = key.split(".", 1)[1]
            if field not in ("vision", "text") or inner not in TowerConfig.model_fields:
                parts = [f"{part}.{k}" for part in ("vision", "text") for k in TowerConfig.model_fields]
                raise UsageError(f"{key}: no such field{near(key, parts)}; see `levl-pretrain --help`")
            # Partial: completed by the size when all words are read, so that their order does not matter.
            node = values.get(field)
            values[field] = {**(node if isinstance(node, dict) else {}), inner: value}
        else:
            values[field] = value
    try:
        return PretrainConfig.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        known = near(where, list(PretrainConfig.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"field `{where}`: {first['msg'].lower()}, found {first.get('input')!r}{known}") from e
