"""The tests behind verdicts: their distributions, their error rates under true nulls, and their power."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.metrics.crossed import components, crossed, pseudo_values
from levl_eval.metrics.equivalence import combined, evidence
from levl_eval.metrics.permutation import holm
from levl_eval.metrics.statistics import student_quantile
from levl_eval.metrics.student import normal_tail, student_tail, two_source_quantile, two_source_tail

RUNS = 1_000
MOST = 0.05  # of the runs in which a false claim may be called supported


def test_tails_are_those_of_the_tables():
    for df in (1, 2, 3, 10, 40, 41, 200, 5_000):
        assert student_tail(student_quantile(df), df) == pytest.approx(0.025, abs=1e-5)
        assert student_tail(-1.3, df) + student_tail(1.3, df) == pytest.approx(1)
    assert student_tail(0.0, 3) == 0.5 and normal_tail(1.959963985) == pytest.approx(0.025, rel=1e-5)
    assert two_source_tail(2.0, 0.0, 0, 1.0, 50) == student_tail(2.0, 50) and two_source_tail(
        2.0, 1.0, 4, 0.0, 9
    ) == student_tail(2.0, 4)
    assert two_source_tail(np.array([1.0, -1.0, 0.0]), 0, 1, 0, 1).tolist() == [0.0, 1.0, 0.5]
    rng = np.random.default_rng(0)
    for a, k, b, m in ((1.0, 2, 1.0, 100), (0.1, 1, 1.0, 50), (1.0, 4, 0.05, 300)):
        drawn = a * rng.standard_t(k, 400_000) + b * rng.standard_t(m, 400_000)
        x = two_source_quantile(0.025, a, k, b, m)
        assert (drawn > x).mean() == pytest.approx(0.025, abs=0.0012)


def drawn(seed, runs=RUNS, seeds=3, images=60, each=3, delta=0.0, seed_sd=0.03, difficulty=0.15):
    """Differences [runs, seeds, images] of two encoders that answer ``each`` yes/no questions an image, with both sides' seeds."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, difficulty, (runs, 1, images))
    shift = rng.normal(0, seed_sd / np.sqrt(2), (2, runs, seeds, 1)) if seeds > 1 else np.zeros((2, runs, 1, 1))
    p = 0.6 + hard + shift + np.array([delta / 2, -delta / 2])[:, None, None, None]
    right = rng.binomial(each, np.clip(p, 0, 1)) / each
    return right[0] - right[1]


@pytest.mark.parametrize("seeds, seed_sd", [(1, 0.0), (2, 0.05), (3, 0.0), (3, 0.05), (5, 0.02)])
def test_a_true_null_is_rarely_called_supported(seeds, seed_sd):
    e = evidence(crossed(drawn(seeds, seeds=seeds, seed_sd=seed_sd)), "greater")
    assert (e.support <= 0.05).mean() <= MOST and (e.contradiction <= 0.05).mean() <= MOST
    assert (np.minimum(e.support, e.contradiction) <= 0.05).mean() <= MOST  # any verdict at all


def test_leaving_out_the_seeds_would_call_nulls_supported():
    """The same draws judged by images alone: what the seeds' part of the error is for."""
    d = drawn(3, seed_sd=0.05, images=400)
    assert (evidence(crossed(d), "greater").support <= 0.05).mean() <= MOST
    assert (evidence(crossed(d.mean(1, keepdims=True)), "greater").support <= 0.05).mean() > 2 * MOST


@pytest.mark.parametrize("seeds, seed_sd, images", [(1, 0.0, 60), (3, 0.02, 60), (3, 0.0, 200)])
def test_an_equivalence_is_rarely_supported_at_the_edge_of_its_margin(seeds, seed_sd, images):
    d = drawn(11, seeds=seeds, seed_sd=seed_sd, images=images, delta=0.06, difficulty=0.05)
    e = evidence(crossed(d), "equivalent", 0.06)
    assert (e.support <= 0.05).mean() <= MOST and (e.contradiction <= 0.05).mean() <= MOST


