"""Tables from records: the tidy leaderboard CSV and the terminal table. Reads records and samples only."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from levl_eval.io import atomic_write
from levl_eval.records import Record, read_records
from levl_eval.report.results import Results, Row
from levl_eval.report.units import factor, interval, lower_note, text
from levl_eval.terminal import lines_of
from levl_eval.text import csv_cell, printable

# Column -> meaning; the order is the file's order. No times, paths or versions: equal runs give equal bytes.
COLUMNS: dict[str, str] = {
    "task": "task card",
    "metric": "name of the metric",
    "main": "1 if it is the task's main metric",
    "backbone": "name of the backbone",
    "seed": "seed of the head or connector",
    "value": "percent; metrics that are no fractions (rmse, rank, ...) as they are",
    "stderr": "standard error over test images, in the same unit",
    "low": "lower end of the 95% interval",
    "high": "upper end",
    "n": "samples",
    "clusters": "images resampled together",
    "method": "how the interval was made",
    "gain": "main metric minus the random-initialised backbone's under the same protocol, points",
    "gain_low": "lower end of the paired 95% interval",
    "gain_high": "upper end",
    "chance": "chance level of the main metric, percent",
    "llm": "language model, where one answers",
    "status": "done | failed | published (a number from a paper, not measured here)",
    "reason": "why it failed; of a published number its source",
    "limit": "test images, where limited",
    "image_size": "input side in pixels",
    "resize": "shortest | squash",
    "interpolation": "of the resize",
    "mean": "normalisation, three numbers",
    "std": "normalisation, three numbers",
    "protocol_hash": "rows may be compared only where it is equal",
    "data_fingerprint": "content hash of the test set",
    "weights_sha256": "content hash of the backbone",
}


def _number(x: float | None, metric: str) -> str:
    return "" if x is None else f"{factor(metric) * x:.4f}"


def rows(results: Results) -> list[dict[str, Any]]:
    """One row a metric of a record; a failed record gives one row without numbers. Sorted by task, metric, backbone, seed."""
    gains = {}
    for row in results.rows:
        for name, cell in row.cells.items():
            for r in cell.records:
                gains[r.key] = results.gain_of_record(row, name, r)
    out = []
    for r in results.records:
        pre = r.backbone.get("preprocess", {})
        common = {
            "task": r.task,
            "backbone": results.labels[r.key],
            "seed": r.seed,
            "llm": r.protocol.get("llm", ""),
            "status": r.status,
            "reason": r.reason,
            "limit": "" if r.limit is None else r.limit,
            "image_size": r.protocol.get("size") or pre.get("size", ""),
            "resize": r.protocol.get("resize") or pre.get("resize", ""),
            "interpolation": pre.get("interpolation", ""),
            "mean": " ".join(str(v) for v in pre.get("mean", ())),
            "std": " ".join(str(v) for v in pre.get("std", ())),
            "protocol_hash": r.protocol_hash,
            "data_fingerprint": r.data.get("fingerprint", ""),
            "weights_sha256": r.backbone["weights_sha256"],
        }
        if r.status != "done":
            out.append({**common, "metric": r.main_metric, "main": 1})
        for name, e in r.metrics.items():
            main = name == r.main_metric
            g = gains.get(r.key) if main else None
            out.append(
                {
                    **common,
                    "metric": name,
                    "main": int(main),
                    **{k: _number(getattr(e, k), name) for k in ("value", "stderr", "low", "high")},
                    "n": e.n,
                    "clusters": e.clusters,
                    "method": e.method,
                    "gain": _number(g.value, name) if g else "",
                    "gain_low": _number(g.low, name) if g else "",
                    "gain_high": _number(g.high, name) if g else "",
                    "chance": _number(r.chance, name) if main else "",
                }
            )
    return sorted(
        out,
        key=lambda x: (x["task"], -x["main"], x["metric"], x["backbone"], x["seed"], x["protocol_hash"], x["data_fingerprint"]),
    )


def to_csv(table: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(COLUMNS), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: csv_cell(value) for column, value in row.items()} for row in table)
    return buffer.getvalue()


def write_leaderboard(out: Path, results: Results | None = None) -> Path:
    """Derive ``out/leaderboard.csv`` from all records of the directory."""
    path = out / "leaderboard.csv"
    atomic_write(path, to_csv(rows(results or Results(read_records(out)))))
    return path


def floor_notes(records: Sequence[Record]) -> list[str]:
    """Floors and ceilings that belong to a task, not to a backbone, each told once."""
    told: dict[str, None] = {}
    for r in records:
        for name, e in r.metrics.items():
            if name == "floor_text_only":
                told[f"{r.task}: text-only floor {interval(e.value, e.low, e.high, r.main_metric)}"] = None
        if r.chance is not None and r.status == "done":
            told[f"{r.task}: chance {text(r.chance, r.main_metric)}"] = None
    return list(told)


def _cell_text(results: Results, row: Row, name: str) -> tuple[str, str, str]:
    """(value, spread over seeds, gain) of a cell for people."""
    s = results.summary(row, name)
    g = results.gain(row, name)
    value = interval(s.estimate.value, s.estimate.low, s.estimate.high, row.metric)
    seeds = f"{text(s.seed_sd, row.metric)} ({s.seeds})" if s.seeds > 1 else ""
    return value, seeds, interval(g.value, g.low, g.high, row.metric, signed=True) if g else ""


def lines(results: Results, width: int = 80) -> list[tuple[str, bool]]:
    """The table as text lines, each with whether it is the best of its task beyond error. Fits ``width`` columns."""
    table: list[tuple[Row, str, tuple[str, str, str]]] = []
    for row in results.rows:
        for name, cell in row.cells.items():
            table.append((row, printable(name), _cell_text(results, row, name) if cell.records else ("failed", "", "")))
    has_seeds, has_gain = any(t[2][1] for t in table), any(t[2][2] for t in table)
    heads = ["value", *(["seed sd"] if has_seeds else []), *(["gain"] if has_gain else [])]

    def wanted(t: tuple[str, str, str]) -> list[str]:
        return [t[0], *([t[1]] if has_seeds else []), *([t[2]] if has_gain else [])]

    columns = [max(len(h), *(len(wanted(t)[i]) for *_, t in table)) for i, h in enumerate(heads)] if table else []
    titles = {row.key: printable(f"{row.title}, {row.metric}") for row in results.rows}
    longest = max([len(name) + 2 for _, name, _ in table] + [len(t) for t in titles.values()] + [8])
    first = max(12, min(longest, width - sum(c + 2 for c in columns)))

    def line(name: str, cells: Sequence[str]) -> str:
        name = name if len(name) <= first else name[: first - 1] + "…"
        return (name.ljust(first) + "".join("  " + c.rjust(w) for c, w in zip(cells, columns, strict=True))).rstrip()

    out: list[tuple[str, bool]] = []
    for row in results.rows:
        out.append(("", False))
        out.append((line(titles[row.key], heads if not out[1:] else [""] * len(heads)), False))
        best = printable(results.best(row) or "")
        out += [(line("  " + name, wanted(t)), name == best) for r, name, t in table if r is row]
    return out[1:]


def show(results: Results, stream: IO[str] | None = None) -> None:
    """Print main metrics with 95% intervals and gains; bold (on a terminal) where one is best beyond error. Plain in a pipe."""
    import shutil

    stream = stream or sys.stdout
    terminal = stream.isatty()
    width = max(60, shutil.get_terminal_size((80, 24)).columns) if terminal else 10_000

    def say(sentence: str) -> None:
        for line in lines_of([[printable(sentence)]], width if terminal else None):
            print(line, file=stream)

    say("percent, 95% intervals over images; gain: paired, over the random-initialised backbone")
    for line, best in lines(results, width):
        print(f"\x1b[1m{line}\x1b[0m" if best and terminal else line, file=stream)
    if lower := lower_note(row.metric for row in results.rows):
        say(lower.strip())
    for note in floor_notes(results.records):
        say(note)
    for r in results.records:
        if r.status != "done":
            say(f"failed: {r.backbone['name']} on {r.task}: {r.reason}")
