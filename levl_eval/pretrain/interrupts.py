"""What a run may be disturbed by: signals between steps, another run in its folder, and a metrics file that a kill left half-written."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from levl_eval.core.distributed import launched_rank
from levl_eval.core.errors import Terminated, UsageError
from levl_eval.core.files import locked

_LOCK = ".lock"


def lines_until(path: Path, until: int) -> list[str]:
    """The lines of a metrics file up to a step; what a kill left half-written is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= until:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold a run's folder for as long as it trains; of several processes the first holds it for all.

    Raises UsageError where another run trains there, with whatever configuration: both would write the same files.
    """
    if launched_rank()[0] > 0:
        yield
        return
    with locked(out / _LOCK, wait=False) as ours:
        if not ours:
            raise UsageError(f"{out}: another levl-pretrain trains in this folder; wait for its end, or choose another out=")
        yield


def holds_a_run(out: Path) -> bool:
    """Whether a folder has anything in it but the lock of :func:`alone_in`."""
    return out.is_dir() and any(p.name != _LOCK for p in out.iterdir())


@contextmanager
def stop_between_steps() -> Iterator[list[int]]:
    """A list that receives SIGINT or SIGTERM, so that a run ends between two steps and its last checkpoint is exact.

    A second signal interrupts at once. Outside the main thread signals cannot be caught, and nothing is changed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        received.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
