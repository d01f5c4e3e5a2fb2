"""Numbers of the paper, each with its source and grade, and measured results beside them. Read from `results/published/*.csv`.

They are never mixed with measured rows: their protocols are not known in full (the `note` says what is missing).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from levl_eval.errors import UsageError
from levl_eval.registry import card_folder
from levl_eval.report.results import Results, Row
from levl_eval.report.units import factor


@dataclass(frozen=True)
class Published:
    """One published number. kind: "value" or "gain" (points over a baseline without sight). grade: official | second-hand."""

    table: str
    task: str
    metric: str
    backbone: str
    kind: str
    llm: str
    value: float  # percent or points, as printed
    tolerance: float  # points within which a reproduction counts as the same
    grade: str
    source: str
    note: str


def folder() -> Path:
    """`results/published` of a checkout, or its copy inside an installed package."""
    cards = card_folder("tasks").parent
    inside = cards / "published"
    return inside if inside.is_dir() else cards / "results" / "published"


@cache
def load_published() -> tuple[Published, ...]:
    """Every published number, in order of file and line. Raises UsageError naming file and line of what cannot be read."""
    out = []
    for path in sorted(folder().glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as f:
            for number, line in enumerate(csv.DictReader(f), 2):
                try:
                    out.append(Published(**{**line, "value": float(line["value"]), "tolerance": float(line["tolerance"])}))  # type: ignore[arg-type]
                except (TypeError, KeyError, ValueError) as e:
                    raise UsageError(f"{path}: line {number} is not a published number ({e})") from e
    return tuple(out)


def as_rows(numbers: Sequence[Published]) -> list[dict[str, Any]]:
    """As rows of the long table (tables.COLUMNS), status "published"; gains stand in the column `gain`."""
    return [
        {
            "task": p.task,
            "metric": p.metric,
            "main": 1,
            "backbone": p.backbone,
            "gain" if p.kind == "gain" else "value": f"{p.value:.4f}",
            "llm": p.llm,
            "status": "published",
            "reason": f"{p.source} ({p.grade}); {p.note}",
        }
        for p in numbers
    ]


@dataclass(frozen=True)
class Check:
    """A measured number beside a published one, in percent or points."""

    published: Published
    backbone: str  # as measured
    measured: float
    low: float | None
    high: float | None

    @property
    def difference(self) -> float:
        return self.measured - self.published.value

    @property
    def within(self) -> bool:
        return abs(self.difference) <= self.published.tolerance + 1e-9


def who(name: str, uri: str, named: dict[str, str]) -> str | None:
    """The paper's name of a measured backbone: as the user says, or where it is one of the matched checkpoints."""
    if name in named:
        return named[name]
    text = f"{name} {uri}".lower()
    if "datacomp" not in text:
        return None  # another training, so no published number belongs to it
    for known, words in (("LeVLJEPA", ("levljepa",)), ("InfoNCE", ("infonce",)), ("SigLIP", ("siglip",))):
        if any(w in text for w in words):
            return known
    return None


def _measured(results: Results, row: Row, backbone: str, p: Published) -> tuple[float, float | None, float | None] | None:
    if p.kind == "gain":
        e = results.gain(row, backbone) if p.metric == row.metric else None
    else:
        try:
            e = results.summary(row, backbone, p.metric).estimate
        except KeyError:
            e = None
    if e is None:
        return None
    scale = factor(p.metric)
    return e.value * scale, *(x * scale if x is not None else None for x in (e.low, e.high))  # type: ignore[return-value]


def against_paper(results: Results, named: dict[str, str] | None = None) -> list[Check]:
    """Every measured result that a published number exists for. named: measured backbone -> the paper's name of it."""
    out = []
    for row in results.rows:
        for name, cell in row.cells.items():
            if not cell.records:
                continue
            known = who(name, str(cell.any.backbone.get("uri", "")), named or {})
            llm = str(cell.any.protocol.get("llm", "")).lower()
            for p in load_published():
                same_llm = not p.llm or p.llm.split("-")[0].lower() in llm
                if p.backbone == known and p.task == row.task and same_llm:
                    found = _measured(results, row, name, p)
                    if found is not None:
                        out.append(Check(p, name, *found))
    return out
