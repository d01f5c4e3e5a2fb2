"""Choices by image-text score: which of several captions, and which of two images, an encoder prefers.

SugarCrepe (Hsieh et al., NeurIPS 2023) and ARO (Yuksekgonul et al., ICLR 2023): one image, one right caption. Winoground (Thrush et al.,
CVPR 2022): two images and two captions of the same words; text score, image score, group score. MMVP-VLM (Tong et al., CVPR 2024): an
image score whose two captions must both be right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import bootstrap_statistic


def caption_choice(scores: np.ndarray, ties: str = "wrong") -> float:
    """1.0 where the first of an image's captions has the highest of ``scores`` [C], else 0.0.

    ties: whether an equal one counts as right.
    """
    best = np.max(scores[1:])
    return float(scores[0] >= best if ties == "right" else scores[0] > best)


def winoground_scores(scores: np.ndarray) -> tuple[float, float, float]:
    """(text, image, group) of ``scores`` [2 images, 2 captions], each 0.0 or 1.0; equal scores are wrong, as published."""
    s = np.asarray(scores)
    text = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
    image = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
    return float(text), float(image), float(text and image)


def chance_of_choice(captions: int) -> float:
    """Of :func:`caption_choice` with scores drawn at random."""
    return 1 / captions


# Of four scores drawn at random: each of the two comparisons of a text or image score is right half the time and both are independent; of
# the 24 orders of four scores 4 have both right ones above both wrong ones (Thrush et al., 2022: 25, 25, 16.67).
WINOGROUND_CHANCE = (1 / 4, 1 / 4, 1 / 6)


def macro_weights(kinds: Sequence[str]) -> np.ndarray:
    """Factors [N] that turn the mean over trials into the mean over kinds."""
    names, index, counts = np.unique(np.asarray(kinds), return_inverse=True, return_counts=True)
    out: np.ndarray = len(kinds) / (len(names) * counts[index])
    return out


def macro_mean(scores: np.ndarray, kinds: Sequence[str], clusters: np.ndarray) -> Estimate:
    """Mean over kinds of the mean of their ``scores`` [N], resampled by cluster; a kind that a draw leaves empty is passed over in it."""
    names, kind = np.unique(np.asarray(kinds), return_inverse=True)
    images, image = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.zeros((len(images), len(names), 2))
    at = image * len(names) + kind
    counts[..., 0] = np.bincount(at, scores, counts[..., 0].size).reshape(counts.shape[:2])
    counts[..., 1] = np.bincount(at, minlength=counts[..., 1].size).reshape(counts.shape[:2])

    def of(sums: np.ndarray) -> np.ndarray:
        there = sums[..., 1] > 0
        means = np.where(there, sums[..., 0] / np.maximum(sums[..., 1], 1e-12), 0)
        out: np.ndarray = means.sum(-1) / np.maximum(there.sum(-1), 1)
        return out

    return bootstrap_statistic(counts, of, n=len(scores))
