"""Folders of a cache that are either whole or not there: files under a manifest that is tied to their contents.

The manifest is written last and holds the key of what the folder was made from and a SHA-256 of every 64 MiB of every file, so that
a folder being written, a cut file and a flipped bit are all recognised when it is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from levl_eval.core.distributed import cores
from levl_eval.core.files import atomic_write, locked
from levl_eval.core.progress import Progress

MANIFEST = "manifest.json"
_BLOCK = 1 << 26
_EDGE = 4096  # bytes of a file's beginning and end that its mark holds


class FileContents(TypedDict):
    """A file in a manifest: its size, and the SHA-256 of every block of it."""

    bytes: int
    blocks: list[str]


def mark_of(path: Path) -> str:
    """What tells one version of a file from another without reading it whole: size, times, inode, first and last bytes.

    The time of the last status change (ctime) cannot be set by a program, so contents replaced under an equal size and an equal
    modification time are noticed. "missing" where there is no such file.
    """
    try:
        with open(path, "rb") as handle:
            s = os.fstat(handle.fileno())
            first = handle.read(_EDGE)
            handle.seek(max(0, s.st_size - _EDGE))
            last = handle.read(_EDGE)
    except OSError:
        return "missing"
    edges = hashlib.sha256(first + last).hexdigest()
    return f"{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_ino}:{edges}"


def marks_of(paths: Iterable[Path]) -> list[str]:
    """:func:`mark_of` of many files, by threads, since most of it is waiting for the file system."""
    with ThreadPoolExecutor(min(16, 2 * cores())) as threads:
        return list(threads.map(mark_of, paths))


def key_of(parts: Mapping[str, object], rows: Iterable[object] = ()) -> str:
    """A SHA-256 over named JSON values and, one by one, over many rows of them."""
    digest = hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode())
    for row in rows:
        digest.update(b"\n" + json.dumps(row).encode())
    return digest.hexdigest()


def _block_digest(place: tuple[Path, int]) -> str:
    path, at = place
    with open(path, "rb") as handle:
        handle.seek(at)
        return hashlib.sha256(handle.read(_BLOCK)).hexdigest()


def _contents(folder: Path, names: Iterable[str]) -> dict[str, FileContents]:
    """name -> {"bytes", "blocks"} of files, hashed by threads."""
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    places = [(folder / name, at) for name, size in sizes.items() for at in range(0, size, _BLOCK)]
    with ThreadPoolExecutor(min(8, cores())) as threads:
        digests = iter(list(threads.map(_block_digest, places)))
    return {name: {"bytes": size, "blocks": [next(digests) for _ in range(0, size, _BLOCK)]} for name, size in sizes.items()}


def _digest(files: dict[str, FileContents]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _check(folder: Path, key: str, deep: bool) -> tuple[str | None, str]:
    """(SHA-256 over the contents, "") of a whole folder, else (None, what is wrong); "absent" where there is nothing.

    deep: read every file; else its size alone.
    """
    if not folder.is_dir():
        return None, "absent"
    if not (folder / MANIFEST).exists():
        return None, "left unfinished"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, digest = manifest["files"], manifest["sha256"]
        if manifest["key"] != key or _digest(files) != digest:
            return None, f"{MANIFEST} does not hold"
        sizes = {name: (folder / name).stat().st_size for name in files}
        wrong = [name for name, size in sizes.items() if size != files[name]["bytes"]]
        if not wrong and deep:
            now = _contents(folder, files)
            wrong = [name for name in files if now[name] != files[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return None, f"{MANIFEST} or a file of it cannot be read ({type(e).__name__})"
    return (None, f"{wrong[0]} is not what was written") if wrong else (digest, "")


def sealed(folder: Path, key: str, build: Callable[[Path], None], progress: Progress, deep: bool = True) -> str:
    """Make ``folder`` by ``build(folder)`` unless it is there and whole; returns the SHA-256 over its contents.

    key: of everything that can move the contents. What an unfinished or damaged earlier folder left is removed, and said. One
    process builds at a time. deep: check contents, not sizes alone.
    """
    with locked(folder.with_name(folder.name + ".lock")):
        digest, wrong = _check(folder, key, deep)
        if digest is not None:
            return digest
        if wrong != "absent":
            progress.say(f"{folder}: {wrong}; making it again")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        try:
            build(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        files = _contents(folder, (p.name for p in folder.iterdir()))
        digest = _digest(files)
        atomic_write(folder / MANIFEST, json.dumps({"key": key, "sha256": digest, "files": files}))
        return digest


def contents_mark(folder: Path, name: str) -> str:
    """SHA-256 over the contents of one file of a folder that is whole (:func:`sealed`), from its manifest."""
    files: dict[str, FileContents] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return _digest({name: files[name]})
