"""Score against budget: rows of one task that differ only in how long the head or connector was trained (`--budget x2`)."""

from __future__ import annotations

from dataclasses import dataclass

from levl_eval.metrics.estimate import Estimate
from levl_eval.report.provenance import marks
from levl_eval.report.results import Results, Row
from levl_eval.report.units import interval


@dataclass(frozen=True)
class Budgets:
    """title: the task, and in what its protocol differs from the task's other groups. field: what was varied.

    rows: (its value, row) by rising value, at least two.
    """

    title: str
    field: str
    rows: tuple[tuple[float, Row], ...]


def budgets(results: Results) -> list[Budgets]:
    row_of = {id(row.any): row for row in results.rows}
    shortest = [group.examples[0][1] for group in results.lengths]
    mark_of: dict[int, str] = {}
    for task in dict.fromkeys(r.task for r in shortest):
        of_task = [r for r in shortest if r.task == task]
        mark_of |= zip(map(id, of_task), marks(of_task), strict=True)
    return [
        Budgets(f"{r.task} {mark_of[id(r)]}".rstrip(), group.field, tuple((value, row_of[id(x)]) for value, x in group.examples))
        for r, group in zip(shortest, results.lengths, strict=True)
    ]


def change(results: Results, group: Budgets, name: str) -> Estimate | None:
    """Change of a backbone's score from the shortest to the longest training, paired over images; None if one of the two is missing."""
    first, last = (row.cells.get(name) for row in (group.rows[0][1], group.rows[-1][1]))
    if first is None or last is None or not first.records or not last.records:
        return None
    return results.paired_difference(last.records, first.records)


def budget_notes(results: Results) -> list[str]:
    """A line per group: which scores longer training changed significantly, and whether that changed an order."""
    out = []
    for group in budgets(results):
        (low, shortest), (high, longest) = group.rows[0], group.rows[-1]
        kind, moved = shortest.kind, []
        names = [n for n in shortest.cells if n in longest.cells]
        for name in names:
            e = change(results, group, name)
            if e is not None and e.low is not None and e.high is not None and not e.low <= 0 <= e.high:
                moved.append(f"{name} {interval(e.value, e.low, e.high, kind, signed=True)}")
        words = (
            f"changes {', '.join(moved)}: at {low:g} the head limits the result" if moved else "changes no score significantly"
        )
        turned = [
            f"{a} and {b}" for k, a in enumerate(names) for b in names[k + 1 :] if _turned(results, shortest, longest, a, b)
        ]
        out.append(
            f"{group.title}: {group.field} {high:g} instead of {low:g} {words}"
            + (f"; it reverses the order of {', '.join(turned)}" if turned else "")
        )
    return out


def _turned(results: Results, first: Row, last: Row, a: str, b: str) -> bool:
    """Whether both rows tell two backbones apart, each in the other order."""
    before, after = results.difference(first, a, b), results.difference(last, a, b)
    if before is None or after is None or None in (before.low, before.high, after.low, after.high):
        return False
    apart = all(not (e.low or 0) <= 0 <= (e.high or 0) for e in (before, after))
    return apart and before.value * after.value < 0


def series(results: Results, group: Budgets, colour: dict[str, int]) -> list[tuple[str, int, list[tuple[float, Estimate]]]]:
    """(backbone, colour, [(budget, its score)]) for a chart, in the unit of tables."""
    out = []
    for name in dict.fromkeys(n for _, row in group.rows for n in row.cells):
        points = []
        for budget, row in group.rows:
            cell = row.cells.get(name)
            if cell is not None and cell.records:
                e = results.summary(row, name).estimate
                ends = {k: None if v is None else v * row.kind.factor for k, v in (("low", e.low), ("high", e.high))}
                points.append((budget, e.model_copy(update={"value": e.value * row.kind.factor, **ends})))
        out.append((name, colour[name], points))
    return out
