"""What an engine's score is without sight: answers made from training labels alone, scored like the backbone's.

A floor stands in a record's metrics as ``floor_NAME`` with its own interval, and the backbone's difference to it, paired by image,
as ``gain_over_NAME`` (for an error, below zero is better). What is scored by another metric than a fraction has it behind a
slash: ``floor_mean_map/rmse``. The floors of questions are in vlm.floors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from levl_eval.metrics.retrieval import recall_at
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate, paired_difference
from levl_eval.records import Estimate


def class_shares(labels: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    """float32 [C, h, w]: how often each class stands at a place among training labels [N, h, w]; what is ``ignore`` does not count.

    A place without any label has the shares of all places together.
    """
    out = np.zeros((classes, *labels.shape[1:]), np.float64)
    for c in range(classes):
        out[c] = ((labels == c) & (labels != ignore)).sum(0)
    everywhere = out.sum((1, 2), keepdims=True)
    out = np.where(out.sum(0) > 0, out, everywhere)
    return np.asarray((out / np.maximum(out.sum(0), 1)).astype(np.float32))


def mean_map(depths: np.ndarray) -> np.ndarray:
    """float32 [h, w]: the mean of training depths [N, h, w] at each place, NaN being unknown; of all where a place has none."""
    known = np.isfinite(depths)
    total = np.where(known, depths, 0).astype(np.float64).sum(0)
    count = known.sum(0)
    overall = float(total.sum() / max(1, count.sum()))
    return np.where(count > 0, total / np.maximum(count, 1), overall).astype(np.float32)


def of_means(name: str, mine: np.ndarray, theirs: np.ndarray, suffix: str = "") -> dict[str, Estimate]:
    """Floor and gain of scores [N], one an image, of the backbone and of the floor on the same images."""
    return {f"floor_{name}{suffix}": mean_estimate(theirs), f"gain_over_{name}{suffix}": paired_difference(mine, theirs)}


def of_counts(
    name: str, mine: np.ndarray, theirs: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Estimate]:
    """Floor and gain of a statistic of summed counts [N, ...] by image (mIoU); see metrics.statistics.bootstrap_statistic."""
    both = np.stack([mine, theirs], 1)
    axis = 1 - both.ndim  # of the two sides, whatever axes stand before them

    def gain(sums: np.ndarray) -> np.ndarray:
        return np.asarray(statistic(np.take(sums, 0, axis=axis)) - statistic(np.take(sums, 1, axis=axis)))

    estimate = bootstrap_statistic(both, gain)
    return {
        f"floor_{name}": bootstrap_statistic(theirs, statistic),
        f"gain_over_{name}": estimate.model_copy(update={"method": f"paired {estimate.method}"}),
    }


def majority(right: np.ndarray, truth: np.ndarray, training: np.ndarray, classes: int) -> dict[str, Estimate]:
    """Of top-1 hits [N]: always the most frequent class of the training labels (the first of equals)."""
    guess = int(np.bincount(training, minlength=classes).argmax())
    return of_means("majority", right, (truth == guess).astype(float))


def chance(right: np.ndarray, classes: int) -> dict[str, Estimate]:
    """Of top-1 hits [N] without training: a guess among all classes, whose expected score is the same for every image."""
    return of_means("chance", right, np.full(len(right), 1 / classes))


def retrieval_chance(owner: np.ndarray, images: int, ks: list[int], folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected hits in a random order, [len(ks), images] and [len(ks), captions]; caption j belongs to image owner[j].

    folds: as the engine has them, consecutive parts of the images that are ranked apart.
    """
    captions = np.bincount(owner, minlength=images)
    by_image, by_text = np.zeros((len(ks), images)), np.zeros((len(ks), len(owner)))
    for part in np.array_split(np.arange(images), folds):
        mine = np.flatnonzero((owner >= part[0]) & (owner <= part[-1]))
        total, none = len(mine), np.zeros(len(part), np.int64)
        for r, k in enumerate(ks):
            by_image[r, part] = recall_at(none, total - captions[part], k, captions[part])
            by_text[r, mine] = min(1.0, k / len(part))
    return by_image, by_text
