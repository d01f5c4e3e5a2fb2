"""Protocols that are written in two ways and come to one: what a card leaves to the backbone, set to the same, or a field that is not read.

`size: null` and `size: 64` are two protocols, as another backbone's own size is another one; of a backbone of 64 pixels they are the same
measurement, made twice. A specification curve, and a claim's share of the protocols in which it holds, count such a measurement once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def _comes_to_one(a: Sequence[Record], b: Sequence[Record]) -> bool:
    """Whether two protocols of a task are one for the backbones of their records: all fields as resolved are equal; or those are that no
    backbone resolves, and so are all answers."""
    sides = [{(digest(r.backbone.get("preprocess")), r.weights, r.backbone_name, r.seed): r for r in side} for side in (a, b)]
    if sides[0].keys() != sides[1].keys():
        return False
    for key, one in sides[0].items():
        other = sides[1][key]
        x, y = _fields(one), _fields(other)
        if _as_resolved(one, x) == _as_resolved(other, y):
            continue
        left, right = ({k: v for k, v in f.items() if k.partition(".")[0] not in _RESOLVED} for f in (x, y))
        if left != right or not _answers(one) or _answers(one) != _answers(other):
            return False
    return True


def repeated(protocols: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """Protocols, by any key, that come to the same as an earlier one: key -> the first one's. protocols: with the records of all backbones
    concerned under each, which must be of one task."""
    first: list[str] = []
    out = {}
    for key, records in protocols.items():
        same = next((f for f in first if _comes_to_one(protocols[f], records)), None)
        if same is None:
            first.append(key)
        else:
            out[key] = same
    return out
