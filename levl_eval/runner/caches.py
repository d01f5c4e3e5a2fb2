"""All that is kept between runs below the cache's folder ($LEVL_CACHE): which kinds there are, how large, how old, whether whole.

Only what a kind's own names match is ever listed or removed; other files in these folders stay. When something was last used is its
modification time (checked.mark_used).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import GONE, locked, remove_folder
from levl_eval.core.hashing import digest
from levl_eval.core.in_use import unused

_HEX = r"[0-9a-f]{64}"
_TEMPORARY = re.compile(r"\..+\.[A-Za-z0-9_]{8}\.tmp")  # io.atomic_path's, left by a killed process
_FRESH = 3600.0  # seconds: what is unfinished and younger may be somebody's work


@dataclass(frozen=True)
class Entry:
    """One thing that is kept. anchor: whose modification time says when it was used. whole: False while it is in the making."""

    kind: str
    key: str
    path: Path
    anchor: Path
    bytes: int
    used: float  # seconds since the epoch
    whole: bool = True

    def row(self) -> dict[str, object]:
        """As plain JSON values."""
        return {"kind": self.kind, "key": self.key, "bytes": self.bytes, "used": self.used, "whole": self.whole}


@dataclass(frozen=True)
class Kind:
    """What is kept below one folder of the cache.

    names: of its entries, relative to the folder, as a pattern for full matches whose group ``key`` is the entry's key. depth:
    levels below the folder at which they lie. anchor: file within an entry that is a folder. check: "module:function" from an
    entry's path to what is wrong with it, or "". lock: of an entry, relative to the folder. partial: names of what is in the
    making. held: runs that read an entry hold it (core.in_use): the files of others are opened once, and stay readable.
    """

    name: str
    folder: str
    names: str
    depth: int = 1
    anchor: str = ""
    check: str = ""
    lock: str = ""
    partial: str = r"(?!)"
    held: bool = False

    def entries(self, cache: Path) -> list[Entry]:
        """Everything of this kind, oldest use first."""
        root, out = cache / self.folder, []
        for path in _at_depth(root, range(1, self.depth + 1)):
            name = path.relative_to(root).as_posix()
            match = re.fullmatch(self.names, name)
            partial = match is None
            match = match or re.fullmatch(self.partial, name)
            if match is None or path.is_symlink():
                continue
            with contextlib.suppress(OSError):  # removed this moment
                anchor = path / self.anchor if self.anchor and os.path.isfile(path / self.anchor) else path
                size, newest = _size(path)
                used = newest if anchor.is_dir() else anchor.stat().st_mtime
                out.append(Entry(self.name, match["key"], path, anchor, size, used, not partial))
        return sorted(out, key=lambda e: (e.used, e.key))

    def damage(self, entry: Entry) -> str:
        """What is wrong with an entry, or ''. Kinds without a check of their own are taken as they are."""
        if not self.check:
            return ""
        module, _, function = self.check.partition(":")
        out: str = getattr(importlib.import_module(module), function)(entry.path)
        return out


KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind(
            "features", "features", rf"[0-9a-f]{{2}}/(?P<key>{_HEX})", 2, "meta.json", "levl_eval.runner.caches:features_damage",
            "locks/{key}", rf"parts/(?P<key>{_HEX})",
        ),
        Kind("texts", "texts", rf"(?P<key>{_HEX})\.npz", check="levl_eval.runner.caches:arrays_damage"),
        Kind("content", "content", rf"(?P<key>{_HEX})\.np[yz]", check="levl_eval.runner.caches:arrays_damage"),
        Kind(
            "connectors", "connectors", rf"(?P<key>{_HEX})\.safetensors", check="levl_eval.runner.caches:connector_damage",
            lock="locks/{key}", partial=rf"(?P<key>{_HEX})\.state\.pt",
        ),
        Kind("floors", "floors", rf"(?P<key>{_HEX})\.json", check="levl_eval.runner.caches:json_damage", lock="locks/{key}"),
        Kind("answers", "answers", r"(?!)", check="levl_eval.engines.vlm.answers:damage", partial=rf"(?P<key>{_HEX})\.\d+\.jsonl"),
        Kind(
            "scenes", "scenes", r"(?P<key>seed\d+-v\d+-[0-9a-f]{16})", 1, "scenes-files.json", "levl_eval.runner.caches:world_damage",
            "{key}/.lock", held=True,
        ),
        Kind("backbones", "backbones", rf"(?P<key>{_HEX})\.json", check="levl_eval.runner.caches:checksum_damage"),
        Kind("fingerprints", "fingerprints", r"(?P<key>fingerprints\.sqlite(-journal|-wal|-shm)?)"),
        Kind("pools", "pretrain", r"(?P<key>(csv|scenes)-[0-9a-f]{32}|probe-\d+)", lock="{key}.lock", held=True),
    )
}  # fmt: skip


def arrays_damage(path: Path) -> str:
    """Of a file of checked.write_arrays."""
    from levl_eval.core.kept import read_arrays

    return _why(lambda: read_arrays(path, path.stem))


def json_damage(path: Path) -> str:
    """Of a file of checked.write_json."""
    from levl_eval.core.kept import read_json

    return _why(lambda: read_json(path, path.stem))


def connector_damage(path: Path) -> str:
    """Of a trained connector, or of the state of one in training."""
    if path.name.endswith(".state.pt"):
        from levl_eval.core.kept import read_state

        return _why(lambda: read_state(path, path.name.split(".")[0]))
    from levl_eval.engines.vlm.connector import damage

    return damage(path)


def features_damage(path: Path) -> str:
    """Of an entry of the feature store; one in the making is looked at by whoever resumes it."""
    from levl_eval.features.entries import PARTS, damage

    return "" if path.parent.name == PARTS else damage(path)


def world_damage(path: Path) -> str:
    """Of a generated world, every file read."""
    from levl_eval.scenes.manifest import damage

    return damage(path, full=True)


def checksum_damage(path: Path) -> str:
    """Of a JSON file that holds fields and, in ``checksum``, their digest."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return "" if fields.pop("checksum") == digest(fields) else "damaged (checksum)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        return f"cannot be read ({type(e).__name__})"


