"""Ranges of the numbers on the command line and in `evaluate`, told in one line where one is outside."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from levl_eval.cards.fields import MAX_SEED, Between
from levl_eval.cards.skip import checked_bound
from levl_eval.core.distributed import cores
from levl_eval.core.errors import UsageError

WORKERS_PER_CORE = 4  # more processes than that wait for one another and fill the memory

_LIMIT = Between(1, 1_000_000_000)
_BATCH = Between(1, 65_536)  # images on the device at once
_SEED = Between(0, MAX_SEED)
_MANY_SEEDS = 1_000


_N = TypeVar("_N", int, float)


class Number(Generic[_N]):
    """An argparse type: a number within ``between``. of: ``int`` for whole ones alone, ``float`` for any."""

    def __init__(self, between: Between, of: Callable[[str], _N]) -> None:
        self.between = between
        self.of: Callable[[str], _N] = of

    def __call__(self, text: str) -> _N:
        try:
            value = self.of(text)
            holds = self.between.holds(value)
        except (ValueError, OverflowError):
            holds = False
        if not holds:
            raise argparse.ArgumentTypeError(
                f"expected a {'whole ' if self.of is int else ''}number {self.between}, found {text[:60]!r}"
            )
        return value


LIMIT, BATCH, SEED = Number(_LIMIT, int), Number(_BATCH, int), Number(_SEED, int)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def size_of(text: str) -> int:
    """Bytes of "200GB", "50 GiB" or a plain number. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200GB, 50GiB or 1000000")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def check_store_limit(limit: object) -> None:
    """Raises UsageError for what is no number of bytes."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise UsageError(f"store_limit {limit!r}: a whole number of bytes from 0, or None")


def seed_list(text: str) -> list[int]:
    """``0,1,2`` as seeds, an argparse type."""
    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not parts or len(parts) > _MANY_SEEDS:
        raise argparse.ArgumentTypeError(f"expected 1 to {_MANY_SEEDS:,} seeds such as 0,1,2, found {text[:60]!r}")
    try:
        return [SEED(p) for p in parts]
    except argparse.ArgumentTypeError as e:
        raise argparse.ArgumentTypeError(f"not a list of whole numbers such as 0,1,2: {e}") from None


def skip_bound(value: object, name: str = "skip_broken") -> str | None:
    """``value`` as a card's ``skip_broken``: 3, "3" or "0.5%"; None stays. Raises UsageError for anything else."""
    if value is None:
        return None
    try:
        return checked_bound(value)
    except ValueError as e:
        raise UsageError(f"{name}: {e}") from None


def skip_option(text: str) -> str:
    """An argparse type of :func:`skip_bound`."""
    try:
        return checked_bound(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def check_options(limit: object = None, batch_size: object = 64, seeds: Sequence[object] | None = None) -> None:
    """Raises UsageError for the first that is no whole number of its range."""
    wanted = [("--limit", limit, _LIMIT)] if limit is not None else []
    wanted += [("--batch-size", batch_size, _BATCH), *(("--seeds", s, _SEED) for s in seeds or ())]
    for name, value, between in wanted:
        if isinstance(value, bool) or not isinstance(value, int) or not between.holds(value):
            raise UsageError(f"{name} {value!r}: {between}, a whole number")
    if seeds is not None and not 1 <= len(seeds) <= _MANY_SEEDS:
        raise UsageError(f"--seeds: expected 1 to {_MANY_SEEDS:,} of them, found {len(seeds)}")


def check_place(name: str, value: object) -> None:
    """Raises UsageError for an empty text, which as a folder would be the current one."""
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{name}: is empty; give a folder")


def check_workers(count: int) -> None:
    """Raises UsageError: fewer than 1, or more than the cores can do anything with."""
    most = WORKERS_PER_CORE * cores()
    if not 1 <= count <= most:
        raise UsageError(
            f"--workers {count}: at least 1, at most {most} here ({WORKERS_PER_CORE} for each of the {cores()} cores of this process)"
        )
