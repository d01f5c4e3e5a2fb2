"""Rows of features as heads read them: from a file whose blocks are verified when they are first read, or encoded anew each time.

A stored array is a plain .npy file [N, ...] with a checksum for every block of rows. Opening one reads nothing of it. A block is hashed
when one of its rows is first asked for, and what was verified is remembered beside the file under its size, times and inode, so
that no later process hashes it again; a file that was touched since is verified anew, block by block.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TypeAlias

import numpy as np

from levl_eval.core.distributed import cores
from levl_eval.core.errors import DamagedFeatures, LevlError
from levl_eval.core.files import atomic_write, settled, stat_mark

VERIFIED = "verified.json"
# What an array is indexed by: rows first, further axes behind them in a tuple.
RowIndex: TypeAlias = int | np.integer | slice | np.ndarray | Sequence[int] | EllipsisType
Index: TypeAlias = RowIndex | tuple[RowIndex, ...]


@dataclass(frozen=True)
class Blocks:
    """How a file is summed: ``sums`` are the SHA-256 of each ``rows`` rows' bytes, the last of what is left."""

    rows: int
    sums: tuple[str, ...]

    def span(self, block: int, total: int) -> tuple[int, int]:
        """First row of a block and the row after its last."""
        return block * self.rows, min((block + 1) * self.rows, total)


def rows_of(index: Index, count: int) -> np.ndarray:
    """Rows, in order and with repeats, that an index of an array of ``count`` rows reads; of a slice too. Raises IndexError."""
    first = index[0] if isinstance(index, tuple) else index
    if isinstance(first, EllipsisType):
        return np.arange(count)
    if isinstance(first, slice):
        return np.arange(*first.indices(count))
    rows = np.asarray(first)
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    rows = rows.reshape(-1)
    if len(rows) and (rows.min() < -count or rows.max() >= count):
        raise IndexError(f"row {rows.max() if rows.max() >= count else rows.min()} of {count}")
    return np.where(rows < 0, rows + count, rows)


class Verified:
    """Which blocks of a file are known to be whole, remembered between processes for as long as nobody touches the file."""

    def __init__(self, file: Path, blocks: Blocks) -> None:
        self._file, self._mark = file, stat_mark(os.stat(file)).decode()  # before any of it is hashed
        self.known = np.zeros(len(blocks.sums), bool)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads((file.parent / VERIFIED).read_text(encoding="utf-8"))
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(kept["blocks"]), np.uint8))[: len(self.known)].astype(bool)
            if kept["file"] == self._mark and len(bits) == len(self.known):
                self.known = bits

    def note(self, blocks: np.ndarray) -> None:
        """These are whole.

        Not remembered where the folder cannot be written, and of a file that is too young for a later change to be sure to show
        in its times; that costs a later process a second look.
        """
        self.known[blocks] = True
        with contextlib.suppress(LevlError, OSError):
            now = os.stat(self._file)
            if settled(now) and stat_mark(now).decode() == self._mark:
                content = {"file": self._mark, "blocks": np.packbits(self.known).tobytes().hex()}
                atomic_write(self._file.parent / VERIFIED, json.dumps(content))


