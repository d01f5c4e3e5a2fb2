"""Output that cannot be written takes no work with it: the reader of a pipe has left,
the disk is full, a stream is closed, or its encoding lacks a character."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

_ESCAPED = "levl-eval-escaped"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks as JSON's escapes, so that JSON stays what it is."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPED, _escaped)


class Output:
    """A text stream that never raises OSError.

    lost: why some of the text was not written; "" where all was, or its reader left (``| head``).
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lost = stream, ""

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(text.encode(encoding, _ESCAPED).decode(encoding))
        except OSError as e:
            self._drop(e)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as e:
            self._drop(e)

    def _drop(self, error: OSError) -> None:
        """What is held back and what follows goes nowhere, also what Python flushes when it ends."""
        if not isinstance(error, BrokenPipeError):
            self.lost = self.lost or error.strerror or str(error)
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())
            self.stream.flush()


@contextmanager
def guarded() -> Iterator[Output]:
    """Within it stdout and stderr are an :class:`Output` each, of os.devnull where they are closed. Yields that of stdout."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, errors = (Output(stream or nowhere) for stream in before)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
        try:
            yield out
        finally:
            out.flush()
            errors.flush()
            sys.stdout, sys.stderr = before
