"""Average precision of ranked lists with junk, as revisited Oxford and Paris have it (Radenovic et al., CVPR 2018; filipradenovic/revisitop)."""

from __future__ import annotations

import numpy as np


def places(order: np.ndarray, right: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Places (from 0) of the ``right`` items in a ranked list ``order`` of items, from which ``junk`` is taken out."""
    kept = order[~np.isin(order, junk)]
    return np.flatnonzero(np.isin(kept, right))


def average_precision(found: np.ndarray, count: int) -> float:
    """Area under precision over recall by trapezoids. found: sorted places of right items; count: how many there are, at least 1."""
    j = np.arange(len(found))
    before = np.where(found > 0, j / np.maximum(found, 1), 1.0)
    return float(((before + (j + 1) / (found + 1)) / 2).sum() / count)


def precision_at(found: np.ndarray, k: int) -> float:
    """Share of right items among the first k, or as far as the last right one stands, if that is before. found: sorted places, not empty."""
    k = min(int(found[-1]) + 1, k)
    return float((found < k).sum() / k)
