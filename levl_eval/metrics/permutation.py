"""Paired permutation tests over images, and Holm's adjustment of a family of p-values.

Under the null hypothesis the two sides of an image could be swapped. All questions of an image are swapped together. The
reference distribution is complete where that is cheap (few images, or differences of one size, which are a binomial), else drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

EXACT_UP_TO = 14  # images that differ; 2 ** 14 swaps are all looked at
_BLOCK = 32 << 20  # bytes of signs held at once


@dataclass(frozen=True)
class PValue:
    """Two-sided p-value. method: "exact", "exact binomial" or "permutation, N draws"; never 0, as the data are one of the swaps."""

    p: float
    method: str


def _signs(k: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield [b, K] arrays of +-1: every combination for few images, else ``draws`` random rows."""
    if k <= EXACT_UP_TO:
        rows = np.arange(2**k)
        yield 1.0 - 2.0 * ((rows[:, None] >> np.arange(k)) & 1)
        return
    rng = np.random.default_rng(seed)
    block, done = max(1, _BLOCK // (8 * k)), 0
    while done < draws:
        b = min(block, draws - done)
        yield rng.integers(0, 2, (b, k)).astype(np.float64) * 2 - 1
        done += b


def binomial_two_sided(wins: int, n: int) -> float:
    """P of at least so uneven a split of ``n`` fair coins as ``wins`` to ``n - wins`` (the sign test, McNemar's exact test)."""
    if n == 0:
        return 1.0
    few = min(wins, n - wins)
    log_tail = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(few + 1)]
    top = max(log_tail)
    return min(1.0, 2 * math.exp(top) * sum(math.exp(x - top) for x in log_tail))


def swap_test(
    a: np.ndarray, b: np.ndarray, function: Callable[[np.ndarray], np.ndarray], draws: int = 10_000, seed: int = 0
) -> PValue:
    """Is ``function`` of the summed counts of both sides further apart than swaps of images put it?

    a, b: [K, ...] counts by image; function: sums [..., *counts.shape[1:]] -> values [...], vectorised over leading axes.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    total = (a + b).sum(0)
    d = (a - b).reshape(len(a), -1)
    differs = d.any(1)
    d = d[differs]
    if not len(d):
        return PValue(1.0, "exact")

    def apart(shift: np.ndarray) -> np.ndarray:
        out: np.ndarray = np.abs(function((total + shift) / 2) - function((total - shift) / 2))
        return out

    observed = float(apart(d.sum(0).reshape(1, *total.shape))[0])
    reached = seen = 0
    for s in _signs(len(d), draws, seed):
        values = apart((s @ d).reshape(len(s), *total.shape))
        reached += int((values >= observed - 1e-12).sum())
        seen += len(s)
    if len(d) <= EXACT_UP_TO:
        return PValue(reached / seen, "exact")
    return PValue((1 + reached) / (1 + seen), f"permutation, {draws} draws")


def sign_flip_test(differences: np.ndarray, clusters: np.ndarray | None = None, draws: int = 10_000, seed: int = 0) -> PValue:
    """Is the mean of paired ``differences`` [N] further from 0 than swapping whole clusters puts it?

    Clusters that agree leave the distribution unchanged and are dropped. Where all others differ by one and the same amount, it
    is a binomial and the test is exact at any size.
    """
    d = np.asarray(differences, float)
    if clusters is not None:
        names, index = np.unique(np.asarray(clusters), return_inverse=True)
        d = np.bincount(index, d, len(names))
    d = d[np.abs(d) > 1e-12]
    if len(d) and np.ptp(np.abs(d)) < 1e-9:
        return PValue(binomial_two_sided(int((d > 0).sum()), len(d)), "exact binomial")
    if not len(d):
        return PValue(1.0, "exact")
    observed, reached, seen = abs(d.sum()), 0, 0
    for s in _signs(len(d), draws, seed):
        reached += int((np.abs(s @ d) >= observed - 1e-9).sum())
        seen += len(s)
    if len(d) <= EXACT_UP_TO:
        return PValue(reached / seen, "exact")
    return PValue((1 + reached) / (1 + seen), f"permutation, {draws} draws")


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family, in the order given (S. Holm, Scandinavian Journal of Statistics 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        out[i] = largest
    return out
