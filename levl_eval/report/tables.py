"""Tables from records: the tidy leaderboard CSV and the terminal table. Reads records and samples only."""

from __future__ import annotations

import csv
import io
import itertools
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypeAlias

from levl_eval.core.files import atomic_write
from levl_eval.core.json_types import object_at
from levl_eval.core.terminal import lines_of
from levl_eval.core.text import csv_cell, printable
from levl_eval.metrics.catalogue import Metric
from levl_eval.metrics.statistics import within
from levl_eval.records import Record
from levl_eval.report.averages import average_lines, average_notes, known_averages
from levl_eval.report.budget import budget_notes
from levl_eval.report.provenance import date_of, published_set, source_word, test_images
from levl_eval.report.results import Results, Row, entry_of
from levl_eval.report.sight import SHARE, ceiling_notes, ceiling_of, is_of_main, share_of_record, share_of_sight, share_text
from levl_eval.report.trained_out import trained_out
from levl_eval.report.units import interval, labelled, lower_note, text

TableRow: TypeAlias = dict[str, str | int | float | None]  # of the long table: column -> cell

# Column -> meaning; the order is the file's order, new ones at the end (docs/results.md).
# No times, full paths or versions: equal runs of a day give equal bytes.
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
    "gain": "main metric minus that of the backbone in `reference` under the same comparison_hash, points; empty without one",
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
    "protocol_hash": "of everything besides backbone, data and seed that can move a number",
    "data_fingerprint": "content hash of the test set",
    "weights_sha256": "content hash of the backbone",
    "source": "where the data lay: scenes (synthetic), hub, or the directory as it was given",
    "published_set": "the published set that the test data were recognised as; empty: none",
    "split": "of the test set",
    "images": "number of test images",
    "train_fingerprint": "content hashes of the training sets, separated by blanks; empty where nothing is trained",
    "validation_fingerprint": "content hash of a validation set of its own; empty: none",
    "reference": "the backbone that `gain` is over; empty: none",
    "better": "higher | lower | none | unknown: which end of the metric is the better one",
    "device": "kind of device: cpu, cuda, mps",
    "identity_hash": "of everything that can move the number; empty in records of schema 1",
    "comparison_hash": "rows may be compared only where it is equal: protocol, precision, training, validation and test data",
    "date": "day of the measurement, YYYY-MM-DD",
    "unit": "of value, its error and interval: percent, or what the metric is in; empty for pure numbers",
    "sight": "share of the way from the floor without sight to the ceiling of perfect sight, percent; "
    "empty without a ceiling (synthetic scenes)",
    "sight_low": "lower end of its 95% interval",
    "sight_high": "upper end",
    "ceiling": "main metric of the oracle that `sight` is measured by, in the unit of `value`",
    "converged": "1: the head or connector had learned what it could, by the effect of `--budget` where it was run, "
    "else by the rule in the record; 0: not; empty: nothing is trained, or not told",
    "mark": "in what its protocol and data differ from the task's other rows of this table; empty where there are none",
}


def _number(x: float | None, kind: Metric) -> str:
    return "" if x is None else f"{kind.factor * x:.4f}"


def _flag(value: bool | None) -> str:
    return "" if value is None else str(int(value))


def _joined(values: object) -> str:
    return " ".join(map(str, values)) if isinstance(values, (list, tuple)) else ""


def _cell(value: object) -> str | int | float | None:
    """A record's field as a cell of the long table; what is no plain value as its text."""
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _about(results: Results, r: Record) -> TableRow:
    """What the rows of a record have in common."""
    pre = object_at(r.backbone, "preprocess")
    columns: dict[str, object] = {
        "task": r.task, "backbone": results.label(r), "seed": r.seed, "llm": r.llm, "status": r.status,
        "reason": r.reason, "limit": "" if r.limit is None else r.limit,
        "image_size": r.protocol.get("size") or pre.get("size", ""), "resize": r.protocol.get("resize") or pre.get("resize", ""),
        "interpolation": pre.get("interpolation", ""), "mean": _joined(pre.get("mean")),
        "std": _joined(pre.get("std")), "protocol_hash": r.protocol_hash,
        "data_fingerprint": r.data.get("fingerprint", ""), "weights_sha256": r.weights,
        "source": source_word(r), "published_set": published_set(r), "split": r.data.get("split") or "", "images": test_images(r),
        "train_fingerprint": " ".join(r.train), "validation_fingerprint": r.data.get("validation") or "",
        "device": r.device, "identity_hash": r.identity_hash, "comparison_hash": r.comparison_hash, "date": date_of(r),
    }  # fmt: skip
    return {column: _cell(value) for column, value in columns.items()}


