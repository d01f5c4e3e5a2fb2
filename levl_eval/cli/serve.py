"""`levl-eval serve DIR...`: the live table of running and finished runs, read-only, on localhost."""

from __future__ import annotations

import argparse
from pathlib import Path

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "serve",
        help="show the live table of runs in a browser",
        description="Read-only. On a cluster's login node: `levl-eval serve OUT`, and from your machine `ssh -L 8400:localhost:8400 NODE`.",
    )
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories, finished or running")
    p.add_argument("--port", type=int, default=8400, metavar="N", help="default: 8400; 0: any free one")
    p.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: this machine alone; others may then read the table"
    )
    p.add_argument("--reference", metavar="NAME", help="baseline of the gains (default: each backbone's own random twin)")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C; exit code 0."""
    from levl_eval.report.serve import Live, Server

    if not 0 <= args.port <= 65_535:
        raise UsageError(f"--port {args.port}: at least 0, at most 65,535")
    with Server(Live([Path(d) for d in args.dirs], args.reference), args.host, args.port) as server:
        print(printable(f"{server.address}  (Ctrl-C ends it)"), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0
