"""Numbers of the paper, each with its source and grade, and measured results beside them. Read from `results/published/*.csv`.

They are never mixed with measured rows: their protocols are not known in full (the `note` says what is missing).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from levl_eval.cards.registry import card_folder
from levl_eval.core.errors import UsageError
from levl_eval.data.published import POPE_WHOLE
from levl_eval.metrics.catalogue import metric
from levl_eval.records import Record
from levl_eval.report.provenance import published_set, source_word, trained_on_scenes
from levl_eval.report.reference import is_baseline
from levl_eval.report.results import Results, Row
from levl_eval.report.tables import TableRow


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


def as_rows(numbers: Sequence[Published]) -> list[TableRow]:
    """As rows of the long table (tables.COLUMNS), status "published"; gains are in the column `gain`."""
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
    """The paper's name of a measured backbone: given by the user, or known for the matched checkpoints."""
    if name in named:
        return named[name]
    text = f"{name} {uri}".lower()
    if "datacomp" not in text:
        return None  # another training, so no published number belongs to it
    for known, words in (("LeVLJEPA", ("levljepa",)), ("InfoNCE", ("infonce",)), ("SigLIP", ("siglip",))):
        if any(w in text for w in words):
            return known
    return None


@dataclass(frozen=True)
class Refused:
    """A measured number that a published one exists for, but that was not measured on what the paper's was."""

    published: Published
    backbone: str  # as measured
    missing: tuple[str, ...]


def missing_for_paper(record: Record) -> tuple[str, ...]:
    """What a record lacks for a comparison with a published number: the complete published test set in the paper's split.

    () for nothing.
    """
    out = []
    source, known = source_word(record), published_set(record)
    if source == "scenes":
        out.append("measured on synthetic scenes, not on the published set")
    elif not known:
        out.append("its test data are not recognised as a published set, whole and unchanged")
    elif not known.startswith(paper_set(record.task)):
        out.append(f"its test set is {known}, the paper's is {paper_set(record.task)}")
    if trained_on_scenes(record):
        out.append("run on --data scenes, so what it trained on may be the synthetic scenes")
    if record.limit is not None:
        out.append(f"limited to {record.limit:,} test images")
    if not record.identity_hash:
        out.append("a record of schema 1, which does not say what its data were; run the task again")
    return tuple(out)


# How the names of the published sets begin (data/published.py) that the paper's tasks are tested on; those of HEAD@SET by their set.
PAPER_SETS = {
    "gqa": "GQA 1.2 testdev_balanced", "vqav2": "VQAv2 val2014", "pope": POPE_WHOLE, "ade20k": "ADE20K validation",
    "nyuv2": "NYU Depth V2 labelled test",
}  # fmt: skip


def paper_set(task: str) -> str:
    """How the name of the test set begins that a published number of ``task`` is on."""
    return PAPER_SETS.get(task) or f"{task.rpartition('@')[2]} test split"


def _measured(results: Results, row: Row, backbone: str, p: Published) -> tuple[float, float | None, float | None] | str:
    """The measured number in percent or points with its interval, or what is missing for it."""
    if p.kind == "gain":
        reference = results.reference(row, backbone)
        if p.metric != row.metric:
            return f"no gain is taken of {p.metric}, only of {row.metric}"
        if reference is None or not is_baseline(row.cells[reference].any):
            return "the published number is a gain over a random-initialised encoder, and its random twin was not run"
        e = results.gain(row, backbone)
        if e is None:
            return f"its gain over {reference} cannot be had from the samples"
    else:
        try:
            e = results.summary(row, backbone, p.metric).estimate
        except KeyError:
            return f"{p.metric} was not measured"
    scale = metric(p.metric).factor
    ends = [None if x is None else x * scale for x in (e.low, e.high)]
    return e.value * scale, ends[0], ends[1]


def against_paper(results: Results, named: dict[str, str] | None = None) -> tuple[list[Check], list[Refused]]:
    """Every measured result that a published number exists for: those that may be compared, and those that may not, with what is missing.

    named: measured backbone -> the paper's name of it.
    """
    checks: list[Check] = []
    refused: list[Refused] = []
    for row in results.rows:
        for name, cell in row.cells.items():
            if not cell.records:
                continue
            known = who(cell.any.backbone_name, str(cell.any.backbone.get("uri", "")), named or {})
            llm = cell.any.llm.lower()
            for p in load_published():
                same_llm = not p.llm or p.llm.split("-")[0].lower() in llm
                if p.backbone != known or p.task != row.task or not same_llm:
                    continue
                missing = tuple(dict.fromkeys(m for r in cell.records for m in missing_for_paper(r)))
                measured = _measured(results, row, name, p)
                if isinstance(measured, str):
                    missing = (*missing, measured)
                if missing or isinstance(measured, str):
                    refused.append(Refused(p, name, missing))
                else:
                    checks.append(Check(p, name, *measured))
    return checks, refused
