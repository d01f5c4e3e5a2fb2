"""`timm:MODEL` (pretrained, from the hub or its cache) and `random:MODEL` (the same architecture with random weights)."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import finish, hub, vit_blocks
from levl_eval.cards import near
from levl_eval.errors import LevlError, UsageError


class TimmBackbone(Backbone):
    """Any timm model that gives patch tokens [B, prefix + N, D] or a feature map [B, D, h, w]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.depth = blocks_of(model)
        self.class_token = class_token_of(model)

    def encode(self, images: Tensor) -> Features:
        tokens = self.model.forward_features(images)
        if not isinstance(tokens, Tensor):
            raise LevlError("this timm model gives no one set of tokens (several scales or branches); take another")
        if tokens.ndim == 4:  # a convolutional or hierarchical model's map
            if tokens.shape[1] != self.model.num_features:
                tokens = tokens.permute(0, 3, 1, 2)
            pooled = self.model.forward_head(tokens, pre_logits=True)
            return Features(pooled.flatten(1), tokens.flatten(2).transpose(1, 2), (tokens.shape[2], tokens.shape[3]))
        pooled = self.model.forward_head(tokens, pre_logits=True)
        prefix, grid = layout_of(self.model, tokens.shape[1], (images.shape[-2], images.shape[-1]))
        return Features(pooled, tokens[:, prefix:], grid)

    def _blocks(self, images: Tensor, layers: list[int]) -> list[tuple[Tensor, Tensor | None]]:
        return vit_blocks(self.model, images, layers)


def layout_of(model: Any, count: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many of ``count`` tokens stand before the patches, and the patches' grid, for a picture of height and width ``size``.

    From the model's own description where it has one; else from the count: the patches are as many as squares of one size fill the
    picture. Raises LevlError where neither fits.
    """
    own = getattr(model, "num_prefix_tokens", None)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch = (patch, patch) if isinstance(patch, int) else patch
    told = [own] if own is not None else [0, 1]  # without a description: none, or a class token
    for prefix in told:
        if patch and (size[0] // patch[0]) * (size[1] // patch[1]) == count - prefix:
            return prefix, (size[0] // patch[0], size[1] // patch[1])
    for prefix in told:
        side = (size[0] * size[1] / max(1, count - prefix)) ** 0.5
        grid = (round(size[0] / side), round(size[1] / side))
        if grid[0] * grid[1] == count - prefix:
            return prefix, grid
    raise LevlError(
        f"this timm model's {count} tokens of a picture of {size[0]} x {size[1]} do not form a grid; take another model"
    )


def blocks_of(model: Any) -> int:
    """Number of a plain ViT's blocks; 0 for hierarchical and convolutional models, whose stages have grids of their own."""
    if not all(hasattr(model, name) for name in ("blocks", "num_prefix_tokens", "forward_intermediates")):
        return 0
    plain = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters  # CaiT's blocks have none
    return len(model.blocks) if plain else 0


def class_token_of(model: Any) -> Literal["pooled", "blocks", ""]:
    """Where a timm model's class token is (Backbone.class_token): some pool by the mean or by attention although they have one."""
    if getattr(model, "cls_token", None) is None or not getattr(model, "num_prefix_tokens", 0):
        return ""
    alone = getattr(model, "dist_token", None) is None  # distilled models pool both of their tokens
    plain = isinstance(getattr(model, "fc_norm", None), torch.nn.Identity | None)
    if getattr(model, "global_pool", None) == "token" and alone and plain:
        return "pooled"
    return "blocks" if blocks_of(model) else ""


def create(model: str, pretrained: bool) -> Any:
    """A timm model without classifier that takes other image sizes by interpolating its positions, where its family can."""
    import timm

    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:  # the family does not know the argument
        return timm.create_model(model, pretrained=pretrained, num_classes=0)


def _known(name: str, uri: str) -> None:
    import timm

    bare = name.split(".")[0]
    if not name.startswith("hf_hub:") and not timm.is_model(bare):
        raise UsageError(f"{uri}: timm knows no model {bare!r}{near(bare, timm.list_models())}")


def load(model: str, name: str, uri: str) -> Backbone:
    """A pretrained timm model with its own data configuration. Raises UsageError: unknown model, hub not reached."""
    _known(model, uri)
    with hub(uri):
        net = create(model, pretrained=True)
    return finish(TimmBackbone(net), name, uri, preprocess_of(net), {"library": "timm", "model": model})


def preprocess_of(net: Any) -> Preprocess:
    """timm's evaluation transform as data: shortest side to size / crop_pct, centre crop."""
    import timm.data

    c = timm.data.resolve_model_data_config(net)
    size = c["input_size"][-1]
    squash = c.get("crop_mode") == "squash"
    return Preprocess(
        size,
        "squash" if squash else "shortest",
        None if squash else int(size / c["crop_pct"]),
        c["interpolation"],
        tuple(c["mean"]),
        tuple(c["std"]),
    )


def load_random(model: str, name: str, uri: str) -> Backbone:
    """`random:MODEL[?seed=N]`: random weights; `random:nano` is the shipped nano backbones' architecture."""
    model, _, query = model.partition("?")
    seed = 0
    if query:
        key, _, value = query.partition("=")
        if key != "seed" or not value.isdigit():
            raise UsageError(f"{uri}: after `?` only seed=NUMBER is known, found {query!r}")
        seed = int(value)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        if model == "nano":
            from levl_eval.pretrain.config import parse_config
            from levl_eval.pretrain.model import vision_tower

            config = parse_config([])
            v = config.vision
            net = vision_tower(v.width, v.depth, v.heads, v.patch or 8, config.image_size)
            preprocess = Preprocess(config.image_size, "squash", None, "bicubic", config.mean, config.std)
        else:
            _known(model, uri)
            net = create(model, pretrained=False)
            preprocess = preprocess_of(net)
    finally:
        torch.random.set_rng_state(state)
    return finish(TimmBackbone(net), name, uri, preprocess, {"library": "timm", "model": model, "random_seed": seed})
