"""What the commands share: a parser that answers a wrong word in one line, and how errors reach the user."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.text import printable


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong word is answered in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")


def guard(call: Callable[[], int], debug: bool, program: str) -> int:
    """Run a command; a LevlError becomes its one line on stderr, Ctrl-C a word on how to go on.

    The package's messages go to stderr meanwhile.
    """
    try:
        with on_stderr():
            return call()
    except LevlError as e:
        if debug:
            raise
        print(f"{program}: {printable(str(e))}", file=sys.stderr)
        return 2 if isinstance(e, UsageError) else 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
