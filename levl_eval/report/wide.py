"""Wide tables of the paper's form: tasks by backbones, and the gains over each backbone's reference, as Markdown, LaTeX, CSV, HTML, JSON.

Bold is the significantly best backbone: the 95% interval of its paired difference to every other one excludes zero; ties are not bold.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from levl_eval.core.text import csv_cell, markdown_text
from levl_eval.metrics.estimate import Estimate
from levl_eval.report.averages import METHOD, known_averages, shown
from levl_eval.report.provenance import data_values
from levl_eval.report.results import Results, Row
from levl_eval.report.sight import share_of_sight, share_text
from levl_eval.report.tables import all_notes, late_mark
from levl_eval.report.templating import render
from levl_eval.report.units import interval, labelled, lower_note, text

CAPTION = (
    "Percent, with 95% intervals over test images. "
    "Bold: significantly better than every other (95% interval of the paired difference over images)."
)
AVERAGE_CAPTION = (
    f"Averages over groups of tasks, percent, with 95% intervals ({METHOD}). Only for backbones with every task of the group."
)
SIGHT_CAPTION = (
    "Share of sight: percent of the way from the floor without sight to the ceiling of perfect sight, "
    "with 95% intervals over images."
)
GAIN_CAPTION = "Gain over {over} in points, paired over images, with 95% intervals."


@dataclass(frozen=True)
class Entry:
    """A cell of a wide table: text for people, whether it is bold, the key of the (first) record it is from, and the number itself."""

    text: str
    bold: bool = False
    record: str = ""
    number: float | None = None  # in the unit of the text


@dataclass(frozen=True)
class Wide:
    """A table: caption, heads (the first two are task and metric), rows of entries."""

    caption: str
    heads: list[str]
    rows: list[tuple[str, str, list[Entry]]]


def _value(results: Results, row: Row, name: str, best: str | None) -> Entry:
    cell = row.cells.get(name)
    if cell is None:
        return Entry("")
    if not cell.records:
        return Entry("failed", False, cell.any.key)
    s = results.summary(row, name)
    shown = interval(s.estimate.value, s.estimate.low, s.estimate.high, row.kind) + late_mark(results, row, name)
    if s.seed_sd is not None:
        shown += f", seed sd {text(s.seed_sd, row.kind)} ({s.seeds})"
    return Entry(shown, name == best, cell.any.key, round(row.kind.factor * s.estimate.value, 4))


def _gain(results: Results, row: Row, name: str, noted: bool) -> Entry:
    """noted: whether each gain names its baseline, as they differ."""
    e = results.gain(row, name)
    if e is None:
        return Entry("")
    over = f" over {results.reference(row, name)}" if noted else ""
    return Entry(
        interval(e.value, e.low, e.high, row.kind, signed=True) + over,
        False,
        row.cells[name].any.key,
        round(row.kind.factor * e.value, 4),
    )


def references(results: Results) -> list[str]:
    """The backbones that gains of the tables are over."""
    return list(
        dict.fromkeys(
            ref
            for row in results.rows
            for n in row.cells
            if results.gain(row, n) is not None and (ref := results.reference(row, n))
        )
    )


def tables(results: Results) -> list[Wide]:
    """Values; where there are references, gains; and averages of complete groups. Backbones without a row are left out."""
    names, lower = results.backbones, lower_note(row.kind for row in results.rows)
    values = [
        (row.title, labelled(row.kind), [_value(results, row, n, best) for n in names])
        for row in results.rows
        for best in [results.best(row)]
    ]
    out = [Wide(CAPTION + lower, ["task", "metric", *names], values)]
    out += _sights(results)
    over = references(results)
    gains = [(row.title, labelled(row.kind), [_gain(results, row, n, len(over) > 1) for n in names]) for row in results.rows]
    gains = [g for g in gains if any(e.text for e in g[2])]
    keep = [i for i in range(len(names)) if any(g[2][i].text for g in gains)]
    if gains:
        caption = GAIN_CAPTION.format(over=over[0] if len(over) == 1 else "the backbone named with it")
        heads = ["task", "metric", *(names[i] for i in keep)]
        out.append(Wide(caption + lower, heads, [(t, m, [e[i] for i in keep]) for t, m, e in gains]))
    groups = known_averages(results)
    keep_names = [n for n in names if any(n in a.values for a in groups)]
    if groups:
        rows = [(a.group.title, a.group.of, [_average(a.values.get(n)) for n in keep_names]) for a in groups]
        out.append(Wide(AVERAGE_CAPTION, ["average", "tasks", *keep_names], rows))
    return out


def _average(estimate: Estimate | None) -> Entry:
    return Entry("") if estimate is None else Entry(shown(estimate), number=round(100 * estimate.value, 4))


def _sights(results: Results) -> list[Wide]:
    """The table of shares of sight, where there are any."""
    shares = {(row.key, n): e for row in results.rows for n in row.cells if (e := share_of_sight(results, row, n)) is not None}
    names = [n for n in results.backbones if any(n == name for _, name in shares)]
    rows = []
    for row in results.rows:
        entries = [
            Entry(share_text(e), False, row.cells[n].any.key, round(100 * e.value, 4))
            if (e := shares.get((row.key, n)))
            else Entry("")
            for n in names
        ]
        if any(e.text for e in entries):
            rows.append((row.title, labelled(row.kind), entries))
    return [Wide(SIGHT_CAPTION, ["task", "metric", *names], rows)] if rows else []


def markdown(results: Results) -> str:
    """GitHub's table form."""
    parts = []
    for table in tables(results):
        rows = [
            "| "
            + " | ".join([markdown_text(t), markdown_text(m), *(f"**{e.text}**" if e.bold else e.text for e in entries)])
            + " |"
            for t, m, entries in table.rows
        ]
        head = "| " + " | ".join(map(markdown_text, table.heads)) + " |"
        rule = "|" + "|".join(["---", "---", *["---:"] * (len(table.heads) - 2)]) + "|"
        parts.append("\n".join([markdown_text(table.caption), "", head, rule, *rows]))
    notes = all_notes(results)
    return "\n\n".join(parts + (["\n".join(f"- {markdown_text(n)}" for n in notes)] if notes else [])) + "\n"


