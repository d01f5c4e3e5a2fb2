"""The feature store: an encoder sees an image once. Content-addressed, memory-mapped, checksummed, written atomically.

An entry is one array of one image set (extraction.ARRAYS), so that a job keeps what it reads and nothing else: pooled features and mean
tokens in float32, patch tokens in the precision its card asks for. Where tokens are made, the two small arrays are kept with them.
While entries are made their chunks lie in DIR/parts/KEY (extraction.py): a killed process resumes from them, several share them.
Tokens that do not fit on the disk, or into ``limit``, are streamed instead: encoded each time a head reads them, and discarded.

An entry's key (records.identity.cache_key) is made of
  encoder      weights, code and modules of the backbone (Backbone.encoder_parts; not its path: a retrained file is another entry)
  preprocess   Preprocess.describe(): size, resize, crop, interpolation, mean, std
  layer        which layer's tokens: "last" (after the final norm), or the list of blocks whose outputs are concatenated
  views        where several views of each image are kept: their boxes and flips (features.views)
  array, dtype which array, and what it is stored in
  device       its kind: cpu, cuda, mps
  images       fingerprint of the image set, and digest of its ids in the order of the rows
  version      of this layout, and of how Preprocess is carried out (features.version)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Preprocess
from levl_eval.core.errors import LevlError
from levl_eval.core.files import locked
from levl_eval.core.json_types import as_object
from levl_eval.core.kept import mark_used
from levl_eval.core.progress import Progress
from levl_eval.core.text import size_text
from levl_eval.data.types import ImageSet
from levl_eval.features import entries
from levl_eval.features.entries import PARTS, Entry, Meta, StoredEntry
from levl_eval.features.extraction import ARRAYS, Extraction, Joined
from levl_eval.features.request import PLAIN, Reading, Request, TokenType, check_size, first_features, streamed_tokens
from levl_eval.features.stored import Rows, StreamedArray
from levl_eval.features.version import FEATURES
from levl_eval.features.views import Views
from levl_eval.records.identity import cache_key

SPARE = 1 << 28  # bytes of a disk that features leave free
LARGE = 10**9  # bytes from which an extraction says beforehand what it will take


@dataclass(frozen=True)
class FeatureSet:
    """Features of an image set, those arrays of extraction.ARRAYS that were asked for; images are the rows.

    pooled [N, D] and mean [N, D'] are float32; patches [N, n, D'] are float16 (float32 where half precision overflows or the card wants
    it). With views: [N, V, ...]. hit: whether all were in the store. keys: of the arrays' entries.
    """

    arrays: Mapping[str, Rows]
    ids: tuple[str, ...]
    grid: tuple[int, int]
    keys: Mapping[str, str]
    hit: bool

    def _array(self, name: str) -> Rows:
        if name not in self.arrays:
            raise KeyError(f"{name} features were not asked for")  # a fault of ours, never of an input
        return self.arrays[name]

    @property
    def pooled(self) -> Rows:
        return self._array("pooled")

    @property
    def mean(self) -> Rows:
        """Mean over the patch tokens."""
        return self._array("mean")

    @property
    def patches(self) -> Rows:
        return self._array("patches")

    @property
    def row(self) -> dict[str, int]:
        """Row of each image id."""
        return {name: i for i, name in enumerate(self.ids)}

    @property
    def streamed(self) -> bool:
        """Whether tokens are encoded each time they are read."""
        return any(isinstance(a, StreamedArray) for a in self.arrays.values())


class FeatureStore:
    """Features by content below one folder; safe for several processes at once (the first complete entry wins).

    limit: bytes that all entries together may take; tokens beyond it are streamed. None: as much as the disk holds.
    """

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        self.folder, self.limit = Path(folder), limit

    @staticmethod
    def key(
        backbone: Backbone,
        images: ImageSet,
        preprocess: Preprocess,
        layers: Sequence[int] | None = None,
        views: Views | None = None,
        device: torch.device | str = "cpu",
        array: str = "patches",
        tokens: TokenType = "float16",
    ) -> str:
        """The content key of an array's entry; see the module's text."""
        own_layers = None if layers is None else tuple(layers)
        return Request(backbone, images, preprocess, own_layers, views, torch.device(device), 1, tokens).key(array)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def get(
        self,
        backbone: Backbone,
        images: ImageSet,
        arrays: Sequence[str] = ("pooled", "patches"),
        how: Reading = PLAIN,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        progress: Progress | None = None,
        also: Sequence[str] = (),
    ) -> FeatureSet:
        """Features of ``images``, from the store or computed and stored. A damaged entry is noticed and computed again.

        arrays: which of extraction.ARRAYS are read, how: at which layers, views and precision. also: arrays that will be read
        later: made in the same pass where there is one.

        Raises LevlError for an image that cannot be decoded, for features that are not finite, for layers the backbone does not
        have, for a size it does not take and for a disk that cannot hold pooled features. Reading a row of what it returns raises
        DamagedFeatures where the file was changed.
        """
        progress = progress or Progress(quiet=True)
        layers = None if how.layers is None else tuple(how.layers)
        preprocess = how.preprocess or backbone.preprocess
        request = Request(backbone, images, preprocess, layers, how.views, torch.device(device), batch_size, how.tokens)
        stored = self._opened(request, arrays, progress)
        hit = len(stored) == len(arrays)
        streamed: dict[str, StreamedArray] = {}
        if not hit:
            check_size(backbone, how.views.side if how.views else request.preprocess.size, request.device)
            later = [a for a in also if not entries.there(self._path(request.key(a)))]
            stored, streamed = self._made(request, arrays, stored, later, progress)
        grid = next((e.grid for e in stored.values()), None) or first_features(request).grid
        every: dict[str, Rows] = {a: streamed[a] if a in streamed else stored[a].array for a in arrays}
        return FeatureSet(every, tuple(images.ids), grid, {a: request.key(a) for a in arrays}, hit)

    def _opened(self, request: Request, arrays: Sequence[str], progress: Progress) -> dict[str, Entry]:
        """Those entries that are there; one whose description is damaged is removed, which is said."""
        out: dict[str, Entry] = {}
        for array in arrays:
            key = request.key(array)
            path = self._path(key)
            if not entries.there(path):
                continue
            with locked(self.folder / "locks" / key):
                try:
                    out[array] = entries.open_entry(path, key)
                    mark_used(path / "meta.json")
                except ValueError as e:
                    progress.say(f"features {key[:12]}: {e}; computed again")
                    entries.discard(path)
        return out

    def _made(
        self, request: Request, arrays: Sequence[str], stored: dict[str, Entry], later: Sequence[str], progress: Progress
    ) -> tuple[dict[str, Entry], dict[str, StreamedArray]]:
        """Everything that was asked for: entries, those made now included, and arrays that are streamed."""
        missing = [a for a in arrays if a not in stored]
        streamed = {}
        wanted = {*missing, *later}
        make = tuple(a for a in ARRAYS if a in wanted)
        if "patches" in wanted:
            make = ARRAYS  # always the same, so that an extraction that was cut off at its end is found again
            if not self._fits(request, make, stored, progress):
                streamed = {"patches": streamed_tokens(request)} if "patches" in missing else {}
                make = tuple(a for a in ARRAYS if a in wanted and a != "patches")
        if make:
            self._demand(request, make, stored)
            self._extract(request, make, progress)
        again = self._opened(request, [a for a in arrays if a not in streamed], progress)
        lost = [a for a in arrays if a not in again and a not in streamed]
        if lost:
            raise LevlError(f"{self.folder}: features were removed while they were made; run the same command again")
        return again, streamed

    def free(self) -> int:
        """Bytes that features may still take on the store's disk."""
        folder = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        return shutil.disk_usage(folder).free - SPARE

    def _fits(self, request: Request, make: Sequence[str], stored: Mapping[str, Entry], progress: Progress) -> bool:
        """Whether tokens have room; what they need is compared with the limit and the disk, and told where it is much."""
        need = sum(request.bytes_of(a) for a in make if a not in stored)
        free, who = self.free(), request.backbone.name
        over_limit = self.limit is not None and entries.bytes_used(self.folder) + need > self.limit
        if not over_limit and need <= free:
            if need >= LARGE:
                progress.say(f"  features of {who}: {size_text(need)} to write, {size_text(free)} free at {self.folder}")
            return True
        limit = f"the store's limit of {size_text(self.limit or 0, 3)}"
        why = limit if over_limit else f"the {size_text(max(0, free), 3)} that are free at {self.folder}"
        progress.say(
            f"  features of {who}: tokens of {len(request.images):,} images take {size_text(need, 3)}, beyond {why}; "
            "they are streamed: encoded each time a head reads them, once an epoch in training"
        )
        return False

    def _demand(self, request: Request, make: Sequence[str], stored: Mapping[str, Entry]) -> None:
        """Raises LevlError where arrays that are always stored have no room on the disk."""
        need, free = sum(request.bytes_of(a) for a in make if a not in stored), self.free()
        if need > free:
            raise LevlError(
                f"{self.folder}: features of {request.backbone.name} take {size_text(need, 3)}, "
                f"{size_text(max(0, free), 3)} are free; free some, or set LEVL_CACHE to a folder on a larger disk"
            )

    def _extract(self, request: Request, make: tuple[str, ...], progress: Progress) -> None:
        """Make entries of arrays, alone or with other processes that want them."""
        key = cache_key("extraction", FEATURES, entries=[request.key(a) for a in make])
        each = sum(request.bytes_of(a) for a in make) // max(1, len(request.images))
        paths = [self._path(request.key(a)) for a in make]
        parts = Extraction(
            self.folder / PARTS / key, lambda: all(map(entries.there, paths)), request.backbone.name, request.encoder, request.images,
            request.preprocess, request.device, request.batch_size, make, request.tokens == "float16", each, progress,
        )  # fmt: skip
        # All processes that want the entries make chunks of them; one at a time joins them.
        while not all(map(entries.there, paths)):
            parts.fill()
            with locked(self.folder / "locks" / key):
                if all(map(entries.there, paths)):
                    break
                joined = parts.join()
                if joined is not None:
                    self._finish(request, joined, parts)
                    return
            progress.say(f"features {key[:12]}: a stored part is damaged; computed again")
        parts.remove()  # what a late process has left behind

    def _finish(self, request: Request, joined: Joined, parts: Extraction) -> None:
        """Let the entries appear, tokens last: who finds them finds the others; what is joined stays until all are there."""
        backbone, images = request.backbone, request.images
        for name, blocks in joined.blocks.items():
            key, file = request.key(name), joined.folder / f"{name}.npy"
            array = np.load(file, mmap_mode="r")
            meta: Meta = {
                "key": key, "format": FEATURES, "array": name, "dtype": str(array.dtype), "shape": list(array.shape),
                "block_rows": blocks.rows, "sha256": list(blocks.sums), "grid": list(joined.grid), "backbone": backbone.name,
                "encoder": as_object(backbone.encoder_parts(), "encoder"), "preprocess": request.preprocess.describe(),
                "images": images.fingerprint, "order": request.order, "source": images.source,
            }  # fmt: skip
            del array
            entries.write_entry(joined.folder.parent / f"{name}-entry", self._path(key), file, meta)
        parts.remove()

    def entries(self) -> Iterator[Path]:
        """Folders of the entries that are there, in order of their keys; not those in the making."""
        yield from entries.entries(self.folder)

    def damage(self, key: str) -> str:
        """What is wrong with an entry, or ''; all of it is read."""
        return entries.damage(self._path(key))

    def verify(self) -> list[str]:
        """One line for each damaged entry."""
        return [f"{p.name[:12]}: {wrong}" for p in self.entries() if (wrong := entries.damage(p))]

    def table(self) -> list[StoredEntry]:
        """A line on every entry, those in the making too."""
        return entries.table(self.folder)

    def ls(self) -> list[list[str]]:
        """A row an entry: key, backbone, array, images, megabytes, source (or that it is unfinished)."""
        unfinished = "unfinished; the run that makes it resumes from here"
        return [
            [
                r["key"][:12],
                r["backbone"],
                r["array"],
                f"{r['images']:,} images",
                f"{r['bytes'] / 1e6:.1f} MB",
                r["source"] if r["whole"] else unfinished,
            ]
            for r in self.table()
        ]

    def clear(self) -> int:
        """Remove every entry, those in the making too; returns how many."""
        folders = [*self.entries(), *(p.parent for p in sorted(self.folder.glob(f"{PARTS}/*/plan.json")))]
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)
        return len(folders)
