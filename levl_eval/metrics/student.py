"""Student's t and the sum of two of them, for arrays, without scipy.

The error of a difference that has two sources (images and seeds), each estimated with degrees of freedom of its own, is spread like
``a * t(k) + b * t(m)``: W.-V. Behrens (1929) and R. A. Fisher (1935). Tests by it are on the safe side where Welch's and
Satterthwaite's degrees of freedom are too hopeful: with two to five seeds (G. K. Robinson, Annals of Statistics 1976). Where one
source vanishes it is Student's t of the other.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_EXACT_UP_TO = 40  # degrees of freedom summed in closed form; above, the normal approximation is exact to 6e-6
_REACH = 14.5  # nodes lie at sinh of -14.5 to 14.5, a million on either side: Cauchy's tails (one degree of freedom) beyond it hold 6e-7
_NODES = 241  # two-source tails to 4e-7 (5,801 nodes as the reference, 1 to 5,000 degrees of freedom); the number of nodes is all they cost
_BLOCK = 4 << 20  # entries of an array of nodes held at once
_Z = np.linspace(-38, 38, 30_401)  # where the normal tail is known; between, its logarithm is a straight line to 1e-6


@lru_cache(1)
def _log_tails() -> np.ndarray:
    return np.log([0.5 * math.erfc(z / math.sqrt(2)) for z in _Z])


def normal_tail(z: np.ndarray | float) -> np.ndarray:
    """P(Z > z) of the standard normal, for |z| up to 38; beyond it, as at 38."""
    return np.asarray(np.exp(np.interp(z, _Z, _log_tails())))


def student_tail(x: np.ndarray | float, df: int) -> np.ndarray:
    """P(T > x) of Student's t with whole ``df`` >= 1, of the shape of x.

    Closed form (Abramowitz and Stegun 26.7.3-4); above 40 degrees of freedom D. B. Peizer and J. W. Pratt's normal approximation
    (JASA 1968). Raises ValueError for fewer than one degree of freedom.
    """
    if df < 1:
        raise ValueError(f"student_tail: {df} degrees of freedom")
    x = np.asarray(x, float)
    if df > _EXACT_UP_TO:
        z = np.sign(x) * (df - 2 / 3 + 0.1 / df) * np.sqrt(np.log1p(x * x / df) / (df - 5 / 6))
        return normal_tail(z)
    angle = np.arctan2(x, math.sqrt(df))
    sine, cosine = np.sin(angle), np.cos(angle)
    total, term = np.zeros_like(x), cosine if df % 2 else np.ones_like(x)
    for j in range(1, (df - 1) // 2 + 1 if df % 2 else df // 2 + 1):
        total = total + term
        term = term * cosine * cosine * ((2 * j) / (2 * j + 1) if df % 2 else (2 * j - 1) / (2 * j))
    inside = 2 / math.pi * (angle + sine * total) if df % 2 else sine * total
    return np.asarray(np.clip(0.5 - inside / 2, 0.0, 1.0))


@lru_cache(64)
def _nodes(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Where Student's t is looked at, and the weight of each place; the weights sum to 1."""
    z = np.linspace(-_REACH, _REACH, _NODES)
    u = np.sinh(z)
    log_density = -(df + 1) / 2 * np.log1p(u * u / df)
    weight = np.exp(log_density) * np.cosh(z)
    return u, weight / weight.sum()


def two_source_tail(x: np.ndarray | float, a: np.ndarray | float, df_a: int, b: np.ndarray | float, df_b: int) -> np.ndarray:
    """P(a T1 + b T2 > x), T1 and T2 independent Student's t with df_a and df_b degrees of freedom; arrays are broadcast.

    a, b: scales, 0 or more. A source without degrees of freedom (df < 1) must have the scale 0. Where both are 0: 1 for x < 0, 0 for
    x > 0, and 0.5 for x = 0.
    """
    x, a, b = (np.asarray(v, float) for v in (x, a, b))
    x, a, b = np.broadcast_arrays(x, a, b)
    flat = [v.reshape(-1) for v in (x, a, b)]
    out = np.where(flat[0] > 0, 0.0, np.where(flat[0] < 0, 1.0, 0.5))
    for first, second, mine, other in ((1, 2, df_a, df_b), (2, 1, df_b, df_a)):
        wide, narrow = flat[first], flat[second]
        alone = (wide > 0) & (narrow == 0)
        if alone.any():
            out[alone] = student_tail(flat[0][alone] / wide[alone], mine)
        both = (narrow > 0) & ((wide > narrow) if first == 1 else (wide >= narrow))
        if both.any():  # summed over the narrower one: the tail of the wider one is smooth between its nodes
            out[both] = _summed(flat[0][both], wide[both], mine, narrow[both], other)
    return out.reshape(x.shape)


def _summed(x: np.ndarray, wide: np.ndarray, df_wide: int, narrow: np.ndarray, df_narrow: int) -> np.ndarray:
    u, weight = _nodes(df_narrow)
    rows = max(1, _BLOCK // len(u))
    parts = [
        student_tail((x[at : at + rows, None] - narrow[at : at + rows, None] * u) / wide[at : at + rows, None], df_wide) @ weight
        for at in range(0, len(x), rows)
    ]
    return np.concatenate(parts)


def two_source_quantile(tail: float, a: float, df_a: int, b: float, df_b: int) -> float:
    """x with P(a T1 + b T2 > x) = ``tail``, for 0 < tail < 0.5, by bisection."""
    if not 0 < tail < 0.5:
        raise ValueError(f"two_source_quantile: a tail between 0 and 0.5, found {tail}")
    low, high = 0.0, a + b
    if high == 0:
        return 0.0
    while two_source_tail(high, a, df_a, b, df_b) > tail:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_source_tail(middle, a, df_a, b, df_b) > tail else (low, middle)
        if high - low < 1e-10 * high:
            break
    return (low + high) / 2