def html_page(results: Results) -> str:
    """A small page with the tables only; `report.html` has everything."""
    return str(render("leaderboard.html.j2", tables=tables(results), notes=all_notes(results)))


WIDE_COLUMNS = (
    "value", "low", "high", "gain", "gain_low", "gain_high", "reference", "seed_sd", "seeds", "best", "sight", "sight_low", "sight_high",
)  # fmt: skip
_ABOUT = (
    "task",
    "metric",
    "protocol_hash",
    "data_fingerprint",
    "mark",
    "source",
    "published_set",
    "images",
    "limit",
    "date",
    "comparison_hash",
)


def _about(row: Row) -> dict[str, object]:
    """What a row is of: the columns and JSON fields that all its cells share."""
    from_data = data_values([r for r in row.records if r.status == "done"] or row.records)
    return {
        "task": row.task, "metric": row.metric, "protocol_hash": row.any.protocol_hash,
        "data_fingerprint": str(row.any.data.get("fingerprint", "")), "mark": row.mark, **from_data, "comparison_hash": row.key[1],
    }  # fmt: skip


def wide_rows(results: Results) -> list[dict[str, object]]:
    """One mapping a row of the wide table: what it is of (_ABOUT), then BACKBONE.COLUMN for each backbone."""
    out = []
    for row in results.rows:
        best = results.best(row)
        about = _about(row)
        line: dict[str, object] = {k: " ".join(map(str, v)) if isinstance(v := about[k], list) else v for k in _ABOUT}
        scale = row.kind.factor
        for name in results.backbones:
            cell = row.cells.get(name)
            values: dict[str, object] = {}
            if cell is not None and cell.records:
                s, g = results.summary(row, name), results.gain(row, name)
                measured = {"value": s.estimate.value, "low": s.estimate.low, "high": s.estimate.high}
                measured |= {"gain": g.value, "gain_low": g.low, "gain_high": g.high} if g else {}
                values |= {k: v * scale for k, v in measured.items() if v is not None}
                values |= {"seeds": s.seeds, "best": int(name == best), "reference": results.reference(row, name) if g else None}
                if s.seed_sd is not None:
                    values["seed_sd"] = s.seed_sd * scale
                if (e := share_of_sight(results, row, name)) is not None:
                    ends = {"sight": e.value, "sight_low": e.low, "sight_high": e.high}
                    values |= {k: 100 * v for k, v in ends.items() if v is not None}
            line |= {f"{name}.{c}": values.get(c) for c in WIDE_COLUMNS}
        out.append(line)
    return out


def wide_csv(results: Results) -> str:
    """The wide table as numbers; empty where there is none."""
    table = wide_rows(results)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [*_ABOUT]
    heads += [f"{n}.{c}" for n in results.backbones for c in WIDE_COLUMNS]
    writer.writerow(map(csv_cell, heads))
    for line in table:
        cells = [line[h] for h in heads]
        writer.writerow(["" if c is None else f"{c:.4f}" if isinstance(c, float) else csv_cell(c) for c in cells])
    return buffer.getvalue()


def as_json(results: Results) -> list[dict[str, object]]:
    """A list of rows with nested cells, every seed's value included."""
    out = []
    for row in results.rows:
        best = results.best(row)
        cells: dict[str, object] = {}
        for name, cell in row.cells.items():
            if not cell.records:
                cells[name] = {"status": "failed", "reason": cell.failed[0].reason}
                continue
            s, g = results.summary(row, name), results.gain(row, name)
            share = share_of_sight(results, row, name)
            cells[name] = {
                "status": "done", **s.estimate.model_dump(), "seed_sd": s.seed_sd, "best": name == best,
                "seeds": {str(r.seed): r.metrics[row.metric].value for r in cell.records},
                "gain": g.model_dump() if g else None, "reference": results.reference(row, name) if g else None,
                "sight": share.model_dump() if share else None, "converged": not late_mark(results, row, name),
            }  # fmt: skip
        out.append(
            {
                **_about(row),
                "data": row.data,
                "better": row.kind.better,
                "unit": "fraction" if row.kind.factor == 100.0 else row.kind.unit,
                "cells": cells,
            }
        )
    return out


FORMATS: Sequence[str] = ("table", "csv", "md", "tex", "html", "json")
