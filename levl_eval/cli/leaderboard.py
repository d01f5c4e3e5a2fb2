"""`levl-eval leaderboard DIR...`: tables from one or several run directories, in every form they are needed in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.text import json_text, printable

if TYPE_CHECKING:
    from levl_eval.report.tables import TableRow

FORMATS = ("table", "csv", "md", "tex", "html", "json")


def add(commands: Commands) -> None:
    p = commands.add_parser("leaderboard", help="print or write tables of run directories")
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories")
    p.add_argument("--reference", metavar="NAME", help="baseline of the gains (default: each backbone's own random twin)")
    p.add_argument("--format", choices=FORMATS, default="table")
    p.add_argument("--wide", action="store_true", help="csv: tasks by backbones instead of one metric per row")
    p.add_argument("--intervals", action="store_true", help="tex: tables with intervals (wider than one column)")
    p.add_argument("--published", action="store_true", help="csv: add the paper's numbers as rows marked published")
    p.add_argument("--json", action="store_true", help="the same as --format json")
    p.add_argument("--out", metavar="FILE", help="write to a file instead of to the terminal")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all is in the table; 1: something is damaged and left out, as stderr and the table's notes say."""
    from levl_eval.report import latex, tables, wide
    from levl_eval.report.results import Results

    results = Results.read(args.dirs, say=lambda text: print(printable(text), file=sys.stderr), reference=args.reference)
    kind = "json" if args.json else args.format
    if (args.wide or args.published) and kind != "csv":
        raise UsageError("leaderboard: --wide and --published go with --format csv")
    if args.intervals and kind != "tex":
        raise UsageError("leaderboard: --intervals goes with --format tex; all others hold them")
    if kind == "csv":
        if args.wide and args.published:
            raise UsageError("leaderboard: the paper's numbers go into the long table; leave out --wide")
        text = wide.wide_csv(results) if args.wide else tables.to_csv(tables.rows(results) + _published(args.published))
    elif kind == "table":
        if args.out is None:
            tables.show(results)
            results.save()
            return int(bool(results.damaged))
        text = "\n".join([*(line for line, _ in tables.lines(results)), *tables.all_notes(results)]) + "\n"
    else:
        writers: dict[str, Callable[[Results], str]] = {
            "md": wide.markdown, "tex": latex.with_intervals if args.intervals else latex.column,
            "html": wide.html_page, "json": lambda r: json_text(wide.as_json(r)) + "\n",
        }  # fmt: skip
        text = writers[kind](results)
    results.save()
    if args.out is None:
        sys.stdout.write(text)
    else:
        from levl_eval.core.files import atomic_write

        atomic_write(Path(args.out), text)
    return int(bool(results.damaged))


def _published(wanted: bool) -> list[TableRow]:
    if not wanted:
        return []
    from levl_eval.report.published import as_rows, load_published

    return as_rows(load_published())
