"""Specification curves of a run over several protocols of a task (`--grid`, `--budget`): each backbone's gain under every one of them."""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval.core.hashing import canonical
from levl_eval.records.samples import finite
from levl_eval.report.labels import short
from levl_eval.report.one_protocol import repeated
from levl_eval.report.provenance import comparison_fields
from levl_eval.report.results import Results, Row
from levl_eval.report.specification import Specification

LEAST = 3  # protocols that make a curve


def _choices(rows: Sequence[Row]) -> list[tuple[tuple[str, str], ...]]:
    """Of each row the fields of protocol and data in which they differ, as (name, value)."""
    fields = [comparison_fields(row.any) for row in rows]
    keys = dict.fromkeys(k for f in fields for k in f)
    differing = [k for k in keys if len({canonical(finite(f.get(k))) for f in fields}) > 1]
    return [tuple((k, "none" if f.get(k) in (None, "", []) else short(f.get(k))) for k in differing) for f in fields]


def protocol_curves(results: Results) -> list[tuple[str, str, list[Specification]]]:
    """(task, backbone and what its gain is over, gains by rising value) where a gain is known under at least LEAST protocols.

    Protocols that come to the same for a backbone are one point of its curve.
    """
    by_task: dict[str, list[Row]] = {}
    for row in results.rows:
        by_task.setdefault(row.task, []).append(row)
    out = []
    for task, rows in by_task.items():
        if len(rows) < LEAST:
            continue
        choices = _choices(rows)
        for name in dict.fromkeys(n for row in rows for n in row.cells):
            points, over = [], ""
            again = repeated({str(k): row.cells[name].records for k, row in enumerate(rows) if name in row.cells})
            for k, (row, chosen) in enumerate(zip(rows, choices, strict=True)):
                if str(k) in again:
                    continue
                g = results.gain(row, name)
                if g is not None and g.low is not None and g.high is not None:
                    over = results.reference(row, name) or over
                    better = (g.high < 0, g.low > 0) if row.kind.lower_is_better else (g.low > 0, g.high < 0)
                    verdict = "supported" if better[0] else "contradicted" if better[1] else "undecided"
                    scale = row.kind.factor
                    points.append(Specification(g.value * scale, g.low * scale, g.high * scale, verdict, chosen))
            if len(points) >= LEAST:
                out.append((task, f"{name} over {over}", sorted(points, key=lambda p: p.value)))
    return out
