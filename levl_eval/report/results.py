"""The records of one or several run directories, grouped for tables: one row per (task, comparison), one cell per backbone.

Records share a row only where protocol, precision and the data of training, validation and test are equal
(``Record.comparison_hash``), and a cell only where they are of one encoder (labels.py). Seeds of one backbone share a cell: its
value is their mean, its interval the sampling of test images, and the spread between seeds is kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from levl_eval.core.errors import LevlError
from levl_eval.metrics.catalogue import Metric, metric_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate, within
from levl_eval.records import Record
from levl_eval.records.scores import Scores
from levl_eval.report.derived import Derived
from levl_eval.report.labels import label_columns
from levl_eval.report.paired import Paired, mean_iou_over_seeds, pair
from levl_eval.report.provenance import data_words, marks
from levl_eval.report.reading import read_directories
from levl_eval.report.reference import is_baseline, reference_of, resolve_reference
from levl_eval.report.trained_out import Effect, Lengths, effect_among, lengths

RowKey = tuple[str, str]  # task, comparison hash


def entry_of(record: Record, name: str) -> Metric:
    """The catalogue's entry of one of a record's metrics."""
    return metric_of(name, record.engine, record.notes)


@dataclass(frozen=True)
class Cell:
    """One backbone on one row. records: one per seed, in order of seed; empty where every seed failed. failed: the failed ones."""

    backbone: str
    records: tuple[Record, ...]
    failed: tuple[Record, ...] = ()

    @property
    def any(self) -> Record:
        return (self.records or self.failed)[0]

    @property
    def baseline(self) -> bool:
        return is_baseline(self.any)


@dataclass(frozen=True)
class Summary:
    """A metric of a cell. estimate: mean over seeds, with the interval of sampling test images; seed_sd: spread between seeds."""

    estimate: Estimate
    seeds: int
    seed_sd: float | None


@dataclass(frozen=True)
class Row:
    """One task under one protocol on the same data;
    ``mark`` says in which fields it differs from other rows of the task ('' for a single row)."""

    task: str
    metric: str
    key: RowKey
    mark: str
    cells: dict[str, Cell]

    @property
    def title(self) -> str:
        return f"{self.task} {self.mark}".rstrip()

    @cached_property
    def records(self) -> list[Record]:
        """All of its records, failed ones last in each cell."""
        return [r for c in self.cells.values() for r in (*c.records, *c.failed)]

    @cached_property
    def any(self) -> Record:
        """A finished record where there is one: it knows protocol and data."""
        return next((r for r in self.records if r.status == "done"), self.records[0])

    @cached_property
    def kind(self) -> Metric:
        """The catalogue's entry of the main metric."""
        return entry_of(self.any, self.metric)

    @property
    def data(self) -> str:
        """What its data are, in a line."""
        return data_words(self.records)


