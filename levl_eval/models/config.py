"""Configuration of a pretraining run: a YAML file and key=value words, validated, without heavy imports."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from levl_eval.cards import read_yaml
from levl_eval.cards.fields import REQUIRED
from levl_eval.core.errors import UsageError
from levl_eval.core.safe_yaml import parse_yaml
from levl_eval.core.text import did_you_mean
from levl_eval.models.config_checks import check
from levl_eval.models.presets import PRESETS, SIZES, TOWERS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Size = Literal["nano", "tiny", "small", "base"]


class TowerConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    heads: int = Field(ge=1)
    patch: int | None = Field(None, ge=1)


T = TypeVar("T")


class _Limits(TypedDict, total=False):
    ge: float
    le: float
    gt: float
    lt: float
    min_length: int
    max_length: int
    allow_inf_nan: bool


def _f(default: T, about: str, **limits: Unpack[_Limits]) -> T:
    """A field with its explanation and source, which `levl-pretrain fields` prints."""
    return Field(default, description=about, **limits)


Pair = tuple[float, float]
Share: _Limits = {"ge": 0, "le": 1}
Widths = tuple[Annotated[int, Field(ge=1)], ...]
Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Deviation = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Jitter = tuple[Strength, Strength, Strength, Annotated[float, Field(ge=0, le=0.5)]]


class PretrainConfig(BaseModel):
    """Every choice of a run.

    Defaults are the published codes' (docs/paper.md) unless the field says otherwise; see presets.SIZES for nano's.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    objective: Literal["levljepa", "levljepa_plus", "clip", "siglip"] = _f("levljepa", "what is trained (docs/paper.md)")
    model: Size = _f("nano", "size of towers and heads; base, small, tiny: published; nano: ours, for CPUs")
    preset: Literal["levljepa-may", "levljepa-july", "clip-openclip", "siglip"] | None = _f(
        None, "a whole published configuration; what is given besides it wins (presets.py)"
    )
    data: str = _f("scenes", "scenes | csv:FILE | tsv:FILE | wds:GLOB | lance:PATH (July) | hf:NAME[:SPLIT] (May)")
    out: str = _f("runs/pretrain", "folder of the run")
    init_from: str | None = _f(None, "weights and tokenizer to begin with: of a ckpt.pt, a release or a shipped backbone (ours)")
    seed: int = _f(1, "of weights, order, augmentation and directions (May, July: 1)", ge=0, le=(1 << 63) - 1)
    steps: int = _f(50_000, "updates (May, July)", ge=1)
    batch_size: int = _f(256, "images an update, over all processes (May, July: 256 a process)", ge=2)
    accumulate: int = _f(1, "forward passes an update; negatives, BatchNorm and SIGReg see one of them at a time (ours)", ge=1)

    image_size: int = _f(224, "side of the images in pixels, whole patches", ge=16, le=1 << 14)
    mean: tuple[float, float, float] = _f((0.48145466, 0.4578275, 0.40821073), "CLIP's, as May and July")
    std: tuple[Deviation, Deviation, Deviation] = _f((0.26862954, 0.26130258, 0.27577711), "CLIP's, as May and July")
    augmentation: Literal["none", "crop", "standard"] = _f(
        "standard", "none: May's plain resize; standard: July's crop of the original image, flip, colour; "
        "crop: ours, 0.8 to 1 of the resized image without flip, since captions of scenes say left and right",
    )  # fmt: skip
    resize: Literal["squash", "crop"] = _f("squash", "to the square (May), or shortest side and centre crop (ours)")
    interpolation: Literal["bilinear", "bicubic"] = _f("bilinear", "of that resize (May: bilinear; nano: bicubic)")
    crop_scale: Pair = _f((0.8, 1.0), "standard: share of the area (July; OpenCLIP 0.9 to 1)")
    crop_ratio: Pair = _f((0.75, 4 / 3), "standard, levljepa_plus: width to height of random crops (May, July)")
    flip_prob: float = _f(0.5, "standard: of a horizontal flip (July)", **Share)
    color_jitter: Jitter = _f((0.2, 0.2, 0.2, 0.02), "standard: strengths of brightness, contrast, saturation, hue (July)")
    color_jitter_prob: float = _f(0.3, "standard (July)", **Share)
    grayscale_prob: float = _f(0.05, "standard (July)", **Share)
    gaussian_blur_prob: float = _f(0.0, "standard (July)", **Share)
    random_erasing_prob: float = _f(0.0, "standard (July): of a box of the normalised image set to 0", **Share)
    erasing_scale: Pair = _f((0.02, 0.33), "that box's share of the area (July: torchvision's)")
    erasing_ratio: Pair = _f((0.3, 3.3), "its width to height (July: torchvision's)")
    blur_sigma: Pair = _f((0.1, 2.0), "standard, levljepa_plus: range of the blur's sigma in pixels (May, July)")
    blur_kernel: int | None = _f(
        23, "side of the blur (May: 23 for global and local crops, July: 23); None: grows with the crop (nano)", ge=3
    )
    crops: Literal["original", "resized"] = _f(
        "original",
        "csv, tsv: what random crops are taken of (May, July: the original image); resized: already squashed (ours before)",
    )

    vision: TowerConfig = _f(REQUIRED, "the ViT: width, depth, heads, patch (docs/paper.md)")
    text: TowerConfig = _f(REQUIRED, "the GPT-2: width, depth, heads (docs/paper.md)")
    embed_dim: int = _f(768, "d, of the embeddings (May, July: the towers' width; released: 256, baselines 512)", ge=1)
    head_width: int = _f(2048, "hidden width of pre_proj (May, July `pre_proj_width`)", ge=1)
    pre_proj_depth: int = _f(1, "hidden layers of pre_proj (July)", ge=0)
    pre_proj_hidden_dims: Widths | None = _f(None, "their widths, instead of head_width and pre_proj_depth (July)")
    predictor_width: int = _f(2048, "hidden width of the predictors (May, July `projector_width`)", ge=1)
    predictor_depth: int = _f(4, "hidden layers of the predictors (May, July `projector_depth`)", ge=0)
    projector_hidden_dims: Widths | None = _f(None, "their widths, instead of predictor_width and predictor_depth (July)")
    dropout: float = _f(0.0, "within predictors (May, July: 0; the paper: 0.1, docs/paper.md)", ge=0, lt=1)
    last_dropout: bool = _f(True, "the same dropout behind the predictors' last layer, as torchvision's MLP has it (May, July)")
    head_dropout: float = _f(0.0, "within pre_proj (May, July: none)", ge=0, lt=1)
    max_length: int = _f(77, "tokens of a caption (May, July)", ge=1)
    positions: int | None = _f(
        1024, "rows of the text tower's position table, at least max_length (May, July: GPT-2's 1,024)", ge=1
    )
    text_readout: Literal["eot", "pad77"] = _f(
        "eot",
        "eot: the state of an end-of-text token put behind (July); pad77: of the last of max_length padded positions (May) (docs/paper.md)",
    )
    pad77_attends: Literal["text", "all"] = _f(
        "text", "pad77: to the real tokens alone (May, July: attention mask); all: to padding as well (ours before)"
    )
    text_buckets: int = _f(4, "eot: groups of similar length in which the text tower sees a batch (ours; same values)", ge=1)
    tokenizer: str = _f(
        "trained", "trained: on the captions (ours); or a GPT-2 tokenizer by hub name or directory (May, July: gpt2)"
    )
    vocab_size: int = _f(8192, "of a trained tokenizer (ours)", ge=257, le=1 << 22)
    strip_captions: bool = _f(False, "cut white space around captions (May, July: as they are)")

    prediction: Literal["predictor", "direct"] = _f(
        "predictor", "direct: plain distance of the pair, both sides learn (docs/paper.md)"
    )
    align_loss: Literal["mse", "cosine"] = _f("mse", "distance of prediction and target (July)")
    lambda_v: float = _f(0.02, "weight of SIGReg on images (May, July; the paper 0.01, docs/paper.md)", ge=0)
    lambda_t: float = _f(0.02, "weight of SIGReg on texts (May, July; the paper 0.01, docs/paper.md)", ge=0)
    sigreg_slices: int = _f(4096, "random directions a step (May, July)", ge=1)
    sigreg_knots: int = _f(17, "knots of the quadrature (May, July)", ge=3)
    sigreg_t_max: float = _f(3.0, "its last knot (May, July)", gt=0)
    sigreg_scope: Literal["local", "global", "averaged"] = _f(
        "global", "local: of each process's batch (May, July); "
        "global: of all batches together (ours, as LeJEPA and the paper's appendix A); "
        "averaged: the global characteristic function times the local batch (July's option). One process: all equal",
    )  # fmt: skip
    sigreg_directions: Literal["separate", "shared"] = _f(
        "separate", "drawn for each modality (May, July), or once a step (ours)"
    )

    lambda_multi: float = _f(0.2, "levljepa_plus: weight of the views' distance (May)", ge=0)
    global_views: int = _f(2, "levljepa_plus (May)", ge=1)
    local_views: int = _f(4, "levljepa_plus (May)", ge=0)
    plus_predicts: Literal["mean", "views"] = _f(
        "mean", "levljepa_plus, from what the vision predictor predicts the text: "
        "the global crops' mean (May), or each view (May before b120e44)"
    )  # fmt: skip
    global_scale: Pair = _f((0.4, 1.0), "levljepa_plus: share of the area (May)")
    local_scale: Pair = _f((0.05, 0.4), "levljepa_plus: share of the area (May)")
    views_flip_prob: float = _f(0.5, "levljepa_plus (May), as all that follow of views", **Share)
    views_color_jitter: Jitter = _f((0.4, 0.4, 0.2, 0.1), "strengths of brightness, contrast, saturation, hue")
    views_color_jitter_prob: float = _f(0.8, "of colour jitter", **Share)
    views_grayscale_prob: float = _f(0.2, "of grey", **Share)
    views_blur_prob: tuple[Probability, Probability, Probability] = _f(
        (1.0, 0.1, 0.5), "of blur on the first global crop, on the other global crops, on local crops"
    )
    views_solarize_prob: float = _f(0.2, "of solarisation, on the second global crop alone", **Share)
    views_solarize_threshold: int = _f(128, "values from it upward are inverted", ge=0, le=255)
    local_size: int | None = _f(
        None, "levljepa_plus: side of local crops; None: 3/7 of image_size in whole patches (May: 96 of 224)", ge=1, le=1 << 14
    )

    logit_scale_init: float | None = _f(None, "None: 1/0.07 for clip (OpenCLIP), 10 for siglip (Zhai et al. 2023)", gt=0, le=100)
    logit_bias_init: float = _f(-10.0, "siglip (Zhai et al. 2023)")

    lr: float = _f(2e-4, "peak of the rate (May, July)", gt=0)
    schedule: Literal["cosine", "wsd"] = _f("cosine", "wsd: warm-up, constant, decay at the end (July)")
    final_lr: float = _f(0.1, "share of lr at the end (May, July: 2e-5 of 2e-4)", **Share)
    warmup: int = _f(1000, "updates of linear warm-up (May, July)", ge=0)
    warmup_start_factor: float | None = _f(
        0.01, "share of lr at update 0 (July 0.01; May 0); None: (update + 1) / warmup (nano; OpenCLIP)", **Share
    )
    wsd_decay_frac: float = _f(0.15, "wsd: share of the updates in which the rate falls (July)", **Share)
    wsd_decay_steps: int = _f(0, "wsd: their number, instead of the share where above 0 (July)", ge=0)
    wsd_decay: Literal["cosine", "linear"] = _f("cosine", "wsd: how it falls (July: cosine; linear: ours before)")
    betas: tuple[Decay, Decay] = _f((0.9, 0.999), "of AdamW (May, July: torch's)")
    eps: float = _f(1e-8, "of AdamW (May, July: torch's)", gt=0)
    weight_decay: float = _f(0.01, "of AdamW (May: torch's; July)", ge=0)
    weight_decay_on: Literal["all", "matrices"] = _f(
        "all", "all: every parameter (May, July); matrices: not gains, biases and scales (nano; OpenCLIP)"
    )
    clip: float | None = _f(1.0, "largest norm of the gradient (May, July); None: any (OpenCLIP)", gt=0, allow_inf_nan=True)
    precision: Literal["auto", "fp32", "bf16"] = _f(
        "auto",
        "auto: bf16 autocast where the processor has bfloat16 arithmetic, else fp32 (ours); a run keeps what it became (May, July: bf16)",
    )
    device: str = _f("auto", "auto | cpu | cuda | cuda:N")
    threads: int | None = _f(None, "CPU threads of torch", ge=1, le=4096)
    channels_last: bool = _f(False, "memory order of images")
    compile: bool = _f(False, "torch.compile of the towers")
    bf16_blocks: Literal["fused", "separate"] = _f(
        "fused", "bf16 on a CPU: half a block as one function, its gradient written out (ours; same values to bf16's rounding); separate: "
        "operation by operation (ours before; with compile or FSDP always)",
    )  # fmt: skip
    max_loss_growth: float = _f(
        10.0, "a running loss above this many times the first one stops the run as diverged (ours)", gt=1, allow_inf_nan=True
    )

    scenes_pool: int = _f(40_000, "scenes: different images", ge=2)
    captions_per_image: int = _f(4, "scenes", ge=1)
    scenes_singles: float = _f(0.0, "scenes: share of images that show one rather large object", **Share)
    scenes_captions: Literal["web", "long", "both"] = _f(
        "web", "scenes: one to three objects; most, with looks and places; in turn"
    )
    caption_fields: tuple[str, ...] = _f(
        ("caption", "text", "txt", "captions"), "csv, lance and hub columns, json fields: the first that is there", min_length=1
    )
    image_field: str = _f("image", "csv, lance or hub column")
    workers: int = _f(2, "reading processes a training process (wds, lance, hf)", ge=0)
    shuffle_buffer: int = _f(2000, "wds, lance, hf streaming: samples held for shuffling (July: 128)", ge=1)
    streaming: bool = _f(False, "hf: without downloading first")
    max_broken: float = _f(0.05, "share of unreadable images above which the run stops", **Share)
    broken_shards: Literal["stop", "skip"] = _f(
        "stop", "wds: at a shard that cannot be read to its end the run stops, or leaves the rest of it out and counts it"
    )
    log_every: int = _f(20, "updates between lines of metrics.jsonl", ge=1)
    save_every: int = _f(200, "updates between checkpoints", ge=1)
    keep: int = _f(1, "checkpoints kept: the last as ckpt.pt, those before it as ckpt-STEP.pt", ge=1)
    diagnose_every: int = _f(200, "updates between diagnoses", ge=1)
    diagnose_images: int = _f(512, "fixed pairs of the data, embedded in evaluation mode for ranks and cosines", ge=8)
    probe: str | None = _f(None, "class folders with train/ and test/, or scenes: kNN and zero-shot on test/ at every diagnosis")
    probe_template: str = _f("a photo of a {}.", "the probe's prompt")
    attentive_every: int = _f(0, "with a probe: updates between steps of an attentive probe (July 1); 0: none", ge=0)
    neighbours: int = _f(0, "with a probe: test images drawn with their nearest training images at every diagnosis", ge=0)
    trackers: tuple[str, ...] = _f((), "tensorboard, wandb, trackio")
    resume: bool = _f(
        True, "resume where the last run with the same values was stopped; false: start anew, into an empty folder only"
    )
    extend_to: int | None = _f(
        None,
        "train a run on to this update, beyond steps; its schedule stays that of steps, behind which the rate is final_lr of the peak",
        ge=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        if isinstance(values, dict):
            _no_truth_for_number(values)
            values = {**PRESETS.get(str(values.get("preset")), {}), **values}
            name = str(values.get("model", "nano"))
            name = name if name in SIZES else "nano"
            for part in ("vision", "text"):  # a part given in part keeps the rest of its size's
                if isinstance(values.get(part), dict):
                    values = {**values, part: {**TOWERS[name][part], **values[part]}}
            return {**SIZES[name], **values}
        return values

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        check(self)
        return self


def _no_truth_for_number(values: dict[str, object]) -> None:
    """`yes` and `true` are 1 to a number's field."""
    for name, value in values.items():
        field = PretrainConfig.model_fields.get(name)
        if isinstance(value, bool) and field is not None and field.annotation is not bool:
            raise ValueError(f"field `{name}`: expected {_type_of(field.annotation)}, found {str(value).lower()}")


def head_dims(config: PretrainConfig) -> list[int]:
    """Hidden widths of pre_proj."""
    c = config
    return [c.head_width] * c.pre_proj_depth if c.pre_proj_hidden_dims is None else list(c.pre_proj_hidden_dims)


def predictor_dims(config: PretrainConfig) -> list[int]:
    """Hidden widths of the predictors."""
    c = config
    return [c.predictor_width] * c.predictor_depth if c.projector_hidden_dims is None else list(c.projector_hidden_dims)


def readout_of(config: PretrainConfig) -> str:
    """The text read-out as model.DualEncoder takes it."""
    return "pad77-all" if config.text_readout == "pad77" and config.pad77_attends == "all" else config.text_readout


def augments(config: PretrainConfig) -> bool:
    """Whether images are augmented one by one while reading."""
    return config.objective == "levljepa_plus" or config.augmentation == "standard"


def crops_originals(config: PretrainConfig) -> bool:
    """Whether csv and tsv data are kept as original images."""
    return augments(config) and config.crops == "original"


def parse_config(words: list[str]) -> PretrainConfig:
    """``[config.yaml] key=value ...`` -> configuration. Later words win. Raises UsageError: file, field, what was expected."""
    values: dict[str, object] = {}
    for word in words:
        key, eq, text = word.partition("=")
        if not eq:
            if not word.endswith((".yaml", ".yml")):
                raise UsageError(
                    f"{word!r}: expected key=value or a .yaml file{did_you_mean(word, list(PretrainConfig.model_fields))}"
                )
            values.update(read_yaml(Path(word)))
            continue
        field = key.split(".")[0]
        if field not in PretrainConfig.model_fields:
            raise UsageError(
                f"{key}: no such field{did_you_mean(field, list(PretrainConfig.model_fields))}; see `levl-pretrain --help`"
            )
        value = parse_yaml(text, word)
        if "." in key:
            inner = key.split(".", 1)[1]
            if field not in ("vision", "text") or inner not in TowerConfig.model_fields:
                parts = [f"{part}.{k}" for part in ("vision", "text") for k in TowerConfig.model_fields]
                raise UsageError(f"{key}: no such field{did_you_mean(key, parts)}; see `levl-pretrain --help`")
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
        if not where:  # of several fields together: the message names them
            raise UsageError(str(first["ctx"]["error"]) if "ctx" in first else first["msg"]) from e
        known = did_you_mean(where, list(PretrainConfig.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"field `{where}`: {first['msg'].lower()}, found {first.get('input')!r}{known}") from e


def explained(words: list[str]) -> str:
    """Every field as a YAML file that can be given back: value with these words, and its type or choices and meaning behind it."""
    lines = []
    for name, value in parse_config(words).model_dump(mode="json").items():
        field = PretrainConfig.model_fields[name]
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
        lines.append(f"{name}: {text}  # {_type_of(field.annotation)}: {field.description}\n")
    return "".join(lines)


def _type_of(annotation: object) -> str:
    """A field's type in words: choices separated by |, `or none` where it may be left out."""
    parts = get_args(annotation)
    if annotation is type(None):
        return "none"
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, parts))
    if get_origin(annotation) is Annotated:
        return _type_of(parts[0])
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type_of(p) for p in parts)
    if get_origin(annotation) is tuple:
        some = [_type_of(p) for p in parts if p is not Ellipsis]
        return f"list of {some[0]}" if Ellipsis in parts else f"[{', '.join(some)}]"
    name = str(getattr(annotation, "__name__", annotation))
    return {"TowerConfig": "mapping", "str": "text", "bool": "true | false"}.get(name, name)
