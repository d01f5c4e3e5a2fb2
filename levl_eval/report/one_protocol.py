"""Protocols that are written in two ways and come to one: what a card leaves to the backbone, set to the same, or a field that is not read.

`size: null` and `size: 64` are two protocols, as another backbone's own size is another one; of a backbone of 64 pixels they are the same
measurement, made twice. A specification curve, and a claim's share of the protocols in which it holds, count such a measurement once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from levl_eval.cards import parse_card
from levl_eval.cards.unread import passed_over
from levl_eval.core.errors import LevlError
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import object_at
from levl_eval.records import Record
from levl_eval.report.provenance import comparison_fields

# Fields that a backbone may resolve to what another value of theirs says.
_RESOLVED = ("size", "layers", "readout", "window", "stride", "multiple", "crop", "short", "score_size", "resolved")


def _fields(record: Record) -> dict[str, object]:
    """What must be equal within a row, without fields that the engine passes over."""
    fields = comparison_fields(record)
    try:
        unread = set(passed_over(parse_card(record.card, record.key)))
    except LevlError:  # of another version
        return fields
    return {k: v for k, v in fields.items() if not any(f"{k}.".startswith(f"{u}.") for u in unread)}


def _as_resolved(record: Record, fields: Mapping[str, object]) -> dict[str, object]:
    """The fields with the input's side in the place of null, and blocks counted from the first."""
    out = dict(fields)
    if "size" in out and out["size"] is None:
        out["size"] = object_at(record.backbone, "preprocess").get("size")
    layers, depth = out.get("layers"), object_at(object_at(record.backbone, "info"), "architecture").get("depth")
    if isinstance(layers, list) and isinstance(depth, int) and depth:
        out["layers"] = [n % depth if isinstance(n, int) else n for n in layers]
    return out


def _answers(record: Record) -> object:
    """What tells a record's answers from others': their hash, with all metrics."""
    samples = None if record.samples is None else record.samples.sha256
    return samples and [samples, {k: [e.value, e.low, e.high] for k, e in sorted(record.metrics.items())}]


@dataclass(frozen=True)
class _Measured:
    """A record's fields with those that its backbone resolves, the fields that no backbone resolves, and its answers."""

    resolved: Mapping[str, object]
    others: Mapping[str, object]
    answers: object

    @classmethod
    def of(cls, record: Record) -> _Measured:
        fields = _fields(record)
        others = {k: v for k, v in fields.items() if k.partition(".")[0] not in _RESOLVED}
        return cls(_as_resolved(record, fields), others, _answers(record))

    def comes_to(self, other: _Measured) -> bool:
        """Whether all fields as resolved are equal; or those are that no backbone resolves, and so are all answers."""
        if self.resolved == other.resolved:
            return True
        return self.others == other.others and bool(self.answers) and self.answers == other.answers


# Of a protocol: a record's preprocessing, weights, name and seed -> what it is.
_Side = dict[tuple[str, str, str, int], _Measured]


def _side(records: Sequence[Record]) -> _Side:
    return {(digest(r.backbone.get("preprocess")), r.weights, r.backbone_name, r.seed): _Measured.of(r) for r in records}


def _comes_to_one(a: _Side, b: _Side) -> bool:
    """Whether two protocols of a task are one for the backbones of their records."""
    return a.keys() == b.keys() and all(one.comes_to(b[key]) for key, one in a.items())


def repeated(protocols: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """Protocols, by any key, that come to the same as an earlier one: key -> the first one's.

    protocols: with the records of all backbones concerned under each, which must be of one task.
    """
    if len(protocols) < 2:
        return {}
    first: dict[str, _Side] = {}
    out = {}
    for key, records in protocols.items():
        side = _side(records)
        same = next((f for f, of_first in first.items() if _comes_to_one(of_first, side)), None)
        if same is None:
            first[key] = side
        else:
            out[key] = same
    return out