def _gain_columns(results: Results, row: Row, name: str, r: Record) -> TableRow:
    """The gain of a record and what it is over, and its share of sight; without what there is none of."""
    g = results.gain_of_record(row, name, r)
    ends = {"gain": g.value, "gain_low": g.low, "gain_high": g.high} if g is not None else {}
    out: TableRow = {k: _number(v, row.kind) for k, v in ends.items()}
    if g is not None:
        out["reference"] = results.reference(row, name) or ""
    return out | _sight_columns(results, row, r)


def _sight_columns(results: Results, row: Row, r: Record) -> TableRow:
    share, ceiling = share_of_record(results, row, r), ceiling_of(results, row)
    if share is None or ceiling is None:
        return {}
    ends = {"sight": share.value, "sight_low": share.low, "sight_high": share.high}
    return {**{k: _number(v, SHARE) for k, v in ends.items()}, "ceiling": _number(ceiling.value.value, row.kind)}


def rows(results: Results) -> list[TableRow]:
    """One row per metric of a record; a failed record gives one row without numbers. Sorted by task, metric, backbone, seed."""
    gains = {
        id(r): {
            **_gain_columns(results, row, name, r),
            "converged": _flag(trained_out(r, results.effect_of_length(row, name))),
        }
        for row in results.rows
        for name, cell in row.cells.items()
        for r in cell.records
    }
    mark_of = {id(r): row.mark for row in results.rows for r in row.records}
    out: list[tuple[tuple[str | int, ...], TableRow]] = []
    for r in results.records:
        common = {**_about(results, r), "mark": mark_of.get(id(r), "")}
        if r.status != "done":
            columns: TableRow = {**common, "metric": r.main_metric, "main": 1, "better": entry_of(r, r.main_metric).better}
            out.append((_place(common, r, r.main_metric), columns))
        for name, measured in r.metrics.items():
            kind, main = entry_of(r, name), name == r.main_metric
            e = within(measured, kind.bounds)
            ends = {k: _number(getattr(e, k), kind) for k in ("value", "stderr", "low", "high")}
            columns = {
                **common, "metric": name, "main": int(main), "unit": kind.unit,
                **ends, "n": e.n, "clusters": e.clusters, "method": e.method,
                **(gains[id(r)] if main else {}), "chance": _number(chance_of(r), kind) if main else "", "better": kind.better,
            }  # fmt: skip
            out.append((_place(common, r, name), columns))
    return [columns for _, columns in sorted(out, key=lambda x: x[0])]


def _place(common: TableRow, r: Record, metric: str) -> tuple[str | int, ...]:
    """By which rows are sorted: task, main metrics first, metric, backbone, seed, and then what distinguishes records."""
    return (
        r.task, metric != r.main_metric, metric, str(common["backbone"]), r.seed, r.protocol_hash, str(r.data.get("fingerprint", "")),
        str(common["comparison_hash"]), r.identity_hash,
    )  # fmt: skip


