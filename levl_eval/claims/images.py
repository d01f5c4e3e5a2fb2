"""A metric of a record image by image, rebuilt from its samples: what a paired difference is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from levl_eval.core.errors import LevlError
from levl_eval.core.json_types import object_at
from levl_eval.metrics.crossed import pseudo_values
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.records import Record, Sample
from levl_eval.report.paired import split_weights

REFERENCE = "original"  # the variant of ImageNet-9 that drops are from


def value_of(record: Record, metric: str) -> float | None:
    """The record's own number, None where it has none of that name."""
    estimate = record.metrics.get(metric)
    return estimate.value if estimate is not None else None


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-12))


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    return np.asarray(statistics_from_counts(sums)["mean_iou"])


def by_image(record: Record, samples: Sequence[Sample], where: np.ndarray, images: int, metric: str) -> np.ndarray:
    """[images] contributions to ``metric``, whose mean is the metric over these samples (jackknife pseudo-values).

    where: [len(samples)] index of each sample's image. Raises LevlError for a metric that the samples do not hold.
    """
    if metric == record.main_metric and metric == "mean_iou" and "counts" in samples[0].meta:
        return pseudo_values(_class_counts(samples, where, images), _mean_iou)
    scores = item_scores(record, samples, metric)
    sums = np.stack([np.bincount(where, scores, images), np.bincount(where, minlength=images).astype(float)], -1)
    return pseudo_values(sums, _ratio)


def _class_counts(samples: Sequence[Sample], where: np.ndarray, images: int) -> np.ndarray:
    """[images, classes that occur, 3]: intersection, target, prediction."""
    classes = sorted({int(k) for s in samples for k in object_at(s.meta, "counts")})
    column = {k: n for n, k in enumerate(classes)}
    out = np.zeros((images, len(classes), 3))
    for at, s in zip(where, samples, strict=True):
        for k, v in object_at(s.meta, "counts").items():
            out[at, column[int(k)]] += v
    return out


def item_scores(record: Record, samples: Sequence[Sample], metric: str) -> np.ndarray:
    """[N] whose mean is ``metric``: the samples' scores, or what ImageNet-9's samples hold of each variant.

    Raises LevlError where the samples do not hold it.
    """
    if metric == record.main_metric:
        if any(s.score is None for s in samples):
            raise LevlError(f"{record.task}: {metric} has no score for each item, so it cannot be paired")
        return np.asarray(np.array([s.score for s in samples], float) * split_weights(samples))
    variants = [object_at(s.meta, "variants") for s in samples]
    name = metric.removeprefix("drop_")
    needed = (REFERENCE, name) if metric.startswith("drop_") else (name,)
    if not all(k in v for v in variants for k in needed):
        raise LevlError(
            f"{record.task}: the samples do not hold {metric} image by image (they hold {record.main_metric}); run the task again"
        )
    if metric.startswith("drop_"):
        return np.asarray(np.array([v[REFERENCE] for v in variants], float) - np.array([v[name] for v in variants], float))
    return np.array([v[name] for v in variants], float)
