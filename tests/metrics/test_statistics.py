"""Intervals and tests against simulation, closed forms, scipy, and complete enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from levl_eval.metrics.permutation import EXACT_UP_TO, binomial_two_sided, holm, sign_flip_test, swap_test
from levl_eval.metrics.pope import average_precision, weighted_average_precision
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import (
    bootstrap_statistic,
    bootstrap_weighted,
    cluster_draws,
    mean_estimate,
    paired_difference,
    student_quantile,
    wilson,
)


def covered(estimate, truth):
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 299, 300, 400, 401, 5000])
def test_student_quantile_is_scipys(df):
    assert student_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-6)


def test_wilson_is_scipys():
    found = stats.binomtest(7, 50).proportion_ci(0.95, method="wilson")
    assert wilson(7, 50) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("images, least", [(8, 0.88), (40, 0.91)])
def test_clustered_means_are_covered_also_with_few_images(images, least):
    """Skewed difficulty by image, 6 questions each, true mean 0.3; 300 rounds: the standard error of the share is 0.013."""
    rng = np.random.default_rng(images)
    hits = plain = 0
    for r in range(300):
        scores = (rng.random(6 * images) < np.repeat(rng.beta(0.6, 1.4, images), 6)).astype(float)
        hits += covered(mean_estimate(scores, np.repeat(np.arange(images), 6), seed=r, draws=400), 0.3)
        plain += covered(mean_estimate(scores), 0.3)
    assert least <= hits / 300 <= 0.99
    assert plain < hits - 30  # questions taken as independent: far too narrow


def test_all_right_is_no_certainty():
    e = mean_estimate(np.ones(60), np.repeat(np.arange(10), 6))
    assert e.value == e.high == 1 and e.low == pytest.approx(wilson(10, 10)[0]) and e.n == 60 and e.clusters == 10
    assert mean_estimate(np.zeros(60), np.repeat(np.arange(10), 6)).high == pytest.approx(1 - e.low)
    assert mean_estimate(np.full(60, 0.5), np.repeat(np.arange(10), 6)).stderr == 0
    same = paired_difference(np.ones(60), np.ones(60), np.repeat(np.arange(10), 6))  # a difference has two sides
    assert (same.low, same.value, same.high) == (0, 0, 0)


def _images(rng, k, classes=8):
    """[K, C, 3] counts of images with three of the classes each, rarer ones recognised worse; frequencies fall by half."""
    p = 2.0 ** -(np.arange(classes) / 2)
    good = np.linspace(0.8, 0.4, classes)
    there = np.argsort(-np.log(rng.random((k, classes))) / p, axis=1)[:, :3]
    size = rng.dirichlet(np.ones(3), k)
    right = size * np.clip(good[there] + rng.normal(0, 0.2, (k, 3)), 0, 1)
    out = np.zeros((k, classes, 3))
    rows = np.arange(k)[:, None]
    out[rows, there, 0], out[rows, there, 1], out[rows, there, 2] = right, size, right
    np.add.at(out, (rows, rng.choice(classes, (k, 3), p=p / p.sum()), 2), size - right)
    return out


def _miou(sums):
    return statistics_from_counts(sums)["mean_iou"]


def test_mean_iou_is_covered():
    rng = np.random.default_rng(5)
    truth = float(_miou(_images(rng, 40_000).sum(0)[None])[0])
    hits = sum(covered(bootstrap_statistic(_images(rng, 50), _miou, draws=400, seed=r), truth) for r in range(200))
    assert 0.90 <= hits / 200 <= 1.0


def test_average_precision_is_covered_and_a_weight_is_a_repetition():
    def drawn(rng, k):
        level = np.repeat(rng.normal(0, 0.7, k), 6)
        y = rng.random(6 * k) < 0.5
        return np.round(y + level + rng.normal(0, 1, 6 * k), 1), y, np.repeat(np.arange(k), 6)

    rng = np.random.default_rng(11)
    truth = average_precision(*drawn(rng, 40_000)[:2])
    hits = 0
    for r in range(200):
        s, y, c = drawn(rng, 40)
        hits += covered(bootstrap_weighted(lambda w, s=s, y=y: weighted_average_precision(s, y, w), c, draws=400, seed=r), truth)
    assert 0.90 <= hits / 200 <= 0.99
    w = rng.integers(0, 4, (3, len(s)))
    again = [average_precision(np.repeat(s, k), np.repeat(y, k)) for k in w]
    assert weighted_average_precision(s, y, w) == pytest.approx(again)
    undefined = bootstrap_weighted(lambda w: weighted_average_precision([0.5, 0.1], [False, False], w), np.arange(2))
    assert (
        np.isnan(undefined.value)
        and undefined.low is None
        and np.isnan(weighted_average_precision([1.0], [True], np.zeros((1, 1))))
    )


def test_paired_difference_is_covered_and_so_is_its_test():
    """No true difference: the interval misses 0, and p < 0.05 is reached, about one time in twenty."""
    rng = np.random.default_rng(6)
    miss = small = 0
    clusters = np.repeat(np.arange(25), 5)
    for r in range(300):
        level = np.repeat(rng.random(25), 5)
        a, b = (rng.random(125) < level).astype(float), (rng.random(125) < level).astype(float)
        miss += not covered(paired_difference(a, b, clusters, seed=r, draws=400), 0.0)
        small += sign_flip_test(a - b, clusters, draws=400, seed=r).p < 0.05
    assert 0.015 <= miss / 300 <= 0.10
    assert 0.015 <= small / 300 <= 0.09


def test_standard_errors_of_the_bootstrap_are_the_closed_form():
    rng = np.random.default_rng(7)
    level = rng.random(30)
    scores = np.repeat(level, 4)  # equal clusters of equal scores: a mean of 30 independent values
    e = mean_estimate(scores, np.repeat(np.arange(30), 4), draws=20_000)
    assert e.stderr == pytest.approx(level.std(ddof=1) / np.sqrt(30), rel=0.03)
    assert e.value == scores.mean() and "20000 draws" in e.method


def test_more_draws_are_the_default_and_repeat():
    rng = np.random.default_rng(8)
    x, c = rng.random(40), np.repeat(np.arange(10), 4)
    assert "2000 draws" in mean_estimate(x, c).method
    assert mean_estimate(x, c) == mean_estimate(x, c) != mean_estimate(x, c, seed=1)


def _all_swaps(d):
    sums = [abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))]
    return np.mean([v >= abs(sum(d)) - 1e-12 for v in sums])


def test_few_images_are_tested_by_all_swaps():
    d = np.array([0.5, -0.25, 1.0, 0.75, 0.0, 0.5, 0.3])
    found = sign_flip_test(d)
    assert found.method == "exact" and found.p == pytest.approx(_all_swaps(d))
    clusters = np.array([0, 0, 1, 1, 2, 3, 4])
    assert sign_flip_test(d, clusters).p == pytest.approx(_all_swaps(np.array([0.25, 1.75, 0.5, 0.3])))


def test_right_or_wrong_is_mcnemars_exact_test_at_any_size():
    d = np.array([1.0] * 40 + [-1.0] * 20 + [0.0] * 1000)
    found = sign_flip_test(d)
    assert found.method == "exact binomial" and found.p == pytest.approx(stats.binomtest(40, 60).pvalue)
    assert binomial_two_sided(5, 10) == 1.0 and binomial_two_sided(0, 0) == 1.0
    assert sign_flip_test(np.zeros(9)).p == 1.0
    assert binomial_two_sided(400, 2000) > 0  # no underflow to a p of exactly 0


def test_drawn_permutations_agree_with_the_exact_test_and_never_give_zero():
    rng = np.random.default_rng(9)
    d = rng.normal(0.25, 1, EXACT_UP_TO)
    exact = sign_flip_test(d).p
    drawn = sign_flip_test(np.concatenate([d, [1e-6, 1.1e-6]]), draws=20_000)
    assert drawn.method.startswith("permutation") and drawn.p == pytest.approx(exact, abs=0.02)
    assert sign_flip_test(rng.random(50) + 1, draws=100).p == pytest.approx(1 / 101)


def test_swaps_of_images_for_mean_iou_reduce_to_sign_flips_where_it_is_linear():
    rng = np.random.default_rng(10)
    a, b = rng.random(10), rng.random(10)
    ones = np.ones(10)
    linear = swap_test(np.stack([a, ones], -1), np.stack([b, ones], -1), lambda s: s[..., 0] / s[..., 1])
    assert linear.p == pytest.approx(sign_flip_test(a - b).p) and linear.method == "exact"
    x, y = _images(rng, 30), _images(rng, 30)
    assert swap_test(x, x, _miou).p == 1.0
    worse = x.copy()
    worse[..., 0] *= 0.5
    assert swap_test(x, worse, _miou, draws=500).p < 0.01 and swap_test(x, y, _miou, draws=500).p > 0.01


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []


@pytest.mark.parametrize("columns", [1, 2, 20])
@pytest.mark.parametrize("largest", [3, 80_000])  # the second one's sums leave what single precision holds
def test_sums_of_whole_numbers_are_those_of_double_precision_to_the_bit(columns, largest):
    k, draws, seen = 1_001, 50, []
    counts = np.random.default_rng(0).integers(0, largest + 1, (k, columns)).astype(float)
    counts[:, -1] = largest  # as the sizes of clusters that are alike
    for values in (counts, counts / 3):
        seen.clear()
        bootstrap_statistic(values, lambda sums: (seen.append(sums), sums[..., 0])[1], draws=draws, seed=1)
        plain = np.concatenate([w @ values for w in cluster_draws(k, draws, 1)])
        found = np.concatenate(seen[1:])
        assert found.dtype == np.float64
        if values is counts:
            assert (found == plain).all()
        else:
            np.testing.assert_allclose(found, plain, rtol=1e-12, atol=1e-9)


def test_clusters_are_drawn_once_whatever_is_summed(monkeypatch):
    """Drawing costs more than summing: soft scores beside whole sizes must not draw for each."""
    rng, asked = np.random.default_rng(0), []
    counts = np.stack([rng.integers(0, 11, 90) / 10, rng.integers(1, 9, 90)], -1)

    def counted(*args):
        asked.append(args)
        return cluster_draws(*args)

    monkeypatch.setattr("levl_eval.metrics.statistics.cluster_draws", counted)
    bootstrap_statistic(counts, lambda sums: sums[..., 0] / sums[..., 1])
    assert len(asked) == 1


@pytest.mark.parametrize("clusters", [[2, 0, 1, 0, 2], [3, 0, 1, 0, 3], [0, 0, 0, 0, 0], [-1, 0, 1, 0, 1], [7, 7, 8, 9, 9]])
@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float64, str])
def test_clusters_that_are_numbered_already_are_those_of_their_names(clusters, kind):
    """Numbers from 0 without a gap are taken as they are; the estimate is that of any other names."""
    scores = np.array([0.1, 0.9, 0.4, 0.7, 0.2])
    named = np.array([f"image {c:+d}" for c in clusters])
    order = np.array([f"{c + 10:02d}" for c in clusters])  # in the order of the numbers
    own = mean_estimate(scores, np.array(clusters).astype(kind))
    assert own.clusters == len(set(clusters)) == mean_estimate(scores, named).clusters
    if kind is not str:
        assert own == mean_estimate(scores, order)


def test_kept_draws_are_the_drawn_ones():
    k, draws = 37, 50
    (first,), (again,) = list(cluster_draws(k, draws, 3)), list(cluster_draws(k, draws, 3))
    assert (first == np.random.default_rng(3).multinomial(k, np.full(k, 1 / k), size=draws)).all()
    with pytest.raises(ValueError, match="read-only"):  # shared by all who ask
        first += 1
    assert (again.sum(1) == k).all() and (next(cluster_draws(k, draws, 3)) == again).all()


@pytest.mark.parametrize("test", ["sign_flip", "swap"])
def test_no_drawn_permutation_gives_a_p_of_zero(test):
    """The data are one of the swaps: with 20 draws, none of which reaches them, p is 1 in 21."""
    d = 1.0 + np.arange(60) / 60
    if test == "sign_flip":
        found = sign_flip_test(d, draws=20)
    else:
        found = swap_test(d[:, None], np.zeros((60, 1)), lambda sums: sums[..., 0], draws=20)
    assert found.p == pytest.approx(1 / 21)
