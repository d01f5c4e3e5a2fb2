"""Means over pairs of images: values, degenerate inputs, and that the interval covers where pairs share images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from levl_eval.metrics.catalogue import DIFFERENCE
from levl_eval.metrics.dyads import mean_of_dyads
from levl_eval.metrics.statistics import mean_estimate


def test_values_and_what_is_not_defined():
    first, second = np.array(list("aabc")), np.array(list("bccd"))
    assert mean_of_dyads(np.array([1.0, 0, 0, 1]), first, second).value == 0.5
    strata = mean_of_dyads(np.array([1.0, 0, 0, 1]), first, second, np.array(list("xxxy")))
    assert strata.value == pytest.approx((1 / 3 + 1) / 2)  # of two groups of unequal size
    assert np.isnan(mean_of_dyads(np.zeros(0), first[:0], second[:0]).value)
    assert mean_of_dyads(np.ones(1), first[:1], second[:1]).low is None  # two images say nothing of others
    sure = mean_of_dyads(np.ones(4), first, second)
    assert sure.value == sure.high == 1 and sure.low < 0.6  # all right, of four images


def test_without_shared_images_it_is_the_mean_of_independent_pairs():
    rng = np.random.default_rng(0)
    scores, n = rng.random(40), np.arange(40)
    found, plain = mean_of_dyads(scores, n, n + 100), mean_estimate(scores)
    assert found.value == pytest.approx(plain.value) and found.stderr == pytest.approx(plain.stderr, rel=0.02)


def test_variance_is_the_sum_over_all_pairs_that_share_an_image():
    """The definition, by every two items; a pair in both directions is one dyad."""
    rng = np.random.default_rng(1)
    ends = np.array([p for p in itertools.permutations(range(5), 2) if rng.random() < 0.7])
    x = rng.random(len(ends))
    r = (x - x.mean()) / len(x)
    total = sum(r[i] * r[j] for i in range(len(x)) for j in range(len(x)) if set(ends[i]) & set(ends[j]))
    found = mean_of_dyads(x, ends[:, 0], ends[:, 1], bounds=DIFFERENCE)
    alone = sum(r[i] * r[j] for i in range(len(x)) for j in range(len(x)) if set(ends[i]) == set(ends[j]))
    assert found.stderr**2 == pytest.approx(max(total, alone) * 5 / 4)


def test_intervals_cover_the_mean_where_images_matter():
    """An image moves all pairs it is in, as source and as target. Independent items, or clusters of targets alone, cover far less."""
    rng, k = np.random.default_rng(2), 30
    ends = np.array([(i, (i + step) % k) for i in range(k) for step in (1, 2, 3, 5)])
    covered, naive = 0, 0
    for _ in range(300):
        one, other = rng.normal(0, 0.15, k), rng.normal(0, 0.15, k)
        x = 0.4 + one[ends[:, 0]] + other[ends[:, 1]] + rng.normal(0, 0.05, len(ends))
        found = mean_of_dyads(x, ends[:, 0], ends[:, 1], bounds=DIFFERENCE)
        covered += found.low <= 0.4 <= found.high
        plain = mean_estimate(x, bounds=DIFFERENCE)
        naive += plain.low <= 0.4 <= plain.high
    assert 0.90 <= covered / 300 <= 0.99 and naive / 300 < 0.85
