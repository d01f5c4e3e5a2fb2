"""Average precision of ranked lists with junk, as revisited Oxford and Paris have it
(Radenovic et al., CVPR 2018; filipradenovic/revisitop)."""

from __future__ import annotations

import numpy as np


def places(order: np.ndarray, right: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Places (from 0) of the ``right`` items in a ranked list ``order`` of items, from which ``junk`` is taken out."""
    kept = order[~np.isin(order, junk)]
    return np.flatnonzero(np.isin(kept, right))


def average_precision(at_places: np.ndarray, count: int) -> float:
    """Area under precision over recall by trapezoids. at_places: sorted places of right items; count: how many there are, at least 1."""
    j = np.arange(len(at_places))
    before = np.where(at_places > 0, j / np.maximum(at_places, 1), 1.0)
    return float(((before + (j + 1) / (at_places + 1)) / 2).sum() / count)


def precision_at(at_places: np.ndarray, k: int) -> float:
    """Share of right items among the first k, or as far as the last right one stands, if that is before.

    at_places: sorted places, not empty.
    """
    k = min(int(at_places[-1]) + 1, k)
    return float((at_places < k).sum() / k)
