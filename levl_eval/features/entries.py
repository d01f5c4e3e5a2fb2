"""Entries of the feature store on the disk: one array of one image set's features, whole or not there.

DIR/KEY[:2]/KEY holds NAME.npy (NAME of extraction.ARRAYS), meta.json with the checksums of its blocks and its own, and verified.json,
which says what of the file some process has verified since it was last written to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from levl_eval.core.errors import LevlError
from levl_eval.core.files import atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import JsonObject
from levl_eval.features.stored import Blocks, StoredArray

PARTS = "parts"  # entries in the making


class Meta(TypedDict, total=False):
    """meta.json of an entry. checksum: digest of the other fields."""

    key: str
    format: int
    array: str
    dtype: str
    shape: list[int]
    block_rows: int
    sha256: list[str]
    grid: list[int]
    backbone: str
    encoder: JsonObject
    preprocess: JsonObject
    images: str
    order: str
    source: str
    checksum: str


class StoredEntry(TypedDict):
    """A line on an entry. array: which; whole: False while it is in the making; images: how many it has, or will have."""

    key: str
    backbone: str
    array: str
    images: int
    bytes: int
    source: str
    whole: bool


@dataclass(frozen=True)
class Entry:
    """What is known of a whole entry once it is opened."""

    array: StoredArray
    grid: tuple[int, int]


def open_entry(folder: Path, key: str) -> Entry:
    """An entry whose description is whole and whose file has the shape it says; its rows are verified when they are read.

    Raises ValueError with what is wrong, LevlError where this user may not read it: it is another's, and whole as far as is known.
    """
    try:
        meta: Meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        checksum = meta.pop("checksum")
        if checksum != digest(meta):
            raise ValueError("meta.json is damaged (checksum)")
        if meta["key"] != key:
            raise ValueError("meta.json is another entry's")
        blocks = Blocks(meta["block_rows"], tuple(meta["sha256"]))
        array = StoredArray(folder / f"{meta['array']}.npy", blocks, lambda: discard(folder))
        if list(array.shape) != meta["shape"] or str(array.dtype) != meta["dtype"]:
            raise ValueError(f"{meta['array']}.npy is {array.dtype} {list(array.shape)} for {meta['dtype']} {meta['shape']}")
        rows, columns = meta["grid"]
        if meta["array"] == "patches" and rows * columns != array.shape[-2]:  # of versions that guessed grids of several layers
            raise ValueError(f"its {array.shape[-2]} patch tokens do not form its grid {rows} x {columns}")
        return Entry(array, (rows, columns))
    except PermissionError as e:
        raise _not_ours(folder) from e
    except (OSError, KeyError, TypeError, AttributeError, EOFError, RecursionError, IndexError) as e:
        raise ValueError(f"incomplete or damaged ({type(e).__name__})") from e
    except json.JSONDecodeError as e:
        raise ValueError("meta.json is no JSON") from e


def there(folder: Path) -> bool:
    """Whether an entry is there. Raises LevlError where this user may not look."""
    try:
        return folder.exists()
    except PermissionError as e:
        raise _not_ours(folder) from e


def _not_ours(folder: Path) -> LevlError:
    return LevlError(
        f"{folder}: this user may not read these features (Permission denied); "
        "ask their owner for it, or set LEVL_CACHE to a folder of your own"
    )


def write_entry(work: Path, target: Path, file: Path, meta: Meta) -> None:
    """Let an entry appear at ``target``, made of ``file``, which stays where it is; one that is there already is left.

    work: a folder of our own on the same disk.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    placed = work / file.name
    try:
        os.link(file, placed)
    except OSError:  # a file system without links: moved; a process killed before the last entry of several then encodes again
        os.replace(file, placed)
    atomic_write(work / "meta.json", json.dumps({**meta, "checksum": digest(meta)}))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(work, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(work, ignore_errors=True)  # another process was first


def discard(folder: Path) -> None:
    """Remove an entry, whatever stands there."""
    if folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def damage(folder: Path) -> str:
    """What is wrong with an entry, or ''; every block is hashed, whatever is remembered of it."""
    try:
        return open_entry(folder, folder.name).array.damaged()
    except ValueError as e:
        return str(e)
    except LevlError as e:
        return str(e).removeprefix(f"{folder}: ")
    except OSError as e:
        return f"cannot be read ({type(e).__name__})"


def entries(folder: Path) -> Iterator[Path]:
    """Folders of the entries that are there, in order of their keys; not those in the making."""
    yield from sorted(p.parent for p in folder.glob("??/*/meta.json") if not p.parent.name.startswith("."))


def table(folder: Path) -> list[StoredEntry]:
    """Key, backbone, array, images, bytes and source of every entry; of one in the making, how many images it will have."""
    out = []
    for path in entries(folder):
        meta = _fields(path / "meta.json")
        shape = meta.get("shape")
        count = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else 0
        out.append(_row(path, meta, count, whole=True))
    for plan in sorted(folder.glob(f"{PARTS}/[!.]*/plan.json")):
        content = _fields(plan)
        images = content.get("images")
        out.append(_row(plan.parent, content, images if isinstance(images, int) else 0, whole=False))
    return out


def bytes_used(folder: Path) -> int:
    """Bytes of everything below a folder; a file with several names (entries being completed) counts once."""
    seen: dict[tuple[int, int], int] = {}
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed this moment
            s = file.lstat()
            seen[s.st_dev, s.st_ino] = s.st_size
    return sum(seen.values())


def array_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _fields(path: Path) -> JsonObject:
    """A JSON file's fields; none where it is damaged or gone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _row(path: Path, content: JsonObject, images: int, whole: bool) -> StoredEntry:
    return {
        "key": path.name, "backbone": str(content.get("backbone", "")), "array": str(content.get("array", "")), "images": images,
        "bytes": bytes_used(path), "source": str(content.get("source", "")) if whole else "", "whole": whole,
    }  # fmt: skip
