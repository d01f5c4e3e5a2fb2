"""Estimates with 95% intervals: closed forms where they are exact enough, else the bootstrap over clusters (images).

Questions about one image are not independent; resampling images as wholes gives the right width. All bootstraps draw
multinomial counts of clusters, so a draw is a matrix product and never a copy of the data. Intervals are the bootstrap's
percentiles with the levels widened for few clusters (T. Hesterberg, The American Statistician 2015). Plain percentiles cover
too little where clusters are few; bias-corrected ones (BCa) covered mIoU worse, as a draw that misses the images of a rare class
moves mIoU and its correction with it. tests/metrics/test_statistics.py simulates the coverage.

No interval leaves the range of its metric (catalogue.Metric.bounds): bootstrap draws are values of the metric themselves, means of
fractions have score intervals, and where a symmetric interval (of an error, a difference) would reach beyond an end it is cut there and
``method`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from levl_eval.metrics.catalogue import ANY, DIFFERENCE, FRACTION, Bounds
from levl_eval.metrics.estimate import Estimate

Z95 = 1.959963984540054
DRAWS = 2000
_BLOCK = 32 << 20  # bytes of weights held at once
_KEPT = 2 << 20  # entries of draws that are small enough to be kept: 4 MiB each, 256 MiB in all
_EXACT = 1 << 24  # below it single precision holds every whole number
_FEW = 8  # columns; more are faster in one product
_NORMAL = NormalDist()


def _clusters(n: int, clusters: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Index of each item's cluster, and how many clusters there are."""
    if clusters is None:
        return np.arange(n), n
    labels = np.asarray(clusters)
    if labels.dtype.kind == "i" and labels.min(initial=0) >= 0 and labels.max(initial=0) < n and np.bincount(labels).all():
        return labels, int(labels.max(initial=-1)) + 1  # numbered already, as np.unique would
    names, index = np.unique(labels, return_inverse=True)
    return index, len(names)


@lru_cache(64)
def _one_block(k: int, draws: int, seed: int) -> np.ndarray:
    """All draws at once. Kept: the metrics and backbones of a run are resampled over clusters of the same number."""
    return np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=draws).astype(np.uint16)


@lru_cache(4)
def _one_block_of_floats(k: int, draws: int, seed: int, dtype: str) -> np.ndarray:
    """The same, read only, as products want it; at most 16 MiB."""
    out: np.ndarray = _one_block(k, draws, seed).astype(dtype)
    out.flags.writeable = False
    return out


def cluster_draws(k: int, draws: int, seed: int, dtype: str = "float64") -> Iterator[np.ndarray]:
    """Yield [b, K] arrays of multinomial cluster counts, ``draws`` rows in all, in blocks of bounded memory; not to be written to."""
    if k * draws <= _KEPT:
        yield _one_block_of_floats(k, draws, seed, dtype)
        return
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // (8 * k))
    done = 0
    while done < draws:
        b = min(block, draws - done)
        yield rng.multinomial(k, np.full(k, 1 / k), size=b).astype(dtype)
        done += b


