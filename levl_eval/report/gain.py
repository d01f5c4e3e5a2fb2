"""Gain over the random-initialised backbone, paired sample by sample and clustered by image.

The paper's figure shows gains over a random initialisation (PAPER 2a). Both backbones answered the same items, so the
difference is far better known than either value: it is bootstrapped over images, jointly for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic, paired_difference
from levl_eval.records import Estimate, Record, Sample, read_samples


def comparable(a: Record, b: Record) -> bool:
    """Same task, protocol, data and seed, both done."""
    same = a.task == b.task and a.protocol_hash == b.protocol_hash and a.seed == b.seed
    return same and a.data.get("fingerprint") == b.data.get("fingerprint") and a.status == b.status == "done"


def _weights(samples: Sequence[Sample]) -> np.ndarray:
    """Factors that turn the mean over samples into the mean over POPE's splits; all 1 where there are no splits."""
    splits = [str(s.meta.get("split", "")) for s in samples]
    counts = {s: splits.count(s) for s in set(splits)}
    return np.array([len(splits) / (len(counts) * counts[s]) for s in splits])


def _difference(counts: np.ndarray) -> np.ndarray:
    """[..., 2, C, 3] sums of both sides -> difference of their mean IoU."""
    iou = statistics_from_counts(counts)["mean_iou"]
    return iou[..., 0] - iou[..., 1]


def _counts(samples: Sequence[Sample]) -> np.ndarray:
    """Per-image class counts of segmentation samples as [N, C, 3]."""
    tables = [{int(k): v for k, v in s.meta["counts"].items()} for s in samples]
    classes = 1 + max((k for t in tables for k in t), default=0)
    out = np.zeros((len(samples), classes, 3))
    for i, table in enumerate(tables):
        for k, v in table.items():
            out[i, k] = v
    return out


def gain(out_a: Path, a: Record, out_b: Path, b: Record) -> Estimate | None:
    """Difference a - b of the main metric with its paired 95% interval, or None where the two may not be compared.

    Samples are matched by id; items only one side has make the pair not comparable.
    """
    if not comparable(a, b):
        return None
    left = {s.id: s for s in read_samples(out_a, a)}
    right = {s.id: s for s in read_samples(out_b, b)}
    if left.keys() != right.keys() or not left:
        return None
    ids = sorted(left)
    sa, sb = [left[i] for i in ids], [right[i] for i in ids]
    if a.main_metric == "mean_iou":
        ca, cb = _counts(sa), _counts(sb)
        classes = max(ca.shape[1], cb.shape[1])
        both = np.zeros((len(ids), 2, classes, 3))
        both[:, 0, : ca.shape[1]], both[:, 1, : cb.shape[1]] = ca, cb
        return bootstrap_statistic(both, _difference, draws=2000, seed=0)
    weights = _weights(sa)
    x = np.array([s.score or 0.0 for s in sa]) * weights
    y = np.array([s.score or 0.0 for s in sb]) * weights
    return paired_difference(x, y, np.array([s.image_id for s in sa]), seed=0, draws=2000)
