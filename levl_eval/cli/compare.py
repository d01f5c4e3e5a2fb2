"""`levl-eval compare A B [C...]`: paired by sample, clustered by image, with p-values, a verdict, and where they differ."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cards.fields import Between
from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean, json_text, printable
from levl_eval.runner.options import Number

if TYPE_CHECKING:
    from levl_eval.records import Record
    from levl_eval.report.compare import Comparison
    from levl_eval.report.reading import Found

WIDTH = 80


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "compare",
        help="paired comparison of two or more results",
        description="Each side is a backbone's name in the run directory of --in, DIR:BACKBONE, a run directory with one backbone, "
        "or a record's file.",
    )
    p.add_argument("sides", nargs="+", metavar="A B [C...]", help="two or more sides")
    p.add_argument(
        "--in", dest="folder", default="runs/latest", metavar="DIR", help="where bare names are looked up (default: runs/latest)"
    )
    p.add_argument("--tasks", metavar="T[,T...]", help="only these (default: all that the sides share)")
    p.add_argument("--allow-mismatch", action="store_true", help="compare although protocols or data differ, and mark it")
    p.add_argument(
        "--differ",
        type=Number(Between(0, 100_000), int),
        default=3,
        metavar="N",
        help="samples to show on which they differ most (default: 3)",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


class Folders:
    """Run directories, each read once, even if several sides are in it."""

    def __init__(self) -> None:
        from levl_eval.report.derived import Derived

        self.derived = Derived()
        self._read: dict[Path, Found] = {}

    def read(self, directory: Path) -> Found:
        """The results of a run directory; damaged records are reported once."""
        from levl_eval.report.reading import read_directory

        if directory not in self._read:
            self._read[directory] = read_directory(directory, self.derived)
            for line in self._read[directory].damaged:
                print(f"compare: left out: {line}", file=sys.stderr)
        return self._read[directory]


def side(word: str, folder: str, folders: Folders, tasks: Collection[str] = ()) -> dict[str, list[Record]]:
    """Records of a side by task, of all or of ``tasks``. Raises UsageError where the word names nothing, or several."""
    from levl_eval.records import read_record

    path = Path(word)
    if path.suffix == ".json":
        record = read_record(path)
        return {record.task: [record]}
    directory, name = _place(word, folder)
    records = [r for r in folders.read(Path(directory)).records if r.status == "done"]
    names = list(dict.fromkeys(r.backbone_name for r in records))
    if not names:
        raise UsageError(f"{directory}: no finished records; give the --out of a run")
    if not name:
        if len(names) > 1:
            raise UsageError(f"{directory}: holds {len(names)} backbones ({', '.join(names)}); name one: {directory}:{names[0]}")
        name = names[0]
    if name not in names:
        raise UsageError(f"{directory}: holds no backbone {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    mine = [r for r in records if r.backbone_name == name and (not tasks or r.task in tasks)]
    if len({"" if r.external else r.weights for r in mine}) > 1:  # another system has a file of predictions a task
        raise UsageError(f"{directory}: there are encoders of the name {name!r} with different weights; give the records' files")
    out: dict[str, list[Record]] = {}
    for r in mine:
        out.setdefault(r.task, []).append(r)
    for task, of_task in out.items():
        _one_side(f"{directory}: {name} on {task}", of_task)
    return out


def _place(word: str, folder: str) -> tuple[str, str]:
    """(run directory, backbone or "") that a word means. folder: where bare names are looked up.

    A folder is a side only where it holds records, so that one that is named like a backbone (a checkpoint's) does not hide it.
    Raises UsageError for a folder that is not there or holds no records, and for a word that means both.
    """
    path = Path(word).expanduser()
    directory, colon, name = word.rpartition(":")
    if colon and Path(directory).expanduser().is_dir():
        return str(Path(directory).expanduser()), name
    if (path / "records").is_dir():
        if word in _names(folder):
            raise UsageError(
                f"compare: {word!r} is a run directory here and a backbone of {folder}; write {os.path.join('.', word)} for the one, "
                f"{folder}:{word} for the other"
            )
        return str(path), ""
    if not Path(folder).is_dir():
        raise UsageError(f"compare: {word!r} is no file or directory, and there is no {folder} to look it up in; use --in DIR")
    if (path.exists() or (len(path.parts) > 1 and not colon)) and word not in _names(folder):
        what = "is a folder without records" if path.is_dir() else "no such file or directory"
        raise UsageError(f"compare: {word}: {what}, and no backbone of {folder}; give the --out of a run, or a backbone's name")
    return folder, word


def _names(folder: str) -> set[str]:
    """Names of the backbones that a run directory has records of; damaged records are reported when the side is read."""
    from levl_eval.records.record import read_record, record_files

    names: set[str] = set()
    for path in record_files(Path(folder)):
        with contextlib.suppress(UsageError):
            names.add(str(read_record(path).backbone["name"]))
    return names


def _one_side(where: str, records: list[Record]) -> None:
    """Raises UsageError where records are not the seeds of one encoder under one protocol on the same data."""
    from levl_eval.report.compare import mismatches
    from levl_eval.report.labels import differing_parts

    differing = next((m for r in records[1:] if (m := mismatches(records[0], r))), [])
    if differing:
        raise UsageError(f"{where}: there are several protocols or data ({'; '.join(differing)}); give the records' files")
    parts = differing_parts(records, lambda r: None)
    if parts:
        raise UsageError(f"{where}: there are encoders of that name with different {', '.join(parts)}; give the records' files")


def run(args: argparse.Namespace) -> int:
    from levl_eval.report.compare import compare_all

    if len(args.sides) < 2:
        raise UsageError("compare: at least two sides are needed; see `levl-eval compare --help`")
    folders = Folders()
    wanted = [t.strip() for t in (args.tasks or "").split(",") if t.strip()]
    sides = [side(word, args.folder, folders, wanted) for word in args.sides]
    if wanted:
        missing = [t for t in wanted if not any(t in s for s in sides)]
        if missing:
            raise UsageError(f"compare: no side has task {missing[0]!r}")
        sides = [{t: s[t] for t in wanted if t in s} for s in sides]
    comparisons = compare_all(sides, derived=folders.derived, allow_mismatch=args.allow_mismatch, most=args.differ)
    if args.json:
        print(json_text([c.as_dict() for c in comparisons]))
    else:
        print("\n".join(printable(line) for c in comparisons for line in describe(c)))
    return 0


def _wrap(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False)


def describe(c: Comparison) -> list[str]:
    """A comparison as lines of at most 80 characters."""
    from levl_eval.report.units import interval, text

    d = c.difference
    out = [
        f"{c.task}, {c.metric}: {c.items:,} items, {c.images:,} images" + (f", {len(c.seeds)} seeds" if len(c.seeds) > 1 else "")
    ]
    if c.mismatch:
        out += _wrap("MARKED: measured differently: " + "; ".join(c.mismatch))
    width = max(len(c.a), len(c.b))
    for name, value, wins in ((c.a, c.values[0], c.wins[0]), (c.b, c.values[1], c.wins[1])):
        out.append(f"  {name.ljust(width)}  {text(value, c.kind)}   better on {wins:,} items")
    p = f"p {c.p:.2g} ({c.p_method})" + (f", Holm {c.p_holm:.2g}" if c.family > 1 else "")
    out += _wrap(f"difference {interval(d.value, d.low, d.high, c.kind, signed=True)}, {p}")
    if c.seed_sd is not None:
        out += _wrap(f"spread of the difference between {len(c.seeds)} seeds: {text(c.seed_sd, c.kind)} (standard deviation)")
    if c.left_out or c.only_one_side:
        out += _wrap(f"left out: {c.left_out} items that failed on a side, {c.only_one_side} that only one side has")
    out += _wrap(c.verdict)
    for m in c.most_different:
        asked = f" {m.question}" if m.question else ""
        target = f" ({m.target})" if m.target else ""
        answers = f": {m.predictions[0]!r} / {m.predictions[1]!r}" if any(m.predictions) else ""
        out += _wrap(f"- {m.id}{asked}{target}{answers}  scores {m.scores[0]:.2f} / {m.scores[1]:.2f}", 4)
    return [*out, ""]
