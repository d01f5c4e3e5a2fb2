"""How a timm model's tokens lie: prefix and grid, its final norm, its class token, and what it pools. No model is built here."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Literal, Protocol, cast

from torch import Tensor, nn

from levl_eval.core.errors import LevlError


class PatchEmbed(Protocol):
    """Of timm's PatchEmbed what is used here."""

    patch_size: tuple[int, int]


class ViT(Protocol):
    """Of timm's VisionTransformer what is used here."""

    blocks: Sequence[nn.Module]
    patch_embed: PatchEmbed

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> tokens [B, prefix + N, D] after the final norm."""
        ...

    def forward_intermediates(
        self, x: Tensor, *, indices: list[int], norm: bool, output_fmt: str, return_prefix_tokens: bool, intermediates_only: bool
    ) -> list[Tensor] | list[tuple[Tensor, Tensor]]:
        """Blocks' tokens; with prefix tokens the pair (patches, prefix)."""
        ...


class TimmModel(Protocol):
    """What every image model of timm has; what only some have is looked up by name."""

    num_features: int

    def forward_features(self, x: Tensor) -> object:
        """Images [B, 3, H, W] -> tokens [B, N, D] or a map; several scales or branches of some."""
        ...

    def forward_head(self, x: Tensor, pre_logits: bool = ...) -> Tensor:
        """What forward_features gave -> pooled features."""
        ...


def layout_of(model: object, count: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many of ``count`` tokens stand before the patches, and the patches' grid, for an image of height and width ``size``.

    From the model's own description where it has one; else from the count: the patches are as many as squares of one size fill the
    image. Raises LevlError where neither fits.
    """
    own = getattr(model, "num_prefix_tokens", None)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch = (patch, patch) if isinstance(patch, int) else patch
    described = [own] if own is not None else [0, 1]  # without a description: none, or a class token
    for prefix in described:
        if patch and (size[0] // patch[0]) * (size[1] // patch[1]) == count - prefix:
            return prefix, (size[0] // patch[0], size[1] // patch[1])
    for prefix in described:
        side = (size[0] * size[1] / max(1, count - prefix)) ** 0.5
        grid = (round(size[0] / side), round(size[1] / side))
        if grid[0] * grid[1] == count - prefix:
            return prefix, grid
    raise LevlError(
        f"this timm model's {count} tokens of an image of {size[0]} x {size[1]} do not form a grid; take another model"
    )


def as_map(model: TimmModel, tokens: Tensor) -> Tensor:
    """A feature map [B, D, h, w] of a map in either layout: some hierarchical models keep their channels last.

    Raises LevlError where neither side has the model's width.
    """
    width = model.num_features
    last = getattr(model, "output_fmt", "") == "NHWC" or (tokens.shape[1] != width and tokens.shape[-1] == width)
    out = tokens.permute(0, 3, 1, 2) if last else tokens
    if out.shape[1] != width:
        raise LevlError(
            f"this timm model's map of shape {tuple(tokens.shape[1:])} has not its {width} channels; take another model"
        )
    return out


def blocks_of(model: object) -> int:
    """Number of a plain ViT's blocks; 0 for hierarchical and convolutional models, whose stages have grids of their own."""
    if not all(hasattr(model, name) for name in ("blocks", "num_prefix_tokens", "forward_intermediates")):
        return 0
    vit = cast(ViT, model)
    plain = "return_prefix_tokens" in inspect.signature(vit.forward_intermediates).parameters  # CaiT's blocks have none
    return len(vit.blocks) if plain else 0


def class_token_of(model: object) -> Literal["pooled", "blocks", ""]:
    """Where a timm model's class token is (Backbone.class_token): some pool by the mean or by attention although they have one."""
    if getattr(model, "cls_token", None) is None or not getattr(model, "num_prefix_tokens", 0):
        return ""
    alone = getattr(model, "dist_token", None) is None  # distilled models pool both of their tokens
    if getattr(model, "global_pool", None) == "token" and alone and getattr(model, "attn_pool", None) is None:
        return "pooled"
    return "blocks" if blocks_of(model) else ""


def _is_norm(module: object) -> bool:
    return module is not None and not isinstance(module, nn.Identity)


def late_norm_of(model: object) -> nn.Module | None:
    """The final norm of a model that norms only what it has pooled (``fc_norm``, or ``norm`` of the head); else None.

    ``forward_features`` of such a model gives tokens before any final norm, and so does ``forward_intermediates(norm=True)``. Norms
    over channels act on one position at a time: applied to the tokens it is the norm that a model pooling later would have had, as
    the authors of DINOv3's ConvNeXts read theirs.
    """
    encoder = getattr(model, "encoder", None)
    wraps = hasattr(encoder, "blocks") and not hasattr(model, "blocks")  # its own `norm` is then its head's (Qwen3's, Gemma 4's)
    if _is_norm(getattr(encoder if wraps else model, "norm", None)):
        return None
    head = getattr(model, "head", None)
    own = (getattr(model, "norm", None),) if wraps else (getattr(model, "fc_norm", None), getattr(head, "norm", None))
    for norm in own:
        name = type(norm).__name__
        over_channels = isinstance(norm, nn.LayerNorm) or name.startswith(("RmsNorm", "SimpleNorm"))
        width = getattr(norm, "normalized_shape", None)
        # of a head's hidden layer (InceptionNeXt)
        inside = width is not None and width[-1] != getattr(model, "num_features", width[-1])
        if _is_norm(norm) and over_channels and "Act" not in name and not inside:
            return norm
    return None


def apply_norm(norm: nn.Module | None, tokens: Tensor) -> Tensor:
    """Tokens [..., D] behind ``norm``; timm's norms of maps, named "2d", want the channels in second place."""
    if norm is None:
        return tokens
    if "2d" not in type(norm).__name__:
        out: Tensor = norm(tokens)
    else:
        out = norm(tokens.reshape(-1, tokens.shape[-1], 1, 1)).reshape(tokens.shape)
    return out


def pooling_of(model: object) -> str:
    """What ``forward_head(pre_logits=True)`` gives, in words for records."""
    late = late_norm_of(model) is not None
    if getattr(model, "attn_pool", None) is not None:
        return "attention pool over the tokens" + (", then the final norm" if late else " after the final norm")
    if getattr(model, "dist_token", None) is not None:
        return "mean of CLS and distillation token after the final norm"
    pool = getattr(model, "global_pool", None)
    if not isinstance(pool, str):  # the pool is a module of the head, or of the model
        module = getattr(getattr(model, "head", None), "global_pool", pool)
        pool = getattr(module, "pool_type", None) or "the head's own pool"
    names = {"token": "CLS", "avg": "mean of the patch tokens", "max": "maximum of the patch tokens"}
    words = names.get(pool, "mean of the patch tokens, the model pools nothing itself" if pool == "" else str(pool))
    return words + (
        ", then the final norm" if late else " after the final norm" if _is_norm(getattr(model, "norm", None)) else ""
    )
