"""`timm:MODEL` (pretrained, from the hub or its cache) and `random:MODEL` (the same architecture with random weights).

MODEL is a name of timm with or without a tag, `hf-hub:ORG/REPO[@REVISION]` or `local-dir:DIR`, as timm itself takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import finish, hub, vit_blocks
from levl_eval.backbones.timm_layout import (
    TimmModel,
    ViT,
    apply_norm,
    as_map,
    blocks_of,
    class_token_of,
    late_norm_of,
    layout_of,
    pooling_of,
)
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.offline import hub_or_cache
from levl_eval.core.random_state import seeded
from levl_eval.core.text import did_you_mean


class TimmBackbone(Backbone):
    """Any timm model that gives patch tokens [B, prefix + N, D] or a feature map [B, D, h, w] or [B, h, w, D]."""

    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.model = model
        self.depth = blocks_of(model)
        self.class_token = class_token_of(model)

    def encode(self, images: Tensor) -> Features:
        return timm_features(self.model, images)

    def _blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        return timm_blocks(self.model, images, layers, norm)


def timm_features(model: TimmModel, images: Tensor) -> Features:
    """Pooled: the model's own ``forward_head(pre_logits=True)``. Patches: ``forward_features`` behind the final norm, prefix stripped.

    Raises LevlError where the tokens are no one set, form no grid or (a model's own refusal) the image size does not suit.
    """
    tokens = model.forward_features(images)
    if not isinstance(tokens, Tensor) or tokens.ndim not in (3, 4):
        raise LevlError("this timm model gives no one set of tokens (several scales or branches); take another")
    if getattr(getattr(model, "encoder", None), "merger", None) is not None:  # Qwen3's
        raise LevlError(
            "this timm model gives tokens merged for a language model, four patches in one; take the variant without merging"
        )
    classes = getattr(model, "cls_token", None)
    if tokens.ndim == 3 and isinstance(classes, Tensor) and tokens.shape[1] == classes.shape[1]:  # PiT
        raise LevlError("this timm model gives its class token alone, no patch tokens; take another")
    pooled = _pooled(model, tokens)
    if tokens.ndim == 4:  # a convolutional or hierarchical model's map
        feature_map = as_map(model, tokens)
        grid, patches = (feature_map.shape[2], feature_map.shape[3]), feature_map.flatten(2).transpose(1, 2)
    else:
        prefix, grid = layout_of(model, tokens.shape[1], (images.shape[-2], images.shape[-1]))
        patches = tokens[:, prefix:]
    patches = apply_norm(late_norm_of(model), patches)
    if pooled.ndim == tokens.ndim and pooled.shape[1:] == tokens.shape[1:]:  # made for dense tasks alone: nothing is pooled
        return Features(patches.mean(1), patches, grid)
    return Features(pooled.flatten(1), patches, grid)


def _pooled(model: TimmModel, tokens: Tensor) -> Tensor:
    """What the model's own head pools. Raises LevlError for an encoder of a larger model, which has no such head."""
    try:
        return model.forward_head(tokens, pre_logits=True)
    except (NotImplementedError, TypeError) as e:
        if isinstance(e, TypeError) and "pre_logits" not in str(e):
            raise
        raise LevlError("this timm model is the encoder of a larger one and pools nothing; take another") from e


def timm_blocks(model: object, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
    """Patch and class tokens of a timm ViT's blocks, after its final norm wherever that stands (see Backbone._blocks)."""
    blocks = vit_blocks(cast(ViT, model), images, layers, norm)  # which it is where blocks_of says so
    if not norm:
        return blocks
    late = late_norm_of(model)
    return [(apply_norm(late, patches), None if cls is None else apply_norm(late, cls)) for patches, cls in blocks]


def create(model: str, pretrained: bool) -> TimmModel:
    """A timm model without classifier that takes other image sizes by interpolating its positions, where its family can.

    With ``dynamic_img_size`` timm wants images of whole patches, which its SigLIPs of 384 pixels and patches of 14 do not have: these
    are built for their own size alone.
    """
    import timm

    try:
        net: TimmModel = timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as e:  # the family does not know the argument
        if "dynamic_img_size" not in str(e):
            raise
    else:
        if _whole_patches(net):
            return net
        del net  # before it stands beside another one
    plain: TimmModel = timm.create_model(model, pretrained=pretrained, num_classes=0)
    return plain


def _whole_patches(net: object) -> bool:
    """Whether a model's patches fill its own images."""
    embed = getattr(net, "patch_embed", None)
    patch, size = getattr(embed, "patch_size", None), getattr(embed, "img_size", None)
    if not isinstance(patch, tuple) or not isinstance(size, tuple):
        return True
    return all(side % step == 0 for side, step in zip(size, patch, strict=True))


def _known(name: str, uri: str) -> str:
    """The name as timm takes it. Raises UsageError for an unknown model, tag or directory."""
    import timm

    if name.startswith(("hf_hub:", "hf-hub:")):
        return "hf-hub:" + name[7:]
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        if not (folder / "config.json").is_file():
            raise UsageError(f"{uri}: {folder} holds no config.json of timm; give a directory that timm's save_for_hf wrote")
        return f"local-dir:{folder}"
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        raise UsageError(f"{uri}: timm knows no model {bare!r}{did_you_mean(bare, timm.list_models())}")
    if tag:
        try:
            timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:
            tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{bare}.*")]
            raise UsageError(
                f"{uri}: timm knows no weights {tag!r} of {bare}{did_you_mean(tag, tags)}; it has {', '.join(tags) or 'none'}"
            ) from None
    return name


def load(model: str, name: str, uri: str) -> Backbone:
    """A pretrained timm model with its own data configuration. Raises UsageError: unknown model, hub not reached."""
    known = _known(model, uri)
    with hub_or_cache(uri):
        net = create(known, pretrained=True)
    return finish(TimmBackbone(net), name, uri, preprocess_of(net, uri), info_of(net, model))


def info_of(net: object, model: str) -> dict[str, object]:
    """What records say about a timm model."""
    return {"library": "timm", "model": model, "pooled": pooling_of(net)}


def preprocess_of(net: TimmModel, uri: str = "") -> Preprocess:
    """timm's evaluation transform as data: resized to size / crop_pct, then a centre crop; "squash" keeps no aspect ratio.

    Raises UsageError for models made for images that are no squares, or that timm pads.
    """
    import timm.data

    c = timm.data.resolve_model_data_config(net)
    size, mode = c["input_size"][-1], c.get("crop_mode") or "center"
    if c["input_size"][-2] != size or c["input_size"][0] != 3:
        raise UsageError(f"{uri}: its inputs are {' x '.join(map(str, c['input_size']))}; this suite's are squares of 3 channels")
    if mode not in ("center", "squash"):
        raise UsageError(
            f"{uri}: timm prepares its images by {mode!r}, which this suite does not; use py: with your own preprocess"
        )
    target = int(size / c["crop_pct"])
    how = ("squash" if target == size else "squash-crop") if mode == "squash" else "shortest"
    return Preprocess(
        size, how, None if how == "squash" else target, c["interpolation"], tuple(c["mean"]), tuple(c["std"])
    )  # fmt: skip


def load_random(spec: str, name: str, uri: str) -> Backbone:
    """`random:MODEL[?seed=N]`: random weights; `random:nano` is the shipped nano backbones' architecture.

    MODEL may carry a tag of timm, or be `open_clip:MODEL[/TAG]` or `hf:REPO_OR_DIR`: the preprocessing is then that of the tag or
    repository, of which only the configuration is read.
    """
    model, _, query = spec.partition("?")
    seed = 0
    if query:
        key, _, value = query.partition("=")
        if key != "seed" or not value.isdigit():
            raise UsageError(f"{uri}: after `?` only seed=NUMBER is known, found {query!r}")
        seed = int(value)
    scheme, colon, rest = model.partition(":")
    if colon and scheme in ("open_clip", "hf"):
        from importlib import import_module

        with seeded(seed):
            out: Backbone = import_module(f"levl_eval.backbones.{scheme}").load_random(rest, name, uri, seed)
            return out
    if model == "nano":
        net, preprocess = _nano(seed)
    else:
        known = _known(model.removeprefix("timm:"), uri)
        with hub_or_cache(uri) if known.startswith("hf-hub:") else hub(uri), seeded(seed):
            net = create(known, pretrained=False)
        preprocess = preprocess_of(net, uri)
    return finish(TimmBackbone(net), name, uri, preprocess, {**info_of(net, model), "random_seed": seed})


def _nano(seed: int) -> tuple[TimmModel, Preprocess]:
    from levl_eval.models.config import parse_config
    from levl_eval.models.towers import vision_tower

    config = parse_config([])
    v = config.vision
    with seeded(seed):
        net = vision_tower(v.width, v.depth, v.heads, v.patch or 8, config.image_size)
    return cast(TimmModel, net), Preprocess(config.image_size, "squash", None, "bicubic", config.mean, config.std)
