"""Estimates with 95% intervals: closed forms where they are exact enough, else the bootstrap over clusters (images).

Questions about one image are not independent; resampling images as wholes gives the right width. All bootstraps draw
multinomial counts of clusters, so a draw is a matrix product and never a copy of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from levl_eval.records import Estimate

Z95 = 1.959963984540054
_BLOCK = 32 << 20  # bytes of weights held at once


def _clusters(n: int, clusters: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Index of each item's cluster, and how many clusters there are."""
    if clusters is None:
        return np.arange(n), n
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index, len(names)


def _draws(k: int, draws: int, seed: int):
    """Yield [b, K] arrays of multinomial cluster counts, ``draws`` rows in all, in blocks of bounded memory."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // (8 * k))
    done = 0
    while done < draws:
        b = min(block, draws - done)
        yield rng.multinomial(k, np.full(k, 1 / k), size=b).astype(np.float64)
        done += b


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95% (E. B. Wilson, JASA 1927)."""
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_estimate(scores: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0, draws: int = 2000) -> Estimate:
    """Mean of ``scores`` [N] with a 95% interval.

    clusters: [N] labels of what is resampled together (image ids); None: every score stands alone. Independent 0/1 scores
    get Wilson's interval, other independent ones the normal one, clustered ones the percentile bootstrap over clusters.
    An empty array gives a NaN value with n = 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    n = len(scores)
    if n == 0:
        return Estimate(value=math.nan, n=0, clusters=0, method="empty")
    index, k = _clusters(n, clusters)
    value = float(scores.mean())
    if k == n:
        if np.isin(scores, (0.0, 1.0)).all():
            low, high = wilson(scores.sum(), n)
            return Estimate(
                value=value, stderr=math.sqrt(value * (1 - value) / n), low=low, high=high, n=n, clusters=n, method="wilson"
            )
        if n < 2:
            return Estimate(value=value, n=n, clusters=n, method="one sample")
        se = float(scores.std(ddof=1) / math.sqrt(n))
        return Estimate(value=value, stderr=se, low=value - Z95 * se, high=value + Z95 * se, n=n, clusters=n, method="normal")
    if k < 2:
        return Estimate(value=value, n=n, clusters=k, method="one cluster")
    sums, sizes = np.bincount(index, scores, k), np.bincount(index, minlength=k).astype(float)
    values = np.concatenate([(w @ sums) / np.maximum(w @ sizes, 1e-12) for w in _draws(k, draws, seed)])
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(
        value=value,
        stderr=float(values.std(ddof=1)),
        low=float(low),
        high=float(high),
        n=n,
        clusters=k,
        method=f"cluster bootstrap, {draws} draws",
    )


def paired_difference(
    a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0, draws: int = 2000
) -> Estimate:
    """Mean of a - b over the same items [N] with a 95% interval, resampled by cluster; see :func:`mean_estimate`."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: {a.shape} against {b.shape}; the same items are needed on both sides")
    difference = a - b
    index, k = _clusters(len(difference), clusters)
    if k == len(difference) or k < 2:
        n = len(difference)
        if n < 2:
            return Estimate(value=float(difference.mean()) if n else math.nan, n=n, clusters=n, method="one sample")
        value, se = float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(n))
        return Estimate(
            value=value, stderr=se, low=value - Z95 * se, high=value + Z95 * se, n=n, clusters=k, method="paired normal"
        )
    estimate = mean_estimate(difference, index, seed, draws)
    return estimate.model_copy(update={"method": f"paired {estimate.method}"})


def bootstrap_statistic(
    counts: np.ndarray, function: Callable[[np.ndarray], np.ndarray], draws: int = 2000, seed: int = 0, n: int | None = None
) -> Estimate:
    """A statistic of summed per-cluster counts (mIoU, F1, ...) with the percentile bootstrap's 95% interval over clusters.

    counts: [K, ...], one entry a cluster. function: maps sums [..., *counts.shape[1:]] to values [...], vectorised over leading
    axes. n: samples behind the counts, for the record; default K.
    """
    counts = np.asarray(counts, dtype=np.float64)
    k = len(counts)
    value = float(function(counts.sum(0)[None])[0])
    if k < 2:
        return Estimate(value=value, n=n or k, clusters=k, method="one cluster")
    flat = counts.reshape(k, -1)
    values = np.concatenate([function((w @ flat).reshape(len(w), *counts.shape[1:])) for w in _draws(k, draws, seed)])
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(
        value=value,
        stderr=float(values.std(ddof=1)),
        low=float(low),
        high=float(high),
        n=n or k,
        clusters=k,
        method=f"cluster bootstrap, {draws} draws",
    )
