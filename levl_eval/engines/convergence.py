"""Whether a trained head or connector had learned what it could:
a rule on the loss curve, one on held-out images, and training until one holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from levl_eval.core.errors import LevlError
from levl_eval.records.convergence import RULE, SHARE, UNTOLD

RULE_VERSION = 3  # raised when the rule changes: heads that are trained until it holds are then others
HELD_OUT_VERSION = 1  # the same of the rule on held-out images
POINTS = 8  # a curve of fewer values does not tell
_H = TypeVar("_H")
_B = TypeVar("_B", bound="Budget")


def convergence(curve: Sequence[float]) -> dict[str, object]:
    """What a record's notes say of a loss curve, by step or by epoch: {"rule", "value", "converged"}.

    value: how much of the loss's whole fall, from the first twentieth of the curve to its last quarter, came between the third
    quarter and the last. A schedule that ends at a rate of zero flattens the end of any curve, so the quarter before counts
    too. Never negative: a loss that rose or only wavered has stopped falling. None, and not converged, where the curve is too
    short to tell. An undertrained head shows as one whose loss was still falling by more than SHARE.
    """
    values = np.asarray(curve, np.float64)
    if len(values) < POINTS or not np.isfinite(values).all():
        return {"rule": RULE, "value": None, "converged": False}
    _, _, third, last = np.array_split(values, 4)
    first = values[: max(1, len(values) // 20)]
    start = float(first.mean())
    fall = float(third.mean() - last.mean())
    whole = max(start - float(last.mean()), fall, 0.0)
    value = max(0.0, fall) / whole if whole > 0 else 0.0
    still = fall > 2 * math.hypot(_standard_error(third), _standard_error(last))
    learned = whole > 4 * math.hypot(_standard_error(first), _standard_error(last))  # else there was nothing to learn
    return {
        "rule": RULE,
        "value": round(value, 5),
        "converged": value <= SHARE or (not still and (value <= UNTOLD or not learned)),
    }


def _standard_error(values: np.ndarray) -> float:
    """Of a window's mean by the scatter about its own line; a window that falls is not noisy for that."""
    if len(values) < 3:
        return 0.0
    x = np.arange(len(values))
    rest = values - np.polyval(np.polyfit(x, values, 1), x)
    return float(math.sqrt((rest * rest).sum() / (len(values) - 2) / len(values)))


def closed_form() -> dict[str, object]:
    """What the notes say of a head that was solved, not trained."""
    return {"rule": "solved in closed form", "value": 0.0, "converged": True}


def thinned(curve: Sequence[float], points: int = 100) -> list[float]:
    """At most ``points`` means of consecutive values, as records keep them."""
    parts = np.array_split(np.asarray(curve, np.float64), min(points, len(curve))) if len(curve) else []
    return [round(float(p.mean()), 5) for p in parts]


STEPS = 400  # a head that is trained until it has converged gets at least so many
DOUBLINGS = 5


class Budget(Protocol):
    """The fields of a card that say how long its head is trained."""

    @property
    def until(self) -> str: ...

    @property
    def epochs(self) -> int: ...

    def model_copy(self: _B, *, update: Mapping[str, object] | None = None) -> _B: ...


def train_until_converged(
    card: _B, per_epoch: int, train: Callable[[_B], tuple[_H, list[float]]]
) -> tuple[_H, list[float], dict[str, object]]:
    """``train(card)`` -> (head, loss by epoch); by the card's ``until`` once, or with ever more epochs until it has converged.

    per_epoch: steps an epoch has. until: "epochs" trains the card's epochs. "converged" starts at the card's epochs or at STEPS
    steps, whichever is more, and doubles them, from the start each time as the schedule spans them all, until the rule holds or
    DOUBLINGS times. Returns the head, its curve and what the notes say: :func:`convergence` and the epochs trained.
    """
    if card.until == "epochs":
        head, curve = train(card)
        return head, curve, {**convergence(curve), "epochs": card.epochs}
    epochs = max(card.epochs, math.ceil(STEPS / max(1, per_epoch)))
    for doubling in range(DOUBLINGS + 1):
        head, curve = train(card.model_copy(update={"epochs": epochs}))
        state = convergence(curve)
        if state["converged"] or doubling == DOUBLINGS:
            break
        epochs *= 2
    return head, curve, {**state, "epochs": epochs}


HELD_OUT = 0.1  # of the training images, at least one
HELD_OUT_RULE = (
    f"on {HELD_OUT:.0%} of the training images, left out of it, a head trained twice as long lowers the loss by at most "
    f"{SHARE:.0%} of its whole fall, from the untrained head's; the head is then trained on all of them"
)


def held_out(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images that are trained on, images that are left out), each in rising order. Raises LevlError for fewer than two."""
    if images < 2:
        raise LevlError("one training image leaves none to hold out; give more, or set `until: epochs`")
    count = max(1, round(HELD_OUT * images))
    order = np.random.default_rng([seed, images]).permutation(images)
    return np.sort(order[count:]), np.sort(order[:count])


def epochs_by_held_out(card: Budget, per_epoch: int, loss: Callable[[int], float]) -> tuple[int, dict[str, object]]:
    """The fewest epochs that twice as many do not improve on, and what the notes say: {"rule", "value", "converged", "tried"}.

    The loss that falls for ever on what a head is trained on, as a large head's on few tokens does, cannot tell when to stop; that
    on images it has not seen can. loss: epochs -> the mean loss on held-out images of a head trained for them, 0: not trained.
    Starts at the card's epochs or at STEPS steps, whichever is more; value: the share of the loss's whole fall that the second half
    of the longest training brought, below zero where it rose; not converged where it is above SHARE after DOUBLINGS times.
    """
    epochs = max(card.epochs, math.ceil(STEPS / max(1, per_epoch)))
    tried = [(0, loss(0)), (epochs, loss(epochs))]
    for _ in range(DOUBLINGS):
        tried.append((2 * tried[-1][0], loss(2 * tried[-1][0])))
        fall = tried[-2][1] - tried[-1][1]
        whole = max(tried[0][1] - tried[-1][1], fall, 0.0)
        gain = fall / whole if whole > 0 else 0.0
        if gain <= SHARE:
            break
    enough = gain <= SHARE
    notes = {"rule": HELD_OUT_RULE, "value": round(gain, 5), "converged": enough, "tried": [[e, round(v, 5)] for e, v in tried]}
    return tried[-2 if enough else -1][0], notes
