"""Charts as SVG: gain bars with intervals, learning curves, dense against global. Drawn here, so that they need no script.

Positions are computed here, marks are made by ``templates/charts.html.j2``. A chart of nothing is the empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from levl_eval.metrics.estimate import Estimate
from levl_eval.report.templating import macro

CHARTS = "charts.html.j2"
COLOURS = 8  # classes c0 ... c7 of the style sheet; further backbones begin again
NAME = 34  # characters of a name beside a bar
LETTER = 7  # pixels of a letter, about


def round_steps(low: float, high: float) -> list[float]:
    """Round steps that cover [low, high]."""
    span = max(high - low, 1e-9)
    step = next(s * 10**e for e in range(-4, 9) for s in (1, 2, 5) if span / (s * 10**e) <= 8)
    first = int(low // step)
    return [round(k * step, 6) for k in range(first, first + 12) if low - step / 2 <= k * step <= high + step / 2]


@dataclass(frozen=True)
class Axis:
    """Values [low, high] on pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixel of a value, to a tenth."""
        return round(self.start + (value - self.low) / max(self.high - self.low, 1e-9) * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) of the round values within."""
        return [(self.at(t), f"{t:g}") for t in round_steps(self.low, self.high) if self.low - 1e-9 <= t <= self.high + 1e-9]


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, int, Estimate]]]], label: str) -> Markup:
    """Horizontal bars with 95% whiskers around a zero line. rows: (task, [(backbone, colour, gain in points)])."""
    values = [x for _, b in rows for *_, e in b for x in (e.value, e.low, e.high) if x is not None]
    if not values:
        return Markup()
    ticks = round_steps(min(0.0, *values), max(0.0, *values))
    axis = Axis(min(0.0, *values, ticks[0]), max(0.0, *values, ticks[-1]), 260, 740)
    y, groups = 10, []
    for task, group in rows:
        y += 22
        head, lines = y, []
        for name, colour, e in group:
            y += 20
            a, b = sorted((axis.at(0), axis.at(e.value)))
            ends = None if e.low is None or e.high is None else (axis.at(e.low), axis.at(e.high))
            shown = name if len(name) < NAME else name[: NAME - 2] + "…"
            lines.append(
                {"name": shown, "colour": colour % COLOURS, "y": y, "x": a, "width": round(max(b - a, 0.5), 1), "ends": ends}
            )
        groups.append({"task": task, "y": head, "lines": lines})
    marks = [(axis.at(t), f"{t:{'+' if t else ''}g}") for t in ticks]
    return macro(CHARTS, "bars", groups, marks, y + 14, label)


def curves(lines: Sequence[tuple[str, int, Sequence[float]]], label: str) -> Markup:
    """Loss curves over training, each stretched over the width. lines: (name, colour, values)."""
    shown = [(n, c, [v for v in y if v is not None]) for n, c, y in lines]
    shown = [x for x in shown if len(x[2]) > 1]
    if not shown:
        return Markup()
    values = [v for *_, y in shown for v in y]
    axis, share = Axis(min(values), max(values), 172, 12), Axis(0, 100, 60, 460)
    paths = []
    for name, colour, y in shown:
        points = [(share.at(100 * i / (len(y) - 1)), axis.at(v)) for i, v in enumerate(y)]
        paths.append({"name": name, "colour": colour % COLOURS, "d": "M" + " L".join(f"{a} {b}" for a, b in points)})
    return macro(CHARTS, "curves", paths, share.ticks(), axis.ticks(), max(216, 30 + 18 * len(paths)), label)


def _axis_of(estimates: Sequence[Estimate], start: float, end: float) -> Axis:
    """An axis that holds all values with their intervals, and a margin of 6%."""
    ends = [x for e in estimates for x in (e.value, e.low, e.high) if x is not None]
    margin = 0.06 * (max(ends) - min(ends) or 1)
    return Axis(min(ends) - margin, max(ends) + margin, start, end)


def _label_places(points: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, bool]]:
    """Position of each point's name, as (x, y, whether it ends there): the first free one of six. points: (x, y, letters)."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    out = []
    for x, y, letters in points:
        wide = LETTER * letters
        options = [(x + 10, y - 8, False), (x - 10, y - 8, True), (x + 10, y + 16, False), (x - 10, y + 16, True),
                   (x + 10, y - 24, False), (x - 10, y + 32, True)]  # fmt: skip
        boxes = [(a - wide if ends else a, b - 11, a if ends else a + wide, b + 3) for a, b, ends in options]

        def free(box: tuple[float, float, float, float]) -> bool:
            inside = box[0] >= 60 and box[2] <= 720
            return inside and all(box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1] for t in taken)

        best = next((k for k, box in enumerate(boxes) if free(box)), 0)
        taken.append(boxes[best])
        out.append(options[best])
    return out


def response(series: Sequence[tuple[str, int, Sequence[tuple[float, Estimate]]]], x_label: str, y_label: str) -> Markup:
    """Lines through values with their 95% whiskers over a number: budgets, doses. series: (name, colour, [(x, estimate)]) by rising x."""
    shown = [s for s in series if len(s[2]) > 1]
    if not shown:
        return Markup()
    numbers = [x for *_, points in shown for x, _ in points]
    x_axis, y_axis = Axis(min(numbers), max(numbers), 60, 460), _axis_of([e for *_, points in shown for _, e in points], 240, 16)
    lines = []
    for name, colour, points in shown:
        places = [(x_axis.at(x), y_axis.at(e.value)) for x, e in points]
        ends = [
            (x_axis.at(x), y_axis.at(e.low), y_axis.at(e.high)) for x, e in points if e.low is not None and e.high is not None
        ]
        path = "M" + " L".join(f"{a} {b}" for a, b in places)
        lines.append({"name": name, "colour": colour % COLOURS, "d": path, "points": places, "whiskers": ends})
    ticks = [(x_axis.at(x), f"{x:g}") for x in sorted(set(numbers))]
    return macro(CHARTS, "response", lines, ticks, y_axis.ticks(), max(290, 30 + 18 * len(lines)), x_label, y_label)


def scatter(points: Sequence[tuple[str, int, Estimate, Estimate]], x_label: str, y_label: str) -> Markup:
    """Named points with their 95% intervals both ways; the axes need not begin at zero, as their ticks say.

    points: (name, colour, x, y).
    """
    if len(points) < 2:
        return Markup()
    x_axis, y_axis = _axis_of([p[2] for p in points], 60, 600), _axis_of([p[3] for p in points], 300, 20)
    marks, places = [], _label_places([(x_axis.at(x.value), y_axis.at(y.value), len(name)) for name, _, x, y in points])
    for (name, colour, x, y), place in zip(points, places, strict=True):
        a, b = x_axis.at(x.value), y_axis.at(y.value)
        whiskers = [
            (x_axis.at(x.low), b, x_axis.at(x.high), b) if x.low is not None and x.high is not None else None,
            (a, y_axis.at(y.low), a, y_axis.at(y.high)) if y.low is not None and y.high is not None else None,
        ]
        marks.append({"name": name, "colour": colour % COLOURS, "x": a, "y": b, "place": place, "whiskers": whiskers})
    return macro(CHARTS, "scatter", marks, x_axis.ticks(), y_axis.ticks(), x_label, y_label)
