"""Means over items that two images make together (a pair, a keypoint in two images): items that share an image are not independent."""

from __future__ import annotations

import math

import numpy as np

from levl_eval.metrics.catalogue import FRACTION, Bounds
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import fraction_interval, student_quantile, within


def mean_of_dyads(
    scores: np.ndarray, first: np.ndarray, second: np.ndarray, strata: np.ndarray | None = None, bounds: Bounds = FRACTION
) -> Estimate:
    """Mean of ``scores`` [N], item i made of the images first[i] and second[i] [N], with a 95% interval over images.

    Every two items that share an image may be correlated (P. M. Aronow, C. Samii, V. A. Assenova, Political Analysis 2015): the variance
    is the sum of the products of their residuals, times k / (k - 1) of k images, and never below that of independent dyads. Student's
    quantile with k - 1 degrees of freedom; fractions have a score interval of as many items as give that error. strata: [N] groups whose
    means are averaged with equal weights; None: all items together. Of an empty array NaN; no interval below three images.
    """
    scores = np.asarray(scores, np.float64)
    n = len(scores)
    if not n:
        return Estimate(value=math.nan, n=0, clusters=0, method="empty")
    images, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    k = len(images)
    one, other = codes[:n].reshape(-1), codes[n:].reshape(-1)
    group = np.zeros(n, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(group)
    means = np.bincount(group, scores) / sizes
    value = float(scores.mean()) if len(sizes) == 1 else float(means.mean())
    if k < 3:
        return Estimate(value=value, n=n, clusters=k, method="too few images")
    residual = (scores - means[group]) / (sizes[group] * len(sizes))
    by_image = np.bincount(one, residual, k) + np.bincount(other, np.where(one == other, 0, residual), k)
    dyad = np.unique(np.minimum(one, other) * k + np.maximum(one, other), return_inverse=True)[1].reshape(-1)
    alone = float((np.bincount(dyad, residual) ** 2).sum())
    # Each dyad stands in both of its images' sums, so that its own square is there twice.
    variance = max(float((by_image**2).sum()) - alone, alone) * k / (k - 1)
    se, quantile = math.sqrt(variance), student_quantile(k - 1)
    if bounds == FRACTION:
        low, high = fraction_interval(value, se, k, quantile)
        return Estimate(value=value, stderr=se, low=low, high=high, n=n, clusters=k, method="dyads of images, score interval")
    estimate = Estimate(
        value=value, stderr=se, low=value - quantile * se, high=value + quantile * se, n=n, clusters=k, method="dyads of images"
    )
    return within(estimate, bounds)
