"""Copies of one command that a launcher has started, as the queue tells of them: Slurm's, or processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from levl_eval.core.errors import LevlError

# States of Slurm in which a job does nothing any more; in all others it runs or may run yet.
OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
GONE = "ENDED"  # the queue knows it no more, and says nothing of how it ended


@dataclass(frozen=True)
class Copy:
    """state: a word of Slurm's, or RUNNING and ENDED on one machine. reason: why it waits, or how it ended."""

    state: str
    node: str = ""
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it runs, or may run yet."""
        return self.state not in OVER and self.state != GONE


class Queue(Protocol):
    """Where copies run. jobs: what the launcher called them, one of an array or one a copy."""

    def states(self, jobs: Sequence[str], count: int) -> list[Copy] | None:
        """Of copies 0 to ``count`` - 1; None where the queue does not answer just now."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """End what still runs or waits."""

    def how_to_cancel(self, jobs: Sequence[str]) -> str:
        """The command by which a user ends them."""


class SlurmQueue:
    """Asked through `squeue`, once for all copies; it needs no accounting data base, which many small clusters lack."""

    def states(self, jobs: Sequence[str], count: int) -> list[Copy] | None:
        """See Queue. A copy that Slurm remembers no more has ended."""
        words = ["squeue", "--noheader", "--array", "--states=all", "--jobs", jobs[0], "--format=%i|%T|%N|%r"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return [Copy(GONE)] * count if "Invalid job id" in done.stderr else None
        return read_squeue(done.stdout, count)

    def cancel(self, jobs: Sequence[str]) -> None:
        """`scancel`. Raises LevlError where it fails."""
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LevlError(f"{self.how_to_cancel(jobs)}: {done.stderr.strip() or 'failed'}")

    def how_to_cancel(self, jobs: Sequence[str]) -> str:
        """See Queue."""
        return f"scancel {' '.join(jobs)}"


def read_squeue(text: str, count: int) -> list[Copy]:
    """Lines ``ID_INDEX|STATE|NODE|REASON`` (``ID`` alone for one copy) as copies 0 to ``count`` - 1."""
    out = [Copy(GONE)] * count
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        state, node, reason = [*rest.split("|", 2), "", ""][:3]
        index = job.strip().partition("_")[2] or "0"
        if index.isdigit() and int(index) < count:
            out[int(index)] = Copy(state.strip().upper(), node.strip(), "" if reason.strip() in ("None", "") else reason.strip())
    return out


class LocalQueue:
    """Processes that submitit's local executor started on this machine. folder: the executor's, by which they are known for ours."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _table(self) -> tuple[dict[int, str], dict[int, list[int]]]:
        """(pid -> command of those that live, pid -> children), by one `ps`."""
        text = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=False
        ).stdout
        commands: dict[int, str] = {}
        children: dict[int, list[int]] = defaultdict(list)
        for line in text.splitlines():
            fields = line.split(None, 3)
            if len(fields) == 4 and not fields[2].startswith("Z"):
                commands[int(fields[0])] = fields[3]
                children[int(fields[1])].append(int(fields[0]))
        return commands, children

    def _ours(self, jobs: Sequence[str], commands: dict[int, str]) -> list[int]:
        # The number alone may belong to another process by now.
        return [int(j) for j in jobs if "submitit.local" in commands.get(int(j), "") and self.folder in commands[int(j)]]

    def states(self, jobs: Sequence[str], count: int) -> list[Copy] | None:
        """See Queue."""
        live = set(self._ours(jobs, self._table()[0]))
        here = os.uname().nodename if hasattr(os, "uname") else "here"
        return [Copy("RUNNING" if int(j) in live else GONE, here) for j in jobs[:count]]

    def _family(self, jobs: Sequence[str]) -> tuple[list[int], dict[int, str]]:
        """(what submitit started and all that these have started, parents first; pid -> command)."""
        commands, children = self._table()
        family = self._ours(jobs, commands)
        for pid in family:  # grows while it is walked
            family.extend(children.get(pid, ()))
        return family, commands

    def cancel(self, jobs: Sequence[str]) -> None:
        """Kill them with all they have started: what is done is whole, what was begun resumes."""
        for pid in self._family(jobs)[0]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def how_to_cancel(self, jobs: Sequence[str]) -> str:
        """See Queue. submitit's processes end when the command they wait for does."""
        family, commands = self._family(jobs)
        ours = [str(p) for p in family if "submitit" not in commands[p]]
        return f"kill {' '.join(ours)}" if ours else f"kill -9 {' '.join(map(str, family))}"  # none has begun yet


def has_slurm() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None
