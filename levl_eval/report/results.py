"""The records of one or several run directories, grouped for tables: a row a (task, protocol, data), a cell a backbone.

Records with different protocols or data never share a row. Seeds of one backbone share a cell: its value is their mean, its
interval the sampling of test images, and the spread between seeds is kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from levl_eval.errors import LevlError, UsageError
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.records import Estimate, Record, read_records
from levl_eval.report.paired import Paired, Samples, load_samples, mean_iou_of, pair
from levl_eval.report.units import lower_is_better

RowKey = tuple[str, str, str]  # task, protocol hash, data fingerprint


@dataclass(frozen=True)
class Cell:
    """One backbone on one row. records: one a seed, in order of seed; empty where every seed failed. failed: the failed ones."""

    backbone: str
    records: tuple[Record, ...]
    failed: tuple[Record, ...] = ()

    @property
    def any(self) -> Record:
        return (self.records or self.failed)[0]

    @property
    def baseline(self) -> bool:
        return bool(self.any.backbone.get("info", {}).get("baseline"))


@dataclass(frozen=True)
class Summary:
    """A metric of a cell. estimate: mean over seeds, with the interval of sampling test images; seed_sd: spread between seeds."""

    estimate: Estimate
    seeds: int
    seed_sd: float | None


@dataclass(frozen=True)
class Row:
    """One task under one protocol on one data set; ``mark`` tells rows of one task apart ('' where there is only one)."""

    task: str
    metric: str
    key: RowKey
    mark: str
    cells: dict[str, Cell]

    @property
    def title(self) -> str:
        return f"{self.task} {self.mark}".rstrip()


def _pretty(name: str) -> str:
    return f"{name[:12]}" if name else "none"


class Results:
    """Grouped records. Differences are computed once and kept, as tables, CSV and report all want them."""

    def __init__(self, records: Sequence[Record], say: Callable[[str], None] = lambda text: None) -> None:
        self.records = self._distinct(records, say)
        self._samples: dict[str, Samples] = {}
        self._pairs: dict[tuple[str, str], Paired | None] = {}
        self._differences: dict[tuple[RowKey, str, str], Estimate | None] = {}

    @classmethod
    def read(cls, directories: Sequence[str | Path], say: Callable[[str], None] = lambda text: None) -> Results:
        """Raises UsageError for a directory without records."""
        found: list[Record] = []
        for name in directories:
            here = read_records(Path(name))
            if not here:
                raise UsageError(f"{name}: no records below {Path(name) / 'records'}; give the --out of a run")
            found += here
        return cls(found, say)

    @staticmethod
    def _distinct(records: Sequence[Record], say: Callable[[str], None]) -> list[Record]:
        """One record a piece of work; of several directories a done one goes before a failed one, else the first."""
        kept: dict[tuple[str, str], Record] = {}
        for r in records:
            at = (r.key, str(r.data.get("fingerprint", "")) if r.status == "done" else "")
            failed_at = (r.key, "")
            if at in kept and at != failed_at:
                if kept[at].metrics != r.metrics:
                    say(f"{r.key}: {kept[at].home} and {r.home} have it with different values; the first is shown")
                continue
            kept.setdefault(at, r)
        done = {k for k, f in kept if f}
        return [r for (k, f), r in kept.items() if f or k not in done]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Record key -> name of its column: the backbone's, with the weights' hash where two backbones share a name."""
        weights: dict[str, set[str]] = {}
        for r in self.records:
            weights.setdefault(r.backbone["name"], set()).add(r.backbone["weights_sha256"])
        return {
            r.key: r.backbone["name"]
            + (f"@{r.backbone['weights_sha256'][:8]}" if len(weights[r.backbone["name"]]) > 1 else "")
            for r in self.records
        }  # fmt: skip

    @cached_property
    def backbones(self) -> list[str]:
        """Column names in order of appearance, random-initialised floors last."""
        cells = {self.labels[r.key]: bool(r.backbone.get("info", {}).get("baseline")) for r in self.records}
        return sorted(cells, key=lambda name: cells[name])

    @cached_property
    def rows(self) -> list[Row]:
        groups: dict[RowKey, list[Record]] = {}
        for r in self.records:
            if r.status == "done":
                groups.setdefault((r.task, r.protocol_hash, str(r.data.get("fingerprint", ""))), []).append(r)
        lost: list[Record] = [r for r in self.records if r.status != "done"]
        for r in lost:  # a failed one knows its protocol but not its data; it joins the first row of that protocol
            key = next((k for k in groups if k[:2] == (r.task, r.protocol_hash)), (r.task, r.protocol_hash, ""))
            groups.setdefault(key, []).append(r)
        order = list(dict.fromkeys(r.task for r in self.records))
        out = []
        for task in order:
            keys = [k for k in groups if k[0] == task]
            for key in keys:
                cells: dict[str, Cell] = {}
                for name in self.backbones:
                    mine = [r for r in groups[key] if self.labels[r.key] == name]
                    if mine:
                        done = sorted((r for r in mine if r.status == "done"), key=lambda r: r.seed)
                        cells[name] = Cell(name, tuple(done), tuple(r for r in mine if r.status != "done"))
                out.append(Row(task, groups[key][0].main_metric, key, self._mark(key, keys), cells))
        return out

    @staticmethod
    def _mark(key: RowKey, keys: Sequence[RowKey]) -> str:
        marks = []
        if len({k[1] for k in keys}) > 1:
            marks.append(f"protocol {_pretty(key[1])}")
        if len({k[2] for k in keys}) > 1 and sum(k[1] == key[1] for k in keys) > 1:
            marks.append(f"data {_pretty(key[2])}")
        return f"({', '.join(marks)})" if marks else ""

    def samples(self, record: Record) -> Samples:
        key = f"{record.home}/{record.key}"
        if key not in self._samples:
            self._samples[key] = load_samples(record)
        return self._samples[key]

    def pair(self, row: Row, a: str, b: str) -> Paired | None:
        """Both sides on their common items, None where the samples do not allow it (missing files, nothing in common)."""
        left, right = row.cells.get(a), row.cells.get(b)
        if not left or not right or not left.records or not right.records:
            return None
        try:
            return pair([(r, self.samples(r)) for r in left.records], [(r, self.samples(r)) for r in right.records])
        except LevlError:
            return None

    def difference(self, row: Row, a: str, b: str) -> Estimate | None:
        """a - b of the main metric, paired, over images; None where it cannot be had."""
        key = (row.key, a, b)
        if key not in self._differences:
            found = self.pair(row, a, b)
            self._differences[key] = found.difference() if found is not None else None
        return self._differences[key]

    def floor(self, row: Row) -> str | None:
        """The random-initialised backbone of a row, where there is one."""
        return next((c.backbone for c in row.cells.values() if c.baseline and c.records), None)

    def gain(self, row: Row, backbone: str) -> Estimate | None:
        """Gain over the random-initialised backbone, the paper's figure (PAPER 2a)."""
        floor = self.floor(row)
        return None if floor is None or floor == backbone else self.difference(row, backbone, floor)

    def gain_of_record(self, row: Row, backbone: str, record: Record) -> Estimate | None:
        """Gain of one seed's record over the floor's record of the same seed (over its only one where it has one)."""
        floor = self.floor(row)
        if floor is None or floor == backbone:
            return None
        others = row.cells[floor].records
        if len(row.cells[backbone].records) == len(others) == 1:
            return self.gain(row, backbone)
        match = [o for o in others if o.seed == record.seed] or (list(others) if len(others) == 1 else [])
        if not match:
            return None
        try:
            return pair([(record, self.samples(record))], [(match[0], self.samples(match[0]))]).difference()
        except LevlError:
            return None

    def best(self, row: Row) -> str | None:
        """The backbone that is best beyond error: its paired interval to every other one excludes zero. Else None."""
        done = {n: self.summary(row, n).estimate.value for n, c in row.cells.items() if c.records}
        if len(done) < 2:
            return None
        sign = -1 if lower_is_better(row.metric) else 1
        first = max(done, key=lambda n: sign * done[n])
        for other in done:
            if other != first:
                d = self.difference(row, first, other)
                if d is None or d.low is None or d.high is None or (d.low <= 0 if sign > 0 else d.high >= 0):
                    return None
        return first

    def summary(self, row: Row, backbone: str, metric: str | None = None) -> Summary:
        """A metric of a cell over its seeds.

        The main metric's interval is computed from the item scores averaged over seeds; other metrics take the mean of the seeds'
        ends, which is right where the seeds' errors go together (they see the same images) and too wide where not.
        """
        records = row.cells[backbone].records
        name = metric or row.metric
        each = [r.metrics[name] for r in records if name in r.metrics]
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
            high=mean_of([e.high for e in each]), n=each[0].n, clusters=each[0].clusters, method=f"mean of {len(each)} seeds: {each[0].method}",
        )  # fmt: skip
        if name == row.metric:
            estimate = self._joint(row, backbone) or estimate
        return Summary(estimate, len(each), spread)

    def _joint(self, row: Row, backbone: str) -> Estimate | None:
        both = self.pair(row, backbone, backbone)
        if both is None:
            return None
        if both.counted:
            found = bootstrap_statistic(both.a.swapaxes(0, 1), mean_iou_of)
        else:
            found = mean_estimate(both.a.mean(0), both.images)
        return found.model_copy(update={"method": f"mean of {len(both.seeds)} seeds: {found.method}"})
