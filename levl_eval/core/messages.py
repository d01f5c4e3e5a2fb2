"""Messages through the standard ``logging``: what the package has to say while it works.

Each is a record of level INFO of the logger that is named like the module it comes from, below ``levl_eval``. A program that uses
the package steers them as any library's: it adds handlers to ``logging.getLogger("levl_eval")`` or one below it and sets levels
there; without that nothing is shown. The commands install ``on_stderr``, one plain line a message.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from levl_eval.core.text import printable

ROOT = "levl_eval"  # the logger that all others of the package are below


class StderrHandler(logging.Handler):
    """One line a message on whatever ``sys.stderr`` is at that moment; what would act on a terminal is escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage()), file=sys.stderr, flush=True)


def message(text: str, caller: str = ROOT) -> None:
    """Log ``text`` at level INFO. caller: name of the module it comes from; one outside the package speaks for the package."""
    logging.getLogger(caller if caller == ROOT or caller.startswith(f"{ROOT}.") else ROOT).info("%s", text)


def _is_ours(logger: logging.Logger) -> bool:
    return any(isinstance(h, StderrHandler) for h in logger.handlers)


@contextmanager
def on_stderr() -> Iterator[None]:
    """Within it messages go to stderr as a command shows them. Handlers of the calling program on ``levl_eval`` keep theirs.

    Root handlers, which a library may have installed, do not repeat them. What was set before is put back at the end.
    """
    logger = logging.getLogger(ROOT)
    if _is_ours(logger):
        yield
        return
    handler, level, propagate = StderrHandler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.INFO) if level else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def show_messages() -> None:
    """For programs that run the package and are not its commands (lmms-eval, tools): show messages on stderr from now on.

    Does nothing where the program has handlers for them already.
    """
    logger = logging.getLogger(ROOT)
    if not logger.hasHandlers():
        logger.addHandler(StderrHandler())
        logger.setLevel(logging.INFO)
