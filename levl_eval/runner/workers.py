"""`--workers N`: further processes on this machine, which share the jobs of a run through its files (runner.Runner).

A backbone of a few million parameters on a few threads leaves much of a CPU idle: one process a core is faster. On a machine with several
GPUs each process has one of them to itself, or, where there are more processes than GPUs, a stated share of its memory. A process that
dies takes nothing with it; the first computes what is left. For several machines there is `--launcher slurm`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from levl_eval.core.device import GPU_SHARE, visible_gpus
from levl_eval.core.distributed import cores, launched_rank
from levl_eval.core.errors import UsageError
from levl_eval.runner.environment import COMMAND, command_line
from levl_eval.runner.options import check_workers

PARENT = "LEVL_PARENT"  # in a worker's environment: the process that ends with it


USABLE = 0.95  # of a GPU's memory, by all processes on it together: CUDA itself takes some for each


def default_workers(device: str) -> int:
    """Processes where none were asked for: one a GPU, where there are several and neither a device nor a launcher has chosen one."""
    free = device in ("auto", "cuda") and launched_rank()[1] == 1 and PARENT not in os.environ
    return max(1, len(visible_gpus())) if free else 1


def _environment(rank: int, count: int, device: str) -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // count))
    out = {"RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads}
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    if gpus:
        own = rank % len(gpus)
        out["CUDA_VISIBLE_DEVICES"] = gpus[own]
        beside = len(range(own, count, len(gpus)))
        if beside > 1:
            out[GPU_SHARE] = f"{USABLE / beside:.4f}"
    return out


@contextmanager
def workers(count: int, words: Sequence[str], device: str = "auto") -> Iterator[None]:
    """Run the body as the first of ``count`` processes; the others run the command ``words`` and say nothing. device: of ``--device``.

    They end with this process, however it ends. To be entered before torch is imported, which reads its number of threads once.
    Raises UsageError: fewer than 1, more than options.WORKERS_PER_CORE allow, or a launcher has started processes already.
    """
    check_workers(count)
    if count == 1:
        yield
        return
    if launched_rank()[1] > 1:
        raise UsageError(f"--workers {count}: a launcher has started several processes already; leave it out")
    surroundings = [_environment(rank, count, device) for rank in range(count)]  # before the first changes what is seen
    first = surroundings[0]
    before = {name: os.environ.get(name) for name in first}
    command = [sys.executable, "-m", "levl_eval.cli", *words, "--workers", "1", "--quiet"]
    others = []
    try:
        for rank in range(1, count):
            more = {**surroundings[rank], PARENT: str(os.getpid()), COMMAND: json.dumps(command_line())}
            others.append(
                subprocess.Popen(command, env={**os.environ, **more}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        os.environ.update(first)
        yield
    finally:
        for other in others:
            other.terminate()
        for other in others:
            other.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_with_parent() -> None:
    """In a worker: end at once where the process that started it is gone (kill -9 included). Elsewhere: nothing."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
