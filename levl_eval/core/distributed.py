"""Processes that work together, as `accelerate launch` (or torchrun) starts them: rank, world size and what is agreed between them.

Three questions have an answer each. :func:`launched_rank`: what a launcher, or `--workers`, says in the environment, whether or not the
processes can reach one another. :func:`joined_group`: the processes that torch.distributed has brought together so far, as pretraining
does. :func:`process_group`: the same, joined where it is not yet, for the jobs of a run that a frozen language model answers: these are
done by all together, what is decided from files is decided by the main process and given to the rest, so that all take part in the same
collective steps, and it alone writes results. All other jobs are shared through the file system, each to one process, and their
features chunk by chunk.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup as TorchGroup

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """``rank`` of ``size`` processes in torch.distributed's default group; with one process every call is free.

    control: a gloo group for :meth:`all_failed`.
    """

    rank: int = 0
    size: int = 1
    control: TorchGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is the main process, which alone writes."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """(k, n): this process's is the k-th of n parts of what is shared."""
        return self.rank, self.size

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a list."""
        return list(items[self.rank :: self.size])

    def from_main(self, value: T) -> T:
        """The main process's value, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def each(self, value: T) -> list[T]:
        """A small value of every process, by rank, in all of them."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        out = [value] * self.size
        dist.all_gather_object(out, value)
        return out

    def gather(self, values: list[T]) -> list[T]:
        """The lists of all processes, one after the other, in all of them."""
        return [value for part in self.each(values) for value in part]

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum over the processes, in place."""
        if self.size > 1:
            import torch

            flat = torch.cat([t.reshape(-1) for t in tensors]).to(_collective_device())
            torch.distributed.all_reduce(flat)
            for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                t.copy_(part.view_as(t))

    def mean(self, *values: float) -> list[float]:
        """Means of numbers over the processes; equal in each of them afterwards."""
        if self.size == 1:
            return list(values)
        import torch

        x = torch.tensor(values, dtype=torch.float64)
        self.add([x])
        return [float(v) for v in x / self.size]

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def all_failed(self, wait: timedelta = timedelta(minutes=10)) -> bool:
        """Called by a process whose job has failed: whether it failed in all of them, so that the run may go on together.

        A process that alone has failed gets False after ``wait``: the others are in a step it cannot take part in any more.
        """
        if self.size == 1:
            return True
        import torch.distributed as dist

        try:
            dist.monitored_barrier(group=self.control, timeout=wait)
        except RuntimeError:
            return False
        return True


def _collective_device() -> torch.device:
    """Where the tensors of collective steps must lie."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in torch.distributed.get_backend() else torch.device("cpu")


def joined_group() -> ProcessGroup:
    """The processes that torch.distributed has brought together by now; this one alone where it has not."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return ProcessGroup(dist.get_rank(), dist.get_world_size())
    return ProcessGroup()


def launched_rank() -> tuple[int, int]:
    """(rank, size) as the launcher has set them: where to begin in a list that processes share, whether or not they work together."""
    try:
        rank, size = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError:
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


LOST = "as another one has ended or does not answer: what it has told says why; what is done is kept"


def lost_another(e: BaseException) -> str:
    """In words that a step failed for another process of this launch, which has refused an input or was killed; "" for other errors."""
    rank, size = launched_rank()
    dist = sys.modules.get("torch.distributed")
    if size == 1 or dist is None or not isinstance(e, RuntimeError):
        return ""
    # DistError is NCCL's and the store's; gloo's errors are known by the file of its source that they name.
    return f"process {rank} of {size} ends, {LOST}" if isinstance(e, dist.DistError) or "gloo/transport" in str(e) else ""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> bool:
    """Whether a launcher has started several processes that can reach one another."""
    return launched_rank()[1] > 1 and bool(os.environ.get("MASTER_ADDR")) and bool(os.environ.get("MASTER_PORT"))


_alone = False


def work_alone(alone: bool = True) -> None:
    """From now on this process works by itself, on jobs of its own, and none may wait for it in a step; or as one of its group."""
    global _alone
    _alone = alone


@cache
def _join() -> ProcessGroup:
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return ProcessGroup()
    import torch
    from accelerate import PartialState

    # Long: one process may be hashing or joining a large set while the others are at the next collective step.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=2))
    return ProcessGroup(state.process_index, state.num_processes, torch.distributed.new_group(backend="gloo"))


def process_group() -> ProcessGroup:
    """The processes of this launch, which this one joins with the first call; itself alone where none were or it works alone."""
    return ProcessGroup() if _alone else _join()


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
