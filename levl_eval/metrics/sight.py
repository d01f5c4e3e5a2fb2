"""How far an encoder comes from no sight to perfect sight on a task: (backbone - floor) / (ceiling - floor)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import DRAWS, Z95, bootstrap_statistic


def share_of_sight(
    backbone: np.ndarray,
    floor: np.ndarray,
    ceiling: np.ndarray,
    function: Callable[[np.ndarray], np.ndarray],
    draws: int = DRAWS,
    seed: int = 0,
    n: int | None = None,
) -> Estimate:
    """The share of the way from ``floor`` to ``ceiling`` in a statistic of summed counts, with its paired 95% bootstrap interval.

    backbone, floor, ceiling: [K, ...] counts of the same K images in the same order. function: sums [..., *counts.shape[1:]] ->
    values [...], vectorised over leading axes (metrics.statistics.bootstrap_statistic). Errors, where lower is better, need no
    other form: both differences change sign. 0 is the floor, 1 the ceiling; values outside are possible and kept.

    The share is NaN where the ceiling does not lie apart from the floor, that is where the interval of their difference holds 0:
    there the task does not measure sight. Raises ValueError for counts of different shapes.
    """
    parts = [np.asarray(x, np.float64) for x in (backbone, floor, ceiling)]
    if len({p.shape for p in parts}) != 1:
        raise ValueError(f"share_of_sight: {[p.shape for p in parts]}; the same images are needed on all three sides")
    counts = np.stack(parts, 1)  # [K, 3, ...]
    if not len(counts):
        return Estimate(value=math.nan, n=0, clusters=0, method="empty")

    def at(sums: np.ndarray, side: int) -> np.ndarray:
        return function(np.take(sums, side, axis=sums.ndim - counts.ndim + 1))

    room = bootstrap_statistic(counts, lambda s: at(s, 2) - at(s, 1), draws, seed, n)
    if room.low is None or room.high is None or room.low <= 0 <= room.high:
        return Estimate(
            value=math.nan, n=room.n, clusters=room.clusters, method="not defined: the ceiling is not apart from the floor"
        )

    def share(sums: np.ndarray) -> np.ndarray:
        least = at(sums, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((at(sums, 0) - least) / (at(sums, 2) - least))

    estimate = bootstrap_statistic(counts, share, draws, seed, n)
    return estimate.model_copy(update={"method": f"paired {estimate.method}"})


def share_of_sight_of_means(
    backbone: np.ndarray,
    floor: np.ndarray,
    ceiling: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """:func:`share_of_sight` of mean scores [N] of the same items; clusters: [N] labels (image ids) of what is resampled together."""
    sides = [np.asarray(x, np.float64) for x in (backbone, floor, ceiling)]
    if len({s.shape for s in sides}) != 1:
        raise ValueError(f"share_of_sight_of_means: {[s.shape for s in sides]}; the same items are needed on all three sides")
    size = len(sides[0])
    index = np.arange(size) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    k = int(index.max()) + 1 if size else 0
    items = np.bincount(index, minlength=k).astype(float)
    counts = [np.stack([np.bincount(index, s, k), items], -1) for s in sides]

    def mean(sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-12))

    return share_of_sight(counts[0], counts[1], counts[2], mean, draws, seed, size)


def share_of_gains(gain: Estimate, room: Estimate, difference: Estimate | None) -> Estimate | None:
    """:func:`share_of_sight` from estimates alone: gain = backbone - floor, room = ceiling - floor, difference = backbone - ceiling.

    For tables, which read records and no samples. The standard error is the delta method's for a ratio, in which the covariance of gain and
    room follows from the three variances, Var(difference) = Var(gain) + Var(room) - 2 Cov. Without ``difference`` the covariance
    counts as 0: both share their floor and their images, so it is positive, and the interval is too wide rather than too narrow.
    None where the interval of ``room`` holds 0: there the task does not measure sight.
    """
    if room.low is None or room.high is None or room.low <= 0 <= room.high:
        return None
    share = gain.value / room.value
    out = Estimate(value=share, n=gain.n, clusters=gain.clusters, method="ratio of gains over the floor")
    if gain.stderr is None or room.stderr is None:
        return out
    covariance = 0.0
    if difference is not None and difference.stderr is not None:
        covariance = (gain.stderr**2 + room.stderr**2 - difference.stderr**2) / 2
    variance = (gain.stderr**2 + share**2 * room.stderr**2 - 2 * share * covariance) / room.value**2
    stderr = math.sqrt(max(variance, 0.0))
    return out.model_copy(
        update={
            "stderr": stderr,
            "low": share - Z95 * stderr,
            "high": share + Z95 * stderr,
            "method": f"{out.method}, delta method",
        }
    )
