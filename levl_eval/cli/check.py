"""`levl-eval check DIR`: what of a run's folder is whole, and what the next run computes again."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from levl_eval.cli.options import Commands


def add(commands: Commands) -> None:
    p = commands.add_parser("check", help="say what is whole in a run's folder")
    p.add_argument("dir", metavar="DIR")
    p.add_argument("--json", action="store_true")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all records and their samples are whole (or of a schema without checksums); 1: something is damaged or failed."""
    from levl_eval.core.terminal import print_rows
    from levl_eval.records.check import check_run

    findings = check_run(Path(args.dir))
    if args.json:
        print(json.dumps([vars(f) for f in findings], indent=1))
    else:
        counts = Counter(f.state for f in findings)
        print_rows([[f.state, f.file, f.message] for f in findings if f.message])
        print(", ".join(f"{n} {state}" for state, n in counts.most_common()) or "no records")
        if counts["damaged"] or counts["failed"]:
            print("the next run into this folder computes what is damaged or failed again")
    return int(any(f.state in ("damaged", "failed") for f in findings))
