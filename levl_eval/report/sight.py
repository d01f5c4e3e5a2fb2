"""Shares of sight in tables: (value - floor) / (ceiling - floor), from the score without the image to the oracle's.

The ceiling of a row is its column of an oracle (backbones.oracle) that tells everything of every patch, of several the one that
scores best: a head need not read more where it is told more. Where none was run, it is the one that ships beside the synthetic
scenes (assets/ceilings.json, made by tools.ceilings) if it was measured under this row's comparison hash: same protocol, precision
and data by content. Nothing else has a ceiling.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

from levl_eval.cards.registry import ASSETS
from levl_eval.core.json_types import object_at
from levl_eval.metrics.catalogue import metric_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.sight import share_of_gains
from levl_eval.records import Record
from levl_eval.report.results import Results, Row, RowKey
from levl_eval.report.units import interval

ORACLES = frozenset({"scene", "attributes", "classes"})  # what they tell
_ASKED_FOR = {  # of one thing alone, by the engine that asks for it: goes before the others
    "correspondence": ("parts",),
    "depth": ("geometry",),
    "depth-recipe": ("geometry",),
    "normals": ("geometry",),
    "multiview": ("parts",),
}
# of engines; the first that a record holds is its row's
FLOORS = ("text_only", "majority_map", "mean_map", "majority", "same_position", "first_mask", "chance")
SHIPPED = ASSETS / "ceilings.json"
SHARE = metric_of("accuracy")  # a share is formatted like it: a fraction, shown in percent


@dataclass(frozen=True)
class Ceiling:
    """name: of the oracle. value, room: its main metric and what of it lies above the floor. records: [] for a shipped one."""

    name: str
    value: Estimate
    room: Estimate
    records: tuple[Record, ...] = ()


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Over seeds: of values and of errors, as the seeds see the same images."""

    def mean(values: Sequence[float | None]) -> float | None:
        return None if None in values else math.fsum(v for v in values if v is not None) / len(values)

    first = estimates[0]
    ends = {k: mean([getattr(e, k) for e in estimates]) for k in ("value", "stderr", "low", "high")}
    return first.model_copy(update=ends)


def is_of_main(record: Record, floor: str) -> bool:
    """Whether a floor ("text_only", "mean_map/rmse") is of the record's main metric: that one less the gain over the floor.

    Engines measure most floors by one metric; under another main metric that a user chose (``--set pope.main_metric=f1``) they
    are no floor.
    """
    parts = [record.metrics.get(k) for k in (record.main_metric, f"floor_{floor}", f"gain_over_{floor}")]
    values = [e.value for e in parts if e is not None]
    return len(values) == 3 and math.isclose(values[0], values[1] + values[2], rel_tol=0, abs_tol=1e-6)


def gain_over_floor(records: Sequence[Record]) -> Estimate | None:
    """A cell's main metric less the floor that its records hold, over seeds; None where they hold none of that metric."""
    main = records[0].main_metric
    for name in FLOORS:
        for floor in (f"{name}/{main}", name):
            if all(is_of_main(r, floor) for r in records):
                return _mean([r.metrics[f"gain_over_{floor}"] for r in records])
    return None


def oracle_of(record: Record) -> str:
    """What a complete oracle knows ("classes", "attributes"); "" for other backbones and for partial oracles."""
    info = object_at(object_at(record.backbone, "info"), "oracle")
    whole = info.get("keep") == 1.0 and info.get("noise") == 0.0
    return str(info.get("kind")) if whole else ""


@cache
def shipped() -> Mapping[tuple[str, str], Ceiling]:
    """(task, comparison hash) -> the ceiling that ships for it."""
    if not SHIPPED.is_file():
        return {}
    entries = json.loads(SHIPPED.read_text(encoding="utf-8"))["ceilings"]
    return {
        (e["task"], e["comparison_hash"]): Ceiling(
            e["backbone"], Estimate.model_validate(e["value"]), Estimate.model_validate(e["room"])
        )
        for e in entries
    }


# A row has one ceiling, asked for by every record of it: looking through its columns each time would grow with their square.
_CEILINGS: WeakKeyDictionary[Results, dict[RowKey, Ceiling | None]] = WeakKeyDictionary()


