"""Whether a head or connector is the limit of a score: by training of another length where one was run, else by its loss curve.

A loss on what is trained on falls for as long as examples are learnt by heart, so that its curve alone can keep calling a connector
unfinished whose score no longer moves. What matters is the score: training of at least twice the length (`--budget x2`) settles it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from levl_eval.cards.budget import budget_in
from levl_eval.core.hashing import canonical
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record
from levl_eval.records.convergence import converged
from levl_eval.records.samples import finite
from levl_eval.report.provenance import comparison_fields, flat

FACTOR = 2.0
RULE = (
    f"training of at least {FACTOR:g} times the length, or where none was run of at most 1/{FACTOR:g}, changes the main metric by nothing "
    "significant, paired over images, in an interval no wider than the score's own"
)

Difference = Callable[[Sequence[Record], Sequence[Record]], Estimate | None]  # left less right, paired over images


@dataclass(frozen=True)
class Lengths:
    """Records of one task that differ only in how long something was trained. field: of the protocol; examples: by rising length."""

    field: str
    examples: tuple[tuple[float, Record], ...]


@dataclass(frozen=True)
class Effect:
    """What training for ``many`` instead of ``few`` (values of ``field``) did to a score.

    held: whether the score stayed by :data:`RULE`; None where the interval is too wide to tell.
    """

    field: str
    few: float
    many: float
    change: Estimate
    held: bool | None


def lengths(examples: Sequence[Record]) -> list[Lengths]:
    """Groups of at least two among records of several protocols, one record each. Order as given."""
    groups: dict[tuple[str, str, str], list[tuple[float, Record]]] = {}
    for record in examples:
        budget = budget_in(flat(record.protocol))
        if budget is not None:
            rest = {k: v for k, v in comparison_fields(record).items() if k != budget[0]}
            groups.setdefault((record.task, budget[0], str(canonical(finite(rest)))), []).append((budget[1], record))
    return [
        Lengths(field, tuple(sorted(members, key=lambda x: x[0])))
        for (_, field, _), members in groups.items()
        if len(members) > 1
    ]


def effect(field: str, of_encoder: Mapping[float, Sequence[Record]], at: float, difference: Difference) -> Effect | None:
    """Of the longest training on the score of the one of length ``at``, or of that one over the next shorter;
    None: none is or can be paired.

    of_encoder: one encoder's records by length, a record a seed.
    """
    longer, shorter = [v for v in of_encoder if v >= FACTOR * at], [v for v in of_encoder if v <= at / FACTOR]
    if not longer and not shorter:
        return None
    few, many = (at, max(longer)) if longer else (max(shorter), at)
    change = difference(of_encoder[many], of_encoder[few])
    if change is None or change.low is None or change.high is None:
        return None
    return Effect(field, few, many, change, _held(change, of_encoder[at]))


def effect_among(
    groups: Sequence[Lengths], runs: Mapping[str, Sequence[Record]], protocol: str, difference: Difference
) -> Effect | None:
    """:func:`effect` on an encoder's score under a protocol; None where no other length of it was run.

    groups: of the task's protocols; runs: the encoder's records on the task by comparison hash, as ``protocol`` is one.
    """
    for group in groups:
        of_encoder = {v: runs[r.comparison_hash] for v, r in group.examples if runs.get(r.comparison_hash)}
        at = next((v for v, r in group.examples if r.comparison_hash == protocol), None)
        if at in of_encoder:
            return effect(group.field, of_encoder, at, difference)
    return None


def _held(change: Estimate, records: Sequence[Record]) -> bool | None:
    assert change.low is not None and change.high is not None
    if not change.low <= 0 <= change.high:
        return False
    own = [r.metrics[r.main_metric] for r in records]
    widths = [e.high - e.low for e in own if e.low is not None and e.high is not None]
    return True if len(widths) == len(own) and change.high - change.low <= min(widths) else None


def trained_out(record: Record, length_effect: Effect | None) -> bool | None:
    """Whether a record's head or connector was not the limit: by what another length did to its score, else by its loss curve."""
    return length_effect.held if length_effect is not None and length_effect.held is not None else converged(record)
