"""The difference of two sides measured on the same images under several seeds: its value and where its error comes from.

Each seed's difference on each image is ``d[s, i] = delta + seed[s] + image[i] + rest[s, i]``: images and seeds are crossed, both drawn
from what could have been. The error of the mean over S seeds and N images is var(seed)/S + var(image)/N + var(rest)/(S N). The
spread of the seeds' means tells the first and the third together with S - 1 degrees of freedom, the spread of the images' means the
second and third; the third, known well, is taken off once (two-way layout without replication, H. Scheffé, The Analysis of Variance,
1959, chapter 7). Intervals and tests are those of ``metrics.student``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from levl_eval.metrics.student import two_source_quantile, two_source_tail

# Where few images differ, and all to one side, their variance is found too small or zero. Four images' worth of a typical
# difference is added to the sum of squares, as A. Agresti and B. A. Coull (The American Statistician 1998) add four
# answers to a proportion.
PSEUDO_IMAGES = 4.0
_BLOCK = 4 << 20  # numbers of left-out sums held at once


@dataclass(frozen=True)
class Components:
    """Variances of one image's difference under one seed: between seeds, between images, and what is left (with one seed, in image)."""

    seed: float
    image: float
    rest: float


@dataclass(frozen=True)
class Crossed:
    """A difference (or a batch: every field then has the leading axes) with the two sources of its error.

    value: mean over seeds and images. seed_variance: of the mean, with ``seeds - 1`` degrees of freedom; 0 with one seed, and nothing is
    then said of other seeds. image_variance: of the mean, with ``images - 1``.
    """

    value: np.ndarray
    seed_variance: np.ndarray
    image_variance: np.ndarray
    seeds: int
    images: int

    def above(self, bound: float) -> np.ndarray:
        """One-sided p of "the difference is at most ``bound``": small where it is shown to be above."""
        a, b = np.sqrt(self.seed_variance), np.sqrt(self.image_variance)
        return two_source_tail(self.value - bound, a, self.seeds - 1, b, self.images - 1)

    def below(self, bound: float) -> np.ndarray:
        """One-sided p of "the difference is at least ``bound``": small where it is shown to be below."""
        a, b = np.sqrt(self.seed_variance), np.sqrt(self.image_variance)
        return two_source_tail(bound - self.value, a, self.seeds - 1, b, self.images - 1)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The two-sided 1 - alpha interval of one difference (no batch)."""
        a, b = float(np.sqrt(self.seed_variance)), float(np.sqrt(self.image_variance))
        half = two_source_quantile(alpha / 2, a, self.seeds - 1, b, self.images - 1)
        return float(self.value) - half, float(self.value) + half


def crossed(values: np.ndarray, jump: float = 1.0) -> Crossed:
    """The mean of ``values`` [..., S, N] (seeds x images) with both sources of its error.

    jump: what counts as a typical difference where no two images differ; 1 for fractions, 0 where equal values are no accident (errors
    in metres). Raises ValueError for fewer than two images.
    """
    values = np.asarray(values, float)
    seeds, images = values.shape[-2:]
    if images < 2:
        raise ValueError(f"crossed: {images} images; at least 2")
    by_image = values.mean(-2)
    value = by_image.mean(-1)
    apart = by_image - value[..., None]
    image_variance = apart.var(-1, ddof=1) / images
    square = (apart**2).sum(-1)
    size = (apart**4).sum(-1) / np.maximum(square, 1e-300)  # the square of a typical difference, of those images that differ
    seed_variance = np.zeros_like(value)
    if seeds > 1:
        by_seed = values.mean(-1)
        seed_variance = by_seed.var(-1, ddof=1) / seeds
        image_variance = np.maximum(image_variance - _rest(values, by_seed, by_image, value) / (seeds * images), 0.0)
    size = np.where(square > 1e-24, size, jump**2)
    image_variance = image_variance + PSEUDO_IMAGES * size / images**2
    return Crossed(value, seed_variance, image_variance, seeds, images)


def _rest(values: np.ndarray, by_seed: np.ndarray, by_image: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Variance of what neither seed nor image explains."""
    left = values - by_seed[..., :, None] - by_image[..., None, :] + value[..., None, None]
    seeds, images = values.shape[-2:]
    return np.asarray((left**2).sum((-2, -1)) / ((seeds - 1) * (images - 1)))


def components(values: np.ndarray) -> Components:
    """The variances behind ``values`` [S, N], each at least 0; with one seed what is left counts as the image's."""
    values = np.asarray(values, float)
    seeds, images = values.shape
    by_image, by_seed = values.mean(0), values.mean(1)
    if seeds == 1:
        return Components(0.0, float(by_image.var(ddof=1)), 0.0)
    rest = float(_rest(values, by_seed, by_image, values.mean()))
    return Components(
        max(0.0, float(by_seed.var(ddof=1)) - rest / images), max(0.0, float(by_image.var(ddof=1)) - rest / seeds), rest
    )


def pseudo_values(counts: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What each image contributes to a statistic of summed counts: jackknife pseudo-values [N], whose mean is the statistic.

    counts: [N, ...] per image; function: sums [B, ...] -> values [B]. The variance of their mean is the jackknife's, on the safe side
    (B. Efron and C. Stein, Annals of Statistics 1981). Of a mean over images of equally many items they are the images' means.
    Raises ValueError for fewer than two images.
    """
    counts = np.asarray(counts, float)
    n = len(counts)
    if n < 2:
        raise ValueError(f"pseudo_values: {n} images; at least 2")
    total = counts.sum(0)
    whole = float(function(total[None])[0])
    rows = max(1, _BLOCK // max(1, total.size))
    without = np.concatenate([function(total - counts[at : at + rows]) for at in range(0, n, rows)])
    pseudo = n * whole - (n - 1) * without
    # the jackknife's shift, of order 1/n: the value shown is the statistic itself
    return np.asarray(pseudo - pseudo.mean() + whole)
