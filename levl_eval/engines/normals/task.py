"""The normals engine: a linear head on cached tokens that says which way surfaces face, scored in degrees at the maps' own resolution."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from levl_eval.cards.normals import NormalsCard
from levl_eval.core.errors import LevlError
from levl_eval.data.readers import read_normals
from levl_eval.data.types import NormalSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import closed_form
from levl_eval.engines.dense_common import FixedMap, geometry_of, logits_of, same_size, trained, upsample
from levl_eval.engines.dense_images import keep_sheets, pca_rgb, spread
from levl_eval.engines.map_scores import MapScores, outcome_of
from levl_eval.engines.normals.head import NormalTokens, grid_normals, token_angle, train_head
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.normals import METRICS, angle_sums, angles, image_metrics, pooled

_ERROR = 60.0  # degrees that are drawn full red


@dataclass
class Fitted:
    """A head with what it predicts the test images from."""

    head: nn.Module  # tokens [B, n, D] -> [B, 3 or 4, h, w]
    features: FeatureSet
    card: NormalsCard
    device: torch.device

    @torch.inference_mode()
    def predict(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """[H, W, 3], of no particular length, of the image in ``row`` of the features."""
        maps = logits_of(self.head, self.features.patches[row : row + 1], self.device)[:, :3]
        out: np.ndarray = upsample(maps, size, self.card.upsample)[0].movedim(0, -1).cpu().numpy()
        return out


def full_normals(data: NormalSet, name: str) -> np.ndarray:
    """The map [H, W, 3] of an image. Raises LevlError where its size is not its image's."""
    return same_size(data.images, name, data.normals(name), "map of normals")


def mean_directions(labels: np.ndarray) -> np.ndarray:
    """float32 [h, w, 3]: the mean of training labels [N, h, w, 3] at each place, NaN being unknown; of all where a place has none."""
    known = np.isfinite(labels).all(-1, keepdims=True)
    total = np.where(known, labels, 0).astype(np.float64).sum(0)
    everywhere = total.sum((0, 1))
    return np.asarray(np.where(known.any(0), total, everywhere), np.float32)


def fit(
    context: Context[NormalsCard], train: NormalSet, test: NormalSet
) -> tuple[Fitted, Fitted, dict[str, object], dict[str, float]]:
    """What predicts, the same without an image (the mean direction at each place), notes on the training and seconds."""
    card, device = context.card, context.device
    seconds: dict[str, float] = {}
    geometry = geometry_of(card, context.backbone.preprocess, "squash")
    started = time.monotonic()
    learn, judge = (context.features(s.images, ("patches",), geometry, card.layers) for s in (train, test))
    context.ready()
    seconds["features"] = time.monotonic() - started
    started = time.monotonic()
    names = context.progress.track(train.images.ids, "training normals", unit="map")
    labels = np.stack([grid_normals(full_normals(train, name), learn.grid) for name in names])
    data = NormalTokens(learn.patches, labels, learn.grid)

    def train_by(card: NormalsCard, data: NormalTokens) -> tuple[nn.Module, list[float]]:
        return train_head(data, card, context.seed, device, context.progress)

    notes: dict[str, object]
    if card.head == "ridge":
        head, notes = train_by(card, data)[0], {"converged": closed_form()}
    else:
        head, notes = trained(card, data, train_by, token_angle, context.seed, device)
    seconds["head"] = time.monotonic() - started
    blind = FixedMap(torch.from_numpy(mean_directions(labels)).movedim(-1, 0)[None].to(device))
    return Fitted(head, judge, card, device), Fitted(blind, judge, card, device), notes, seconds


def paint(normals: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Vectors [H, W, 3] -> uint8 [H, W, 3], each component from -1 to 1 as one colour; what is not kept is grey."""
    unit = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    out: np.ndarray = ((unit + 1) / 2 * 255).round().astype(np.uint8)
    if keep is not None:
        out[~keep] = 128
    return out


def keep_images(folder: Path, fitted: Fitted, test: NormalSet, count: int = 6, side: int = 96) -> None:
    """Two files for the report: photo and truth, and prediction, error and the tokens' principal components."""
    names = [test.images.ids[k] for k in spread(len(test.images), count)]
    rows = [fitted.features.row[n] for n in names]
    maps = [full_normals(test, n) for n in names]
    truth = [[np.array(test.images.open(n)), paint(m, (m != 0).any(-1))] for n, m in zip(names, maps, strict=True)]
    made = []
    for row, m, tokens in zip(rows, maps, pca_rgb(fitted.features.patches[rows], fitted.features.grid), strict=True):
        predicted, known = fitted.predict(row, (m.shape[0], m.shape[1])), (m != 0).any(-1)
        share = np.zeros(known.shape)
        share[known] = np.clip(angles(predicted[known], m[known]) / _ERROR, 0, 1)
        error = (255 - share[..., None] * np.array([55, 225, 225])).round().astype(np.uint8)
        error[~known] = 128
        made.append([paint(predicted), error, tokens])
    keep_sheets(folder, truth, made, ("prediction", "error", "PCA"), side)


def run(context: Context[NormalsCard]) -> Outcome:
    """Train the card's head and score it on its test set. Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_normals(card.data, context.data, context.limit)
    train = read_normals(card.train, context.data)
    fitted, blind, notes, seconds = fit(context, train, test)
    started = time.monotonic()
    kept, by_image, unsighted, names, empty = [], [], [], [], []
    for k, name in enumerate(context.progress.track(test.images.ids, "scoring normals", unit="map")):
        truth = full_normals(test, name)
        keep = (truth != 0).any(-1)
        if not keep.any():
            empty.append(name)
            continue
        size = (truth.shape[0], truth.shape[1])
        errors = angles(fitted.predict(k, size)[keep], truth[keep])
        kept.append(angle_sums(errors))
        by_image.append(image_metrics(errors))
        unsighted.append(image_metrics(angles(blind.predict(k, size)[keep], truth[keep])))
        names.append(name)
    if not kept:
        raise LevlError(f"{card.name}: no test pixel has a normal; check the maps")
    seconds["scores"] = time.monotonic() - started
    if context.work is not None:
        keep_images(context.work, fitted, test)
    values, floor = ({m: np.array([one[m] for one in each]) for m in METRICS} for each in (by_image, unsighted))
    scores = MapScores(names, empty, values, floor, np.stack(kept))
    return outcome_of(context, (train, test), scores, pooled, notes, seconds, "angle_rmse")
