"""Features in chunks: what an interrupted extraction resumes from, and what several processes share.

Below the store's folder, PARTS/KEY holds while an entry is being made
  plan.json            rows a chunk: whole batches, so that a chunk's numbers do not depend on who makes it or when
  float16/000012.npz   chunk 12 (pooled, patches, grid, its rows), complete or not there; read back under its checksum
  float32              marker: half precision cannot hold the values; chunks lie in single/ from then on
  locks/12             held by the process that is at chunk 12; a killed process frees it
  entry/               pooled.npy and patches.npy, to which chunks are appended in order and then removed
  sums/000012          checksums of the rows of chunk 12 in them: whoever resumes the joining looks at what is there already
One process writes each file. Every process that wants the entry takes chunks nobody is at; one of them joins them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from levl_eval.backbones.base import Features, Preprocess
from levl_eval.core.distributed import launched_rank
from levl_eval.core.errors import LevlError
from levl_eval.core.files import atomic_path, atomic_write, disk_full_as_error, locked, remove_folder
from levl_eval.core.progress import Progress
from levl_eval.data.types import ImageSet
from levl_eval.features.feeding import Batch, pixels_of, to_device, worker_count
from levl_eval.features.stored import Blocks

# What can be stored of an image, each an entry of its own: the encoder's own pooling [D] and the mean over its patch tokens [D'],
# in float32, and the tokens [n, D'] in the precision asked for.
ARRAYS = ("pooled", "mean", "patches")
MANY, BYTES = 16, 1 << 26  # batches and bytes a chunk holds at most; a chunk's rows are what has one checksum in the entry
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, NotImplementedError, zipfile.BadZipFile)
FEW = 64  # chunks a small set is cut into, so that processes have something to share


def chunk_rows(images: int, batch_size: int, bytes_each: int) -> int:
    """Rows of a chunk: a multiple of the batch."""
    batches = -(-images // batch_size)
    most = max(1, BYTES // max(1, bytes_each * batch_size))
    return batch_size * max(1, min(MANY, most, -(-batches // FEW)))


class Overflow(Exception):
    """Half precision cannot hold a value."""


class Cast(NamedTuple):
    """A batch's features as they are stored, by the array's name."""

    arrays: dict[str, np.ndarray]
    grid: tuple[int, int]


class Joined(NamedTuple):
    """All rows of an extraction: FOLDER/NAME.npy of each array, whole, and their checksums."""

    folder: Path
    grid: tuple[int, int]
    blocks: dict[str, Blocks]


def cast(features: Features, names: Sequence[str], dtype: np.dtype, backbone: str, ids: Sequence[str]) -> Cast:
    """Features of a batch as they are stored, in memory of their own. names: which of ARRAYS. dtype: of tokens.

    backbone, ids: for messages. Raises Overflow where ``dtype`` cannot hold a value, LevlError for what is not finite.
    """
    out: dict[str, np.ndarray] = {}
    for name in names:
        values = features.patches.float().mean(-2) if name == "mean" else getattr(features, name).float()
        array: np.ndarray = values.cpu().numpy()
        if not np.isfinite(array).all():
            broken = ~np.isfinite(array).reshape(len(array), -1).all(1)
            few = "" if broken.all() else f" or overflow on this image, as {(~broken).sum()} of its batch are finite"
            raise LevlError(
                f"{backbone}: {name} features of image {ids[int(broken.argmax())]} are not finite; the weights are broken{few}"
            )
        if name == "patches":
            with np.errstate(over="ignore"):
                array = array.astype(dtype)
            if not np.isfinite(array).all():
                raise Overflow
        else:  # an encoder may fill the same memory again while this waits to be written
            array = array.copy()
        out[name] = array
    return Cast(out, features.grid)


@dataclass
class Extraction:
    """The making of one entry. ``done``: whether it is there meanwhile, made by another process."""

    folder: Path  # PARTS/KEY
    done: Callable[[], bool]
    name: str  # of the backbone, for messages
    encode: Callable[[torch.Tensor], Features]  # [B, 3, H, W]
    images: ImageSet
    preprocess: Preprocess
    device: torch.device
    batch_size: int
    arrays: tuple[str, ...]  # which of ARRAYS are made
    half: bool  # tokens in float16, or in float32 where it cannot hold them
    bytes_each: int  # about, of an image's features
    progress: Progress
    rows: int = field(init=False, default=0)
    _shapes: dict[str, tuple[int, ...]] | None = field(init=False, default=None)  # of an image's features, in the first batch

    def fill(self) -> None:
        """Until no chunk is missing: those nobody is at first, then those that others were at and may have left undone.

        Raises LevlError for an image that cannot be decoded, features that are not finite, and a full disk. Chunks stay.
        """
        self.rows = self._plan()
        missing = [c for c in range(self.chunks) if not self._had(c)]
        if len(missing) < self.chunks and missing and not self.done():
            left = sum(self._slice(c)[1] - self._slice(c)[0] for c in missing)
            self.progress.say(
                f"features of {self.name}: {len(self.images) - left} of {len(self.images)} images are there already"
            )
        rank, size = launched_rank()
        start = rank * len(missing) // size
        missing = missing[start:] + missing[:start]
        try:
            others: list[int] = []
            self._work(missing, others)
            for c in others:
                with self._lock(c, wait=True):
                    if not self._had(c):
                        self._work([c], [], claimed=True)
        except Overflow:
            atomic_write(self.folder / "float32", "")
            self.fill()

    def join(self) -> Joined | None:
        """Append all chunks to the entry's arrays; None where a chunk is missing or damaged (fill again).

        Called by one process at a time. A chunk is removed when its rows are on the disk, so that a set is never there twice.
        """
        out = self.folder / "entry"
        out.mkdir(parents=True, exist_ok=True)
        here = [c for c in range(self.chunks) if self._file(c).exists()]
        try:
            last = self.read_chunk(self.chunks - 1)  # kept to the end: it tells shapes and grid
        except _BROKEN:
            self._file(self.chunks - 1).unlink(missing_ok=True)
            return None
        begun = self._sound(out, last, min(self._appended(out, last), here[0]))
        n = len(self.images)
        with ExitStack() as files:
            files.enter_context(disk_full_as_error(out))
            handles: dict[str, BinaryIO] = {}
            for a in self.arrays:
                header = _header((n, *last[a].shape[1:]), last[a].dtype)
                size = len(header) + self._slice(begun)[0] * _row_bytes(last[a]) if begun else 0
                handles[a] = files.enter_context(open(out / f"{a}.npy", "r+b" if begun else "wb"))
                handles[a].write(header)
                if begun:
                    handles[a].truncate(size)
                    handles[a].seek(size)
            for c in range(begun, self.chunks):
                start, stop = self._slice(c)
                try:
                    chunk = last if c == self.chunks - 1 else self.read_chunk(c)
                except _BROKEN:
                    self._file(c).unlink(missing_ok=True)
                    return None
                if any(chunk[a].shape != (stop - start, *last[a].shape[1:]) for a in self.arrays):
                    self._file(c).unlink(missing_ok=True)
                    raise LevlError(self._unequal(start, *({a: x[a].shape[1:] for a in self.arrays} for x in (chunk, last))))
                sums = {}
                for a, handle in handles.items():
                    rows = np.ascontiguousarray(chunk[a]).reshape(-1).view(np.uint8).data
                    sums[a] = hashlib.sha256(rows).hexdigest()
                    handle.write(rows)
                    handle.flush()
                    os.fsync(handle.fileno())
                atomic_write(self._sum(c), json.dumps(sums))
                if c < self.chunks - 1:
                    self._file(c).unlink(missing_ok=True)
        sums_of_all = [json.loads(self._sum(c).read_text(encoding="utf-8")) for c in range(self.chunks)]
        blocks = {a: Blocks(self.rows, tuple(str(s[a]) for s in sums_of_all)) for a in self.arrays}
        return Joined(out, (int(last["grid"][0]), int(last["grid"][1])), blocks)

    def _unequal(self, row: int, one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> str:
        shapes = " and ".join(", ".join(f"{name} {list(s)}" for name, s in x.items()) for x in (one, other))
        return (
            f"{self.name}: features of image {self.images.ids[row]} have another shape than others ({shapes}); "
            "an encoder gives all images the same"
        )

    def _sum(self, chunk: int) -> Path:
        return self.folder / "sums" / f"{chunk:06d}"

    def _sound(self, out: Path, last: dict[str, np.ndarray], appended: int) -> int:
        """How many of the chunks that an interrupted joining has appended are as they were written."""
        for c in range(appended):
            start, stop = self._slice(c)
            try:
                sums = json.loads(self._sum(c).read_text())
                for a in self.arrays:
                    each, head = _row_bytes(last[a]), len(_header((len(self.images), *last[a].shape[1:]), last[a].dtype))
                    with open(out / f"{a}.npy", "rb") as f:
                        f.seek(head + start * each)
                        if hashlib.sha256(f.read((stop - start) * each)).hexdigest() != sums[a]:
                            return c
            except _BROKEN:
                return c
        return appended

    def remove(self) -> None:
        """What the entries were made of; left half removed, it would be taken for unfinished work that nobody comes back to."""
        with contextlib.suppress(OSError):  # another process was first
            remove_folder(self.folder)

    @property
    def chunks(self) -> int:
        return -(-len(self.images) // self.rows)

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens."""
        return np.dtype(np.float16 if self.half and not (self.folder / "float32").exists() else np.float32)

    def _slice(self, chunk: int) -> tuple[int, int]:
        return chunk * self.rows, min((chunk + 1) * self.rows, len(self.images))

    def _file(self, chunk: int, dtype: np.dtype | None = None) -> Path:
        """dtype: of what is being written; by default what is wanted now, which another process may have changed meanwhile."""
        return self.folder / ("single" if (dtype or self.dtype) == np.float32 else "float16") / f"{chunk:06d}.npz"

    def _lock(self, chunk: int, wait: bool) -> AbstractContextManager[bool]:
        return locked(self.folder / "locks" / str(chunk), wait)

    def _plan(self) -> int:
        """Rows a chunk: as an earlier process has planned, else for our batch size."""
        path = self.folder / "plan.json"
        with locked(self.folder / "locks" / "plan"):
            try:
                return max(1, int(json.loads(path.read_text())["rows"]))
            except (OSError, ValueError, KeyError, TypeError):
                shutil.rmtree(self.folder / "entry", ignore_errors=True)  # what is there is of no known plan
                rows = chunk_rows(len(self.images), self.batch_size, self.bytes_each)
                atomic_write(path, json.dumps({"rows": rows, "images": len(self.images), "backbone": self.name}))
                return rows

    def _had(self, chunk: int) -> bool:
        """Whether a chunk needs no making: it is there, or appended already, or the whole entry is. In this order: none goes back."""
        if self._file(chunk).exists():
            return True
        if chunk < self.chunks - 1 and (self.folder / "entry").is_dir():
            try:
                if chunk < self._appended(self.folder / "entry", self.read_chunk(self.chunks - 1)):
                    return True
            except _BROKEN:
                pass
        return self.done()

    def _appended(self, out: Path, last: dict[str, np.ndarray]) -> int:
        """Chunks whose rows the entry's arrays hold."""
        rows = []
        for a in self.arrays:
            try:
                size = (out / f"{a}.npy").stat().st_size - len(_header((len(self.images), *last[a].shape[1:]), last[a].dtype))
            except OSError:
                return 0
            rows.append(max(0, size) // _row_bytes(last[a]))
        return self.chunks if min(rows) >= len(self.images) else min(rows) // self.rows

    def read_chunk(self, chunk: int) -> dict[str, np.ndarray]:
        """A chunk's arrays; the archive's checksums are verified. Raises one of _BROKEN."""
        with np.load(self._file(chunk), allow_pickle=False) as stored:
            if tuple(stored["rows"].tolist()) != self._slice(chunk):
                raise ValueError("a chunk of another plan")
            return {k: stored[k] for k in (*self.arrays, "grid")}

    def _batches(self, chunks: Iterator[int] | Sequence[int]) -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
        """((chunk, first row), uint8 [b, S, S, 3]) in order."""

        def cut() -> Iterator[Batch[tuple[int, int]]]:
            for c in chunks:
                start, stop = self._slice(c)
                for i in range(start, stop, self.batch_size):
                    yield Batch((c, i), self.images.ids[i : min(i + self.batch_size, stop)])

        workers = worker_count(len(self.images), self.batch_size, self.preprocess.size)
        return pixels_of(self.images, self.preprocess, cut(), self.device, workers)

    def _encoded(self, chunks: Iterator[int]) -> Iterator[tuple[tuple[int, int], Features]]:
        """((chunk, first row), features on the device) in order.

        A batch is read back when the next one is on its way: nobody waits in between.
        """
        before: tuple[tuple[int, int], Features] | None = None
        for tag, pixels in self._batches(chunks):
            features = self.encode(to_device(pixels, self.preprocess, self.device))
            if self.device.type == "cpu":  # nothing runs beside us
                yield tag, features
                continue
            if before is not None:
                yield before
            before = tag, features
        if before is not None:
            yield before

    @torch.inference_mode()
    def _work(self, chunks: Sequence[int], others: list[int], claimed: bool = False) -> None:
        """Make those chunks that nobody is at; the rest go to ``others``. claimed: they are ours already."""
        dtype = self.dtype
        with ExitStack() as all_locks:
            held: dict[int, ExitStack] = {}

            def ours() -> Iterator[int]:
                for c in chunks:
                    if claimed:
                        yield c
                        continue
                    lock = ExitStack()
                    if not lock.enter_context(self._lock(c, wait=False)):
                        lock.close()
                        others.append(c)
                    elif self._had(c):
                        lock.close()
                    else:
                        held[c] = lock
                        all_locks.push(lock)
                        yield c

            kept: list[Cast] = []
            writing: Future[None] | None = None  # at most one chunk is on its way to the disk while the next is encoded
            total = sum(b - a for a, b in map(self._slice, chunks))
            with (
                ThreadPoolExecutor(1) as writer,
                self.progress.stage(f"features of {self.name}", total, "image") as bar,
            ):
                for (c, row), features in self._encoded(ours()):
                    kept.append(self._cast(features, row, dtype))
                    count = len(features.pooled)
                    bar.advance(count)
                    if row + count == self._slice(c)[1]:
                        if writing is not None:
                            writing.result()
                        writing = writer.submit(self._write, c, kept, dtype, held.pop(c, None))
                        kept = []
                    if dtype != self.dtype:  # another process has met a value beyond half precision
                        raise Overflow
                if writing is not None:
                    writing.result()

    def _cast(self, features: Features, row: int, dtype: np.dtype) -> Cast:
        """As they are stored. Raises Overflow, and LevlError for what is not finite or of another shape than the first batch."""
        out = cast(features, self.arrays, dtype, self.name, self.images.ids[row : row + len(features.pooled)])
        shapes = {"grid": out.grid, **{a: out.arrays[a].shape[1:] for a in self.arrays}}
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise LevlError(self._unequal(row, shapes, self._shapes))
        return out

    def _write(self, chunk: int, parts: list[Cast], dtype: np.dtype, lock: ExitStack | None) -> None:
        """A chunk into its file; then others may see that it is there."""
        arrays = {a: np.concatenate([p.arrays[a] for p in parts]) for a in self.arrays}
        with atomic_path(self._file(chunk, dtype)) as temporary, open(temporary, "wb") as f:
            grid, rows = np.array(parts[0].grid), np.array(self._slice(chunk))
            np.savez(f, grid=grid, rows=rows, **arrays)  # type: ignore[arg-type]
        if lock is not None:
            lock.close()


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The .npy header of an array in C order."""
    out = BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def _row_bytes(array: np.ndarray) -> int:
    return int(np.prod(array.shape[1:])) * array.dtype.itemsize