class Results:
    """Grouped records. Differences are computed once and kept, as tables, CSV and report all want them; :meth:`save` keeps them for later.

    derived: what is kept in the run directories (derived.py); None: nothing is read or written there but records and samples.
    reference: what gains are over (reference.py); None: each backbone's own random twin. damaged: a line on each file that was left out.
    Raises UsageError for a reference that is not among the records.
    """

    def __init__(
        self, records: Sequence[Record], say: Callable[[str], None] = lambda text: None, *,
        reference: str | None = None, damaged: Sequence[str] = (), derived: Derived | None = None,
    ) -> None:  # fmt: skip
        self.records = self._distinct(records, say)
        self.damaged = list(damaged)
        for line in self.damaged:
            say(f"left out: {line}")
        self._derived = derived or Derived(writes=False)
        self._differences: dict[tuple[RowKey, str, str], Estimate | None] = {}
        self._references: dict[tuple[RowKey, str], str | None] = {}
        self._unpaired: dict[str, None] = {}
        self._summaries: dict[tuple[RowKey, str, str], Summary] = {}
        self._effects: dict[tuple[RowKey, str], Effect | None] = {}
        columns = {self.label(r): r.backbone_name for r in self.records}
        self.named = resolve_reference(reference, list(columns), columns) if reference is not None else None

    @classmethod
    def read(
        cls, directories: Sequence[str | Path], say: Callable[[str], None] = lambda text: None, *,
        reference: str | None = None, also: Sequence[Record] = (),
    ) -> Results:  # fmt: skip
        """also: records in memory that take precedence over those read (of the run that has just ended).

        Damaged files are left out and reported. Raises UsageError for a directory without whole records.
        """
        derived = Derived()
        directory_records = read_directories(directories, empty=bool(also), derived=derived)
        return cls(
            [*also, *directory_records.records], say, reference=reference, damaged=directory_records.damaged, derived=derived
        )

    def save(self) -> None:
        """Keep what was computed in the run directories, where they can be written."""
        self._derived.save()

    @staticmethod
    def _distinct(records: Sequence[Record], say: Callable[[str], None]) -> list[Record]:
        """One record an identity, the first; a failed one only where no finished one is of the same work."""
        kept: dict[tuple[str, ...], Record] = {}
        done: set[tuple[str, ...]] = set()
        for r in records:
            if r.status == "done":
                done.add(_work(r))
            at = (r.identity_hash or r.key, r.comparison_hash if r.status == "done" else r.status)
            if at in kept:
                if kept[at].metrics != r.metrics:
                    say(f"{r.key}: {kept[at].home} and {r.home} have it with different values; the first is shown")
                continue
            kept[at] = r
        return [r for r in kept.values() if r.status == "done" or _work(r) not in done]

    @cached_property
    def _keys(self) -> dict[int, RowKey]:
        """``id`` of a record -> its row; a failed one, which does not know its data, joins the first row of its protocol."""
        out = {id(r): (r.task, r.comparison_hash) for r in self.records if r.status == "done"}
        first: dict[tuple[str, str], RowKey] = {}
        for r in self.records:
            if r.status == "done":
                first.setdefault((r.task, r.protocol_hash), out[id(r)])
        for r in self.records:
            if r.status != "done":
                out[id(r)] = first.setdefault((r.task, r.protocol_hash), (r.task, r.comparison_hash))
        return out

    @cached_property
    def _labels(self) -> dict[int, str]:
        return label_columns(self.records, lambda r: self._keys[id(r)])

    def label(self, record: Record) -> str:
        """Name of a record's column: the backbone's, with what distinguishes encoders of one name."""
        return self._labels[id(record)]

    @cached_property
    def backbones(self) -> list[str]:
        """Column names in order of appearance, random-initialised baselines last."""
        cells = {self.label(r): is_baseline(r) for r in self.records}
        return sorted(cells, key=lambda name: cells[name])

    @cached_property
    def rows(self) -> list[Row]:
        groups: dict[RowKey, list[Record]] = {}
        for r in sorted(self.records, key=lambda r: r.status != "done"):
            groups.setdefault(self._keys[id(r)], []).append(r)
        out = []
        for task in dict.fromkeys(r.task for r in self.records):
            keys = [k for k in groups if k[0] == task]
            for key, mark in zip(keys, marks([groups[k][0] for k in keys]), strict=True):
                by_name: dict[str, list[Record]] = {}
                for r in groups[key]:
                    by_name.setdefault(self.label(r), []).append(r)
                cells: dict[str, Cell] = {}
                for name in self.backbones:
                    if mine := by_name.get(name):
                        done = sorted((r for r in mine if r.status == "done"), key=lambda r: r.seed)
                        cells[name] = Cell(name, tuple(done), tuple(r for r in mine if r.status != "done"))
                out.append(Row(task, groups[key][0].main_metric, key, mark, cells))
        return out

    def scores(self, record: Record) -> Scores:
        """What tables need of a record's samples. Raises UsageError where they are missing, damaged or an id occurs twice."""
        return self._derived.scores(record)

    def _pair(self, left: Sequence[Record], right: Sequence[Record]) -> Paired | None:
        """Both sides on their common items; None where the samples do not allow it, which :meth:`notes` then reports."""
        try:
            return pair([(r, self.scores(r)) for r in left], [(r, self.scores(r)) for r in right])
        except LevlError as e:
            self._unpaired[f"{left[0].task}: no difference of {self.label(left[0])} and {self.label(right[0])}: {e}"] = None
            return None

    def _difference(self, left: Sequence[Record], right: Sequence[Record]) -> Estimate | None:
        def compute() -> Estimate | None:
            paired = self._pair(left, right)
            return paired.difference() if paired is not None else None

        return self._derived.estimate("difference", (left, right), compute)

    def paired_difference(self, left: Sequence[Record], right: Sequence[Record]) -> Estimate | None:
        """left - right, a record a seed on each side, paired over images; None where the samples do not allow it."""
        return self._difference(left, right)

    def difference(self, row: Row, a: str, b: str) -> Estimate | None:
        """a - b of the main metric, paired, over images; None where it cannot be had: no record of one, or samples that do not allow it."""
        key = (row.key, a, b)
        if key not in self._differences:
            left, right = row.cells.get(a), row.cells.get(b)
            both = left and right and left.records and right.records
            self._differences[key] = self._difference(left.records, right.records) if left and right and both else None
        return self._differences[key]

    @cached_property
    def lengths(self) -> list[Lengths]:
        """Rows, each by its :attr:`Row.any`, that differ only in how long a head or connector was trained."""
        return lengths([row.any for row in self.rows])

    def effect_of_length(self, row: Row, backbone: str) -> Effect | None:
        """What training of another length did to a cell's score; None where none was run."""
        key = (row.key, backbone)
        if key not in self._effects:
            groups = [g for g in self.lengths if g.examples[0][1].task == row.task]
            runs = {r.any.comparison_hash: r.cells[backbone].records for r in self.rows if groups and backbone in r.cells}
            self._effects[key] = effect_among(groups, runs, row.any.comparison_hash, self.paired_difference)
        return self._effects[key]

    def reference(self, row: Row, backbone: str) -> str | None:
        """The column that a backbone's gain is over, None where it has none (reference.py has the rule)."""
        key = (row.key, backbone)
        if key not in self._references:
            self._references[key] = reference_of(
                backbone, {n: c.records[0] for n, c in row.cells.items() if c.records}, self.named
            )
        return self._references[key]

    def gain(self, row: Row, backbone: str) -> Estimate | None:
        """Gain over the reference, the paper's figure where that is the random twin (docs/paper.md)."""
        reference = self.reference(row, backbone)
        return None if reference is None else self.difference(row, backbone, reference)

    def gain_of_record(self, row: Row, backbone: str, record: Record) -> Estimate | None:
        """Gain of one seed's record over the reference's record of the same seed (over its only one where it has one)."""
        reference = self.reference(row, backbone)
        if reference is None:
            return None
        others = row.cells[reference].records
        if len(row.cells[backbone].records) == len(others) == 1:
            return self.gain(row, backbone)
        match = [o for o in others if o.seed == record.seed] or (list(others) if len(others) == 1 else [])
        return self._difference([record], [match[0]]) if match else None

    def gains_over(self, row: Row) -> str:
        """What the gains of a row are over, in words; '' where it has none."""
        over = {n: ref for n in row.cells if (ref := self.reference(row, n)) is not None}
        if len(set(over.values())) == 1:
            return f"gain over {next(iter(over.values()))}"
        return "gain of " + ", ".join(f"{n} over {ref}" for n, ref in over.items()) if over else ""

    def best(self, row: Row) -> str | None:
        """The significantly best backbone: the interval of its paired difference to every other one excludes zero. Else None.

        None also where it is not known of the metric which end is the better one.
        """
        done = {n: self.summary(row, n).estimate.value for n, c in row.cells.items() if c.records}
        if len(done) < 2 or not row.kind.ranked:
            return None
        sign = -1 if row.kind.lower_is_better else 1
        first = max(done, key=lambda n: sign * done[n])
        for other in done:
            if other != first:
                d = self.difference(row, first, other)
                if d is None or d.low is None or d.high is None or (d.low <= 0 if sign > 0 else d.high >= 0):
                    return None
        return first

    def notes(self) -> list[str]:
        """Notes for readers of the tables: files left out, differences that could not be computed
        or are of fewer seeds, unknown metrics."""
        partly = [line for row in self.rows for name in row.cells if (line := self._seeds_of_gain(row, name))]
        strange = {
            (r.task, r.main_metric) for r in self.records if r.status == "done" and entry_of(r, r.main_metric).better == "unknown"
        }
        unknown = [
            f"{t}: metric {m} is not in the catalogue: shown as it is, and which end is better is not known"
            for t, m in sorted(strange)
        ]
        external = ", ".join({self.label(r): None for r in self.records if r.external})
        imported = [f"{external}: predictions of other systems, only scored here"] if external else []
        return [*(f"left out: {line}" for line in self.damaged), *self._unpaired, *partly, *imported, *unknown]

    def _seeds_of_gain(self, row: Row, name: str) -> str:
        """Where a gain is no difference of the two values beside it, as one of them has seeds that the other lacks; "" else."""
        gain, reference = self.gain(row, name), self.reference(row, name)
        if gain is None or reference is None:
            return ""
        mine, theirs = ({r.seed for r in row.cells[n].records} for n in (name, reference))
        if mine == theirs or len(mine) == len(theirs) == 1:
            return ""
        seeds = ", ".join(map(str, sorted(mine & theirs)))
        return (
            f"{row.title}: the gain of {name} over {reference} is of seeds {seeds}, which both have; each value is of all its own"
        )

    def summary(self, row: Row, backbone: str, metric: str | None = None) -> Summary:
        """A metric of a cell over its seeds.

        The main metric's interval is computed from the item scores averaged over seeds; other metrics take the mean of the seeds'
        ends, which is right where the seeds' errors go together (they see the same images) and too wide where not.
        """
        key = (row.key, backbone, metric or row.metric)
        if key not in self._summaries:
            self._summaries[key] = self._summary(row, backbone, key[2])
        return self._summaries[key]

    def _summary(self, row: Row, backbone: str, name: str) -> Summary:
        records = row.cells[backbone].records
        bounds = entry_of(row.any, name).bounds
        each = [within(r.metrics[name], bounds) for r in records if name in r.metrics]
        if not each:
            raise KeyError(name)
        values = np.array([e.value for e in each])
        if len(each) == 1:
            return Summary(each[0], 1, None)
        spread = float(values.std(ddof=1))

        def mean_of(what: Sequence[float | None]) -> float | None:
            return float(np.mean([x for x in what if x is not None])) if all(x is not None for x in what) else None

        estimate = Estimate(
            value=float(values.mean()), stderr=mean_of([e.stderr for e in each]), low=mean_of([e.low for e in each]),
            high=mean_of([e.high for e in each]), n=each[0].n, clusters=each[0].clusters,
            method=f"mean of {len(each)} seeds: {each[0].method}",
        )  # fmt: skip
        if name == row.metric:
            estimate = self._joint(row, backbone) or estimate
        return Summary(estimate, len(each), spread)

    def _joint(self, row: Row, backbone: str) -> Estimate | None:
        records = row.cells[backbone].records

        def compute() -> Estimate | None:
            both = self._pair(records, records)
            if both is None:
                return None
            if both.counted:
                estimate = bootstrap_statistic(both.a.swapaxes(0, 1), mean_iou_over_seeds)
            else:
                estimate = mean_estimate(both.a.mean(0), both.clusters, bounds=row.kind.bounds)
            return estimate.model_copy(update={"method": f"mean of {len(both.seeds)} seeds: {estimate.method}"})

        return self._derived.estimate(f"joint {row.metric} {row.kind.bounds}", (records,), compute)


def _work(record: Record) -> tuple[str, ...]:
    """What a failed record and a later finished one of the same work share."""
    return (record.task, record.backbone_name, record.weights, record.protocol_hash, str(record.seed))
