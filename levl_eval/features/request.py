"""What is read of an image set by an encoder: the shapes and the store's keys it leads to, and tokens that are encoded as they are read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Features, Preprocess, checked_features, patch_of
from levl_eval.backbones.common import resized
from levl_eval.core.errors import LevlError
from levl_eval.core.hashing import digest
from levl_eval.core.precision import encoding_in
from levl_eval.data.types import ImageSet
from levl_eval.features.entries import array_bytes
from levl_eval.features.extraction import Overflow, cast
from levl_eval.features.feeding import Batch, pixels_of, to_device, worker_count
from levl_eval.features.stored import StreamedArray
from levl_eval.features.version import FEATURES
from levl_eval.features.views import Views
from levl_eval.records.identity import cache_key

TokenType = Literal["float16", "float32"]


@dataclass(frozen=True)
class Reading:
    """How an encoder is read. preprocess: None takes the backbone's own.

    layers: blocks to concatenate (Backbone.encode_layers), None: the last, as ``encode`` gives it. views: crops and flips of the
    preprocessed image, each encoded by itself. tokens: what patch tokens are stored in.
    """

    preprocess: Preprocess | None = None
    layers: Sequence[int] | None = None
    views: Views | None = None
    tokens: TokenType = "float16"


PLAIN = Reading()


def checked_batch(backbone: Backbone, features: object, images: torch.Tensor, layers: Sequence[int] | None = None) -> Features:
    """What the backbone gave for ``images`` at ``layers``, with a grid of plain numbers.

    Raises LevlError for what is no features of so many images, or of another width than at loading.
    """
    try:
        out = checked_features(features, images)
    except LevlError as e:
        raise LevlError(f"{backbone.name}: {e}") from e
    width, own = (out.pooled.shape[-1], out.patches.shape[-1]), (backbone.dim, backbone.patch_dim)
    if layers is None and width != own:
        raise LevlError(
            f"{backbone.name}: encode: pooled features and patch tokens of {len(images)} images are {width[0]} and {width[1]} wide, "
            f"those of one were {own[0]} and {own[1]} when it was loaded"
        )
    return out._replace(grid=(int(out.grid[0]), int(out.grid[1])))


def check_finite(backbone: Backbone, values: torch.Tensor) -> None:
    """Raises LevlError where what is read of some images, [B, ...], is not finite.

    Of stored features, ``extraction.cast`` names the image.
    """
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        few = " or overflow on them" if finite.any() else ""
        raise LevlError(
            f"{backbone.name}: features of {int((~finite).sum())} of {len(values)} images are not finite; the weights are broken{few}"
        )


@dataclass(frozen=True)
class Encoder:
    """A backbone read at some layers over some views: [B, 3, H, W] -> Features, with a views axis where there are views.

    norm: whether layers pass the encoder's final norm. Raises LevlError for what :func:`checked_batch` refuses.
    """

    backbone: Backbone
    layers: tuple[int, ...] | None = None
    views: Views | None = None
    norm: bool = True

    def __call__(self, images: torch.Tensor) -> Features:
        b = self.backbone
        x = images if self.views is None else self.views.cut(images).flatten(0, 1)
        with encoding_in(b.precision, images.device):  # what the store's key says, whoever hands the backbone over
            features = checked_batch(b, self._read(x), x, self.layers)
        if self.views is None:
            return features
        shape = (len(images), len(self.views.boxes))
        return Features(features.pooled.unflatten(0, shape), features.patches.unflatten(0, shape), features.grid)

    def _read(self, images: torch.Tensor) -> Features:
        b = self.backbone
        if self.layers is None:
            return b.encode(images)
        # Without `norm` where that is not needed: an encoder of the user's may have an ``encode_layers`` that does not know it.
        if self.norm:
            return b.encode_layers(images, self.layers)
        if "norm" not in inspect.signature(b.whole().encode_layers).parameters:
            raise LevlError(
                f"{b.name}: its `encode_layers` takes no `norm`, and so gives blocks behind the final norm only; "
                "add the argument, or set `final_norm: true`"
            )
        return b.encode_layers(images, self.layers, norm=False)


def check_size(backbone: Backbone, size: int, device: torch.device) -> None:
    """Raises LevlError in one line where the encoder cannot take images of ``size`` pixels, or would ignore part of them."""
    own = backbone.preprocess.size
    if size == own:
        return
    patch = patch_of(own, backbone.grid[0], backbone.depth)
    if own % patch == 0 and size % patch:
        fits = max(1, round(size / patch)) * patch
        raise LevlError(f"{backbone.name}: field `size`: {size} is no multiple of its patch size {patch}; take {fits}")
    images = torch.zeros(1, 3, size, size, device=device)
    try:
        with torch.inference_mode():
            checked_batch(backbone, backbone.encode(images), images)
    except LevlError as e:
        raise LevlError(f"{e} (of an image of {size} px; its own size is {own})") from e
    except Exception as e:  # each library's own way to say so: an index beyond a table of positions is one
        why = " ".join(str(e).split())[:120]
        raise LevlError(f"{backbone.name}: does not take {size} px images ({why}); its own size is {own}") from e


@dataclass(frozen=True)
class Request:
    """What is read of an image set: by which encoder, after which preprocessing, at which layers and views."""

    backbone: Backbone
    images: ImageSet
    preprocess: Preprocess
    layers: tuple[int, ...] | None
    views: Views | None
    device: torch.device
    batch_size: int
    tokens: TokenType

    def key(self, array: str) -> str:
        """The content key of an array's entry; what it is made of stands in features/store.py."""
        b, views = self.backbone, self.views
        return cache_key(
            "features", FEATURES, encoder=b.encoder_parts(), preprocess=self.preprocess.describe(),
            layer="last" if self.layers is None else b.layer_indices(self.layers),
            views=None if views is None else [list(v) for v in views.boxes], array=array,
            dtype=self.tokens if array == "patches" else "float32", device=self.device.type,
            images={"fingerprint": self.images.fingerprint, "order": self.order},
        )  # fmt: skip

    @cached_property
    def order(self) -> str:
        """Digest of the images' ids in the order of the rows."""
        return digest(list(self.images.ids))

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.backbone, self.layers, self.views)

    def shape(self, array: str) -> tuple[int, ...]:
        """What an array's shape will be, from what the backbone says of itself."""
        b, layers = self.backbone, len(self.layers or (0,))
        side = self.views.side if self.views else self.preprocess.size
        tokens = math.prod(resized(b.grid, b.preprocess.size, side, b.depth))
        each = {"pooled": (b.dim * layers,), "mean": (b.patch_dim * layers,), "patches": (tokens, b.patch_dim * layers)}[array]
        return (len(self.images), *((len(self.views.boxes),) if self.views else ()), *each)

    def bytes_of(self, array: str) -> int:
        """What an array will take on the disk."""
        return array_bytes(self.shape(array), np.dtype(self.tokens if array == "patches" else "float32"))


