"""The rule on loss curves, on curves whose state is known, and training until it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from levl_eval.core.errors import LevlError
from levl_eval.engines.convergence import (
    DOUBLINGS,
    STEPS,
    closed_form,
    convergence,
    epochs_by_held_out,
    held_out,
    train_until_converged,
)

T = np.linspace(0, 1, 200)


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        (np.full(200, 0.7), True),
        (2.0 * np.exp(-12 * T) + 0.5, True),
        (2.0 - T, False),
        (2.0 * np.exp(-2 * T) + 0.5, False),
        (1.0 / np.sqrt(0.01 + T), False),  # a power law goes on for ever
        (np.where(T < 0.5, 2.0, 2.0 - T), False),  # a plateau left late
        (0.5 + T, True),  # a rising loss has stopped falling
    ],
)
def test_curves_without_noise(curve, wanted):
    found = convergence(curve.tolist())
    assert found["converged"] is wanted, found
    assert found["value"] >= 0 and "quarter" in found["rule"]


def test_noise_neither_hides_a_fall_nor_feigns_one():
    """A fall is never hidden; one is feigned about as often as two standard errors, one side, allow (2.3%)."""
    t, feigned = np.linspace(0, 1, 400), 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.05, 400)
        assert convergence(2.0 - t + noise)["converged"] is False
        feigned += convergence(2.0 * np.exp(-12 * t) + 0.5 + noise)["converged"] is False
    assert feigned <= 4


def test_flat_and_noisy_is_converged():
    """Nothing was there to learn: at most a few of many such curves may look like a fall (two standard errors, one side)."""
    flat = [convergence(1.0 + np.random.default_rng(s).normal(0, 0.1, 400))["converged"] for s in range(100)]
    assert sum(flat) >= 93


@pytest.mark.parametrize("slope", [0.5, 0.3])
def test_noise_does_not_excuse_a_fall_that_is_large(slope):
    """Seven or four percent of the fall in the last quarter, as loud as a connector's loss:
    one cannot tell, so it is not called trained out."""
    t, called = np.linspace(0, 1, 500), 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.8, 500)
        found = convergence(1.2 * np.exp(-7 * t) - slope * t + 1.2 + noise)
        called += found["converged"] is True and found["value"] > 0.02
    assert called == 0


def test_a_rate_that_ends_at_zero_is_not_convergence():
    """Gradient descent on a slow parabola with a cosine schedule: the curve ends flat, far above its minimum."""
    x, curve = 1.0, []
    for step in range(200):
        curve.append(x * x)
        x -= 0.01 * 0.5 * (1 + np.cos(np.pi * step / 200)) * x
    assert curve[-1] - curve[-2] > -1e-3 and curve[-1] > 0.1
    assert convergence(curve)["converged"] is False


def test_short_and_broken_curves_are_not_called_converged():
    for curve in ([], [1.0] * 7, [1.0] * 20 + [float("nan")]):
        assert convergence(curve) == {"rule": convergence([])["rule"], "value": None, "converged": False}
    assert closed_form()["converged"] is True


@dataclass(frozen=True)
class Card:
    until: str
    epochs: int = 10

    def model_copy(self, update):
        return replace(self, **update)


def _trainer(rate: float, asked: list[int]):
    def train(card):
        asked.append(card.epochs)
        return card.epochs, list(1.0 + np.exp(-rate * np.arange(card.epochs)))

    return train


def test_published_protocols_keep_their_epochs():
    asked: list[int] = []
    head, curve, notes = train_until_converged(Card("epochs"), 1, _trainer(0.001, asked))
    assert asked == [10] == [head] == [len(curve)] and notes["epochs"] == 10 and notes["converged"] is False


def test_own_data_is_trained_until_it_has_converged():
    asked: list[int] = []
    head, curve, notes = train_until_converged(Card("converged"), 1, _trainer(0.005, asked))
    assert asked == [STEPS, 2 * STEPS, 4 * STEPS][: len(asked)] and len(asked) > 1
    assert notes["converged"] and notes["epochs"] == head == asked[-1] == len(curve)
    fast: list[int] = []
    train_until_converged(Card("converged", epochs=3), 100, _trainer(9.0, fast))
    assert len(fast) <= 2  # few epochs of many steps do


def test_training_ends_and_says_so():
    asked: list[int] = []
    _, _, notes = train_until_converged(
        Card("converged"), 1, lambda c: (asked.append(c.epochs), list(2.0 - np.linspace(0, 1, c.epochs)))
    )
    assert len(asked) == DOUBLINGS + 1 and notes["converged"] is False


def test_the_shortest_training_that_twice_as_long_does_not_improve_on():
    asked: list[int] = []

    def loss(epochs: int) -> float:
        asked.append(epochs)
        return {0: 3.0, 400: 2.0, 800: 1.0, 1600: 0.984}.get(epochs, 0.5)

    epochs, notes = epochs_by_held_out(Card("held-out"), 1, loss)
    assert asked == [0, 400, 800, 1600] and epochs == 800 and notes["converged"] is True
    assert notes["value"] == pytest.approx(0.016 / 2.016, abs=1e-5)  # of the whole fall, not of a loss that may end near 0
    assert notes["tried"] == [[0, 3.0], [400, 2.0], [800, 1.0], [1600, 0.984]] and "left out" in notes["rule"]
    tiny = {0: 0.4, 400: 0.006, 800: 0.004}  # a third less, and nothing beside what was learned
    assert epochs_by_held_out(Card("held-out"), 1, tiny.__getitem__)[0] == 400


def test_a_head_that_gets_worse_on_what_it_has_not_seen_is_trained_no_longer():
    epochs, notes = epochs_by_held_out(Card("held-out", epochs=30), 100, lambda epochs: 1.0 + epochs / 100 if epochs else 9.0)
    assert epochs == 30 and notes["converged"] is True and notes["value"] < 0


def test_a_loss_that_still_falls_is_not_called_converged():
    asked: list[int] = []
    epochs, notes = epochs_by_held_out(Card("held-out"), 1, lambda epochs: (asked.append(epochs), -float(epochs))[1])
    assert len(asked) == DOUBLINGS + 2 and epochs == asked[-1] and notes["converged"] is False


def test_what_is_held_out_is_a_tenth_and_never_trained_on():
    for images, count in [(2, 1), (9, 1), (300, 30)]:
        learn, unseen = held_out(images, 0)
        assert len(unseen) == count and sorted([*learn, *unseen]) == list(range(images))
    assert held_out(300, 1)[1].tolist() != held_out(300, 0)[1].tolist()
    with pytest.raises(LevlError, match="until: epochs"):
        held_out(1, 0)
