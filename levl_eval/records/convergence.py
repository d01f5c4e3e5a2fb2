"""Whether the head or connector of a record had converged."""

from __future__ import annotations

from collections.abc import Mapping

from levl_eval.records.record import Record

# Of the whole fall of the loss, what may still have happened between the last two quarters of the curve, or come of twice the training
# on held-out images (engines.convergence, whose versions of both rules are raised with it).
SHARE = 0.01
# What a noisy curve may still have fallen by without one being able to tell. At 5 % connectors counted as trained out whose loss still
# fell by 3.9 and 4.9 % of its whole fall, and which four times the steps moved by 5 and 6 points (results/scenes, the same length
# in one run).
UNTOLD = 0.02
_VALUE = "mean loss of the third quarter of the curve less that of the last, as a share of the whole fall,"
RULE = (
    f"{_VALUE} is at most {SHARE:g}, or at most "
    f"{UNTOLD:g} and within two standard errors of 0 (of any size where the whole fall is within four)"
)


def converged(record: Record) -> bool | None:
    """The record's note ``converged``, of one head or of several; None if there is none.

    What an earlier, milder rule called converged is judged again by the value it noted.
    """

    def flag(value: object) -> bool | None:
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, dict):
            value = [value["converged"] and not _too_mild(value)] if "converged" in value else list(value.values())
        if isinstance(value, list):
            flags = [flag(v) for v in value]
            return False if False in flags else True if flags and None not in flags else None
        return None

    return flag(record.notes.get("converged"))


def _too_mild(note: Mapping[str, object]) -> bool:
    """Whether a curve was judged by an earlier form of the rule, and its value would not pass today's."""
    value, rule = note.get("value"), str(note.get("rule"))
    return rule.startswith(_VALUE) and rule != RULE and isinstance(value, (int, float)) and value > UNTOLD
