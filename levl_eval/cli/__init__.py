"""The `levl-eval` command: options and one command a file. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from levl_eval.core.command import guard

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``levl-eval``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def call() -> int:
        # Within the guard, as Ctrl-C may come while the commands' modules are still read.
        from levl_eval.cli.app import dispatch

        return dispatch(words)

    return guard(call, "--debug" in words, "levl-eval", argv is None)
