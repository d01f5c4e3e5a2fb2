"""Whether a run's folder and the cache are the same on every machine of a launch, and whether a lock of one machine holds on the others.

The machine that submits looks at its mounts, tries a lock from a second process, and leaves a token in both folders. Each copy
looks for the tokens, and, where the submitting process waits, tries a lock that this one holds. What is wrong is told before
anything is computed.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write, locked
from levl_eval.core.soft_locks import REMEDY, local_only

SHARED = "LEVL_LAUNCH"  # in a copy's environment: the folder of its launch
FILE = "shared.json"
BEGAN = "began"  # an empty file, as old as the launch by the clock of its file system
BEAT = 30  # seconds; a waiting process shows at least so often that it is there
VISIBLE = 10  # seconds after which a network file system shows what another machine has written

_TRY = "import sys; from levl_eval.core.files import locked\nwith locked(sys.argv[1], wait=False) as ours: sys.exit(10 if ours else 11)"


def check_locks(*folders: Path) -> None:
    """Raises UsageError where a lock in one of them does not keep another process out,
    or its mount says that it holds on one machine only."""
    for folder in folders:
        if why := local_only(folder):
            raise UsageError(why)
        path = folder / ".locks" / f"check-{secrets.token_hex(4)}"
        try:
            with locked(path):
                other = subprocess.run([sys.executable, "-c", _TRY, str(path)], capture_output=True, text=True, check=False)
        finally:
            path.unlink(missing_ok=True)
        if other.returncode != 11:
            raise UsageError(f"{folder}: a lock of one process does not keep another out, so records could be lost; {REMEDY}")


def leave_tokens(launch: Path, cache: Path, waits: bool) -> None:
    """What copies compare: a token in the launch's folder and one in the cache. waits: whether :func:`holding` follows."""
    token = secrets.token_hex(8)
    path = cache / "launches" / launch.name
    atomic_write(path, token)
    content = {"token": token, "cache": str(cache.resolve()), "waits": waits, "host": platform.node()}
    atomic_write(launch / FILE, json.dumps(content))


def remove_tokens(launch: Path, cache: Path) -> None:
    """When no copy can start any more."""
    (cache / "launches" / launch.name).unlink(missing_ok=True)


class Beat:
    """Called while we wait: shows the copies that the lock they try is that of a living process."""

    def __init__(self, launch: Path) -> None:
        self.path, self.count, self.last = launch / "beat", 0, 0.0

    def __call__(self) -> None:
        if time.monotonic() - self.last > BEAT / 2:
            self.count, self.last = self.count + 1, time.monotonic()
            self.path.write_text(str(self.count), encoding="utf-8")


@contextmanager
def holding(launch: Path) -> Iterator[Beat]:
    """Hold the lock that copies try. It ends with the waiting, which is then written down, so that later copies do not try."""
    path = launch / FILE
    with ExitStack() as stack:
        ours = stack.enter_context(locked(launch / "held", wait=False))
        beat = Beat(launch)
        beat()
        try:
            yield beat
        finally:
            if ours:
                content = json.loads(path.read_text(encoding="utf-8"))
                atomic_write(path, json.dumps(content | {"waits": False}))


def check_shared(launch: Path, cache: Path) -> None:
    """In a copy. Raises UsageError where this machine does not see the submitting machine's folders, or not its locks."""
    here = platform.node()
    content = _seen(launch / FILE)
    if content is None:
        raise UsageError(
            f"{launch}: {here} does not see what the submitting machine wrote there; put --out on a file system that both share"
        )
    shared = json.loads(content)
    token = _seen(cache / "launches" / launch.name)
    if token != shared["token"]:
        raise UsageError(
            f"{cache}: on {here} this is not the cache of {shared['host']} ({shared['cache']}); set LEVL_CACHE to a folder that both share"
        )
    for folder in (launch, cache):
        if why := local_only(folder):
            raise UsageError(f"{here}: {why}")
    if (
        shared["waits"]
        and _free(launch)
        and _beats(launch)
        and _free(launch)
        and json.loads((launch / FILE).read_text("utf-8"))["waits"]
    ):
        raise UsageError(
            f"{launch}: {here} could take a lock that {shared['host']} holds, so locks do not hold between them; {REMEDY}"
        )


def _seen(path: Path) -> str | None:
    """The text of a file, which a network file system may show a moment late."""
    until = time.monotonic() + VISIBLE
    while True:
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            if time.monotonic() > until:
                return None
        time.sleep(1)


def _free(launch: Path) -> bool:
    with locked(launch / "held", wait=False) as ours:
        return ours


def _beats(launch: Path) -> bool:
    """Whether the process that submitted is still there: it may have been killed, and its lock freed with it."""
    first = _seen(launch / "beat")
    until = time.monotonic() + BEAT + VISIBLE
    while time.monotonic() < until:
        time.sleep(2)
        if _seen(launch / "beat") != first:
            return True
    return False


def copy_of_a_launch() -> Path | None:
    """In a copy: the folder of its launch; else None."""
    folder = os.environ.get(SHARED)
    return Path(folder) if folder else None


def launch_time() -> float | None:
    """In a copy: when its launch began, in seconds since 1970; what has failed since then is not tried again. None elsewhere."""
    launch = copy_of_a_launch()
    try:
        return None if launch is None else (launch / BEGAN).stat().st_mtime
    except OSError:
        return None