def to_csv(table: Sequence[TableRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    empty = itertools.repeat("")
    writer.writerows(map(csv_cell, map(row.get, COLUMNS, empty)) for row in table)
    return buffer.getvalue()


def write_leaderboard(out: Path, results: Results | None = None) -> Path:
    """Derive ``out/leaderboard.csv`` from all undamaged records of the directory. Raises UsageError where there are none."""
    path = out / "leaderboard.csv"
    results = results or Results.read([out])
    atomic_write(path, to_csv(rows(results)))
    results.save()
    return path


def chance_of(record: Record) -> float | None:
    """Chance level of a record's main metric: its card's, else the catalogue's for its number of classes."""
    if record.chance is not None:
        return record.chance
    classes = object_at(record.data, "counts").get("classes")
    return entry_of(record, record.main_metric).chance_among(classes if isinstance(classes, int) else None)


def floor_notes(records: Sequence[Record]) -> list[str]:
    """Floors and ceilings that belong to a task, not to a backbone, each once; and the resulting sizes of memories."""
    notes: dict[str, None] = {}
    for r in records:
        kind = entry_of(r, r.main_metric)
        if is_of_main(r, "text_only"):
            e = r.metrics["floor_text_only"]
            notes[f"{r.task}: text-only floor {interval(e.value, e.low, e.high, kind)}"] = None
        chance = chance_of(r)
        if chance is not None and r.status == "done":
            notes[f"{r.task}: chance {text(chance, kind)}"] = None
        memory = object_at(r.notes, "memory")
        patches, asked = memory.get("patches"), memory.get("asked")
        if isinstance(patches, int) and patches != asked:
            wanted = f", {asked:,} asked for" if isinstance(asked, int) else ""
            notes[f"{r.task}: memory of {patches:,} patches, all that {memory.get('views')} views gave{wanted}"] = None
    return list(notes)


LATE = "*"  # behind a value whose head or connector had not converged


def late_mark(results: Results, row: Row, name: str) -> str:
    """:data:`LATE` where a seed's head had not converged (trained_out.py); ""."""
    cell = row.cells.get(name)
    late = cell is not None and any(trained_out(r, results.effect_of_length(row, name)) is False for r in cell.records)
    return LATE if late else ""


def late_notes(results: Results, rows: Sequence[Row]) -> list[str]:
    """What the mark means, where there is one."""
    marked = dict.fromkeys(row.task for row in rows if any(late_mark(results, row, n) for n in row.cells))
    words = (
        "the head or connector had not converged (by the effect of another --budget where one was run, else by the rule in the record) "
        "and may limit the result; --budget x2 shows the effect of longer training"
    )
    return [f"{LATE} {', '.join(marked)}: {words}"] if marked else []


def instrument_notes(results: Results, rows: Sequence[Row]) -> list[str]:
    """Which heads had not converged or had fewer images than their shots, and which ceilings the shares of sight refer to."""
    return [*late_notes(results, rows), *shot_notes(rows), *ceiling_notes(results, rows), *budget_notes(results)]


def shot_notes(rows: Sequence[Row]) -> list[str]:
    """Where "16 shots" are fewer, as a class has no more training images."""
    out: dict[str, None] = {}
    for row in rows:
        short = object_at(row.any.notes, "fewer_images_than_shots")
        for shots in short:
            of = object_at(short, shots)
            out[
                f"{row.title}: {shots} shots: {of.get('classes')} of {of.get('of')} classes have fewer "
                f"training images (at least {of.get('fewest')}); all of theirs were taken"
            ] = None
    return list(out)


def data_notes(results: Results) -> list[str]:
    """One line per row: the data of its numbers, and the baseline of its gains."""
    out = []
    for row in results.rows:
        over = results.gains_over(row)
        out.append(f"{row.title}: {row.data}" + (f"; {over}" if over else ""))
    return out


def failures(results: Results, records: Sequence[Record]) -> list[str]:
    """One line per backbone, task and reason, with the seeds that failed where the task has other ones too."""
    seeds: dict[tuple[str, str], set[int]] = {}
    failed: dict[tuple[str, str, str], set[int]] = {}
    for r in records:
        where = (results.label(r), r.task)
        seeds.setdefault(where, set()).add(r.seed)
        if r.status != "done":
            failed.setdefault((*where, r.reason), set()).add(r.seed)
    lines = []
    for (label, task, reason), own in failed.items():
        named = f", seed{'s' * (len(own) > 1)} {', '.join(map(str, sorted(own)))}" if len(seeds[label, task]) > 1 else ""
        lines.append(f"failed: {label} on {task}{named}: {reason}")
    return lines


def all_notes(results: Results) -> list[str]:
    """Notes below the tables of every format: data, floors and chance, failures, what was left out."""
    lacking = average_notes(known_averages(results))
    return [
        *(f"data of {n}" for n in data_notes(results)),
        *floor_notes(results.records),
        *instrument_notes(results, results.rows),
        *failures(results, results.records),
        *lacking,
        *results.notes(),
    ]


def _cell_text(results: Results, row: Row, name: str) -> tuple[str, str, str, str]:
    """(value, spread over seeds, gain, share of sight) of a cell for people."""
    s = results.summary(row, name)
    g = results.gain(row, name)
    value = interval(s.estimate.value, s.estimate.low, s.estimate.high, row.kind) + late_mark(results, row, name)
    seeds = f"{text(s.seed_sd, row.kind)} ({s.seeds})" if s.seeds > 1 else ""
    gain = interval(g.value, g.low, g.high, row.kind, signed=True) if g else ""
    return value, seeds, gain, share_text(share_of_sight(results, row, name))


def _chosen(results: Results, of: Sequence[Record] | None) -> list[Row]:
    """The rows that hold one of the records ``of``; all for None."""
    if of is None:
        return results.rows
    keys = {(str(r.home), r.key) for r in of}
    return [row for row in results.rows if any((str(r.home), r.key) in keys for r in row.records)]


def lines(results: Results, width: int = 80, of: Sequence[Record] | None = None) -> list[tuple[str, bool]]:
    """The table as text lines, each with whether it is significantly the best of its task. Fits ``width`` columns.

    of: only rows that hold one of these records (with all their cells).
    """
    table: list[tuple[Row, str, tuple[str, str, str, str]]] = []
    chosen = _chosen(results, of)
    for row in chosen:
        for name, cell in row.cells.items():
            table.append((row, printable(name), _cell_text(results, row, name) if cell.records else ("failed", "", "", "")))
    kept = [k for k in range(4) if k == 0 or any(t[2][k] for t in table)]
    heads = [("value", "seed sd", "gain", "share of sight")[k] for k in kept]

    def wanted(t: tuple[str, str, str, str]) -> list[str]:
        return [t[k] for k in kept]

    columns = [max(len(h), *(len(wanted(t)[i]) for *_, t in table)) for i, h in enumerate(heads)] if table else []
    titles = {row.key: printable(f"{row.title}, {labelled(row.kind)}") for row in chosen}
    longest = max([len(name) + 2 for _, name, _ in table] + [len(t) for t in titles.values()] + [8])
    first = max(12, min(longest, width - sum(c + 2 for c in columns)))

    def line(name: str, cells: Sequence[str]) -> str:
        name = name if len(name) <= first else name[: first - 1] + "…"
        return (name.ljust(first) + "".join("  " + c.rjust(w) for c, w in zip(cells, columns, strict=True))).rstrip()

    out: list[tuple[str, bool]] = []
    for row in chosen:
        out.append(("", False))
        title = titles[row.key]
        if len(title) > first:  # a mark is never cut: it identifies the row
            out += [(part, False) for part in _wrapped(title, width, "")]
            title = ""
        if title or row is chosen[0]:
            out.append((line(title, heads if row is chosen[0] else [""] * len(heads)), False))
        best = printable(results.best(row) or "")
        out += [(line("  " + name, wanted(t)), name == best) for r, name, t in table if r is row]
        over = results.gains_over(row)
        out += [(part, False) for part in _wrapped(printable(f"data: {row.data}" + (f"; {over}" if over else "")), width, "  ")]
    return out[1:]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent * 2) or [""]


def show(results: Results, stream: IO[str] | None = None, of: Sequence[Record] | None = None) -> None:
    """Print main metrics with 95% intervals and gains; bold (on a terminal) where one is significantly the best. Plain in a pipe.

    of: only rows that hold one of these records.
    """
    import shutil

    stream = stream or sys.stdout
    terminal = stream.isatty()
    width = max(60, shutil.get_terminal_size((80, 24)).columns) if terminal else 10_000

    def say(sentence: str) -> None:
        for line in lines_of([[printable(sentence)]], width if terminal else None):
            print(line, file=stream)

    say(
        "percent unless a unit is given, with 95% intervals over test images; gain: paired difference to the baseline named below each task"
    )
    for line, best in lines(results, width, of):
        print(f"\x1b[1m{line}\x1b[0m" if best and terminal else line, file=stream)
    chosen = _chosen(results, of)
    if lower := lower_note(row.kind for row in chosen):
        say(lower.strip())
    for sentence in average_lines(known_averages(results)):
        say(sentence)
    within_rows = [r for row in chosen for r in row.records]
    for note in [*floor_notes(within_rows), *instrument_notes(results, chosen)]:
        say(note)
    for line in failures(results, within_rows):
        say(line)
    for note in results.notes():
        say(f"note: {note}")
