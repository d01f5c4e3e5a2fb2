"""Waiting for the copies of a launch: a live table on a terminal, else a line whenever something has changed."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.messages import message
from levl_eval.core.text import printable
from levl_eval.runner.copies import Copy
from levl_eval.runner.launch import Launch
from levl_eval.runner.plan import Job
from levl_eval.runner.shared_folders import BEAT

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_FIRST, _MOST = 2.0, float(BEAT) / 2  # seconds between two questions to the queue: ever rarer, as it serves others too
_TAIL = 4096  # bytes at the end of a log in which its last line is looked for
_ROWS = 30  # of the table; more copies are counted


@dataclass(frozen=True)
class Tally:
    """Of a run's jobs: with a record, failed since the launch, all."""

    done: int
    failed: int
    of: int

    def __str__(self) -> str:
        return f"{self.done} of {self.of} jobs done" + (f", {self.failed} failed" if self.failed else "")


def tally(out: Path, jobs: Sequence[Job], began: float) -> Tally:
    """How far the jobs of a run are, by the names of the records there: one listing, as a look at each costs a request on a file server."""
    try:
        names = {entry.name for entry in os.scandir(out / "records")}
    except OSError:
        return Tally(0, 0, len(jobs))
    done = sum(f"{job.key}.json" in names and job.problem is None for job in jobs)
    failed = 0
    for job in jobs:
        if f"{job.failed_key}.json" in names:
            try:
                failed += (out / "records" / f"{job.failed_key}.json").stat().st_mtime > began
            except OSError:  # gone meanwhile: it has succeeded
                continue
    return Tally(done, failed, len(jobs))


def last_line(log: Path) -> str:
    """The last line of a log that says something; "" where there is none."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, log.stat().st_size - _TAIL))
            lines = handle.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((printable(line.strip()) for line in reversed(lines) if line.strip()), "")


def in_words(launch: Launch, states: Sequence[Copy], jobs: Tally | None) -> str:
    """The state of a launch in a line."""
    counts = Counter(c.state.lower() for c in states)
    reasons = {c.reason for c in states if c.state == "PENDING" and c.reason}
    waits = f" ({', '.join(sorted(reasons))})" if reasons else ""
    copies = ", ".join(f"{count} {state}{waits if state == 'pending' else ''}" for state, count in sorted(counts.items()))
    return f"{launch.name}: {copies}" + (f"; {jobs}" if jobs is not None else "")


def _table(launch: Launch, states: Sequence[Copy], jobs: Tally | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(in_words(launch, states, jobs)), title_justify="left", box=None, pad_edge=False)
    for head in ("copy", "state", "node", "at"):
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    shown = sorted(range(len(states)), key=lambda n: (not states[n].live, n))[:_ROWS]
    for number in sorted(shown):
        c = states[number]
        at = last_line(launch.log(number)) or c.reason
        table.add_row(*(Text(t) for t in (str(number), c.state.lower(), c.node, at)))
    return table


class Display:
    """The live table, or lines. quiet: neither."""

    def __init__(self, launch: Launch, quiet: bool) -> None:
        self.launch, self.quiet, self.before = launch, quiet, ""
        self._live: Live | None = None
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()

    def show(self, states: Sequence[Copy], jobs: Tally | None) -> None:
        """What is so now."""
        if self._live is not None:
            self._live.update(_table(self.launch, states, jobs), refresh=True)
        elif not self.quiet:
            line = in_words(self.launch, states, jobs)
            if line != self.before:
                self.before = line
                message(line, __name__)

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()


def wait(launch: Launch, look: Callable[[], Tally | None], beat: Callable[[], None], quiet: bool) -> list[Copy]:
    """Until no copy runs or waits any more; their last states, each as long as the queue knew it."""
    last = [Copy("PENDING")] * launch.count
    display, pause = Display(launch, quiet), _FIRST
    try:
        while True:
            states = launch.states()
            if states is not None:  # a queue that does not answer for a moment ends nothing
                last = [old if new.state == "ENDED" and not old.live else new for old, new in zip(last, states, strict=True)]
                display.show(last, look())
                if not any(c.live for c in last):
                    return last
            beat()
            time.sleep(pause)
            pause = min(_MOST, 1.3 * pause)
    finally:
        display.close()


def endings(launch: Launch, states: Sequence[Copy]) -> list[str]:
    """What became of copies that did not complete, a line each kind of end: what Slurm says, and the last line that one of them printed."""
    if launch.launcher == "slurm" and not any(launch.log(n).exists() for n in range(launch.count)):
        return [
            f"no copy has written to {launch.folder}: do the nodes see this folder? "
            "Put --out on a file system that they share with this machine"
        ]
    ends: dict[tuple[str, str], list[int]] = {}
    for number, c in enumerate(states):
        if c.state != "COMPLETED":
            ends.setdefault((c.state, c.reason), []).append(number)
    out = []
    for (state, reason), numbers in ends.items():
        why = f" ({reason})" if reason else ""
        out.append(
            f"copies {', '.join(map(str, numbers[:8]))}{' ...' if len(numbers) > 8 else ''}: {state}{why}: "
            f"{last_line(launch.log(numbers[0]))}"
        )
    return out