def test_an_equivalence_of_which_few_images_tell_is_rarely_supported_at_the_edge():
    """One side is right where the other is wrong on one image in a hundred: often none of them is among those seen."""
    for images in (100, 300, 500):
        d = (np.random.default_rng(images).random((RUNS, 1, images)) < 0.01).astype(float)
        assert (evidence(crossed(d), "equivalent", 0.01).support <= 0.05).mean() <= MOST


def test_intersection_union_and_holm_keep_the_rate():
    tests = [evidence(crossed(drawn(20 + k, seeds=1, delta=0.0 if k == 0 else 0.3)), "greater") for k in range(4)]
    every = combined(tests, "all")  # one of four differences is null: the claim that all hold is false
    assert 0 < (every.support <= 0.05).mean() <= MOST
    nulls = [evidence(crossed(drawn(40 + k, seeds=1)), "greater") for k in range(4)]
    assert (combined(nulls, "any").support <= 0.05).mean() <= MOST
    assert (np.min([n.support for n in nulls], 0) <= 0.05).mean() > MOST  # without adjustment
    adjusted = np.array([holm(list(p)) for p in np.stack([n.support for n in nulls], 1)])
    assert (adjusted.min(1) <= 0.05).mean() <= MOST
    opposite = combined([evidence(crossed(drawn(60 + k, seeds=1)), "greater") for k in range(4)], "all")
    assert (opposite.contradiction <= 0.05).mean() <= MOST  # none of four differences is negative


def test_a_true_effect_is_found():
    found = {}
    for name, d in {
        "1 seed, +10 points": drawn(5, seeds=1, images=200, delta=0.1),
        "3 seeds, +10 points": drawn(6, seeds=3, images=200, delta=0.1, seed_sd=0.01),
        "5 seeds, +10 points": drawn(7, seeds=5, images=200, delta=0.1, seed_sd=0.03),
    }.items():
        found[name] = float((evidence(crossed(d), "greater").support <= 0.05).mean())
    print(found)
    assert min(found.values()) > 0.7
    same = evidence(crossed(drawn(8, seeds=1, images=400)), "equivalent", 0.1)
    assert (same.support <= 0.05).mean() > 0.9


def test_few_seeds_count_and_identical_seeds_do_not():
    d = drawn(9, runs=1)[0]
    low, high = crossed(d).interval()
    assert low < float(crossed(d).value) < high
    one = crossed(d[:1])
    three = crossed(np.repeat(d[:1], 3, 0))
    assert three.interval() == pytest.approx(one.interval(), rel=1e-4) and float(three.seed_variance) == 0


def test_pseudo_values_of_means_and_their_spread():
    rng = np.random.default_rng(0)
    x = rng.random(50)
    mean = pseudo_values(np.stack([x, np.ones(50)], -1), lambda s: s[..., 0] / s[..., 1])
    assert mean == pytest.approx(x)
    sizes = rng.integers(1, 9, 50).astype(float)
    sums = rng.binomial(sizes.astype(int), 0.4).astype(float)
    p = pseudo_values(np.stack([sums, sizes], -1), lambda s: s[..., 0] / s[..., 1])
    ratio = sums.sum() / sizes.sum()
    linear = np.std((sums - ratio * sizes) / sizes.mean(), ddof=1)
    assert p.mean() == pytest.approx(ratio) and p.std(ddof=1) == pytest.approx(linear, rel=0.1)


def test_components_are_found_again():
    rng = np.random.default_rng(1)
    found = np.mean([
        [c.seed, c.image, c.rest]
        for c in (
            components(0.1 * rng.standard_normal((6, 1)) + 0.2 * rng.standard_normal((1, 300)) + 0.3 * rng.standard_normal((6, 300)))
            for _ in range(60)
        )
    ], 0)  # fmt: skip
    assert found == pytest.approx([0.01, 0.04, 0.09], rel=0.2)
