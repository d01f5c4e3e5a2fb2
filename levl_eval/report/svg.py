"""Charts as SVG text: gain bars with intervals, learning curves, dense against global. Drawn here, so that they need no script."""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval.core.text import html_text
from levl_eval.metrics.estimate import Estimate


def _escape(text: str) -> str:
    return html_text(text)


def round_steps(low: float, high: float) -> list[float]:
    """Round steps that cover [low, high]."""
    span = max(high - low, 1e-9)
    step = next(s * 10**e for e in range(-4, 9) for s in (1, 2, 5) if span / (s * 10**e) <= 8)
    first = int(low // step)
    return [round(k * step, 6) for k in range(first, first + 12) if low - step / 2 <= k * step <= high + step / 2]


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, int, Estimate]]]], label: str) -> str:
    """Horizontal bars with 95% whiskers around a zero line. rows: (task, [(backbone, colour, gain in points)])."""
    values = [x for _, b in rows for *_, e in b for x in (e.value, e.low, e.high) if x is not None]
    if not values:
        return ""
    low, high = min(0.0, *values), max(0.0, *values)
    ticks = round_steps(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, width, line = 260, 480, 20

    def x(v: float) -> float:
        return left + (v - low) / max(high - low, 1e-9) * width

    y, parts = 10, []
    for task, group in rows:
        y += 22
        parts.append(f'<text x="4" y="{y}" font-weight="700">{_escape(task)}</text>')
        for name, colour, e in group:
            y += line
            a, b = sorted((x(0), x(e.value)))
            shown = name if len(name) < 34 else name[:32] + "…"
            parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{_escape(shown)}</text>')
            parts.append(f'<rect class="c{colour % 6}" x="{a:.1f}" y="{y - 6}" width="{max(b - a, 0.5):.1f}" height="12"/>')
            if e.low is not None and e.high is not None:
                parts.append(f'<line class="whisker" x1="{x(e.low):.1f}" x2="{x(e.high):.1f}" y1="{y}" y2="{y}"/>')
    y += 14
    for t in ticks:
        parts.insert(0, f'<line class="axis" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="10" y2="{y}"/>')
        parts.append(f'<text x="{x(t):.1f}" y="{y + 16}" text-anchor="middle">{t:{"+" if t else ""}g}</text>')
    return f'<svg role="img" aria-label="{_escape(label)}" viewBox="0 0 780 {y + 26}" width="780">{"".join(parts)}</svg>'


def curves(lines: Sequence[tuple[str, int, Sequence[float]]], label: str) -> str:
    """Loss curves over training, each stretched over the width. lines: (name, colour, values)."""
    lines = [(n, c, [v for v in y if v is not None]) for n, c, y in lines]
    lines = [x for x in lines if len(x[2]) > 1]
    if not lines:
        return ""
    low, high = min(min(y) for *_, y in lines), max(max(y) for *_, y in lines)
    parts = [f'<text x="4" y="16">{high:.2f}</text><text x="4" y="174">{low:.2f}</text>']
    for k, (name, colour, y) in enumerate(lines):
        points = [(50 + 400 * i / (len(y) - 1), 12 + 160 * (high - v) / max(high - low, 1e-9)) for i, v in enumerate(y)]
        parts.append(f'<path class="c{colour % 6}" d="M{" L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>')
        parts.append(f'<rect class="c{colour % 6}" x="470" y="{12 + 18 * k}" width="10" height="10"/>')
        parts.append(f'<text x="486" y="{21 + 18 * k}">{_escape(name)}</text>')
    height = max(184, 30 + 18 * len(lines))
    return f'<svg role="img" aria-label="{_escape(label)}" viewBox="0 0 700 {height}" width="700">{"".join(parts)}</svg>'


def scatter(points: Sequence[tuple[str, int, float, float]], x_label: str, y_label: str) -> str:
    """Named points. points: (name, colour, x, y)."""
    if len(points) < 2:
        return ""
    xs, ys = [p[2] for p in points], [p[3] for p in points]
    spans = [(min(v) - 0.08 * (max(v) - min(v) or 1), max(v) + 0.08 * (max(v) - min(v) or 1)) for v in (xs, ys)]

    def at(v: float, k: int, low: float, high: float) -> float:
        return low + (v - spans[k][0]) / (spans[k][1] - spans[k][0]) * (high - low)

    parts = ['<line class="axis" x1="60" x2="560" y1="280" y2="280"/><line class="axis" x1="60" x2="60" y1="10" y2="280"/>']
    for t in round_steps(*spans[0]):
        if spans[0][0] <= t <= spans[0][1]:
            parts.append(f'<text x="{at(t, 0, 60, 560):.1f}" y="297" text-anchor="middle">{t:g}</text>')
    for t in round_steps(*spans[1]):
        if spans[1][0] <= t <= spans[1][1]:
            parts.append(f'<text x="54" y="{at(t, 1, 280, 10) + 4:.1f}" text-anchor="end">{t:g}</text>')
    for name, colour, x, y in points:
        a, b = at(x, 0, 60, 560), at(y, 1, 280, 10)
        parts.append(
            f'<circle class="c{colour % 6}" cx="{a:.1f}" cy="{b:.1f}" r="6"/><text x="{a + 10:.1f}" y="{b + 4:.1f}">{_escape(name)}</text>'
        )
    parts.append(
        f'<text x="310" y="318" text-anchor="middle">{_escape(x_label)}</text><text x="64" y="10">{_escape(y_label)}</text>'
    )
    return f'<svg role="img" aria-label="{_escape(y_label)} against {_escape(x_label)}" viewBox="0 0 720 326" width="720">{"".join(parts)}</svg>'
