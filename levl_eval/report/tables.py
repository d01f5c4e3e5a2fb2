"""Tables from records: the tidy leaderboard CSV and the terminal table. Reads records and samples only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from levl_eval.io import atomic_write
from levl_eval.records import Estimate, Record, read_records

# Column -> meaning; the order is the file's order. Fractions are given in percent. No times: equal runs give equal bytes.
COLUMNS: dict[str, str] = {
    "task": "task card",
    "metric": "name of the metric",
    "main": "1 if it is the task's main metric",
    "backbone": "name of the backbone",
    "seed": "seed of the head or connector",
    "value": "percent",
    "stderr": "standard error over test images, percent",
    "low": "lower end of the 95% interval, percent",
    "high": "upper end",
    "n": "samples",
    "clusters": "images resampled together",
    "gain": "main metric minus the random-initialised backbone's under the same protocol, points",
    "gain_low": "lower end of the paired 95% interval",
    "gain_high": "upper end",
    "chance": "chance level of the main metric, percent",
    "llm": "language model, where one answers",
    "status": "done | failed",
    "reason": "why it failed",
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


def _percent(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.4f}"


def gains(out: Path, records: Sequence[Record]) -> dict[str, Estimate]:
    """Record key -> gain over the random-initialised backbone of the same run, where there is one."""
    from levl_eval.report.gain import comparable, gain

    result: dict[str, Estimate] = {}
    floors = [r for r in records if r.backbone.get("info", {}).get("baseline") and r.status == "done"]
    for record in records:
        for floor in floors:
            if floor.key != record.key and comparable(record, floor):
                estimate = gain(out, record, out, floor)
                if estimate is not None:
                    result[record.key] = estimate
                break
    return result


def rows(records: Sequence[Record], gain_of: dict[str, Estimate]) -> list[dict[str, Any]]:
    """One row a metric; a failed record gives one row without numbers. Sorted by task, metric, backbone, seed."""
    out = []
    for r in records:
        pre = r.backbone.get("preprocess", {})
        common = {
            "task": r.task,
            "backbone": r.backbone["name"],
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
            g = gain_of.get(r.key) if main else None
            out.append(
                {
                    **common,
                    "metric": name,
                    "main": int(main),
                    "value": _percent(e.value),
                    "stderr": _percent(e.stderr),
                    "low": _percent(e.low),
                    "high": _percent(e.high),
                    "n": e.n,
                    "clusters": e.clusters,
                    "gain": _percent(g.value) if g else "",
                    "gain_low": _percent(g.low) if g else "",
                    "gain_high": _percent(g.high) if g else "",
                    "chance": _percent(r.chance) if main else "",
                }
            )
    return sorted(out, key=lambda x: (x["task"], -x["main"], x["metric"], x["backbone"], x["seed"], x["protocol_hash"]))


def to_csv(table: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(COLUMNS), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def write_leaderboard(out: Path, records: Sequence[Record] | None = None) -> Path:
    """Derive ``out/leaderboard.csv`` from all records of the directory."""
    found = list(records) if records is not None else read_records(out)
    path = out / "leaderboard.csv"
    atomic_write(path, to_csv(rows(found, gains(out, found))))
    return path


def _interval(e: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if e.low is None or e.high is None:
        return f"{100 * e.value:{sign}.1f}"
    return f"{100 * e.value:{sign}.1f} [{100 * e.low:{sign}.1f}, {100 * e.high:{sign}.1f}]"


def _floor_notes(records: Sequence[Record]) -> list[str]:
    """Floors and ceilings that belong to a task, not to a backbone, each told once."""
    told: dict[str, None] = {}
    for r in records:
        for name, e in r.metrics.items():
            if name == "floor_text_only":
                told[f"{r.task}: text-only floor {_interval(e)}"] = None
        if r.chance is not None and r.status == "done":
            told[f"{r.task}: chance {100 * r.chance:.1f}"] = None
    return list(told)


def show(out: Path, records: Sequence[Record], console: Any = None) -> None:
    """Print main metrics with 95% intervals and the gain over the random backbone; best value of a task in bold."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    gain_of = gains(out, records)
    table = Table(title="percent, 95% intervals; gain: paired, over the random-initialised backbone", title_justify="left")
    for column, justify in (("task", "left"), ("metric", "left"), ("backbone", "left"), ("value", "right"), ("gain", "right")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    seeds = {r.seed for r in records}
    last = None
    for task in dict.fromkeys(r.task for r in records):
        group = [r for r in records if r.task == task]
        done = [r.metrics[r.main_metric].value for r in group if r.status == "done"]
        if last is not None:
            table.add_section()
        last = task
        for i, r in enumerate(group):
            name = r.backbone["name"] + (f" (seed {r.seed})" if len(seeds) > 1 else "")
            head = (task, r.main_metric) if i == 0 else ("", "")
            if r.status != "done":
                table.add_row(*head, name, "[red]failed[/red]", "")
                continue
            e = r.metrics[r.main_metric]
            text = _interval(e)
            if e.value == max(done) and len(done) > 1:
                text = f"[bold]{text}[/bold]"
            g = gain_of.get(r.key)
            table.add_row(*head, name, text, _interval(g, signed=True) if g else "")
    console.print(table)
    for line in _floor_notes(records):
        console.print(line, highlight=False, soft_wrap=True)
    for r in records:
        if r.status != "done":
            console.print(f"failed: {r.backbone['name']} on {r.task}: {r.reason}", highlight=False, markup=False, soft_wrap=True)