def ceiling_of(results: Results, row: Row) -> Ceiling | None:
    """The ceiling of a row (the module's text says which); looked for once."""
    known = _CEILINGS.setdefault(results, {})
    if row.key not in known:
        known[row.key] = _ceiling(results, row)
    return known[row.key]


def _ceiling(results: Results, row: Row) -> Ceiling | None:
    asked_for = _ASKED_FOR.get(row.any.engine, ())
    special: list[Ceiling] = []
    general: list[Ceiling] = []
    for name, cell in row.cells.items():
        kind = oracle_of(cell.records[0]) if cell.records else ""
        room = gain_over_floor(cell.records) if kind in ORACLES or kind in asked_for else None
        if room is not None:
            ceiling = Ceiling(name, results.summary(row, name).estimate, room, cell.records)
            (special if kind in asked_for else general).append(ceiling)
    if not special and not general:
        return shipped().get(row.key)
    sign = -1 if metric_of(row.any.main_metric).lower_is_better else 1
    return max(special or general, key=lambda c: sign * c.value.value)


def share_of_sight(results: Results, row: Row, name: str) -> Estimate | None:
    """(backbone - floor) / (ceiling - floor) of a cell's main metric, with its 95% interval over images; None where it is not defined.

    Oracles have none: they are what others are measured by.
    """
    cell = row.cells.get(name)
    if cell is None or not cell.records:
        return None
    return _share(results, row, cell.records)


def share_of_record(results: Results, row: Row, record: Record) -> Estimate | None:
    """:func:`share_of_sight` of one seed's record."""
    return _share(results, row, (record,))


def _share(results: Results, row: Row, records: Sequence[Record]) -> Estimate | None:
    if object_at(records[0].backbone, "info").get("oracle"):
        return None
    ceiling, gain = ceiling_of(results, row), gain_over_floor(records)
    if ceiling is None or gain is None:
        return None
    difference, room = None, ceiling.room
    if ceiling.records:
        seeds = {r.seed for r in records}
        same = [r for r in ceiling.records if r.seed in seeds]
        if len(same) == len(records):
            room = gain_over_floor(same) or room
            difference = results.paired_difference(records, same)
    return share_of_gains(gain, room, difference)


def share_text(e: Estimate | None) -> str:
    """``8.9 [7.1, 10.6]``: percent of the way."""
    return "" if e is None else interval(e.value, e.low, e.high, SHARE)


def ceiling_notes(results: Results, rows: Sequence[Row]) -> list[str]:
    """What shares are of, where the ceiling is no column of the table."""
    out = []
    for row in rows:
        ceiling = ceiling_of(results, row)
        if ceiling is not None and not ceiling.records:
            value = interval(ceiling.value.value, ceiling.value.low, ceiling.value.high, row.kind)
            out.append(
                f"{row.title}: ceiling {value}, {ceiling.name}, measured once for this protocol and data (assets/ceilings.json)"
            )
    return out


def doses(results: Results) -> list[tuple[str, str, list[tuple[float, Estimate]]]]:
    """(row, kind of oracle, [(share of patches known, score)] by rising share) where at least two doses were run; fractions only.

    Scores are in percent, with their 95% intervals.
    """
    out = []
    for row in results.rows:
        by_kind: dict[str, list[tuple[float, Estimate]]] = {}
        for name, cell in row.cells.items():
            info = object_at(object_at(cell.any.backbone, "info"), "oracle")
            keep = info.get("keep")
            if cell.records and isinstance(keep, (int, float)) and info.get("noise") == 0.0 and row.kind.factor == 100.0:
                e = results.summary(row, name).estimate
                ends = {k: None if v is None else 100 * v for k, v in (("low", e.low), ("high", e.high))}
                scaled = e.model_copy(update={"value": 100 * e.value, **ends})
                by_kind.setdefault(str(info.get("kind")), []).append((float(keep), scaled))
        out += [(row.title, kind, sorted(p, key=lambda x: x[0])) for kind, p in by_kind.items() if len(p) > 1]
    return out
