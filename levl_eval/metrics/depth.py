"""Depth metrics from sums over pixels, by image (Eigen, Puhrsch, Fergus, NeurIPS 2014, for the definitions)."""

from __future__ import annotations

import numpy as np

# Sums an image is kept by: pixels, |p - t| / t, (p - t)^2, |log10 p/t|, ln p/t, (ln p/t)^2, and the pixels with max(p/t, t/p)
# below 1.25, 1.25^2 and 1.25^3.
SUMS = 9
LOWER = ("rmse", "absrel", "log10", "rmse_log", "silog")
METRICS = (*LOWER, "delta1", "delta2", "delta3")


def depth_sums(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 [SUMS] over pixels: positive metres of one shape. Raises ValueError for other shapes or values."""
    if predicted.shape != truth.shape:
        raise ValueError(f"depth_sums: prediction {predicted.shape} against truth {truth.shape}")
    p, t = predicted.astype(np.float64).reshape(-1), truth.astype(np.float64).reshape(-1)
    if len(t) and not (t.min() > 0 and p.min() > 0):
        raise ValueError("depth_sums: depths must be above 0")
    ratio = p / t
    log = np.log(ratio)
    worse = np.maximum(ratio, 1 / ratio)
    return np.array([
        len(t), (np.abs(p - t) / t).sum(), ((p - t) ** 2).sum(), np.abs(log).sum() / np.log(10), log.sum(), (log * log).sum(),
        *((worse < 1.25**k).sum() for k in (1, 2, 3)),
    ])  # fmt: skip


def depth_metrics(sums: np.ndarray) -> dict[str, np.ndarray]:
    """[..., SUMS] -> each metric [...]: rmse in metres, absrel, log10,
    rmse_log and silog (standard deviation of ln p/t) as they are, delta1 to delta3 as fractions."""
    n = np.maximum(sums[..., 0], 1)
    bias, square = sums[..., 4] / n, sums[..., 5] / n
    return {
        "rmse": np.sqrt(sums[..., 2] / n), "absrel": sums[..., 1] / n, "log10": sums[..., 3] / n, "rmse_log": np.sqrt(square),
        "silog": np.sqrt(np.maximum(square - bias**2, 0)), "delta1": sums[..., 6] / n, "delta2": sums[..., 7] / n,
        "delta3": sums[..., 8] / n,
    }  # fmt: skip