def _why(read: Callable[[], object]) -> str:
    from levl_eval.core.kept import Damaged

    try:
        read()
    except (Damaged, FileNotFoundError) as e:
        return str(e)
    return ""


def kinds_of(names: Sequence[str] | None) -> list[Kind]:
    """Kinds by name; None: all. Raises UsageError for an unknown one."""
    wrong = [n for n in names or () if n not in KINDS]
    if wrong:
        raise UsageError(f"--kind {wrong[0]}: there are {', '.join(KINDS)}")
    return [KINDS[n] for n in names] if names else list(KINDS.values())


def listed(cache: Path, kinds: Sequence[str] | None = None) -> list[Entry]:
    """Everything that is kept, oldest use first. Raises UsageError where this user may not look into ``cache``."""
    if os.path.isdir(cache) and not os.access(cache, os.R_OK | os.X_OK):
        raise UsageError(f"{cache}: this user may not read it (Permission denied); set LEVL_CACHE to another folder")
    return sorted((e for k in kinds_of(kinds) for e in k.entries(cache)), key=lambda e: (e.used, e.kind, e.key))


def unreadable(cache: Path, kinds: Sequence[str] | None = None) -> list[Path]:
    """Folders in which entries may lie that this user may not look into: nothing in them is listed, verified or removed."""
    folders = []
    for kind in kinds_of(kinds):
        root = cache / kind.folder
        folders += [root, *_at_depth(root, range(1, kind.depth))]
    return [f for f in dict.fromkeys(folders) if os.path.isdir(f) and not os.access(f, os.R_OK | os.X_OK)]


def verify(cache: Path, kinds: Sequence[str] | None = None) -> list[str]:
    """One line for each damaged entry."""
    out = []
    for entry in listed(cache, kinds):
        wrong = KINDS[entry.kind].damage(entry)
        if wrong:
            out.append(f"{entry.kind} {entry.key[:12]}: {wrong.removeprefix(f'{entry.path}: ')}")
    return out


def prune(cache: Path, limit: int, kinds: Sequence[str] | None = None) -> tuple[list[Entry], int]:
    """Remove what was used least recently until at most ``limit`` bytes are left; (what was removed, bytes that are left).

    What is in use is left, and what is in the making and was touched within the last hour.
    """
    entries = listed(cache, kinds)
    left, removed = sum(e.bytes for e in entries), []
    for entry in entries:
        if left <= limit:
            break
        if not entry.whole and time.time() - entry.used < _FRESH:
            continue
        if _remove(cache, entry):
            left -= entry.bytes
            removed.append(entry)
    _sweep(cache, kinds)
    return removed, left


def clear(cache: Path, kinds: Sequence[str] | None = None) -> tuple[list[Entry], int]:
    """Remove everything that is not in use; (what was removed, bytes that are left)."""
    removed, left = [], 0
    for entry in listed(cache, kinds):
        if _remove(cache, entry):
            removed.append(entry)
        else:
            left += entry.bytes
    _sweep(cache, kinds)
    return removed, left


def _remove(cache: Path, entry: Entry) -> bool:
    """Whether an entry could be removed: not where a process holds it, its lock, or a lock within it."""
    kind = KINDS[entry.kind]
    root = cache / kind.folder
    locks = [root / kind.lock.format(key=entry.key)] if kind.lock else []
    if entry.path.is_dir():
        locks += [p for p in entry.path.glob("locks/*") if p.is_file()]
    try:
        with ExitStack() as held:
            for lock in locks:
                if lock.exists() and not held.enter_context(locked(lock, wait=False)):
                    return False
            if kind.held and not held.enter_context(unused(entry.path)):
                return False
            if entry.path.is_dir():
                remove_folder(entry.path)
            else:
                entry.path.unlink()
    except (OSError, UsageError):
        return False
    return True


def _sweep(cache: Path, kinds: Sequence[str] | None) -> None:
    """Remove what killed processes have left: temporary files that are an hour old, and folders that were being removed."""
    for kind in kinds_of(kinds):
        for path in _at_depth(cache / kind.folder, range(1, kind.depth + 1)):
            with contextlib.suppress(OSError):
                if path.is_dir() and path.name.startswith(GONE) and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.is_file() and _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _FRESH:
                    path.unlink()


def _at_depth(root: Path, depths: Iterable[int]) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(p for d in depths for p in root.glob("/".join(["*"] * d)))


def _size(path: Path) -> tuple[int, float]:
    """(bytes, newest modification) of a file, or of all in a folder; links are not followed."""
    status = path.lstat()
    if not path.is_dir():
        return status.st_size, status.st_mtime
    size, newest = 0, status.st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # removed this moment
                status = os.lstat(os.path.join(folder, name))
                size, newest = size + status.st_size, max(newest, status.st_mtime)
    return size, newest
