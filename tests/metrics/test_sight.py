"""Share of sight: its value and interval against cases that are known, and where it is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.sight import share_of_gains, share_of_sight, share_of_sight_of_means
from levl_eval.metrics.statistics import paired_difference


def test_floor_is_zero_ceiling_is_one_and_halfway_is_half():
    rng = np.random.default_rng(0)
    floor, images = rng.integers(0, 2, 400) * 0.4, np.repeat(np.arange(100), 4)
    ceiling = floor + 0.5
    for backbone, wanted in ((floor, 0.0), (ceiling, 1.0), ((floor + ceiling) / 2, 0.5)):
        found = share_of_sight_of_means(backbone, floor, ceiling, images)
        assert found.value == pytest.approx(wanted, abs=1e-12)
        assert found.low == pytest.approx(wanted, abs=1e-9) and found.high == pytest.approx(wanted, abs=1e-9)
        assert found.clusters == 100 and found.n == 400 and found.method.startswith("paired")


def test_errors_count_the_other_way_round():
    rng = np.random.default_rng(1)
    ceiling = rng.uniform(0.1, 0.2, 50)
    floor = ceiling + 1.0
    assert share_of_sight_of_means(ceiling + 0.25, floor, ceiling).value == pytest.approx(0.75)


def test_pairing_makes_the_interval_narrow():
    """Images differ far more than encoders do; resampled apart the sides would give an interval of many times this width."""
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 5, 300)
    sides = [hard + level + rng.normal(0, 0.1, 300) for level in (0.3, 0.0, 1.0)]
    found = share_of_sight_of_means(*sides)
    assert abs(found.value - 0.3) < 0.05
    assert found.high - found.low < 0.1


def test_the_interval_covers():
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        easy = rng.normal(0, 1, 60)
        sides = [easy + level + rng.normal(0, 0.3, 60) for level in (0.4, 0.0, 1.0)]
        found = share_of_sight_of_means(*sides, draws=400)
        covered += found.low <= 0.4 <= found.high
    assert 180 <= covered <= 200


def test_questions_of_an_image_are_drawn_together():
    rng = np.random.default_rng(3)
    floor = rng.normal(0, 1, 40).repeat(25)
    backbone = floor + rng.normal(0.5, 0.3, 40).repeat(25)
    images = np.arange(40).repeat(25)
    together = share_of_sight_of_means(backbone, floor, floor + 1, images)
    apart = share_of_sight_of_means(backbone, floor, floor + 1)
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_of_counts_as_miou_is():
    rng = np.random.default_rng(4)
    target = rng.integers(50, 100, (80, 3))

    def counts(right: float) -> np.ndarray:
        hit = np.floor(target * right)
        return np.stack([hit, target, hit + (target - hit)[:, [1, 2, 0]]], -1)

    def miou(sums: np.ndarray) -> np.ndarray:
        return statistics_from_counts(sums)["mean_iou"]

    sides = [counts(r) for r in (0.6, 0.3, 0.9)]
    values = [miou(s.sum(0)[None])[0] for s in sides]
    found = share_of_sight(*sides, miou)
    assert found.value == pytest.approx((values[0] - values[1]) / (values[2] - values[1]))
    assert found.low < found.value < found.high


def test_undefined_where_the_ceiling_is_no_ceiling():
    rng = np.random.default_rng(5)
    floor, ceiling = rng.integers(0, 2, (2, 60)).astype(float)
    assert paired_difference(ceiling, floor).low < 0 < paired_difference(ceiling, floor).high
    found = share_of_sight_of_means(floor, floor, ceiling)
    assert math.isnan(found.value) and found.low is None and "ceiling" in found.method
    assert math.isnan(share_of_sight_of_means(np.ones(1), np.zeros(1), np.ones(1)).value)  # one image tells nothing apart
    assert math.isnan(share_of_sight_of_means(np.zeros(0), np.zeros(0), np.zeros(0)).value)


def test_sides_must_be_of_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        share_of_sight_of_means(np.zeros(3), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="same images"):
        share_of_sight(np.zeros((3, 1)), np.zeros((2, 1)), np.zeros((3, 1)), lambda s: s[..., 0])


def test_the_share_from_estimates_agrees_with_the_bootstrap_of_the_items():
    rng = np.random.default_rng(5)
    hard = rng.normal(0, 0.3, 500)
    backbone, floor, ceiling = (np.clip(level + hard + rng.normal(0, 0.1, 500), 0, 1) for level in (0.5, 0.4, 0.8))
    drawn = share_of_sight_of_means(backbone, floor, ceiling)
    of = [paired_difference(a, b) for a, b in ((backbone, floor), (ceiling, floor), (backbone, ceiling))]
    paired = share_of_gains(*of)
    assert paired.value == pytest.approx(drawn.value, abs=1e-12)
    assert paired.low == pytest.approx(drawn.low, abs=0.01) and paired.high == pytest.approx(drawn.high, abs=0.01)
    apart = share_of_gains(of[0], of[1], None)
    assert apart.high - apart.low > paired.high - paired.low and apart.value == paired.value


def test_where_the_ceiling_is_not_apart_from_the_floor_there_is_no_share():
    room = Estimate(value=0.01, stderr=0.02, low=-0.03, high=0.05)
    assert share_of_gains(Estimate(value=0.005, stderr=0.01, low=-0.01, high=0.02), room, None) is None
    error = Estimate(value=-0.8, stderr=0.02, low=-0.84, high=-0.76)  # of an error the ceiling lies below the floor
    assert share_of_gains(Estimate(value=-0.2, stderr=0.02, low=-0.24, high=-0.16), error, None).value == pytest.approx(0.25)
