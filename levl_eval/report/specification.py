"""The chart of a specification curve: differences sorted, with intervals, and beneath each the choices it was measured under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from levl_eval.core.text import html_text
from levl_eval.report.svg import round_steps

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

    def as_dict(self) -> dict[str, Any]:
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
    for name, found in values.items():
        found += dict.fromkeys(dict(r.choices).get(name, "-") for r in rows)
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

    parts = []
    for t in ticks:
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right:.1f}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:{"+" if t else ""}g}</text>')
    for m in dict.fromkeys((0.0, *margins)):
        dashes = "" if m == 0 else ' stroke-dasharray="4 3"'
        parts.append(f'<line class="whisker" x1="{_LEFT}" x2="{right:.1f}" y1="{y(m):.1f}" y2="{y(m):.1f}"{dashes}/>')
    colour = {"supported": 0, "contradicted": 1}
    for k, r in enumerate(rows):
        x = _LEFT + column * (k + 0.5)
        told = f"{r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}] {r.verdict}: " + ", ".join(f"{a}={b}" for a, b in r.choices)
        parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y(r.low):.1f}" y2="{y(r.high):.1f}"/>')
        c = colour.get(r.verdict, 2)
        parts.append(
            f'<circle class="c{c}" cx="{x:.1f}" cy="{y(r.value):.1f}" r="{min(4.0, column / 2):.1f}"><title>{html_text(told)}</title></circle>'
        )
    bottom = _dots(parts, rows, column, _HEIGHT + 28)
    width = max(right, 420)
    return f'<svg role="img" aria-label="{html_text(label)}" viewBox="0 0 {width:.0f} {bottom}" width="{width:.0f}">{"".join(parts)}</svg>'


def _dots(parts: list[str], rows: Sequence[Specification], column: float, top: int) -> int:
    """Append the table of choices below the curve; returns the y of its end."""
    at = top
    for name, values in _choices_of(rows):
        at += _LINE
        parts.append(f'<text x="4" y="{at}" font-weight="700">{html_text(_short(name))}</text>')
        for value in values:
            at += _LINE
            parts.append(f'<text x="{_LEFT - 6}" y="{at}" text-anchor="end">{html_text(_short(value))}</text>')
            for k, r in enumerate(rows):
                if dict(r.choices).get(name, "-") == value:
                    x = _LEFT + column * (k + 0.5)
                    parts.append(f'<circle class="c5" cx="{x:.1f}" cy="{at - 4}" r="{min(3.0, column / 2):.1f}"/>')
    return at + 12
