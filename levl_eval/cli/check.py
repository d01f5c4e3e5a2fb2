"""`levl-eval check DIR`: which records of a run are undamaged, and which the next run computes again."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from levl_eval.cli.options import Commands

STATES = {"whole": "undamaged", "old": "of an old schema without checksums", "orphan": "without a record"}  # others as they are


def add(commands: Commands) -> None:
    p = commands.add_parser("check", help="check the records and samples of a run for damage")
    p.add_argument("dir", metavar="DIR", help="run directory")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all records and their samples are undamaged (or of a schema without checksums); 1: something is damaged or failed."""
    from levl_eval.core.terminal import print_rows
    from levl_eval.records.check import check_run

    findings = check_run(Path(args.dir))
    if args.json:
        print(json.dumps([vars(f) for f in findings], indent=1))
    else:
        counts = Counter(f.state for f in findings)
        print_rows([[f.state, f.file, f.message] for f in findings if f.message])
        print(", ".join(f"{n} {STATES.get(state, state)}" for state, n in counts.most_common()) or "no records")
        if counts["damaged"] or counts["failed"]:
            print("the next run with this --out computes damaged and failed records again")
    return int(any(f.state in ("damaged", "failed") for f in findings))