class StoredArray:
    """Read-only rows [N, ...] of a .npy file: indexing by rows gives a numpy array, a view of the file where numpy gives one.

    parts: rows that each stored row holds; above 1 the second axis is taken apart, [N, V, ...] as [N V, ...]. discard: called where a
    block is damaged, before DamagedFeatures is raised.
    """

    def __init__(
        self,
        file: Path,
        blocks: Blocks,
        discard: Callable[[], None] = lambda: None,
        verified: Verified | None = None,
        parts: int = 1,
    ) -> None:
        self.file, self._blocks, self._discard, self._parts = file, blocks, discard, parts
        self._stored: np.ndarray = np.load(file, mmap_mode="r")
        self._map: np.ndarray = self._stored if parts == 1 else self._stored.reshape(-1, *self._stored.shape[2:])
        self.shape: tuple[int, ...] = self._map.shape
        self.dtype: np.dtype = self._map.dtype
        self.ndim: int = self._map.ndim
        self._verified = verified or Verified(file, blocks)
        self._whole = bool(self._verified.known.all())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        """Raises DamagedFeatures where a block that is read is not what was written."""
        if not self._whole:
            self._verify(rows_of(index, len(self)) // self._parts)
        out: np.ndarray = self._map[index]
        return out

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        whole = self[...]
        return np.array(whole, dtype) if copy else np.asarray(whole, dtype)

    def taken_apart(self) -> StoredArray:
        """[N, V, ...] as [N V, ...]."""
        return StoredArray(self.file, self._blocks, self._discard, self._verified, self.shape[1])

    def _verify(self, rows: np.ndarray) -> None:
        wanted = np.zeros(len(self._blocks.sums), bool)
        wanted[rows // self._blocks.rows] = True
        todo = np.flatnonzero(wanted & ~self._verified.known)
        if not len(todo):
            return
        with ThreadPoolExecutor(min(len(todo), cores())) as pool:  # hashing and reading both let other threads run
            right = list(pool.map(self._sound, todo.tolist()))
        if not all(right):
            first, after = self._blocks.span(int(todo[right.index(False)]), len(self._stored))
            self._discard()
            raise DamagedFeatures(f"{self.file}: rows {first} to {after - 1} are damaged (checksum)")
        self._verified.note(todo)
        self._whole = bool(self._verified.known.all())

    def _sound(self, block: int) -> bool:
        first, after = self._blocks.span(block, len(self._stored))
        part = np.ascontiguousarray(self._stored[first:after]).reshape(-1).view(np.uint8)
        return hashlib.sha256(part.data).hexdigest() == self._blocks.sums[block]

    def damaged(self) -> str:
        """What is wrong with any block, or ''; all are hashed, whatever is remembered."""
        for block in range(len(self._blocks.sums)):
            if not self._sound(block):
                first, after = self._blocks.span(block, len(self._stored))
                return f"rows {first} to {after - 1} are damaged (checksum)"
        return ""


class StreamedArray:
    """Rows [N, ...] that no disk holds: ``encode`` gives those asked for, rows [u] -> [u, ...], each time they are read."""

    def __init__(
        self, encode: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dtype: np.dtype, parts: int = 1
    ) -> None:
        self._encode, self._parts, self.dtype = encode, parts, dtype
        self._rows_shape = shape
        self.shape: tuple[int, ...] = shape if parts == 1 else (shape[0] * parts, *shape[2:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        rows = rows_of(first, len(self))
        images, at = np.unique(rows // self._parts, return_inverse=True)
        values = self._encode(images)
        if self._parts > 1:
            values = values.reshape(-1, *values.shape[2:])
            at = at * self._parts + rows % self._parts
        if isinstance(first, (int, np.integer)):
            out: np.ndarray = values[(int(at[0]), *rest)]
            return out
        at = at.reshape(first.shape) if isinstance(first, np.ndarray) and first.dtype != bool else at
        return np.asarray(values[(at, *rest)])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def taken_apart(self) -> StreamedArray:
        """[N, V, ...] as [N V, ...]."""
        return StreamedArray(self._encode, self._rows_shape, self.dtype, self.shape[1])


class SideBySide:
    """Rows [N, D1 + D2] of two arrays [N, D1] and [N, D2], joined as they are read."""

    def __init__(self, left: Rows, right: Rows) -> None:
        self._parts = (left, right)
        self.shape: tuple[int, ...] = (left.shape[0], left.shape[1] + right.shape[1])
        self.dtype: np.dtype = np.result_type(left.dtype, right.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: RowIndex) -> np.ndarray:
        """The index is of rows alone."""
        return np.concatenate([p[index] for p in self._parts], -1)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


Rows: TypeAlias = np.ndarray | StoredArray | StreamedArray


class SomeRows:
    """Those rows [m, ...] of an array [N, ...] that ``rows`` [m] names, read when they are asked for."""

    def __init__(self, array: Rows, rows: np.ndarray) -> None:
        self._array, self._rows = array, rows
        self.shape: tuple[int, ...] = (len(rows), *array.shape[1:])
        self.dtype: np.dtype = array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        if isinstance(index, tuple):
            return self._array[(self._rows[index[0]], *index[1:])]
        return self._array[self._rows[index]]


Vectors: TypeAlias = np.ndarray | StoredArray | StreamedArray | SideBySide  # [N, D], indexed by rows


def taken_apart(array: Rows) -> Rows:
    """[N, V, ...] as [N V, ...]."""
    return array.reshape(-1, *array.shape[2:]) if isinstance(array, np.ndarray) else array.taken_apart()
