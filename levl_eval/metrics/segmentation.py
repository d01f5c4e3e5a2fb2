"""Segmentation metrics from confusion matrices: mIoU, pixel and mean accuracy."""

from __future__ import annotations

import numpy as np


def confusion_matrix(pred: np.ndarray, target: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """int64 [C, C], rows target, columns prediction, over pixels whose target is not ``ignore_index``.

    pred, target: integer arrays of one shape. Raises ValueError for other shapes or labels out of range.
    """
    if pred.shape != target.shape:
        raise ValueError(f"confusion_matrix: prediction {pred.shape} against target {target.shape}")
    keep = target != ignore_index
    p, t = pred[keep].astype(np.int64), target[keep].astype(np.int64)
    if len(t) and (t.min() < 0 or t.max() >= num_classes or p.min() < 0 or p.max() >= num_classes):
        raise ValueError(f"confusion_matrix: labels outside 0..{num_classes - 1}")
    return np.bincount(t * num_classes + p, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean intersection over union over the classes with a non-empty union; NaN where there are none."""
    inter = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - inter
    return float(np.mean(inter[union > 0] / union[union > 0])) if (union > 0).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of pixels with the right class."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def mean_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the classes that occur in the targets."""
    target = confusion.sum(1).astype(float)
    return float(np.mean(np.diag(confusion)[target > 0] / target[target > 0])) if (target > 0).any() else float("nan")


def statistics_from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """[..., C, 3] sums of (intersection, target, prediction) pixels -> mean_iou, pixel_accuracy, mean_accuracy, each [...]."""
    inter, target, pred = (counts[..., i].astype(float) for i in range(3))
    union = target + pred - inter
    seen, there = union > 0, target > 0
    iou = np.where(seen, inter / np.maximum(union, 1e-12), 0.0).sum(-1) / np.maximum(seen.sum(-1), 1)
    recall = np.where(there, inter / np.maximum(target, 1e-12), 0.0).sum(-1) / np.maximum(there.sum(-1), 1)
    return {"mean_iou": iou, "pixel_accuracy": inter.sum(-1) / np.maximum(target.sum(-1), 1), "mean_accuracy": recall}
