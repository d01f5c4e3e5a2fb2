"""`--workers N`: further processes on this machine, which share the jobs of a run through its files (runner.Runner).

A backbone of a few million parameters on a few threads leaves much of a CPU idle: one process a core is faster. A process that
dies takes nothing with it; the first computes what is left. For GPUs and several machines there are launchers (`torchrun`).
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

from levl_eval.core.distributed import cores, launched_rank
from levl_eval.core.errors import UsageError
from levl_eval.runner.environment import COMMAND, command_line
from levl_eval.runner.options import check_workers

PARENT = "LEVL_PARENT"  # in a worker's environment: the process that ends with it


def _environment(rank: int, count: int) -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // count))
    return {"RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads}


@contextmanager
def workers(count: int, words: Sequence[str]) -> Iterator[None]:
    """Run the body as the first of ``count`` processes; the others run the command ``words`` and say nothing.

    They end with this process, however it ends. To be entered before torch is imported, which reads its number of threads once.
    Raises UsageError: fewer than 1, more than options.WORKERS_PER_CORE allow, or a launcher has started processes already.
    """
    check_workers(count)
    if count == 1:
        yield
        return
    if launched_rank()[1] > 1:
        raise UsageError(f"--workers {count}: a launcher has started several processes already; leave it out")
    first = _environment(0, count)
    before = {name: os.environ.get(name) for name in first}
    command = [sys.executable, "-m", "levl_eval.cli", *words, "--workers", "1", "--quiet"]
    others = []
    try:
        for rank in range(1, count):
            more = {**_environment(rank, count), PARENT: str(os.getpid()), COMMAND: json.dumps(command_line())}
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
