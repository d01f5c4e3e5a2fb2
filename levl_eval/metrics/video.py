"""Scores of masks in videos as DAVIS has them: region similarity J, boundary accuracy F, and their mean, recall and decay over frames.

F. Perazzi et al., CVPR 2016, and J. Pont-Tuset et al., arXiv 1704.00675 (DAVIS 2017); the constants are those of
davisvideochallenge/davis2017-evaluation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

BOUND = 0.008  # of the image's diagonal: how far boundaries may lie apart
RECALL = 0.5  # frames above it count
_BINS = 4  # of the frames; decay is the first one's mean less the last one's


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two bool masks [H, W]; 1 where both are empty."""
    union = int((mask | truth).sum())
    return float((mask & truth).sum() / union) if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels that differ from the one to their right, below, or right below; at the border from the one that is there."""
    out = np.zeros(mask.shape, bool)
    out[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    out[:-1] |= mask[:-1] ^ mask[1:]
    out[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return out


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """bool [H, W]: pixels at most ``radius`` away from one of ``mask``, which is a dilation by a disk."""
    height, width = mask.shape
    sums = np.zeros((height, width + 1), np.int32)
    np.cumsum(mask, 1, out=sums[:, 1:])
    out = np.zeros(mask.shape, bool)
    columns = np.arange(width)
    for dy in range(min(radius, height - 1) + 1):
        half = math.isqrt(radius * radius - dy * dy)
        row = sums[:, np.minimum(columns + half + 1, width)] > sums[:, np.maximum(columns - half, 0)]
        out[dy:] |= row[: height - dy]
        out[: height - dy] |= row[dy:]
    return out


def boundary_accuracy(mask: np.ndarray, truth: np.ndarray, bound: float = BOUND) -> float:
    """F: harmonic mean of the shares of each mask's boundary that lie near the other's; 1 where neither has one.

    bound: how near, as a share of the image's diagonal (rounded up to pixels), or in pixels from 1 on. Of a mask without a boundary
    all of it is near.
    """
    pixels = int(bound if bound >= 1 else np.ceil(bound * np.linalg.norm(mask.shape)))
    mine, theirs = boundary(mask), boundary(truth)
    count, goal = int(mine.sum()), int(theirs.sum())
    if not count or not goal:
        return float(count == goal)
    rows, columns = np.nonzero(mine | theirs)  # nothing beyond them can match
    part = (
        slice(max(0, rows.min() - pixels), rows.max() + pixels + 1), slice(max(0, columns.min() - pixels), columns.max() + pixels + 1)
    )  # fmt: skip
    mine, theirs = mine[part], theirs[part]
    precision = float((mine & dilated(theirs, pixels)).sum() / count)
    recall = float((theirs & dilated(mine, pixels)).sum() / goal)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Statistics(NamedTuple):
    """Over the frames of one object: mean; recall, the share of frames above one half; decay, how much the mean falls to the end."""

    mean: float
    recall: float
    decay: float


def statistics(values: np.ndarray) -> Statistics:
    """Of one object's J or F [frames], at least one frame. Neighbouring quarters share a frame, as in the official code."""
    ends = (np.round(np.linspace(1, len(values), _BINS + 1) + 1e-10) - 1).astype(int)
    quarters = [values[ends[k] : ends[k + 1] + 1] for k in (0, _BINS - 1)]
    return Statistics(float(values.mean()), float((values > RECALL).mean()), float(quarters[0].mean() - quarters[1].mean()))
