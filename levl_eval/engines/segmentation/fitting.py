"""A segmentation head on stored tokens: its labels, its training, and what it predicts of an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import InContextCard, SegmentationCard
from levl_eval.cards.dense import MapCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_segmentation
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.convergence import closed_form, convergence, thinned
from levl_eval.engines.dense_common import FixedMap, geometry_of, logits_of, same_size, trained, upsample
from levl_eval.engines.floors import class_shares
from levl_eval.engines.segmentation.closed import neighbour_head, ridge_head
from levl_eval.engines.segmentation.head import ClassTokens, train_head
from levl_eval.engines.segmentation.sweep import sweep_head, sweep_pairs
from levl_eval.features.store import FeatureSet
from levl_eval.features.stored import taken_apart
from levl_eval.features.views import Views, make_views

METRICS = ("mean_iou", "pixel_accuracy", "mean_accuracy")


def task_preprocess(card: MapCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation with the task's geometry: images and masks must be cut alike for every backbone."""
    return geometry_of(card, own, card.resize)


def full_mask(data: SegmentationSet, name: str) -> np.ndarray:
    """The mask [H, W] of an image as it is stored. Raises LevlError where its size is not its image's."""
    return same_size(data.images, name, data.mask(name), "mask")


def mask_at(data: SegmentationSet, name: str, geometry: Preprocess, side: int | None = None) -> np.ndarray:
    """The mask of an image in the geometry of ``geometry``, at ``side`` pixels (default: the input size), nearest neighbour.

    Raises LevlError where the mask's size is not its image's.
    """
    mask = full_mask(data, name)
    image = geometry.geometry(Image.fromarray(mask.astype(np.int32)), nearest=True, fill=data.ignore_index)
    if side is not None and side != geometry.size:
        image = image.resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(image).astype(np.int64)


def grid_labels(mask: np.ndarray, grid: tuple[int, int], rule: str = "nearest", ignore: int = 255) -> np.ndarray:
    """Labels [h, w] at token resolution of a mask [S, S] by the card's ``label_grid``; see there."""
    if rule == "majority":
        return _majority(mask, grid, ignore)
    shift = 0.0 if rule == "corner" else 0.5
    rows = ((np.arange(grid[0]) + shift) * mask.shape[0] / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + shift) * mask.shape[1] / grid[1]).astype(int)
    return mask[np.ix_(rows, columns)]


def _majority(mask: np.ndarray, grid: tuple[int, int], ignore: int) -> np.ndarray:
    """The most frequent label of each cell that is not void; the lowest of equals; void where the cell holds nothing else."""
    row = np.arange(mask.shape[0]) * grid[0] // mask.shape[0]
    column = np.arange(mask.shape[1]) * grid[1] // mask.shape[1]
    cell = row[:, None] * grid[1] + column[None, :]
    keep = mask != ignore
    out = np.full(grid[0] * grid[1], ignore, mask.dtype)
    if keep.any():
        classes = int(mask[keep].max()) + 1
        table = np.bincount(cell[keep] * classes + mask[keep], minlength=len(out) * classes).reshape(len(out), classes)
        out = np.where(table.any(1), table.argmax(1), ignore).astype(mask.dtype)
    return out.reshape(grid)


def training_tokens(
    context: Context[SegmentationCard], data: SegmentationSet, features: FeatureSet, geometry: Preprocess, views: Views | None
) -> ClassTokens:
    """Tokens of the training images' views with labels int16 [N V, h, w], in the order of the stored features."""
    card, grid = context.card, features.grid
    labels = []
    for name in context.progress.track(data.images.ids, "training masks", unit="mask"):
        mask = mask_at(data, name, geometry)
        parts = [mask] if views is None else list(views.cut(torch.from_numpy(mask)[None])[0].numpy())
        labels += [grid_labels(p, grid, card.label_grid, data.ignore_index).astype(np.int16) for p in parts]
    patches = taken_apart(features.patches) if features.patches.ndim == 4 else features.patches
    return ClassTokens(patches, np.stack(labels), grid, len(data.classes), data.ignore_index)


def fit(
    card: SegmentationCard, data: ClassTokens, seed: int, device: torch.device, progress: Progress, views: int = 1
) -> tuple[nn.Module, dict[str, object]]:
    """The card's head on labelled tokens, and what is worth noting about its training. views: rows of one image."""
    if len(sweep_pairs(card)) > 1:
        swept, curve, chosen = sweep_head(data, card, seed, device, progress, views)
        return swept, {"head_loss": thinned(curve), "sweep": chosen, "converged": convergence(curve)}
    if card.head == "ridge":
        return ridge_head(data, card, device, progress), {"converged": closed_form()}
    if card.head == "knn":
        return neighbour_head(data, card, seed, device), {}

    def train(card: SegmentationCard, data: ClassTokens) -> tuple[nn.Module, list[float]]:
        return train_head(data, card, seed, device, progress)

    return trained(card, data, train, data.loss, seed, device, views)


