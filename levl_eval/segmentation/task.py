"""The segmentation engine: a head on cached tokens, scored by mIoU with per-image counts kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import SegmentationCard
from levl_eval.data.images import fingerprint_text
from levl_eval.data.readers import read_segmentation
from levl_eval.data.types import ImageSet, SegmentationSet
from levl_eval.engines import Context, Outcome
from levl_eval.errors import LevlError
from levl_eval.features import FeatureSet
from levl_eval.metrics.segmentation import confusion_matrix, statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic
from levl_eval.records import Sample
from levl_eval.segmentation.head import predict, train_head

METRICS = ("mean_iou", "pixel_accuracy", "mean_accuracy")


def task_preprocess(card: SegmentationCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation with the task's geometry: images and masks must be cut alike for every backbone."""
    size = card.size or own.size
    return replace(own, size=size, resize=card.resize, resize_to=None)


def mask_at(data: SegmentationSet, name: str, geometry: Preprocess, side: int | None = None) -> np.ndarray:
    """The mask of an image in the geometry of ``geometry``, at ``side`` pixels (default: the input size), nearest neighbour.

    Raises LevlError where the mask's size is not its image's.
    """
    mask = data.mask(name)
    size = data.images.open(name).size
    if (mask.shape[1], mask.shape[0]) != size:
        raise LevlError(
            f"{data.images.source}/{name}: image is {size[0]}x{size[1]}, its mask {mask.shape[1]}x{mask.shape[0]}; they must be equal"
        )
    picture = geometry.geometry(Image.fromarray(mask.astype(np.int32)), nearest=True)
    if side is not None and side != geometry.size:
        picture = picture.resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(picture).astype(np.int64)


def grid_labels(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour labels [h, w] at token resolution of a square mask [S, S]: the pixel at each token's centre."""
    rows = ((np.arange(grid[0]) + 0.5) * mask.shape[0] / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * mask.shape[1] / grid[1]).astype(int)
    return mask[np.ix_(rows, columns)]


def _counts(confusion: np.ndarray) -> np.ndarray:
    """[C, C] -> [C, 3] of intersection, target, prediction."""
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)], -1)


def run(context: Context) -> Outcome:
    """Train the head on the card's training set and score it on its test set. Raises UsageError/LevlError for unusable data."""
    card: SegmentationCard = context.card
    test = read_segmentation(card.data, context.data, context.limit)
    train = read_segmentation(card.train, context.data)
    if train.classes != test.classes:
        raise LevlError(
            f"{card.name}: training and test set name different classes ({len(train.classes)} and {len(test.classes)}); use one list"
        )
    geometry = task_preprocess(card, context.backbone.preprocess)
    seconds: dict[str, float] = {}
    cache = {"feature_hits": 0, "feature_misses": 0}
    started = time.monotonic()

    def features(images: ImageSet) -> FeatureSet:
        found = context.store.get(
            context.backbone,
            images,
            device=context.device,
            batch_size=context.batch_size,
            progress=context.progress,
            preprocess=geometry,
        )
        cache["feature_hits" if found.hit else "feature_misses"] += 1
        return found

    train_features, test_features = features(train.images), features(test.images)
    seconds["features"] = time.monotonic() - started
    started = time.monotonic()
    grid, ignore = train_features.grid, card.data.ignore_index
    names = context.progress.track(train.images.ids, "training masks", unit="mask")
    labels = np.stack([grid_labels(mask_at(train, i, geometry), grid) for i in names])
    head, curve = train_head(
        train_features.patches,
        labels,
        grid,
        len(train.classes),
        card,
        card.train.ignore_index,
        context.seed,
        context.device,
        context.progress,
    )
    seconds["head"] = time.monotonic() - started
    started = time.monotonic()

    side = card.score_size or geometry.size
    counts = np.zeros((len(test.images), len(test.classes), 3), np.int64)
    samples = []
    with context.progress.stage("scoring masks", len(test.images), "mask") as bar:
        for start in range(0, len(test.images), 32):
            block = predict(head, np.asarray(test_features.patches[start : start + 32]), (side, side), context.device)
            for k, predicted in enumerate(block):
                name = test.images.ids[start + k]
                truth = mask_at(test, name, geometry, side)
                found = _counts(confusion_matrix(predicted, truth, len(test.classes), ignore))
                counts[start + k] = found
                kept = {str(c): found[c].tolist() for c in np.nonzero(found[:, 1:].sum(1))[0]}
                own = statistics_from_counts(found[None])["mean_iou"][0]
                samples.append(Sample(id=name, image_id=name, score=float(own), meta={"counts": kept}))
            bar.advance(len(block))
    seconds["scores"] = time.monotonic() - started
    absent = sorted(set(range(len(test.classes))) - set(np.unique(labels[labels != ignore]).tolist()))

    def statistic(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda sums: statistics_from_counts(sums)[name]

    metrics = {name: bootstrap_statistic(counts, statistic(name), draws=2000, seed=0) for name in METRICS}
    data = {
        "fingerprint": fingerprint_text([test.fingerprint, test.images.fingerprint]),
        "counts": {"images": len(test.images), "train_images": len(train.images), "classes": len(test.classes)},
        "train": fingerprint_text([train.fingerprint, train.images.fingerprint]), "split": test.split,
    }  # fmt: skip
    total = counts.sum(0)
    union = total[:, 1] + total[:, 2] - total[:, 0]
    by_class = {test.classes[c]: round(float(total[c, 0] / union[c]), 4) for c in np.nonzero(union)[0]}
    notes = {
        "head_loss": [round(x, 5) for x in curve],
        "iou_by_class": by_class,
        "classes_absent_from_training": [test.classes[c] for c in absent],
    }
    return Outcome(metrics, samples, data, notes, seconds, cache)
