"""Angular errors of surface normals (Fouhey, Gupta, Hebert, ICCV 2013, for the measures; Bae, Budvytis, Cipolla, ICCV 2021)."""

from __future__ import annotations

import numpy as np

LIMITS = (11.25, 22.5, 30.0)  # degrees
WITHIN = tuple(f"within_{limit:g}" for limit in LIMITS)
METRICS = ("angle_mean", "angle_median", "angle_rmse", *WITHIN)
LOWER = METRICS[:3]
STEP = 0.1  # degrees: width of the bins that a median over all pixels is interpolated in
BINS = round(180 / STEP)
_PLAIN = 3 + len(LIMITS)


def angles(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 [n], degrees between vectors [n, 3] of any length above 0; 90 for a prediction of length 0.

    Raises ValueError for other shapes.
    """
    if predicted.shape != truth.shape or truth.ndim != 2 or truth.shape[-1] != 3:
        raise ValueError(f"angles: prediction {predicted.shape} against truth {truth.shape}; expected [n, 3] of both")
    p, t = predicted.astype(np.float64), truth.astype(np.float64)
    length = np.linalg.norm(p, axis=-1) * np.linalg.norm(t, axis=-1)
    cosine = np.where(length > 0, (p * t).sum(-1) / np.where(length > 0, length, 1), 0.0)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def angle_sums(degrees: np.ndarray) -> np.ndarray:
    """float64 [6 + BINS] of the errors [n] of an image:
    n, their sum and sum of squares, how many lie below each of LIMITS, and a histogram."""
    histogram = np.bincount(np.minimum((degrees / STEP).astype(np.int64), BINS - 1), minlength=BINS)
    return np.array(
        [len(degrees), degrees.sum(), (degrees**2).sum(), *((degrees < limit).sum() for limit in LIMITS), *histogram], np.float64
    )


def pooled(sums: np.ndarray) -> dict[str, np.ndarray]:
    """[..., 6 + BINS] -> each metric [...] over the pixels of all images together; the median to a hundredth of a degree or so."""
    n = np.maximum(sums[..., 0], 1)
    out = {"angle_mean": sums[..., 1] / n, "angle_median": _median(sums[..., _PLAIN:]), "angle_rmse": np.sqrt(sums[..., 2] / n)}
    return out | {name: sums[..., 3 + k] / n for k, name in enumerate(WITHIN)}


def _median(histogram: np.ndarray) -> np.ndarray:
    """[..., BINS] -> [...], linear within the bin that holds the middle."""
    below = histogram.cumsum(-1)
    half = below[..., -1:] / 2
    at = (below < half).sum(-1, keepdims=True).clip(max=BINS - 1)
    inside = np.take_along_axis(histogram, at, -1)
    before = np.take_along_axis(below, at, -1) - inside
    return np.asarray(((at + (half - before) / np.maximum(inside, 1e-12)) * STEP)[..., 0])


def image_metrics(degrees: np.ndarray) -> dict[str, float]:
    """Each metric of the errors [n] of one image."""
    out = {"angle_mean": degrees.mean(), "angle_median": np.median(degrees), "angle_rmse": np.sqrt((degrees**2).mean())}
    return {k: float(v) for k, v in out.items()} | {
        w: float((degrees < limit).mean()) for w, limit in zip(WITHIN, LIMITS, strict=True)
    }
