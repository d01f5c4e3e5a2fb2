"""What loaders share: freezing and hashing weights, embeddings by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TypeVar

import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Preprocess, Readout, checked_features, patch_of
from levl_eval.backbones.timm_layout import ViT
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hub import hub as hub

B = TypeVar("B", bound=Backbone)

EMBEDDING = (Readout("embedding", "embedding", "embedding"),)
# LeVLJEPA's read-outs (docs/paper.md); "cross" is built so that its dot product is the mean of the two cross cosines.
LEVLJEPA: Sequence[Readout] = (
    Readout("image-to-predicted-text", "embedding", "predicted"),
    Readout("embedding", "embedding", "embedding"),
    Readout("predicted-image-to-text", "predicted", "embedding"),
    Readout("predictor-pair", "predicted", "predicted"),
    Readout("average", "cross-image", "cross-text"),
)


def hash_weights(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of parameters and buffers, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        t = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(t.shape)}:{t.dtype};".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()


def finish(backbone: B, name: str, uri: str, preprocess: Preprocess, info: Mapping[str, object]) -> B:
    """Freeze, refuse weights that are not finite and pixels that cannot be, and fill in the attributes every backbone has."""
    if not all(isfinite(v) for v in (*preprocess.mean, *preprocess.std)) or min(preprocess.std) <= 0:
        raise UsageError(f"{uri}: its pixels are to have mean {preprocess.mean} and std {preprocess.std}; expected a std above 0")
    backbone.eval().requires_grad_(False)
    # Bounds of a clamp (Gemma 4's) are infinite where they clamp nothing.
    bounds = {key for key, value in backbone.named_buffers() if value.ndim == 0}
    for key, value in backbone.state_dict().items():
        broken = value.isnan() if key in bounds else ~torch.isfinite(value)
        if value.is_floating_point() and broken.any():
            raise UsageError(f"{uri}: weight {key} holds NaN or infinity; the file is broken or its training diverged")
    backbone.name, backbone.uri, backbone.preprocess, backbone.info = name, uri, preprocess, dict(info)
    backbone.weights_sha256 = hash_weights(backbone)
    try:
        with torch.inference_mode():
            images = torch.zeros(1, 3, preprocess.size, preprocess.size)
            probe = checked_features(backbone.encode(images), images)
    except UsageError:
        raise
    except LevlError as e:  # the loader does not know the name the user gave
        raise UsageError(f"{uri}: {e}") from None
    backbone.dim, backbone.patch_dim = probe.pooled.shape[-1], probe.patches.shape[-1]
    backbone.grid = (int(probe.grid[0]), int(probe.grid[1]))
    # What a record says of its architecture: a gain's reference is the random twin of the same one (report/reference.py).
    shape = {"dim": backbone.dim, "patch_dim": backbone.patch_dim, "grid": list(backbone.grid), "depth": backbone.depth}
    backbone.info = {**backbone.info, "architecture": shape}
    return backbone


def resized(grid: tuple[int, int], own: int, size: int, depth: int) -> tuple[int, int]:
    """The grid of an image of ``size`` pixels, of an encoder of ``depth`` blocks with ``grid`` at ``own``."""
    if size == own:
        return grid

    def scaled(n: int) -> int:
        patch = patch_of(own, n, depth)
        return max(1, size // patch if own // patch == n else -(-size // patch))

    return scaled(grid[0]), scaled(grid[1])


def prepare_by(backbone: Backbone, preprocess: Preprocess) -> None:
    """A card's preprocessing in place of the loader's own; at another size the encoder's grid is another one.

    Raises UsageError in one line for a size that its library does not take.
    """
    own, size, backbone.preprocess = backbone.preprocess.size, preprocess.size, preprocess
    if size == own:
        return
    try:
        with torch.inference_mode():
            images = torch.zeros(1, 3, size, size, device=backbone.device)
            backbone.grid = checked_features(backbone.encode(images), images).grid
    except Exception as e:  # each library's own way to say so: an index beyond a table of positions is one
        why = " ".join(str(e).split())[:120]
        raise UsageError(
            f"{backbone.uri}: field `preprocess.size`: it does not take {size} px images ({why}); its own size is {own}"
        ) from e


def vit_blocks(model: ViT, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
    """Patch and class tokens of a timm ViT's blocks, in the order of ``layers`` (see Backbone._blocks)."""
    order = sorted(set(layers))
    has_prefix = bool(getattr(model, "num_prefix_tokens", 0))  # an EVA without any fails where it is asked for them
    outputs = model.forward_intermediates(
        images, indices=order, norm=norm, output_fmt="NLC", return_prefix_tokens=has_prefix, intermediates_only=True
    )
    has_class = getattr(model, "cls_token", None) is not None
    # A model without any prefix token gives the patch tokens alone, not a pair.
    pairs = [(x, None) if isinstance(x, Tensor) else (x[0], x[1][:, 0] if has_class else None) for x in outputs]
    by_index = dict(zip(order, pairs, strict=True))
    return [by_index[i] for i in layers]


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.float(), dim=-1)


def two_heads(z: Tensor, projector: nn.Module | None, side: str) -> dict[str, Tensor]:
    """Embeddings by name of one modality: the projected one and, with a predictor, the predicted and the stacked ones."""
    out = {"embedding": unit(z)}
    if projector is not None:
        out["predicted"] = unit(projector(z))
        first, second = ("embedding", "predicted") if side == "image" else ("predicted", "embedding")
        out[f"cross-{side}"] = torch.cat([out[first], out[second]], -1) / 2**0.5
    return out
