"""A depth head on stored tokens: its training, and the metres it predicts for an image."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.backbones.base import Preprocess
from levl_eval.cards.dense import DepthCard
from levl_eval.core.errors import LevlError
from levl_eval.data.types import DepthSet, ImageSet
from levl_eval.engines.contract import Context
from levl_eval.engines.convergence import closed_form, thinned, train_until_converged
from levl_eval.engines.depth.head import DepthHead, grid_depth, train_head, valid
from levl_eval.engines.floors import mean_map
from levl_eval.features.store import FeatureSet

# Top, bottom, left, right as shares of the map: rows 45 to 471 and columns 41 to 601 of 480 x 640 (Eigen et al. 2014, NYUv2),
# and the part of KITTI's frames that its laser reaches (Garg et al., ECCV 2016).
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0), "eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}  # fmt: skip


def task_preprocess(card: DepthCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation; the whole image squashed to a square, so that every pixel has a prediction."""
    return replace(own, size=card.size or own.size, resize="squash", resize_to=None, interpolation=card.interpolation)


def full_depth(data: DepthSet, name: str) -> np.ndarray:
    """The depth map [H, W] of an image. Raises LevlError where its size is not its image's."""
    depth = data.depth(name)
    size = data.images.open(name).size
    if (depth.shape[1], depth.shape[0]) != size:
        raise LevlError(
            f"{data.images.source}/{name}: image is {size[0]}x{size[1]}, its depth map {depth.shape[1]}x{depth.shape[0]}; they must be equal"
        )
    return depth


def scored(depth: np.ndarray, card: DepthCard) -> np.ndarray:
    """Which pixels [H, W] count: valid ones within the card's crop."""
    top, bottom, left, right = CROPS[card.crop] if isinstance(card.crop, str) else card.crop
    height, width = depth.shape
    inside = np.zeros(depth.shape, bool)
    inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    out: np.ndarray = inside & valid(depth, card)
    return out


@dataclass
class Fitted:
    """A trained head with what it predicts the test images from."""

    head: nn.Module  # tokens [B, n, D] -> metres [B, h, w]
    features: FeatureSet
    card: DepthCard
    device: torch.device

    @torch.inference_mode()
    def predict(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Metres [H, W] of the image in ``row`` of the features, clipped to the card's caps."""
        tokens = torch.from_numpy(np.asarray(self.features.patches[row : row + 1]).astype(np.float32)).to(self.device)
        metres = self.head(tokens)[:, None]
        how = {"align_corners": False} if self.card.upsample == "bilinear" else {}
        large = F.interpolate(metres, size=size, mode=self.card.upsample, **how)[0, 0]
        return large.clamp(self.card.min_depth, self.card.max_depth).cpu().numpy()


class _Places(nn.Module):
    """A head that has no eyes: the same metres [h, w] for every image."""

    def __init__(self, metres: Tensor) -> None:
        super().__init__()
        self.register_buffer("map", metres)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.get_buffer("map").expand(len(tokens), -1, -1)


def fit(
    context: Context[DepthCard], train: DepthSet, test: DepthSet
) -> tuple[Fitted, Fitted, dict[str, Any], dict[str, float], dict[str, int]]:
    """Features of both sets and the head: what predicts, the same without an image (the training mean at each place), notes on the
    training, seconds and cache hits."""
    card = context.card
    cache = {"feature_hits": 0, "feature_misses": 0}
    geometry = task_preprocess(card, context.backbone.preprocess)
    started = time.monotonic()

    def features(images: ImageSet) -> FeatureSet:
        found = context.store.get(
            context.backbone, images, device=context.device, batch_size=context.batch_size, progress=context.progress,
            preprocess=geometry, layers=card.layers,
        )  # fmt: skip
        cache["feature_hits" if found.hit else "feature_misses"] += 1
        return found

    learn, judge = features(train.images), features(test.images)
    context.ready()
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    names = context.progress.track(train.images.ids, "training depths", unit="map")
    labels = np.stack([grid_depth(full_depth(train, name), learn.grid, card) for name in names])

    def train_by(card: DepthCard) -> tuple[DepthHead, list[float]]:
        return train_head(learn.patches, labels, learn.grid, card, context.seed, context.device, context.progress)

    if card.head == "ridge":
        head = train_by(card)[0]
        notes: dict[str, Any] = {"converged": closed_form()}
    else:
        head, curve, found = train_until_converged(card, math.ceil(len(learn.patches) / card.batch_size), train_by)
        notes = {"head_loss": thinned(curve), "converged": found}
    seconds["head"] = time.monotonic() - started
    blind = _Places(torch.from_numpy(mean_map(labels)).to(context.device))
    return Fitted(head, judge, card, context.device), Fitted(blind, judge, card, context.device), notes, seconds, cache
