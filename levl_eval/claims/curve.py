"""The specification curve of a claim: every difference under every protocol, sorted, with its interval and the choices beneath.

U. Simonsohn, J. P. Simmons and L. D. Nelson, Specification curve analysis, Nature Human Behaviour 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from levl_eval.claims.verdict import Judged, Verdict
from levl_eval.report.specification import Specification, specification_curve_svg
from levl_eval.report.units import factor


@dataclass(frozen=True)
class SpecificationCurve:
    """rows: smallest difference first; in percent points where the metric is a fraction."""

    claim: str
    rows: tuple[Specification, ...]
    margin: float
    relation: str

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"claim": self.claim, "relation": self.relation, "margin": self.margin, "rows": [r.as_dict() for r in self.rows]}

    def lines(self) -> list[str]:
        """A table as text, smallest difference first: difference, interval, verdict, and the choices that differ."""
        if not self.rows:
            return ["no difference could be tested, so there is no curve"]
        names = list(dict.fromkeys(k for r in self.rows for k, _ in r.choices))
        varied = [n for n in names if len({dict(r.choices).get(n, "") for r in self.rows}) > 1]
        heads = ["difference", "interval", "alone", *varied]
        cells = [
            [f"{r.value:+.2f}", f"[{r.low:+.2f}, {r.high:+.2f}]", r.verdict, *(dict(r.choices).get(n, "") for n in varied)]
            for r in self.rows
        ]
        widths = [max(len(row[k]) for row in [heads, *cells]) for k in range(len(heads))]
        return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [heads, *cells]]

    def svg(self) -> str:
        """The curve as a chart; empty without rows."""
        edges = (
            (-self.margin, self.margin)
            if self.relation == "equivalent"
            else (self.margin if self.relation == "greater" else -self.margin,)
        )
        return specification_curve_svg(self.rows, f"specification curve of {self.claim}", edges)


def curve_of(judged: Judged) -> SpecificationCurve:
    """Of a judged claim; differences that could not be tested have no place in it."""
    rows = []
    for d in judged.differences:
        if d.contrast is None:
            continue
        scale = factor(d.metric)
        low, high = d.contrast.difference.interval(judged.alpha)
        verdict: Verdict = d.verdict(judged.alpha)
        choices = (("task", d.task), ("metric", d.metric), ("against", d.other), *d.choices)
        rows.append(
            Specification(
                float(d.contrast.difference.value) * scale, low * scale, high * scale, verdict, choices, d.contrast.records
            )
        )
    return SpecificationCurve(
        judged.card.name, tuple(sorted(rows, key=lambda r: r.value)), judged.card.margin, judged.card.relation
    )
