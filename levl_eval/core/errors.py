"""Errors a user may see. Each carries one line: what is wrong, where (file, field), and what to do."""

from __future__ import annotations

import math


class LevlError(Exception):
    """Something failed for a reason that can be told in one line. Inside a run it becomes a failed record (exit code 1)."""


class UsageError(LevlError):
    """Wrong usage or input: the command ends with this one line and exit code 2."""


class ProtocolMismatch(UsageError):
    """Two results were asked to be compared that were not measured under one protocol (or on one data set)."""


class DamagedFeatures(LevlError):
    """A block of stored features is not what was written. The entry has been removed: the same call again computes it anew."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a command ends by as by Ctrl-C, but without a question to anyone."""


def check_finite(value: float, what: str, remedy: str) -> None:
    """Raises LevlError, "WHAT is VALUE; REMEDY", where a training's loss or gradient is not finite."""
    if not math.isfinite(value):
        raise LevlError(f"{what} is {value}; {remedy}")
