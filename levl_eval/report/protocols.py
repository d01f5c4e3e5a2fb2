"""Protocols as tables: what made a task's numbers, field by field, and where the tasks of a report differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from levl_eval.core.hashing import canonical
from levl_eval.records.samples import finite
from levl_eval.report.provenance import flat
from levl_eval.report.results import Row

_OWN = ("name",)  # names the task itself


@dataclass(frozen=True)
class Field:
    """A field of a task's protocol. others: (task, value) of tasks that have the field too, with another value."""

    name: str
    value: str
    others: list[tuple[str, str]]


@dataclass(frozen=True)
class Shared:
    """A field that several tasks have. values: one text per task, None where it has no such field.

    differs: whether they are not all equal.
    """

    name: str
    values: list[str | None]
    differs: bool


def value_text(value: object) -> str:
    """A protocol's or record's value for people."""
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return str(value)


def _fields(row: Row) -> dict[str, object]:
    return {k: v for k, v in flat(row.any.protocol).items() if k not in _OWN}


def _key(value: object) -> str:
    return str(canonical(finite(value)))


def of_row(row: Row, rows: Sequence[Row]) -> list[Field]:
    """The whole protocol of a task, each field with the other tasks' values."""
    others = [(r.title, _fields(r)) for r in rows if r.key != row.key]
    return [
        Field(k, value_text(v), [(t, value_text(f[k])) for t, f in others if k in f and _key(f[k]) != _key(v)])
        for k, v in _fields(row).items()
    ]


def shared(rows: Sequence[Row]) -> list[Shared]:
    """Fields that at least two tasks have, those that differ first."""
    each = [_fields(r) for r in rows]
    names = [k for k in dict.fromkeys(k for f in each for k in f) if sum(k in f for f in each) > 1]
    out = [
        Shared(k, [value_text(f[k]) if k in f else None for f in each], len({_key(f[k]) for f in each if k in f}) > 1)
        for k in names
    ]
    return sorted(out, key=lambda s: not s.differs)
