"""Which files a library reads while it loads an encoder of the hub: the next process tells by them that nothing has changed.

A name of the hub leads to files by tables that only its library has (timm's names, open_clip's tags, a tokenizer of another repository). So
what is opened while an encoder loads is noted, by Python's audit event ``open``; and of each repository of the hub's cache that is touched
all files of its snapshot are taken, since code that is no Python (safetensors, tokenizers) raises no such event. No heavy imports.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from levl_eval.core.errors import LevlError
from levl_eval.core.files import settled

Hash = Callable[[str], str]  # SHA-256 of a file's bytes; raises LevlError where it cannot be read

_REPOSITORY = re.compile(r"(?P<root>.*[/\\]models--[^/\\]+)[/\\](?P<part>refs|snapshots)[/\\](?P<rest>.+)")
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")
_MACHINE = ("/proc/", "/sys/", "/dev/", "/etc/")
_watching: list[set[str]] = []
_installed: list[bool] = []


def _note(event: str, args: tuple[object, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, mode, flags = args
    writes = isinstance(mode, str) and any(c in mode for c in "wax")
    writes |= mode is None and isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    if not writes and isinstance(path, (str, bytes, os.PathLike)):
        _watching[-1].add(os.path.abspath(os.fsdecode(path)))


@contextmanager
def noted_reads() -> Iterator[set[str]]:
    """Absolute paths of what Python opens for reading inside, in any thread."""
    if not _installed:  # a hook cannot be taken out again: it costs a comparison an event afterwards
        sys.addaudithook(_note)
        _installed.append(True)
    paths: set[str] = set()
    _watching.append(paths)
    try:
        yield paths
    finally:
        _watching.remove(paths)


@cache
def _libraries() -> tuple[str, ...]:
    """Folders of installed code, whose versions are part of what is known of a backbone; and ours, where its cards and assets lie."""
    own = sysconfig.get_paths()
    folders = [Path(own[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")] + [Path(__file__).parents[1]]
    return tuple({f"{p}{os.sep}" for f in folders for p in (f, f.resolve())})


@dataclass(frozen=True)
class Sources:
    """What was read: refs (file -> the commit in it) and snapshots of repositories of the hub's cache, and the SHA-256 of every file.

    snapshots: folders, all of whose files are among ``files`` (absolute path -> SHA-256).
    """

    refs: Mapping[str, str] = field(default_factory=dict)
    snapshots: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def unchanged(self, sha256: Hash) -> bool:
        """Whether every ref, every list of files and every file is as it was, and the hub, where it answers, has nothing newer."""
        try:
            if any(Path(p).read_text() != commit for p, commit in self.refs.items()):
                return False
            now = {f for folder in self.snapshots for f in _files_below(folder)}
            before = {f for f in self.files if any(f.startswith(folder + os.sep) for folder in self.snapshots)}
            return now == before and all(sha256(f) == h for f, h in self.files.items()) and not _newer(self.refs)
        except (OSError, LevlError, UnicodeDecodeError):
            return False


def _files_below(folder: str) -> list[str]:
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def _newer(refs: Mapping[str, str]) -> bool:
    """Whether a branch or tag stands elsewhere on the hub than in the cache.

    Where no network may be used or is there: no, as the cache is what would be read. True too where the hub answers with an
    error: its library then says what that is.
    """
    if not refs:
        return False
    from huggingface_hub import constants

    from levl_eval.core.offline import proxy_of, reachable

    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT, proxy_of()):
        return False
    from huggingface_hub import HfApi

    for path, commit in refs.items():
        match = _REPOSITORY.fullmatch(path)
        assert match is not None
        name = os.path.basename(match["root"]).removeprefix("models--").replace("--", "/")
        try:
            if HfApi(endpoint=constants.ENDPOINT).repo_info(name, revision=match["rest"], timeout=10).sha != commit:
                return True
        except Exception:  # the hub's own, and its client's
            return True
    return False


def sources_of(reads: set[str], stated: tuple[str, ...], started_ns: int, least: int, sha256: Hash) -> Sources | None:
    """What was read by loading an encoder, hashed; None where that cannot be told for certain.

    reads: noted while it loaded. stated: files its name itself leads to. started_ns: when loading began (time.time_ns): a file that
    was written since may have been another one when it was read. least: bytes that weights take at least; fewer in all files mean
    that the weights were not among them.
    """
    refs: dict[str, str] = {}
    snapshots: set[str] = set()
    files = {os.path.abspath(f) for f in stated}
    try:
        for path in reads:
            match = _REPOSITORY.fullmatch(path)
            if match is None:
                if os.path.isfile(path) and not path.endswith(_CODE) and not path.startswith((*_MACHINE, *_libraries())):
                    files.add(path)
                continue
            commit = match["rest"].split(os.sep)[0]
            if match["part"] == "refs":
                if not os.path.isfile(path):
                    return None
                commit = refs[path] = Path(path).read_text()
            snapshots.add(os.path.join(match["root"], "snapshots", commit))
        files |= {f for folder in snapshots for f in _files_below(folder)}
        before = {f: os.stat(f) for f in (*files, *refs)}
        if not all(settled(s, started_ns) for s in before.values()) or sum(before[f].st_size for f in files) < least:
            return None
        return Sources(refs, tuple(sorted(snapshots)), {f: sha256(f) for f in sorted(files)})
    except (OSError, LevlError, UnicodeDecodeError):
        return None


def places() -> dict[str, str]:
    """Where libraries look for what they have downloaded, and whom they ask: another place may hold something else under a name."""
    from huggingface_hub import constants

    names = ("TORCH_HOME", "XDG_CACHE_HOME", "HOME")
    return {"hub": str(constants.HF_HUB_CACHE), "endpoint": str(constants.ENDPOINT), **{n: os.environ.get(n, "") for n in names}}
