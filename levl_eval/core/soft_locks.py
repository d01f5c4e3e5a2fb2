"""Locks where the file system has none: a marker file beside each lock stands for it (`filelock`), and that is said once a folder.

Lustre mounted without `-o flock`, some FUSE and object stores answer `flock` with "not implemented". A marker that exists is a lock that is
held; its holder writes to it now and then. One whose holder is gone is taken over after LEASE seconds without a sign, by filelock from 3.30
on; by an older one only where the holder was a process of the same machine.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.messages import message

LEASE = 120.0  # seconds; all processes that share a folder must mean the same
# seconds between two looks at a lock that is held: ever rarer, as each look is a request to a file server
_FIRST, _MOST = 0.05, 2.0
_MISSING = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
_warned: set[Path] = set()

REMEDY = "mount Lustre with `-o flock`, NFS with `local_lock=none` and without `nolock`, or name a folder on another file system"


def no_locks(error: OSError) -> bool:
    """Whether an error of ``flock`` says that the file system has no locks."""
    return error.errno in _MISSING


def _marker(path: Path) -> Path:
    # In a folder of its own: what lists a folder of locks must not take a marker for one.
    return path.parent.with_name(f"{path.parent.name}-soft") / path.name


@contextlib.contextmanager
def soft_lock(path: Path, wait: bool, why: str) -> Iterator[bool]:
    """Hold the marker that stands for the lock ``path``; yields whether it is ours (always, if ``wait``).

    why: what the file system said. Raises UsageError where the marker's folder cannot be written.
    """
    import filelock

    if path.parent not in _warned:
        _warned.add(path.parent)
        message(
            f"{path.parent}: this file system has no locks ({why}); files stand for them, "
            f"and one of a process that was killed is taken over after {LEASE:.0f} s. Better: {REMEDY}",
            __name__,
        )
    marker = _marker(path)
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{marker.parent}: cannot be written ({e.strerror}); choose another folder or free the disk") from e
    lease = getattr(filelock, "SoftFileLease", None)
    lock = filelock.SoftFileLock(marker) if lease is None else lease(marker, lease_duration=LEASE, heartbeat_interval=LEASE / 6)
    pause = _FIRST
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except filelock.Timeout:
            if not wait:
                yield False
                return
        time.sleep(pause)
        pause = min(_MOST, 1.5 * pause)
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            lock.release()


def mount_options(path: Path, table: str | None = None) -> tuple[str, set[str]]:
    """(file system, options) of the mount that ``path`` lies on, as Linux tells them; elsewhere ("", none). table: text of mountinfo."""
    if table is None:
        if not sys.platform.startswith("linux"):
            return "", set()
        try:
            table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        except OSError:
            return "", set()
    where, best = path.resolve(), ("", "", set[str]())
    for line in table.splitlines():
        mount, _, rest = line.partition(" - ")
        fields, kind = mount.split(), rest.split()
        if len(fields) < 6 or len(kind) < 3:
            continue
        point = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
        if (where == Path(point) or Path(point) in where.parents) and len(point) >= len(best[0]):
            best = (point, kind[0], {*fields[5].split(","), *kind[2].split(",")})
    return best[1], best[2]


def local_only(path: Path, table: str | None = None) -> str:
    """Why locks on ``path`` hold within one machine only, as its mount says, with the remedy; "" where nothing says so."""
    kind, options = mount_options(path, table)
    alone = (
        {"nolock", "local_lock=all", "local_lock=flock"}
        if kind in ("nfs", "nfs4")
        else {"localflock"}
        if kind == "lustre"
        else set()
    )
    wrong = sorted(alone & options)
    return f"{path}: mounted as {kind} with `{wrong[0]}`, so its locks hold within one machine only; {REMEDY}" if wrong else ""
