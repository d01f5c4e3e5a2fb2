"""In which order the strengths of a path are solved, and where each begins (logistic.py)."""

from __future__ import annotations

import numpy as np


def levels(count: int, rung: int) -> list[list[int]]:
    """Positions 0 .. count - 1 from coarse to fine: ends and every ``rung``-th (a power of 2), then what halves the gaps."""
    out: list[list[int]] = []
    seen: set[int] = set()
    while rung:
        fresh = sorted({*range(0, count, rung), count - 1} - seen)
        seen.update(fresh)
        out += [fresh] if fresh else []
        rung //= 2
    return out


def lagrange(at: np.ndarray, x: float) -> np.ndarray:
    """Weights of the values at the points ``at`` in the polynomial through them, read at x."""
    return np.array([np.prod([(x - q) / (p - q) for j, q in enumerate(at) if j != i]) for i, p in enumerate(at)])
