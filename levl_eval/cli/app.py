"""The `levl-eval` command. Heavy imports (torch, transformers) happen inside the commands that need them.

Exit codes: 0 all done; 1 something failed and is recorded as failed, the rest is there; 2 wrong usage or input, told in one
line; 130 interrupted by Ctrl-C, 143 by SIGTERM, what was finished is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval import __version__
from levl_eval.cli import (
    ask,
    audit,
    cache,
    check,
    claims,
    compare,
    data,
    doctor,
    features,
    health,
    imports,
    leaderboard,
    plan,
    publish,
    report,
    rerun,
    run,
    serve,
    show,
    show_dense,
    verify,
)  # fmt: skip
from levl_eval.core.command import Parser


def build_parser() -> Parser:
    """All commands; each adds itself, and importing it imports nothing heavy."""
    parser = Parser(prog="levl-eval", description="Evaluate frozen vision encoders under one stated protocol.")
    parser.add_argument("--version", action="version", version=f"levl-eval {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for module in (
        run, show, data, ask, audit, cache, check, features, imports, health, leaderboard,
        compare, claims, plan, show_dense, report, serve, publish, verify, rerun, doctor,
    ):  # fmt: skip
        module.add(commands)
    return parser


def dispatch(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; returns the exit code. Errors pass: the entry point's guard tells them (cli/__init__.py)."""
    parser = build_parser()
    args = parser.parse(words)
    args.words = list(words)
    if args.command is None:
        parser.print_help()
        return 0
    out: int = args.call(args)
    return out