@torch.inference_mode()
def first_features(request: Request) -> Features:
    """Features of the first image alone: their shapes and grid."""
    pixels = request.preprocess(request.images.open(request.images.ids[0]))
    return request.encoder(pixels[None].to(request.device))


def streamed_tokens(request: Request) -> StreamedArray:
    """Patch tokens that are encoded each time they are read, in the precision they would be stored in.

    Reading raises LevlError for an image that cannot be decoded, for tokens that are not finite, and where half precision overflows.
    """
    encoder, dtype, ids = request.encoder, np.dtype(request.tokens), request.images.ids

    @torch.inference_mode()
    def encode(rows: np.ndarray) -> np.ndarray:
        out: list[np.ndarray] = []
        size = request.batch_size
        batches = [Batch(int(rows[i]), [ids[r] for r in rows[i : i + size].tolist()]) for i in range(0, len(rows), size)]
        workers = worker_count(len(rows), size, request.preprocess.size)
        for _, pixels in pixels_of(request.images, request.preprocess, batches, request.device, workers):
            at = sum(len(a) for a in out)
            named = [ids[r] for r in rows[at : at + len(pixels)].tolist()]
            try:
                features = encoder(to_device(pixels, request.preprocess, request.device))
                out.append(cast(features, ("patches",), dtype, request.backbone.name, named).arrays["patches"])
            except Overflow:
                raise LevlError(
                    f"{request.backbone.name}: patches features of image {named[0]}, or of others in its batch, are beyond half precision; "
                    "set the card's `token_dtype` to float32"
                ) from None
        return np.concatenate(out) if out else np.zeros((0, *shape[1:]), dtype)

    shape = (len(ids), *first_features(request).patches.shape[1:])
    return StreamedArray(encode, shape, dtype)
