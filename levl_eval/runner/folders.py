"""Where a run goes that was given no folder: one of its own below ``runs``, named by date and time, with ``runs/latest`` as its link."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from levl_eval.core.distributed import launched_rank
from levl_eval.core.errors import UsageError

RUNS = Path("runs")
LATEST = RUNS / "latest"


@contextlib.contextmanager
def run_folder(asked: str | Path | None) -> Iterator[Path]:
    """The folder to write to: ``asked``, or a new one. A new one that nothing was written to is gone afterwards, and its link with it.

    Raises UsageError where ``runs`` cannot be written, and where a launcher has started several processes, as each would name another.
    """
    if asked is not None:
        yield Path(asked)
        return
    if launched_rank()[1] > 1:
        raise UsageError("--out: several processes of a launcher write to one folder; name it with --out DIR")
    out = _new()
    before = os.readlink(LATEST) if LATEST.is_symlink() else None
    _link(out.name)
    try:
        yield out
    finally:
        for folder in (out / "records", out / "samples", out):
            with contextlib.suppress(OSError):  # is not empty: there is a run
                folder.rmdir()
        if not out.exists():
            _unlink(out.name, before)


def latest_folder() -> Path:
    """The folder of the newest run, to add to it; a new one where there is none. Raises UsageError where ``runs`` cannot be written."""
    if LATEST.is_dir():
        return RUNS / os.readlink(LATEST) if LATEST.is_symlink() else LATEST
    out = _new()
    _link(out.name)
    return out


def _unlink(name: str, before: str | None) -> None:
    """Undo the link to a run that came to nothing, where no other run has made its own since."""
    with contextlib.suppress(OSError):
        if os.readlink(LATEST) == name:
            LATEST.unlink()
            if before is not None:
                _link(before)
        RUNS.rmdir()


def _new() -> Path:
    """A folder that nobody else has, named by the time."""
    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    try:
        RUNS.mkdir(exist_ok=True)
        for number in range(1, 1000):
            with contextlib.suppress(FileExistsError):
                out = RUNS / (name if number == 1 else f"{name}-{number}")
                out.mkdir()
                return out
    except OSError as e:
        raise UsageError(f"{RUNS}: cannot be written ({e.strerror}); name another folder with --out DIR") from e
    raise UsageError(f"{RUNS}: holds a thousand runs of this second; name a folder with --out DIR")


def _link(name: str) -> None:
    """``runs/latest`` -> ``name``, at once.

    A real folder of that name (of an earlier version) stays; so does none where links are not known.
    """
    if LATEST.exists() and not LATEST.is_symlink():
        return
    with contextlib.suppress(OSError):
        aside = RUNS / f".latest-{os.getpid()}"
        aside.symlink_to(name)
        os.replace(aside, LATEST)
