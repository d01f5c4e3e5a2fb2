"""Recall at k with exact ties: what a random order among equal scores gives on average.

An encoder that gives everything the same embedding then has the recall of chance, not 0 or 1 by the accident of an order.
"""

from __future__ import annotations

import numpy as np


def recall_at(greater: np.ndarray, tied: np.ndarray, k: int, right: np.ndarray | None = None) -> np.ndarray:
    """[N] probability that one of the right items is among the first k.

    greater: wrong items that score above the best right one. tied: wrong items that score exactly as it. right: right items
    at that best score (default one). The tied and right ones stand in random order: 1 - C(tied, m) / C(tied + right, m) for
    m = k - greater places.
    """
    greater, tied = np.asarray(greater, np.int64), np.asarray(tied, np.int64)
    right = np.ones_like(greater) if right is None else np.asarray(right, np.int64)
    places = np.clip(k - greater, 0, None)
    miss = np.ones(len(greater))
    for j in range(int(min(places.max(initial=0), k))):  # product of (tied - j) / (tied + right - j) over the places
        factor = np.clip(tied - j, 0, None) / np.maximum(tied + right - j, 1)
        miss = np.where(j < places, miss * factor, miss)
    return 1 - miss