def _sums_of_draws(counts: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Sums [b, C] over the clusters of each draw of ``counts`` [K, C].

    Whole numbers are summed in single precision where no partial sum can leave what it holds exactly (a draw's counts add up to K): the
    same numbers in a tenth of the time. Few columns are summed one by one: a product with two takes six times that with one.
    """
    alike = (counts == counts[0]).all(0)  # as the sizes of clusters often are: a draw's sum is then known
    differing = counts[:, ~alike]
    exact = bool((differing == np.rint(differing)).all()) and len(counts) * np.abs(differing).max(initial=0) < _EXACT
    dtype = "float32" if exact else "float64"
    groups = differing.T if differing.shape[1] <= _FEW else [differing]
    factors = [np.ascontiguousarray(g, dtype).reshape(len(counts), -1) for g in groups]
    for w in cluster_draws(len(counts), draws, seed, dtype):
        sums = np.empty((len(w), counts.shape[1]))
        sums[:, alike] = len(counts) * counts[0, alike]
        if factors:
            sums[:, ~alike] = np.concatenate([w @ f for f in factors], axis=1)
        yield sums


def student_quantile(df: int) -> float:
    """97.5% quantile of Student's t with ``df`` degrees of freedom, by bisection of its closed-form distribution function.

    Integer degrees of freedom have a finite sum (Abramowitz and Stegun 26.7.3-4); above 400 the expansion in 1/df is exact to 1e-9.
    """
    if df < 1:
        raise ValueError(f"student_quantile: {df} degrees of freedom")
    if df > 400:
        z = Z95
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)

    def inside(t: float) -> float:  # P(|T| < t)
        angle = math.atan2(t, math.sqrt(df))
        sine, cosine = math.sin(angle), math.cos(angle)
        if df % 2:
            total, term = 0.0, cosine
            for j in range(1, (df - 1) // 2 + 1):
                total += term
                term *= cosine * cosine * (2 * j) / (2 * j + 1)
            return 2 / math.pi * (angle + sine * total)
        total, term = 0.0, 1.0
        for j in range(1, df // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * j - 1) / (2 * j)
        return sine * total

    low, high = 0.0, 13.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 0.95 else (low, middle)
    return (low + high) / 2


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95% (E. B. Wilson, JASA 1927)."""
    return _score_interval(successes / n, n, Z95)


def _score_interval(p: float, n: float, quantile: float) -> tuple[float, float]:
    """The fractions p' from which p is no further than ``quantile`` standard errors, sqrt(p' (1 - p') / n): within [0, 1] always."""
    z2 = quantile * quantile
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding must not put p outside


def fraction_interval(value: float, stderr: float, n: int, quantile: float = Z95) -> tuple[float, float]:
    """95% interval of a fraction in [0, 1] whose standard error is known: Wilson's, of as many items as give that error.

    value in (0, 1) with an error of 0 is taken as certain (all items agree); at 0 or 1 as Wilson's of ``n`` items, since an
    interval of no width would claim what ``n`` items cannot show. The number of items is value (1 - value) / stderr^2.
    """
    if not 0.0 < value < 1.0:
        return wilson(value * n, n)
    if not stderr:
        return value, value
    return _score_interval(value, value * (1 - value) / stderr**2, quantile)


def within(estimate: Estimate, bounds: Bounds) -> Estimate:
    """The estimate with its interval cut at the ends of the metric's range; ``method`` says where it was."""
    low, high = bounds
    cut = {k: min(max(e, low), high) for k in ("low", "high") if (e := getattr(estimate, k)) is not None}
    if all(getattr(estimate, k) == v for k, v in cut.items()) or not low <= estimate.value <= high:
        return estimate
    return estimate.model_copy(update={**cut, "method": f"{estimate.method}, cut to [{low:g}, {high:g}]"})


def _ends(values: np.ndarray, value: float, k: int) -> tuple[float, float]:
    """Ends of the 95% interval from bootstrap ``values`` [draws] of K clusters: percentiles, widened for few clusters."""
    level = _NORMAL.cdf(-student_quantile(k - 1) * math.sqrt(k / (k - 1)))
    low, high = np.quantile(values, (level, 1 - level))
    return min(float(low), value), max(float(high), value)


def mean_estimate(
    scores: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0, draws: int = DRAWS, bounds: Bounds = FRACTION
) -> Estimate:
    """Mean of ``scores`` [N] with a 95% interval that stays within ``bounds``, the range of the metric.

    clusters: [N] labels of what is resampled together (image ids); None: every score stands alone. Independent 0/1 scores
    get Wilson's interval; other independent fractions Wilson's of as many items as give their standard error, with Student's quantile;
    independent scores of other ranges Student's t, cut at the range's ends; clustered ones the bootstrap over clusters (where all are
    right, or all wrong, Wilson's over clusters). An empty array gives a NaN value with n = 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    n = len(scores)
    if n == 0:
        return Estimate(value=math.nan, n=0, clusters=0, method="empty")
    index, k = _clusters(n, clusters)
    value = float(scores.mean())
    if k == n:
        if bounds == FRACTION and np.isin(scores, (0.0, 1.0)).all():
            low, high = wilson(scores.sum(), n)
            se = math.sqrt(value * (1 - value) / n)
            return Estimate(value=value, stderr=se, low=low, high=high, n=n, clusters=n, method="wilson")
        return _student(scores, "t", bounds)
    if bounds == FRACTION and value in (0.0, 1.0) and (scores == value).all():
        # No draw can differ, and an interval of no width would claim certainty. Each cluster counts as one observation.
        low, high = wilson(value * k, k)
        return Estimate(value=value, stderr=0.0, low=low, high=high, n=n, clusters=k, method="wilson over clusters")
    return _clustered_mean(scores, index, k, seed, draws)


def _clustered_mean(scores: np.ndarray, index: np.ndarray, k: int, seed: int, draws: int) -> Estimate:
    sums, sizes = np.bincount(index, scores, k), np.bincount(index, minlength=k).astype(float)
    estimate = bootstrap_statistic(np.stack([sums, sizes], -1), _ratio, draws, seed, len(scores))
    # The sum over clusters may differ from the plain mean in the last bit; the value is the plain mean.
    return estimate.model_copy(update={"value": float(scores.mean())})


def _ratio(sums: np.ndarray) -> np.ndarray:
    out: np.ndarray = sums[..., 0] / np.maximum(sums[..., 1], 1e-12)
    return out


def _student(x: np.ndarray, method: str, bounds: Bounds = ANY) -> Estimate:
    """Mean of independent values with an interval by Student's quantile, within ``bounds``; without one below two values."""
    n, value = len(x), float(x.mean())
    if n < 2:
        return Estimate(value=value, n=n, clusters=n, method="one sample")
    se, quantile = float(x.std(ddof=1) / math.sqrt(n)), student_quantile(n - 1)
    if bounds == FRACTION and 0.0 <= value <= 1.0:
        low, high = fraction_interval(value, se, n, quantile)
        return Estimate(
            value=value, stderr=se, low=low, high=high, n=n, clusters=n, method=f"wilson with the items' variance, {method}"
        )
    half = quantile * se
    estimate = Estimate(value=value, stderr=se, low=value - half, high=value + half, n=n, clusters=n, method=method)
    return within(estimate, bounds)


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    bounds: Bounds = DIFFERENCE,
) -> Estimate:
    """Mean of a - b over the same items [N] with a 95% interval, resampled by cluster; see :func:`mean_estimate`.

    bounds: of the difference.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: {a.shape} against {b.shape}; the same items are needed on both sides")
    if not len(a):
        return Estimate(value=math.nan, n=0, clusters=0, method="empty")
    difference = a - b
    index, k = _clusters(len(difference), clusters)
    if k == len(difference):
        return _student(difference, "paired t", bounds)
    estimate = within(_clustered_mean(difference, index, k, seed, draws), bounds)
    return estimate.model_copy(update={"method": f"paired {estimate.method}"})


def bootstrap_statistic(
    counts: np.ndarray, function: Callable[[np.ndarray], np.ndarray], draws: int = DRAWS, seed: int = 0, n: int | None = None
) -> Estimate:
    """A statistic of summed per-cluster counts (mIoU, F1, ...) with its 95% bootstrap interval over clusters.

    counts: [K, ...], one entry a cluster. function: maps sums [..., *counts.shape[1:]] to values [...], vectorised over leading
    axes. n: samples behind the counts, for the record; default K.
    """
    counts = np.asarray(counts, dtype=np.float64)
    k = len(counts)
    value = float(function(counts.sum(0)[None])[0])
    if k < 2:
        return Estimate(value=value, n=n or k, clusters=k, method="one cluster")
    flat = counts.reshape(k, -1)
    used = flat.any(0)  # classes that never occur cost nothing
    slim = np.ascontiguousarray(flat[:, used])
    values = []
    for drawn_sums in _sums_of_draws(slim, draws, seed):
        sums = np.zeros((len(drawn_sums), flat.shape[1]))
        sums[:, used] = drawn_sums
        values.append(function(sums.reshape(len(sums), *counts.shape[1:])))
    drawn = np.concatenate(values)
    low, high = _ends(drawn, value, k)
    stderr = float(drawn.std(ddof=1) * math.sqrt(k / (k - 1)))  # a draw's spread is short by (k - 1) / k
    return Estimate(
        value=value, stderr=stderr, low=low, high=high, n=n or k, clusters=k, method=f"cluster bootstrap, {draws} draws"
    )


def bootstrap_weighted(
    function: Callable[[np.ndarray], np.ndarray], clusters: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """A statistic that is no function of sums (average precision, ...) with its 95% bootstrap interval over clusters.

    function: how often each item counts [b, N] -> values [b]; NaN where a draw leaves it undefined, such draws are passed over.
    clusters: [N] labels of what is resampled together. Without an interval below two clusters or where the value is NaN.
    """
    index, k = _clusters(len(clusters), clusters)
    value = float(function(np.ones((1, len(index))))[0])
    if k < 2 or math.isnan(value):
        return Estimate(value=value, n=len(index), clusters=k, method="one cluster" if k < 2 else "not defined")
    rows = max(1, _BLOCK // (8 * len(index)))
    drawn = np.concatenate(
        [function(w[at : at + rows, index]) for w in cluster_draws(k, draws, seed) for at in range(0, len(w), rows)]
    )
    drawn = drawn[~np.isnan(drawn)]
    low, high = _ends(drawn, value, k)
    stderr = float(drawn.std(ddof=1) * math.sqrt(k / (k - 1)))
    return Estimate(
        value=value, stderr=stderr, low=low, high=high, n=len(index), clusters=k, method=f"cluster bootstrap, {draws} draws"
    )
