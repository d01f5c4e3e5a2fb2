"""Average precision with junk against a plain formulation of the revisited benchmark's own."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.metrics.ranking import average_precision, places, precision_at


def plain(order, right, junk, ks):
    """Item by item down the list: junk is passed over, each right one adds its trapezoid (revisitop's compute_ap)."""
    rank, hits, area, at = 0, 0, 0.0, []
    for item in order:
        if item in junk:
            continue
        if item in right:
            before = 1.0 if rank == 0 else hits / rank
            hits += 1
            area += (before + hits / (rank + 1)) / 2 / len(right)
            at.append(rank + 1)
        rank += 1
    return area, [sum(a <= min(max(at), k) for a in at) / min(max(at), k) for k in ks]


def test_average_precision_is_the_benchmarks_to_the_digit():
    rng = np.random.default_rng(0)
    for n, right_count, junk_count in ((10, 1, 0), (10, 3, 2), (200, 20, 15), (50, 49, 1)):
        for _ in range(5):
            order, items = rng.permutation(n), rng.permutation(n)
            right, junk = items[:right_count], items[right_count : right_count + junk_count]
            found = places(order, right, junk)
            area, precisions = plain(order.tolist(), set(right.tolist()), set(junk.tolist()), (1, 5, 10))
            assert average_precision(found, right_count) == pytest.approx(area, abs=1e-12)
            assert [precision_at(found, k) for k in (1, 5, 10)] == pytest.approx(precisions)


def test_by_hand():
    """Right ones at the first and third place: 1, and the trapezoid from 1/2 to 2/3."""
    found = places(np.array([4, 9, 0, 7, 2]), np.array([4, 7]), np.array([9]))
    assert found.tolist() == [0, 2] and average_precision(found, 2) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert precision_at(found, 1) == 1 and precision_at(found, 10) == pytest.approx(2 / 3)
    assert average_precision(np.arange(5), 5) == 1
