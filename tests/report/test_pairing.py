"""Two sides are matched by item and resampled by image."""

from __future__ import annotations

from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample
from levl_eval.records.scores import collected
from levl_eval.report.paired import pair
from tests.report.conftest import record


def side(name: str, right: list[float]) -> tuple:
    """Fifty questions about each of two images."""
    samples = {f"q{k:03}": Sample(id=f"q{k:03}", image_id=f"i{k // 50}", score=s) for k, s in enumerate(right)}
    return record(name, "gqa", "accuracy", {"accuracy": mean_estimate([*right])}), samples


def scored(side: tuple) -> tuple:
    return side[0], collected((s, 0) for s in side[1].values())


def test_questions_of_one_image_are_one_observation():
    """A hundred questions about two images show little: both swaps of two images are as far apart."""
    found = pair([scored(side("a", [1.0] * 100))], [scored(side("b", [0.0] * 50 + [1.0] * 50))])
    assert set(found.images) == {"i0", "i1"}
    assert found.test().p == 1.0 and found.difference().clusters == 2


def test_items_are_matched_by_their_id():
    a, (b, samples) = side("a", [1.0, 0.0] * 50), side("b", [1.0, 0.0] * 50)
    found = pair([scored(a)], [scored((b, dict(reversed(samples.items()))))])
    assert (found.a == found.b).all() and found.ids == tuple(sorted(samples))


def test_a_failed_answer_is_left_out_on_both_sides_whatever_its_score():
    (a, mine), (b, other) = side("a", [1.0] * 100), side("b", [1.0] * 100)
    mine["q007"] = mine["q007"].model_copy(update={"status": "failed", "score": 0.0})
    found = pair([scored((a, mine))], [scored((b, other))])
    assert found.left_out == 1 and "q007" not in found.ids and found.values == (1.0, 1.0)
