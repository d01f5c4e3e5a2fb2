"""When a folder holds a generated world, whole: a manifest that is written last and tied to the files.

scenes.json         generator, seed, size, counts; a digest of each data set's files, and of the list below
scenes-files.json   name -> [bytes, SHA-256] of every file of the world
.writing            there while a world is being written, and after a process was killed at it

A world that is there is checked by the names and sizes of all its files, and by the contents of those whose last change (ctime, which
no program can set back) is not older than the manifest: a file changed in place is noticed at the cost of a `stat`. Other files in the
data sets' folders would be read as data: they make a world damaged, other than hidden ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write, sha256_file
from levl_eval.core.hashing import digest
from levl_eval.core.kept import mark_used

MANIFEST, FILES, WRITING, LOCK = "scenes.json", "scenes-files.json", ".writing", ".lock"
ROOMS = (  # all that is written lies in these
    "gqa", "vqav2", "pope", "ade20k", "classification", "imagenet9", "spair71k", "davis", "roxford5k",
    "sugarcrepe", "winoground", "aro", "mmvp_vlm", "classification_shifts", "cv_bench", "mmbench",
    "chartqa", "docvqa", "infovqa", "ocrbench", "tallyqa", "vsr", "refcoco",
    "nyuv2", "sunrgbd", "kitti", "nyuv2_normals", "mmvp", "realworldqa", "seed_bench", "ai2d", "blink",
    "navi", "reading",
)  # fmt: skip
_MANY = 256  # files to hash again, from which on the manifest is written anew: a copied world, whose times say nothing

Listing = dict[str, list[int | str]]  # name below the root -> [bytes, SHA-256]


def damage(out: Path, wanted: Mapping[str, object] | None = None, full: bool = False) -> str:
    """What is wrong with the world in ``out``, or "" where it is whole; "absent" where there is none.

    wanted: generator, seed, size and counts it must have been made with; None: whatever it says. full: every file is hashed.
    """
    if not (out / MANIFEST).is_file():
        return "was left unfinished" if (out / WRITING).exists() else "absent"
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if wanted is not None and any(manifest.get(k) != v for k, v in wanted.items()):
            made_by = ", ".join(f"{k} {manifest.get(k)}" for k in ("generator", "seed", "size"))
            return f"holds another world ({made_by})"
        if "files" not in manifest:
            return "is of an earlier version, which told nothing of its files"
        listing: Listing = json.loads((out / FILES).read_text(encoding="utf-8"))
        if digest(listing) != manifest["files"] or parts_of(listing) != manifest["parts"]:
            return f"{FILES} is damaged"
        return _compare(out, listing, full)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        return f"its manifest cannot be read ({type(e).__name__})"


def _compare(out: Path, listing: Listing, full: bool) -> str:
    written = (out / MANIFEST).stat()
    since = min(written.st_mtime_ns, written.st_ctime_ns)
    seen, doubted = 0, []
    for name, entry in _walk(out):
        if name not in listing:
            if Path(name).name.startswith("."):
                continue
            return f"{name} is not of this world"
        seen += 1
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink() or status.st_size != listing[name][0]:
            return f"{name} was changed"
        if full or max(status.st_ctime_ns, status.st_mtime_ns) >= since:
            doubted.append(name)
    if seen != len(listing):
        there = {name for name, _ in _walk(out)}
        return f"{next(name for name in listing if name not in there)} is missing"
    for name in doubted:
        if sha256_file(out / name) != listing[name][1]:
            return f"{name} was changed"
    if len(doubted) > _MANY and not full:
        with contextlib.suppress(OSError, UsageError):  # so that the next look is cheap; not in a folder of someone else
            atomic_write(out / MANIFEST, (out / MANIFEST).read_bytes())
    return ""


def _walk(out: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name below ``out``, entry) of every file in the data sets' folders; links are not followed."""
    todo = [room for room in ROOMS if (out / room).is_dir()]
    while todo:
        folder = todo.pop()
        with os.scandir(out / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name)
                else:
                    yield name, entry


def parts_of(listing: Listing) -> dict[str, str]:
    """A digest of each data set's files."""
    rooms: dict[str, list[list[int | str]]] = {room: [] for room in ROOMS}
    for name in sorted(listing):
        rooms[name.partition("/")[0]].append([name, *listing[name]])
    return {room: digest(rows) for room, rows in rooms.items()}


def check_ours(out: Path) -> None:
    """Raises UsageError where ``out`` holds something that is neither a world of ours, whole or not, nor empty, and is not to be
    overwritten; and where a data set's folder is a link, since what it leads to is not ours to remove.
    """
    for room in ROOMS:
        if (out / room).is_symlink():
            raise UsageError(
                f"{out / room}: is a link; remove it, or choose another folder: a world is written in its own folders"
            )
    if not out.is_dir() or (out / WRITING).is_file() or _ours(out / MANIFEST, "generator") or _ours(out / FILES, None):
        return
    if any(p.name != LOCK for p in out.iterdir()):
        raise UsageError(
            f"{out}: is not empty and holds no world of `levl-eval data make`; choose another folder, or empty this one first"
        )


def _ours(path: Path, field: str | None) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and (field in content if field else all(str(k).partition("/")[0] in ROOMS for k in content))


def begin(out: Path) -> None:
    """From now on ``out`` holds no valid world: the manifest goes first, then whatever an earlier world has left.

    Raises UsageError where the folder cannot be written.
    """
    atomic_write(out / WRITING, "")
    for name in (MANIFEST, FILES):
        (out / name).unlink(missing_ok=True)
    _sync(out)
    try:
        for room in ROOMS:
            if (out / room).is_dir():
                shutil.rmtree(out / room)
            else:
                (out / room).unlink(missing_ok=True)
    except OSError as e:
        raise UsageError(f"{e.filename or out}: cannot be removed ({e.strerror}); choose another folder") from e


def mark_complete(out: Path, manifest: Mapping[str, object], files: Iterable[tuple[str, int, str]]) -> None:
    """Write the list of files and, last, the manifest."""
    listing: Listing = {name: [size, sha256] for name, size, sha256 in sorted(files)}
    atomic_write(out / FILES, json.dumps(listing, indent=0) + "\n")
    whole = {**manifest, "parts": parts_of(listing), "files": digest(listing)}
    atomic_write(out / MANIFEST, json.dumps(whole, indent=1) + "\n")
    (out / WRITING).unlink(missing_ok=True)


def used(out: Path) -> None:
    """Note that a world was used; the manifest's own times say when it was written."""
    mark_used(out / FILES)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
