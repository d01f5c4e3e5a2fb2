"""The segmentation engine: a head on cached tokens, scored by mIoU with per-image counts kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from levl_eval.cards import SegmentationCard, TaskFields
from levl_eval.data.images import fingerprint_of
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import of_counts
from levl_eval.engines.segmentation.fitting import Fitted, majority_map, prepare, train_and_open, truth_of
from levl_eval.engines.segmentation.images import keep_images
from levl_eval.engines.segmentation.sweep import class_counts
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic
from levl_eval.records import Sample

METRICS = ("mean_iou", "pixel_accuracy", "mean_accuracy")
Floor: TypeAlias = Callable[[tuple[int, int]], torch.Tensor]  # size -> labels [H, W] of every image


def run(context: Context[SegmentationCard]) -> Outcome:
    """Train the head on the card's training set and score it on its test set. Raises UsageError/LevlError for unusable data."""
    train, test, geometry, views = prepare(context)
    fitted, labels, notes, seconds = train_and_open(context, train, test, geometry, views)
    floor = majority_map(fitted, labels, len(test.classes), train.ignore_index)
    outcome = scored(context, fitted, train, test, floor)
    known = set(np.unique(labels[labels != train.ignore_index]).tolist())
    absent = [name for c, name in enumerate(test.classes) if c not in known]
    outcome.notes = {**notes, "classes_absent_from_training": absent, **outcome.notes}
    outcome.seconds = seconds | outcome.seconds
    return outcome


def scored(
    context: Context[TaskFields], fitted: Fitted, train: SegmentationSet | None, test: SegmentationSet, floor: Floor | None
) -> Outcome:
    """Every test mask against what ``fitted`` and the floor without sight predict; images for the report where the run has a folder.

    floor: None where no training masks say one: then it is chance, every class alike at every pixel, as it is expected to count.
    """
    started = time.monotonic()
    classes, ignore = len(test.classes), test.ignore_index
    counts, unsighted = np.zeros((len(test.images), classes, 3), np.int64), np.zeros((len(test.images), classes, 3))
    for k, name in enumerate(context.progress.track(test.images.ids, "scoring masks", unit="mask")):
        truth = torch.from_numpy(truth_of(test, name, fitted.geometry, fitted.card)).to(context.device)
        size, keep = (truth.shape[0], truth.shape[1]), truth != ignore
        predicted = fitted.predict(k, size)[keep]
        # What stands for none of the classes is wrong wherever one is: a class of its own that is counted and then left out.
        predicted = torch.where((predicted < 0) | (predicted >= classes), classes, predicted)
        counts[k] = class_counts(predicted, truth[keep], classes + 1)[:classes].cpu().numpy()
        if floor is not None:
            unsighted[k] = class_counts(floor(size)[keep], truth[keep], classes).cpu().numpy()
        else:
            unsighted[k] = chance_counts(counts[k, :, 1])
    seconds = {"scores": time.monotonic() - started}
    if context.work is not None:
        keep_images(context.work, fitted, test)
    outcome = outcome_of(train, test, counts, {}, seconds, context.counts)
    outcome.metrics |= of_counts("chance" if floor is None else "majority_map", counts, unsighted, mean_iou_of)
    return outcome


def chance_counts(target: np.ndarray) -> np.ndarray:
    """[C, 3] pixels of intersection, target and prediction that a guess among all classes is expected to have. target: [C]."""
    share = 1 / len(target)
    return np.stack([target * share, target, np.full(len(target), target.sum() * share)], -1)


def mean_iou_of(sums: np.ndarray) -> np.ndarray:
    """mIoU [...] of summed counts [..., C, 3]."""
    return statistics_from_counts(sums)["mean_iou"]


def outcome_of(
    train: SegmentationSet | None, test: SegmentationSet, counts: np.ndarray, notes: dict[str, object], seconds: dict[str, float],
    cache: dict[str, int],
) -> Outcome:  # fmt: skip
    """Metrics with intervals and samples from [N, C, 3] pixels of (intersection, target, prediction) by image and class."""
    samples = []
    for k, name in enumerate(test.images.ids):
        kept = {str(c): counts[k, c].tolist() for c in np.nonzero(counts[k, :, 1:].sum(1))[0]}
        own = statistics_from_counts(counts[k][None])["mean_iou"][0]
        samples.append(Sample(id=name, image_id=name, score=float(own), meta={"counts": kept}))

    def statistic(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda sums: statistics_from_counts(sums)[name]

    metrics = {name: bootstrap_statistic(counts, statistic(name), draws=2000, seed=0) for name in METRICS}
    learned = {} if train is None else {"train_images": len(train.images)}
    data: dict[str, object] = {
        "fingerprint": fingerprint_of(test),
        "counts": {"images": len(test.images), **learned, "classes": len(test.classes)}, "split": test.split,
    }  # fmt: skip
    if train is not None:
        data["train"] = fingerprint_of(train)
    total = counts.sum(0)
    union = total[:, 1] + total[:, 2] - total[:, 0]
    by_class = {test.classes[c]: round(float(total[c, 0] / union[c]), 4) for c in np.nonzero(union)[0]}
    return Outcome(metrics, samples, data, {**notes, "iou_by_class": by_class}, seconds, cache)
