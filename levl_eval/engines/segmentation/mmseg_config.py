"""What the mmseg engine trains: a card, or a user's mmseg config, as one plan of plain values for mmengine's Runner.

Of a user's config we take the model (heads, losses, neck, test_cfg), both pipelines, batch size, optimiser, schedule and number
of steps. The backbone, its normalisation, the classes, the data set, the metric, the seed and the folders are the run's.
Everything else of the file (hooks, visualisers, logging) is not used, and the record lists it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from levl_eval.backbones.base import Backbone
from levl_eval.cards.dense import MMSegCard
from levl_eval.cards.mmseg_text import config_value
from levl_eval.cards.mmseg_trust import check_config
from levl_eval.core.errors import LevlError, UsageError

_USED = {"model", "train_dataloader", "val_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg"}
_USED |= {"custom_imports", "default_scope", "crop_size", "norm_cfg", "data_preprocessor", "train_pipeline", "test_pipeline"}
_LOADERS = {"LoadImageFromFile", "LoadImageFromNDArray"}


Value: TypeAlias = bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"] | None  # what a config file holds
Config: TypeAlias = dict[str, Value]


@dataclass
class Plan:
    """Arguments of the training and of the test, in mmengine's words; ``notes`` go into the record."""

    model: Config
    train_pipeline: list[Config]
    test_pipeline: list[Config]
    optim_wrapper: Config
    param_scheduler: list[Config]
    batch_size: int
    steps: int
    imports: Config | None = None  # mmengine's custom_imports
    notes: dict[str, object] = field(default_factory=dict)


def head_layers(card: MMSegCard, backbone: Backbone, needed: int) -> list[int] | None:
    """Blocks whose maps the heads get: the card's, or ``needed`` ones evenly spread up to the last; None: its own output.

    Raises LevlError for blocks the backbone does not have.
    """
    if card.layers is not None:
        return backbone.layer_indices(card.layers)
    if needed == 1:
        return None
    if backbone.depth < needed:
        raise LevlError(
            f"{backbone.name}: its {backbone.depth} blocks are fewer than the {needed} maps the head takes; set `layers`, or another head"
        )
    return [round((k + 1) * backbone.depth / needed) - 1 for k in range(needed)]


def plan_of(card: MMSegCard, backbone: Backbone, classes: int) -> Plan:
    """The plan of a card for a backbone and so many classes. Raises UsageError/LevlError for what does not fit together."""
    plan = _from_config(card, backbone) if card.config_text else _from_card(card, backbone)
    _fit(plan.model, backbone, classes)
    return plan


def _from_card(card: MMSegCard, backbone: Backbone) -> Plan:
    crop = card.crop or backbone.preprocess.size
    short = card.short or crop
    scale = (round(card.long * short), short)
    many = 4 if card.head == "upernet" else 1
    layers = head_layers(card, backbone, many)
    if many > 1 and layers is not None and len(layers) != many:
        raise UsageError(f"{card.name}: field `layers`: {card.head} takes {many} blocks, found {len(layers)}")
    index = -1 if layers is None else len(layers) - 1
    model: Config = {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "pad_val": 0, "seg_pad_val": 255, "size": (crop, crop), "test_cfg": {"size": (crop, crop)},
        },
        "backbone": {"type": "LevlBackbone", "layers": layers},
        "decode_head": _head(card, backbone.patch_dim, index),
        "test_cfg": {"mode": "whole"} if card.test == "whole" else _slide(crop, card.stride),
    }  # fmt: skip
    if card.head == "upernet":
        model["neck"] = {"type": "Feature2Pyramid", "embed_dim": backbone.patch_dim, "norm_cfg": {"type": "BN"}}
    resize: Config = {"keep_ratio": True, "interpolation": card.interpolation}
    train: list[Config] = [
        {"type": "LevlLabels"},
        {"type": "RandomResize", "scale": scale, "ratio_range": card.ratio, **resize},
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": card.cat_max_ratio},
        {"type": "RandomFlip", "prob": card.flip},
    ]
    if card.photometric:
        train.append({"type": "PhotoMetricDistortion"})
    warm = round(card.warmup * card.steps)
    ramp: list[Config] = [{"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": warm}] if warm else []
    decay: Config = {"type": "PolyLR", "eta_min": 0.0, "power": card.power, "begin": warm, "end": card.steps, "by_epoch": False}
    if card.schedule == "cosine":
        decay = {
            "type": "CosineAnnealingLR",
            "eta_min": 0.0,
            "begin": 0,
            "end": card.steps,
            "T_max": card.steps,
            "by_epoch": False,
        }
    return Plan(
        model=model,
        train_pipeline=[*train, {"type": "PackSegInputs"}],
        test_pipeline=[{"type": "Resize", "scale": scale, **resize}, {"type": "LevlLabels"}, {"type": "PackSegInputs"}],
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": card.lr, "betas": card.betas, "weight_decay": card.weight_decay},
        },
        param_scheduler=[*ramp, decay],
        batch_size=card.batch_size,
        steps=card.steps,
        notes={"layers": layers},
    )


