"""A depth head on stored tokens: its training, and the metres it predicts for an image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from levl_eval.backbones.base import Preprocess
from levl_eval.cards.dense import DepthCard, MetresFields
from levl_eval.data.readers import read_depth
from levl_eval.data.types import DepthSet
from levl_eval.engines.contract import Context
from levl_eval.engines.convergence import closed_form
from levl_eval.engines.dense_common import FixedMap, geometry_of, logits_of, same_size, trained, upsample
from levl_eval.engines.depth.head import DepthHead, DepthTokens, grid_depth, token_loss, train_head, valid
from levl_eval.engines.floors import mean_map
from levl_eval.features.store import FeatureSet

# Top, bottom, left, right as shares of the map: rows 45 to 471 and columns 41 to 601 of 480 x 640 (Eigen et al. 2014, NYUv2),
# and the parts of KITTI's frames that its laser reaches (Garg et al., ECCV 2016; Eigen et al. 2014).
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0), "eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229), "eigen-kitti": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}  # fmt: skip
PIXELS = {"eigen-pixels": (45, 471, 41, 601)}  # the same in pixels, of maps of any size
_CUT_OFF = ("garg", "eigen-kitti")  # to whole pixels, as every evaluation of KITTI has them; others are rounded


def task_preprocess(card: DepthCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation; the whole image squashed to a square, so that every pixel has a prediction."""
    return geometry_of(card, own, "squash")


def full_depth(data: DepthSet, name: str) -> np.ndarray:
    """The depth map [H, W] of an image. Raises LevlError where its size is not its image's."""
    return same_size(data.images, name, data.depth(name), "depth map")


def window(card: MetresFields, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the card's crop in pixels of a map [H, W]."""
    if isinstance(card.crop, str) and card.crop in PIXELS:
        return PIXELS[card.crop]
    shares = CROPS[card.crop] if isinstance(card.crop, str) else card.crop
    whole = int if card.crop in _CUT_OFF else round
    height, width = shape
    return whole(shares[0] * height), whole(shares[1] * height), whole(shares[2] * width), whole(shares[3] * width)


def scored(depth: np.ndarray, card: MetresFields) -> np.ndarray:
    """Which pixels [H, W] count: valid ones within the card's crop."""
    top, bottom, left, right = window(card, depth.shape)
    inside = np.zeros(depth.shape, bool)
    inside[top:bottom, left:right] = True
    out: np.ndarray = inside & valid(depth, card)
    return out


class Predictor(Protocol):
    """What is scored: metres of a test image, by the card with the caps of scoring."""

    @property
    def card(self) -> MetresFields: ...

    def predict(self, row: int, size: tuple[int, int]) -> np.ndarray: ...


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
        metres = logits_of(self.head, self.features.patches[row : row + 1], self.device)[:, None]
        large = upsample(metres, size, self.card.upsample)[0, 0]
        return large.clamp(self.card.min_depth, self.card.max_depth).cpu().numpy()


def sets_of(context: Context[DepthCard]) -> tuple[DepthSet, DepthSet]:
    """Training and test set of the card. Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_depth(card.data, context.data, card.scale_of("test"), context.limit, card.caps_of("test"))
    return read_depth(card.train, context.data, card.scale_of("train"), caps=card.caps_of("train")), test


def fit(
    context: Context[DepthCard], train: DepthSet, test: DepthSet
) -> tuple[Fitted, Fitted, dict[str, object], dict[str, float]]:
    """Features of both sets and the head:
    what predicts, the same without an image (the training mean at each place), notes on the training and seconds."""
    card, device = context.card, context.device
    seconds: dict[str, float] = {}
    geometry = task_preprocess(card, context.backbone.preprocess)
    started = time.monotonic()
    learn, judge = (context.features(s.images, ("patches",), geometry, card.layers) for s in (train, test))
    context.ready()
    seconds["features"] = time.monotonic() - started
    started = time.monotonic()
    names = context.progress.track(train.images.ids, "training depths", unit="map")
    labels = np.stack([grid_depth(full_depth(train, name), learn.grid, card) for name in names])
    data = DepthTokens(learn.patches, labels, learn.grid)

    def train_by(card: DepthCard, data: DepthTokens) -> tuple[DepthHead, list[float]]:
        return train_head(data, card, context.seed, device, context.progress)

    if card.head == "ridge":
        head = train_by(card, data)[0]
        notes: dict[str, object] = {"converged": closed_form()}
    else:
        head, notes = trained(card, data, train_by, token_loss, context.seed, device)
    seconds["head"] = time.monotonic() - started
    blind = FixedMap(torch.from_numpy(mean_map(labels))[None].to(device))
    capped = card.in_scoring()
    return Fitted(head, judge, capped, device), Fitted(blind, judge, capped, device), notes, seconds
