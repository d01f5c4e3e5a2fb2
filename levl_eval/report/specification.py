"""The chart of a specification curve: differences sorted, with intervals, and beneath each the choices it was measured under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from levl_eval.report.svg import round_steps
from levl_eval.report.templating import render

_LEFT, _COLUMN, _LINE, _HEIGHT = 230, 14, 16, 180
_LONGEST = 34  # characters of a choice's name


@dataclass(frozen=True)
class Specification:
    """One difference with its interval, in points or the metric's unit, and the (name, value) choices beneath it."""

    value: float
    low: float
    high: float
    verdict: str  # of this difference alone
    choices: tuple[tuple[str, str], ...]
    records: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "difference": self.value, "low": self.low, "high": self.high, "verdict": self.verdict, "choices": dict(self.choices),
            "records": list(self.records),
        }  # fmt: skip


def _choices_of(rows: Sequence[Specification]) -> list[tuple[str, list[str]]]:
    """Names whose values differ between rows, each with its values in order of appearance."""
    values: dict[str, list[str]] = {}
    for r in rows:
        for name, _ in r.choices:
            values.setdefault(name, [])
    for name, choices in values.items():
        choices += dict.fromkeys(dict(r.choices).get(name, "-") for r in rows)
    return [(n, v) for n, v in values.items() if len(v) > 1]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def specification_curve_svg(rows: Sequence[Specification], label: str, margins: Sequence[float] = (0.0,)) -> str:
    """An SVG of differences with whiskers over a table of dots, one column a specification; "" without rows.

    margins: where the claim's edges are drawn, in the rows' unit. Colours: c0 supported, c1 contradicted, c2 undecided, as the report's
    style sheet defines them. Rows stand in the order given (``SpecificationCurve`` sorts them).
    """
    if not rows:
        return ""
    column = max(3.0, min(float(_COLUMN), 1100 / len(rows)))
    low, high = min(0.0, *margins, *(r.low for r in rows)), max(0.0, *margins, *(r.high for r in rows))
    ticks = round_steps(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    right = _LEFT + column * len(rows) + 10

    def y(v: float) -> float:
        return 10 + (high - v) / max(high - low, 1e-9) * _HEIGHT

    points = [
        {
            "x": round(_LEFT + column * (k + 0.5), 1), "y": round(y(r.value), 1), "low": round(y(r.low), 1), "high": round(y(r.high), 1),
            "colour": {"supported": 0, "contradicted": 1}.get(r.verdict, 2),
            "told": f"{r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}] {r.verdict}: " + ", ".join(f"{a}={b}" for a, b in r.choices),
        }
        for k, r in enumerate(rows)
    ]  # fmt: skip
    table, bottom = _dots(rows, column, _HEIGHT + 28)
    return str(
        render(
            "specification.svg.j2", label=label, width=round(max(right, 420)), bottom=bottom, left=_LEFT, right=round(right, 1),
            ticks=[(round(y(t), 1), f"{t:{'+' if t else ''}g}") for t in ticks],
            edges=[(round(y(m), 1), m != 0) for m in dict.fromkeys((0.0, *margins))],
            points=points, rows=table, radius=round(min(4.0, column / 2), 1), dot=round(min(3.0, column / 2), 1),
        )
    )  # fmt: skip


def _dots(rows: Sequence[Specification], column: float, top: int) -> tuple[list[dict[str, object]], int]:
    """The table of choices below the curve, a line each for a choice's name and its values; and the y of its end."""
    table: list[dict[str, object]] = []
    at = top
    for name, values in _choices_of(rows):
        at += _LINE
        table.append({"y": at, "name": _short(name)})
        for value in values:
            at += _LINE
            has = [round(_LEFT + column * (k + 0.5), 1) for k, r in enumerate(rows) if dict(r.choices).get(name, "-") == value]
            table.append({"y": at, "name": "", "value": _short(value), "dots": has})
    return table, at + 12