def _slide(crop: int, stride: int | None) -> Config:
    step = stride or max(1, 2 * crop // 3)
    return {"mode": "slide", "crop_size": (crop, crop), "stride": (step, step)}


def _head(card: MMSegCard, width: int, index: int) -> Config:
    """The decode head's config; classes and input widths are filled in later."""
    loss: Config = {"type": "CrossEntropyLoss", "avg_non_ignore": card.avg_non_ignore}
    common: Config = {"dropout_ratio": card.dropout, "norm_cfg": {"type": "BN"}, "align_corners": False, "loss_decode": loss}
    if card.head == "upernet":
        return {
            **common, "type": "UPerHead", "in_channels": [width] * 4, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6),
            "channels": card.channels,
        }  # fmt: skip
    common |= {"in_channels": width, "in_index": index}
    if card.head == "segmenter":
        if card.channels % card.heads:
            raise UsageError(f"{card.name}: field `heads`: {card.heads} does not divide the {card.channels} `channels`")
        common.pop("norm_cfg")  # a transformer's: layer norm
        return {
            **common, "type": "SegmenterMaskTransformerHead", "channels": width, "embed_dims": card.channels,
            "num_layers": card.depth, "num_heads": card.heads,
        }  # fmt: skip
    if card.head == "linear-bn":
        return {**common, "type": "LevlLinearHead", "channels": width}
    if card.head == "fcn":
        return {**common, "type": "FCNHead", "channels": card.channels, "num_convs": card.depth, "concat_input": False}
    return {**common, "type": "FCNHead", "channels": width, "num_convs": 0, "kernel_size": 1, "concat_input": False}


def _from_config(card: MMSegCard, backbone: Backbone) -> Plan:
    where = card.config or f"{card.name}: field `config_text`"
    tree = config_value(card)
    if not card.trusted:
        check_config(tree, where)
    value = cast("Config", tree)  # literals of Python

    def part(name: str) -> Config:
        there = value.get(name)
        if not isinstance(there, dict):
            raise UsageError(f"{where}: field `{name}` is missing; an mmseg config of a whole training is needed")
        return there

    model, loader, loop = part("model"), part("train_dataloader"), part("train_cfg")
    test = value.get("test_dataloader") or value.get("val_dataloader")
    steps = loop.get("max_iters")
    if not isinstance(steps, (int, float)):
        raise UsageError(f"{where}: field `train_cfg`: expected an IterBasedTrainLoop with max_iters; count steps, not epochs")
    if not isinstance(test, dict):
        raise UsageError(f"{where}: field `test_dataloader` is missing; its pipeline resizes the test images")
    for gone in ("pretrained", "init_cfg"):
        model.pop(gone, None)
    own = _config(model.get("backbone"))
    wanted = own.get("layers")
    if own.get("type") == "LevlBackbone" and isinstance(wanted, (list, tuple)):
        layers: list[int] | None = backbone.layer_indices(wanted)
    else:
        layers = head_layers(card, backbone, _maps_needed(model))
    model["backbone"] = {"type": "LevlBackbone", "layers": layers}
    size, imports = loader.get("batch_size", card.batch_size), value.get("custom_imports")
    if not isinstance(size, (int, float)):
        raise UsageError(f"{where}: field `train_dataloader`: batch_size: expected a number, found {size!r}")
    ignored = sorted(k for k in value if k not in _USED and value[k])
    return Plan(
        model=_config(_plain_norm(model)),
        train_pipeline=_pipeline(loader, where, "train_dataloader"),
        test_pipeline=_pipeline(test, where, "test_dataloader"),
        optim_wrapper=part("optim_wrapper"),
        param_scheduler=_configs(value.get("param_scheduler")),
        batch_size=int(size),
        steps=int(steps),
        imports=imports if isinstance(imports, dict) else None,
        notes={"layers": layers, "config_not_used": ignored, "config_backbone": own.get("type")},
    )


