"""The processes of one run, as `accelerate launch` (or torchrun) starts them; one process where nothing did.

Pieces a frozen language model answers are done by all together: what is decided from files is decided by the first and told to
the rest, so that all take part in the same collective steps; the first alone writes results. All other pieces are shared through
the file system, each to one process, and their features chunk by chunk.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Team:
    """``rank`` of ``size`` processes; with one process every call is free."""

    def __init__(self, alone: bool = False) -> None:
        self.size = 1 if alone else int(os.environ.get("WORLD_SIZE") or 1)
        self.rank = 0
        if self.size > 1:
            import torch
            from accelerate import PartialState

            # Long: one process may be hashing or joining a large set while the others are at the next collective step.
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=2))
            self.size, self.rank = state.num_processes, state.process_index
            self._device = state.device
            self._control = torch.distributed.new_group(backend="gloo")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a list."""
        return list(items[self.rank :: self.size])

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        out: T = broadcast_object_list([value])[0]
        return out

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum over the processes, in place."""
        if self.size > 1:
            import torch

            flat = torch.cat([t.reshape(-1) for t in tensors]).to(self._device)
            torch.distributed.all_reduce(flat)
            for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                t.copy_(part.view_as(t))

    def gather(self, values: list[T]) -> list[T]:
        """The lists of all processes, one after the other, in all of them."""
        if self.size == 1:
            return values
        from accelerate.utils import gather_object

        out: list[T] = gather_object(values)
        return out

    def wait(self) -> None:
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def all_failed(self, wait: timedelta = timedelta(minutes=10)) -> bool:
        """Called by a process whose piece has failed: whether it failed in all of them, so that the run may go on together.

        A process that alone has failed gets False after ``wait``: the others are in a step it cannot take part in any more.
        """
        if self.size == 1:
            return True
        import torch

        try:
            torch.distributed.monitored_barrier(group=self._control, timeout=wait)
        except RuntimeError:
            return False
        return True


def place() -> tuple[int, int]:
    """(rank, size) as the launcher has set them: where to begin in a list that processes share, whether or not they work as a team."""
    try:
        rank, size = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError:
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> bool:
    """Whether a launcher has started several processes that can reach one another."""
    return place()[1] > 1 and bool(os.environ.get("MASTER_ADDR")) and bool(os.environ.get("MASTER_PORT"))


_alone = False


def work_alone(alone: bool = True) -> None:
    """From now on this process works by itself, on pieces of its own, and none may wait for it in a step; or as one of the team."""
    global _alone
    _alone = alone


@cache
def _team(alone: bool) -> Team:
    return Team(alone)


def team() -> Team:
    """The team of this process."""
    return _team(_alone)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, instead of giving it to the system and having every page zeroed again.

    A training step of a small model on the CPU touches its activations anew each time: up to a sixth of its time. Elsewhere than
    glibc: nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 25)  # the largest it takes; what is larger is mapped, and given back, one by one
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    except (AttributeError, OSError, TypeError):
        return
