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
        "embed_dim": 192, "head_width": 1024, "predictor_width": 1024, "sigreg_slices": 2048, "augmentation": "standard",
    },
    "small": {
        "image_size": 224, "vision": {"width": 384, "depth": 12, "heads": 6, "patch": 16}, "text": {"width": 384, "depth": 12, "heads": 6},
        "embed_dim": 384, "augmentation": "standard",
    },
    "base": {
        "image_size": 224, "vision": {"width": 768, "depth": 12, "heads": 12, "patch": 16}, "text": {"width": 768, "depth": 12, "heads": 12},
        "embed_dim": 768, "augmentation": "standard",
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
    objective: Literal["levljepa", "levljepa_plus", "clip", "siglip"] = "levljepa"
    model: Size = "nano"
    data: str = "scenes"  # scenes | csv:FILE | tsv:FILE | wds:GLOB | hf:NAME[:SPLIT]
    out: str = "runs/pretrain"
    seed: int = 1
    steps: int = Field(50_000, ge=1)
    batch_size: int = Field(256, ge=2)  # pictures an update, over all processes (the published configuration counts per GPU)
    accumulate: int = Field(1, ge=1)  # forward passes an update; negatives, BatchNorm and SIGReg see one of them at a time

    image_size: int = Field(224, ge=16)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as the training code has it
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    # none: the first published code's; standard: the second's (crop, flip, colour, PAPER 1.6), the default from tiny on; crop:
    # random crop of 0.8 to 1 of the area, no flip, since captions of scenes say left and right; nano's default.
    augmentation: Literal["none", "crop", "standard"] = "crop"
    resize: Literal["squash", "crop"] = "squash"  # squash to the square, or shortest side and centre crop
    vision: TowerConfig
    text: TowerConfig
    embed_dim: int = 768
    head_width: int = 2048
    predictor_width: int = 2048
    predictor_depth: int = 4
    dropout: float = Field(0.0, ge=0, lt=1)  # within predictors; the paper says 0.1, the code's default is 0 (PAPER 1.4)
    head_dropout: float = Field(0.0, ge=0, lt=1)  # within pre_proj
    max_length: int = 77
    positions: int | None = None  # rows of the text tower's position table, where there are more than max_length
    # eot: state of the end-of-text token; pad77: of the last of max_length positions padded with end-of-text (PAPER 1.5).
    text_readout: Literal["eot", "pad77"] = "eot"
    text_buckets: int = Field(4, ge=1)  # groups of similar length in which the text tower sees a batch (eot only)
    tokenizer: str = "trained"  # trained | a GPT-2 tokenizer by hub name or directory
    vocab_size: int = 8192  # of a trained tokenizer

    prediction: Literal["predictor", "direct"] = "predictor"  # direct: plain distance of the pair, both sides learn (ablation)
    align_loss: Literal["mse", "cosine"] = "mse"
    lambda_v: float = Field(0.02, ge=0)
    lambda_t: float = Field(0.02, ge=0)
    sigreg_slices: int = Field(4096, ge=1)
    sigreg_knots: int = Field(17, ge=3)
    sigreg_t_max: float = Field(3.0, gt=0)
    # local: of each process's batch (the codes' default); global: of all processes' batches together (LeJEPA; the paper's appendix
    # A); averaged: the global characteristic function times the local batch (the second code's option). One process: all equal.
    sigreg_scope: Literal["local", "global", "averaged"] = "global"
    sigreg_directions: Literal["separate", "shared"] = (
        "separate"  # drawn for each modality, as published, or once a step for both
    )

    lambda_multi: float = Field(0.2, ge=0)  # levljepa_plus (PAPER 1.8)
    global_views: int = Field(2, ge=1)
    local_views: int = Field(4, ge=0)
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    local_size: int | None = None  # side of local crops; 3/7 of image_size in whole patches where None (96 of 224)

    logit_scale_init: float | None = None  # 1/0.07 for clip (OpenCLIP), 10 for siglip, where None
    logit_bias_init: float = -10.0  # siglip

    lr: float = Field(2e-4, gt=0)
    schedule: Literal["cosine", "wsd"] = "cosine"  # wsd: warm-up from 1% of lr, constant, linear to final_lr over the last 15%
    final_lr: float = 0.1  # share of lr at the end
    warmup: int = Field(1000, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    # auto: bf16 autocast where the processor has bfloat16 arithmetic (CUDA, AMX, AVX-512-BF16), else fp32; a run records and keeps
    # what it became. The published codes train in bf16.
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False  # torch.compile of the towers
    max_loss_growth: float = Field(10.0, gt=1)  # the running loss above this many times the first one stops the run as diverged

    scenes_pool: int = 40_000  # different pictures
    captions_per_image: int = 4
    caption_fields: tuple[str, ...] = (
        "caption",
        "text",
        "txt",
        "captions",
    )  # csv columns, json fields, hub columns: the first found
    image_field: str = "image"  # csv or hub column
    workers: int = Field(2, ge=0)  # reading processes a training process (wds, hf)
    shuffle_buffer: int = Field(2000, ge=1)  # wds, hf streaming
    streaming: bool = False  # hf
    max_broken: float = 0.05  # share of unreadable images above which the run stops
    log_every: int = Field(20, ge=1)
    save_every: int = Field(200, ge=1)
    keep: int = Field(1, ge=1)  # checkpoints kept: the last as ckpt.pt, those before it as ckpt-STEP.pt
    diagnose_every: int = Field(200, ge=1)
    diagnose_pictures: int = Field(512, ge=8)  # fixed pairs of the data, embedded in evaluation mode for ranks and cosines
    # Class folders with train/ and test/ (or "scenes"): at every diagnosis the kNN accuracy of the class token, and the zero-shot
    # accuracy on test/ with the folders' names in this template.
    probe: str | None = None
    probe_template: str = "a photo of a {}."
    trackers: tuple[str, ...] = ()  # tensorboard, wandb
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

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        if "{}" not in self.probe_template:
            raise ValueError(f"probe_template is {self.probe_template!r}; {{}} in it is where the class name goes")
        if self.prediction == "direct" and self.objective != "levljepa":
            raise ValueError("prediction=direct is an ablation of objective=levljepa; leave one of them out")
        total = self.lambda_v + self.lambda_t + (self.lambda_multi if self.objective == "levljepa_plus" else 0)
        if total >= 1:
            raise ValueError(f"lambda_v + lambda_t (+ lambda_multi) is {total:g}; the prediction's weight is 1 minus it")
        return self


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
