"""What a process reads for as long as it lives, told to `levl-eval cache`: a shared lock beside the folder, freed when the process ends.

The lock of CACHE/scenes/NAME is CACHE/scenes/locks/NAME. It lies outside the folder, so that who waits for one that is being removed
does not hold a lock that went with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from levl_eval.core.files import locked

_held: dict[Path, IO[str]] = {}


def _lock_of(folder: Path) -> Path:
    return folder.parent / "locks" / folder.name


def hold(folder: Path) -> None:
    """Until this process ends, no other one's :func:`unused` gives ``folder`` away; waits while one is at removing it.

    Nothing is held where the lock cannot be written or the file system has no shared locks: a reader needs neither.
    """
    path = _lock_of(folder).absolute()
    if path in _held:
        return
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError:
            handle.close()
            raise
        _held[path] = handle


@contextlib.contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no other process holds ``folder``; none can while the block lasts. What this process held it does not any more.

    Raises UsageError where the lock cannot be written.
    """
    path = _lock_of(folder)
    if (mine := _held.pop(path.absolute(), None)) is not None:
        mine.close()
    with locked(path, wait=False) as ours:
        yield ours
