"""No interval leaves its metric's range; what splits weigh in a mean over splits."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.data.types import Question
from levl_eval.engines.probes.backgrounds import drop_estimate
from levl_eval.engines.probes.common import mean_per_class
from levl_eval.engines.vlm.scoring import estimates, weights
from levl_eval.metrics.catalogue import ANY, DIFFERENCE, POSITIVE
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import fraction_interval, mean_estimate, paired_difference, wilson, within
from levl_eval.records import Sample
from levl_eval.report.paired import split_weights


def inside(e: Estimate, low: float, high: float) -> bool:
    return low <= e.low <= e.value <= e.high <= high and e.low < e.high


def test_a_mean_over_seeds_near_all_right_stays_below_one():
    """Once 95.8 [89.2, 102.5]: eight images, three seeds, one seed wrong on one of them."""
    e = mean_estimate(np.array([1.0] * 7 + [2 / 3]))
    assert inside(e, 0, 1) and e.high < 1.0 and e.method == "wilson with the items' variance, t"
    assert inside(mean_estimate(np.array([0.0] * 9 + [1 / 3])), 0, 1)


def test_fractional_scores_have_wilsons_interval_of_as_many_items_as_give_their_error():
    scores = np.repeat([0.0, 1.0], [30, 70])
    low, high = fraction_interval(0.7, float(np.sqrt(0.21 / 100)), 100)
    assert (low, high) == pytest.approx(wilson(70, 100))
    assert (low, high) == pytest.approx((mean_estimate(scores).low, mean_estimate(scores).high))
    assert fraction_interval(1.0, 0.0, 10) == wilson(10, 10) and fraction_interval(0.5, 0.0, 10) == (0.5, 0.5)


def test_a_fractional_mean_is_covered():
    """Each score the mean of three seeds over an image's own difficulty, true mean 0.9; 300 rounds."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        e = mean_estimate(rng.binomial(3, rng.beta(4.5, 0.5, 40)) / 3)
        hits += e.low <= 0.9 <= e.high
    assert 0.92 <= hits / 300 <= 0.99


def test_errors_and_differences_are_cut_at_their_ends_and_say_so():
    e = mean_estimate(np.array([0.01, 0.02, 3.0]), bounds=POSITIVE)
    assert e.low == 0.0 and e.high > 3 and e.method == "t, cut to [0, inf]"
    assert mean_estimate(np.array([0.01, 0.02, 3.0]), bounds=ANY).low < 0
    d = paired_difference(np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.4]))
    assert inside(d, -1, 1) and d.high == 1.0 and d.method == "paired t, cut to [-1, 1]"
    assert inside(drop_estimate(np.array([1.0, 1, 1, 1]), np.array([0.0, 0, 1]), list("abcd"), list("xyz")), *DIFFERENCE)
    kept = Estimate(value=0.5, low=0.2, high=0.8, method="x")
    assert within(kept, (0, 1)) is kept


@pytest.mark.parametrize("wrong", [0, 1, 59])
def test_mean_per_class_stays_in_range_and_is_no_certainty(wrong):
    right = np.ones(60)
    right[:wrong] = 0
    labels = np.repeat(np.arange(6), 10)
    assert inside(mean_per_class(right, labels), 0, 1)
    assert inside(mean_per_class(right[:6], np.arange(6)), 0, 1)  # one image a class


def unequal():
    """POPE answers whose splits are of unlike size and difficulty: 2 right of 2, 0 of 6."""
    asked = [Question(f"a{k}", f"i{k}", "?", "yes", (), {"split": "random"}) for k in range(2)]
    asked += [Question(f"b{k}", f"j{k}", "?", "yes", (), {"split": "popular"}) for k in range(6)]
    return asked, {q.question_id: "yes" if q.question_id[0] == "a" else "no" for q in asked}


def test_splits_weigh_alike_however_many_questions_they_have():
    """With all weights 1 the mean would be 0.25; floors, gains and pairings would then not add up to the metric."""
    asked, said = unequal()
    scores = np.array([float(said[q.question_id] == "yes") for q in asked])
    value = estimates("pope", asked, said)["accuracy"].value
    assert value == pytest.approx(0.5) and (scores * weights(asked)).mean() == pytest.approx(value)
    samples = [Sample(id=q.question_id, image_id=q.image_id, score=s, meta=q.meta) for q, s in zip(asked, scores, strict=True)]
    assert split_weights(samples) == pytest.approx(weights(asked)) and set(weights(asked)) == {2.0, 8 / 12}
    alone = [Question(str(k), "i", "?", "yes") for k in range(3)]
    assert weights(alone).tolist() == [1, 1, 1]
