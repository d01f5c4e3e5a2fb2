"""Progress bars with rate and time left on a terminal; a plain line now and then where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

from levl_eval.core.messages import message
from levl_eval.core.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

T = TypeVar("T")


class Progress:
    """Progress of named stages: bars on a terminal's stderr, else a message now and then. ``quiet``: neither bars nor messages.

    Messages go through the standard ``logging`` (core/messages.py); only the commands show them without being asked to.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
        """Iterate over ``items`` while showing how far and how fast."""
        if total is None:
            total = len(items) if isinstance(items, Sized) else None
        with self.stage(description, total, unit) as stage:
            for item in items:
                yield item
                stage.advance()

    def stage(self, description: str, total: int | None = None, unit: str = "it") -> Stage:
        """A context manager with ``advance(n=1, note="")``."""
        return Stage(self, description, total, unit)

    def say(self, text: str) -> None:
        """A message of level INFO of the logger named like the calling module; nothing where ``quiet``."""
        if not self.quiet:
            message(text, sys._getframe(1).f_globals.get("__name__", ""))


class Stage:
    """One running bar; see Progress.stage."""

    def __init__(self, parent: Progress, description: str, total: int | None, unit: str) -> None:
        self.parent, self.description, self.total, self.unit = parent, printable(description), total, unit
        self.done, self.started, self.last = 0, time.monotonic(), time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Stage:
        if self.parent.terminal and not self.parent.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Rich

            self._bar = Rich(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, rate="", note="")
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        rate = self.done / max(1e-9, now - self.started)
        if self._bar is not None:
            self._bar.update(self._task, advance=n, rate=f"{rate:,.1f} {self.unit}/s", note=printable(note))
        elif not self.parent.quiet and now - self.last > 20:
            self.last = now
            # unknown before the first
            left = f", {(self.total - self.done) / rate:,.0f} s left" if self.total and self.done else ""
            of = f"/{self.total}" if self.total else ""
            self.parent.say(f"{self.description}: {self.done}{of} ({rate:,.1f} {self.unit}/s{left}) {note}".rstrip())

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