def _config(value: Value) -> Config:
    """A config's part that is a dict; {} where it is none."""
    return value if isinstance(value, dict) else {}


def _configs(value: Value) -> list[Config]:
    """A config's part that is a dict or several."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in several if isinstance(one, dict)]


def _maps_needed(model: Config) -> int:
    """How many feature maps a model takes from its backbone: the neck's, or the largest index of its heads."""
    neck = _config(model.get("neck"))
    widths, scales = neck.get("in_channels"), neck.get("rescales", (4, 2, 1, 0.5))
    if isinstance(widths, (list, tuple)):
        return len(widths)
    if neck.get("type") == "Feature2Pyramid" and isinstance(scales, (list, tuple)):
        return len(scales)
    highest = 0
    for head in _heads(model):
        index = head.get("in_index", -1)
        highest = max(highest, *(i for i in (index if isinstance(index, (list, tuple)) else [index]) if isinstance(i, int)))
    return highest + 1


def _heads(model: Config) -> list[Config]:
    return [head for name in ("decode_head", "auxiliary_head") for head in _configs(model.get(name))]


def _plain_norm(node: Value) -> Value:
    """Synchronised batch norm is plain batch norm in one process."""
    if isinstance(node, dict):
        return {k: "BN" if k == "type" and v == "SyncBN" else _plain_norm(v) for k, v in node.items()}
    return type(node)(_plain_norm(v) for v in node) if isinstance(node, (list, tuple)) else node


def _pipeline(loader: Config, where: str, name: str) -> list[Config]:
    """The transforms of a data loader; our data set opens the images, LevlLabels gives the masks where they were loaded."""
    node = loader.get("dataset")
    while isinstance(node, dict) and "pipeline" not in node:
        node = node.get("dataset")
    if not isinstance(node, dict):
        raise UsageError(f"{where}: field `{name}`: holds no data set with a `pipeline`")
    steps = [s for s in _configs(node["pipeline"]) if s.get("type") not in _LOADERS]
    out: list[Config] = [{"type": "LevlLabels"} if s.get("type") == "LoadAnnotations" else s for s in steps]
    if {"type": "LevlLabels"} not in out:
        raise UsageError(
            f"{where}: field `{name}`: its pipeline has no LoadAnnotations, so there is nothing to learn from or score"
        )
    return out


def _fit(model: Config, backbone: Backbone, classes: int) -> None:
    """Classes, widths and normalisation of a model's config, in place."""
    own = backbone.preprocess
    model["data_preprocessor"] = {
        **(_config(model.get("data_preprocessor")) or {"type": "SegDataPreProcessor", "size_divisor": 1}),
        "mean": [255 * m for m in own.mean], "std": [255 * s for s in own.std], "bgr_to_rgb": True, "rgb_to_bgr": False,
    }  # fmt: skip
    width = backbone.patch_dim

    def widened(old: Value) -> Value:
        return [width] * len(old) if isinstance(old, (list, tuple)) else width

    neck = _config(model.get("neck"))
    if "embed_dim" in neck:
        neck["embed_dim"] = width
    if "in_channels" in neck:
        neck["in_channels"] = widened(neck["in_channels"])
    for head in _heads(model):
        head["num_classes"] = classes
        head.pop("out_channels", None)
        if not neck or "embed_dim" in neck:  # a neck of its own width feeds the heads what the file says
            head["in_channels"] = widened(head.get("in_channels"))
        if head.get("type") == "FCNHead" and head.get("num_convs") == 0:
            head["channels"] = head["in_channels"]
