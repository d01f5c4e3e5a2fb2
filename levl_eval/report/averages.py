"""Averages over groups of tasks (`groups:` of suite cards), never over unequal sets of tasks.

An average is a backbone's unweighted mean of the tasks' metrics, all of them fractions of which more is better. A backbone that lacks one
task of a group, or has it under another protocol or on other data than the others, has no average of it: it is named, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from levl_eval.cards import SuiteCard
from levl_eval.cards.suites import suite_cards
from levl_eval.metrics.catalogue import metric as catalogued
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import fraction_interval
from levl_eval.report.provenance import source_word
from levl_eval.report.results import Results, Row, entry_of
from levl_eval.report.units import interval

METHOD = "mean of the tasks; errors taken as independent between test sets, as one on the same test set"
PERCENT = catalogued("accuracy")


@dataclass(frozen=True)
class Group:
    """Tasks that are averaged. tasks: (task, metric) each; metric None: the task's main one."""

    name: str
    suite: str
    tasks: tuple[tuple[str, str | None], ...]

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.name} of {self.suite}"

    @property
    def of(self) -> str:
        """Its tasks in words."""
        return ", ".join(task if metric is None else f"{task} {metric}" for task, metric in self.tasks)


@dataclass(frozen=True)
class Average:
    """A group's averages. values: column name -> estimate, in [0, 1]; left: column name -> why it has none."""

    group: Group
    values: dict[str, Estimate] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def groups_of(suites: Sequence[SuiteCard]) -> list[Group]:
    """The groups of suites, in their order; one that another suite has with the same tasks under the same name comes once."""
    out: dict[tuple[str, tuple[tuple[str, str | None], ...]], Group] = {}
    for suite in suites:
        for part in suite.parts:
            for name, entries in part.groups.items():
                tasks = tuple((e.task, e.metric) for e in entries)
                out.setdefault((name, tasks), Group(name, suite.name, tasks))
    return list(out.values())


def averages(results: Results, groups: Sequence[Group]) -> list[Average]:
    """The averages of groups of which at least one backbone has every task; none for a group whose tasks have several rows each."""
    by_task: dict[str, list[Row]] = {}
    for row in results.rows:
        by_task.setdefault(row.task, []).append(row)
    out = []
    for group in groups:
        rows = [by_task.get(task, []) for task, _ in group.tasks]
        if not all(rows):
            continue
        average = Average(group)
        for name in results.backbones:
            value = _value(results, group, rows, name)
            if isinstance(value, Estimate):
                average.values[name] = value
            else:
                average.left[name] = value
        if average.values:
            out.append(average)
    return out


def _value(results: Results, group: Group, rows: Sequence[Sequence[Row]], name: str) -> Estimate | str:
    """A backbone's average, or why there is none."""
    parts: list[tuple[str, Estimate]] = []
    sources: dict[str, None] = {}
    for (task, metric), of_task in zip(group.tasks, rows, strict=True):
        if len(of_task) > 1:
            return f"{task} was run under {len(of_task)} protocols or on as many data; which one is averaged is not known"
        row, wanted = of_task[0], metric or of_task[0].metric
        cell = row.cells.get(name)
        if cell is None or not cell.records:
            return f"{task} failed" if cell is not None else f"{task} was not run"
        kind = entry_of(row.any, wanted)
        if not kind.ranked or kind.lower_is_better or kind.factor == 1.0:
            return f"{task} {wanted} is no share of which more is better"
        if any(wanted not in r.metrics for r in cell.records):
            return f"{task} has no {wanted}"
        parts.append((str(cell.any.data.get("fingerprint", "")), results.summary(row, name, wanted).estimate))
        sources["scenes" if source_word(cell.any) == "scenes" else "published layouts"] = None
    if len(sources) > 1:
        return "some of its tasks were run on synthetic scenes, others not"
    return _mean(parts)


def _mean(parts: Sequence[tuple[str, Estimate]]) -> Estimate:
    """(fingerprint of the test set, estimate) of each task -> their mean."""
    count, n = len(parts), sum(e.n for _, e in parts)
    value = sum(e.value for _, e in parts) / count
    of_set: dict[str, float] = {}
    for fingerprint, e in parts:
        if e.stderr is None:
            return Estimate(value=value, n=n, method=METHOD)
        of_set[fingerprint] = of_set.get(fingerprint, 0.0) + e.stderr
    error = sum(v**2 for v in of_set.values()) ** 0.5 / count
    # Where every task has 0 or 1 the items show no error of their own: that of the smallest task's images is taken.
    low, high = fraction_interval(value, error, min(e.clusters or e.n or 1 for _, e in parts))
    return Estimate(value=value, stderr=error, low=low, high=high, n=n, method=METHOD)


def known_averages(results: Results) -> list[Average]:
    """:func:`averages` over the groups of every suite that is known."""
    return averages(results, groups_of(suite_cards()))


def shown(estimate: Estimate) -> str:
    """An average for people."""
    return interval(estimate.value, estimate.low, estimate.high, PERCENT)


def average_lines(shown_averages: Sequence[Average]) -> list[str]:
    """A line a group for terminals, and one for each backbone that has no average of it."""
    out = []
    for average in shown_averages:
        values = ", ".join(f"{name} {shown(e)}" for name, e in average.values.items())
        out.append(f"average {average.group.title} ({average.group.of}): {values}")
        out += average_notes([average])
    return out


def average_notes(shown_averages: Sequence[Average]) -> list[str]:
    """Why backbones have no average of a group."""
    return [f"no average {a.group.title} for {name}: {why}" for a in shown_averages for name, why in a.left.items()]