def dense_logits(
    head: nn.Module, patches: np.ndarray, views: Views | None, geometry: Preprocess, card: MapCard, device: torch.device
) -> Tensor:
    """Logits of stored tokens: [B, C, h, w] of [B, n, D], or [B, C, S, S] of [B, V, n, D], where views overlap their mean."""
    if views is None:
        return logits_of(head, patches, device)
    b, v = patches.shape[:2]
    each = logits_of(head, patches.reshape(b * v, *patches.shape[2:]), device)
    each = upsample(each, (views.side, views.side), card.upsample).unflatten(0, (b, v))
    out = each.new_zeros(b, each.shape[2], geometry.size, geometry.size)
    times = each.new_zeros(geometry.size, geometry.size)
    for k, box in enumerate(views.boxes):
        place = (slice(box.top, box.top + box.side), slice(box.left, box.left + box.side))
        out[:, :, place[0], place[1]] += each[:, k].flip(-1) if box.flip else each[:, k]
        times[place] += 1
    mean: Tensor = out / times
    return mean


@dataclass
class Fitted:
    """A trained head with everything needed to predict an image of the test set."""

    head: nn.Module
    features: FeatureSet
    views: Views | None
    geometry: Preprocess
    card: MapCard
    device: torch.device

    def logits(self, row: int) -> Tensor:
        """What stands for the classes, [1, C, h, w] on the device, of the image in ``row`` of the features."""
        tokens = self.features.patches[row : row + 1]
        return dense_logits(self.head, tokens, self.views, self.geometry, self.card, self.device)

    @torch.inference_mode()
    def predict(self, row: int, size: tuple[int, int]) -> Tensor:
        """Labels [H, W] on the device of the image in ``row`` of the features; what is none of the classes stands for nothing."""
        return upsample(self.logits(row), size, self.card.upsample).argmax(1)[0]


def majority_map(fitted: Fitted, labels: np.ndarray, classes: int, ignore: int) -> Callable[[tuple[int, int]], Tensor]:
    """The floor without an image: size -> labels [H, W] of the most frequent class at each place of the training masks.

    labels: [N V, h, w] as the head is trained on, ``ignore`` where void. How often each class is there takes the place of a
    head's logits, so that windows and upsampling are the same.
    """
    many = len(fitted.views.boxes) if fitted.views else 1
    shares = [class_shares(labels[v::many], classes, ignore) for v in range(many)]
    blind = replace(fitted, head=FixedMap(torch.from_numpy(np.stack(shares)).to(fitted.device)))
    return lru_cache(16)(lambda size: blind.predict(0, size))


def scored_geometry(card: MapCard, own: Preprocess) -> Preprocess:
    """task_preprocess, where every scored pixel can have a prediction. Raises UsageError where it cannot."""
    if card.score == "original" and card.resize != "squash":
        raise UsageError(
            f"{card.name}: field `score`: original needs `resize: squash`; a centre crop gives the pixels outside it no prediction"
        )
    return task_preprocess(card, own)


def prepare(context: Context[SegmentationCard]) -> tuple[SegmentationSet, SegmentationSet, Preprocess, Views | None]:
    """Training and test set, geometry and views of the card. Raises UsageError/LevlError for what does not fit together."""
    card = context.card
    sweep_pairs(card)
    geometry = scored_geometry(card, context.backbone.preprocess)
    views = make_views(geometry.size, card.window, card.stride, card.flip)
    return *both_sets(context), geometry, views


def both_sets(context: Context[SegmentationCard] | Context[InContextCard]) -> tuple[SegmentationSet, SegmentationSet]:
    """Training and test set of the card. Raises UsageError/LevlError where they are missing or have other classes."""
    card = context.card
    test = read_segmentation(card.data, context.data, context.limit)
    train = read_segmentation(card.train, context.data)
    if train.classes != test.classes:
        raise LevlError(
            f"{card.name}: training and test set name different classes ({len(train.classes)} and {len(test.classes)}); use one list"
        )
    return train, test


def truth_of(test: SegmentationSet, name: str, geometry: Preprocess, card: MapCard) -> np.ndarray:
    """The mask an image is scored against, at the resolution the card asks for."""
    return full_mask(test, name) if card.score == "original" else mask_at(test, name, geometry, card.score_size or geometry.size)


def train_and_open(
    context: Context[SegmentationCard], train: SegmentationSet, test: SegmentationSet, geometry: Preprocess, views: Views | None
) -> tuple[Fitted, np.ndarray, dict[str, object], dict[str, float]]:
    """Features of both sets and the head: what predicts, the training labels, notes and seconds."""
    card = context.card
    seconds: dict[str, float] = {}
    started = time.monotonic()
    learn, judge = (context.features(s.images, ("patches",), geometry, card.layers, views) for s in (train, test))
    context.ready()
    seconds["features"] = time.monotonic() - started
    started = time.monotonic()
    data = training_tokens(context, train, learn, geometry, views)
    head, notes = fit(card, data, context.seed, context.device, context.progress, len(views.boxes) if views else 1)
    seconds["head"] = time.monotonic() - started
    return Fitted(head, judge, views, geometry, card, context.device), data.labels, notes, seconds
