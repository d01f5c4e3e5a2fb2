"""The feature store: an encoder sees an image once. Content-addressed, memory-mapped, checksummed, written atomically.

While an entry is made its chunks lie in DIR/parts/KEY (extraction.py): a killed process goes on from them, several share them.

An entry's key (records.identity.cache_key) is made of
  encoder      weights, code and modules of the backbone (Backbone.encoder_parts; not its path: a retrained file is another entry)
  preprocess   Preprocess.describe(): size, resize, crop, interpolation, mean, std
  layer        which layer's tokens: "last" (after the final norm), or the list of blocks whose outputs are concatenated
  views        where several views of each image are kept: their boxes and flips (backbones.views)
  dtype        what is stored
  device       its kind: cpu, cuda, mps
  images       fingerprint of the image set, and digest of its ids in the order of the rows
  version      of this layout, and of how Preprocess is carried out (FORMAT)
and its folder DIR/KEY[:2]/KEY holds pooled.npy [N, D], patches.npy [N, n, D'] and meta.json with their SHA-256 and its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.core.errors import LevlError
from levl_eval.core.files import atomic_write, locked, sha256_file
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import JsonObject
from levl_eval.core.kept import mark_used
from levl_eval.core.progress import Progress
from levl_eval.data.types import ImageSet
from levl_eval.features.extraction import ARRAYS, Extraction
from levl_eval.features.version import FEATURES
from levl_eval.features.views import Views
from levl_eval.records.identity import cache_key

FORMAT = FEATURES
PARTS = "parts"  # entries in the making


@dataclass(frozen=True)
class FeatureSet:
    """Features of an image set. pooled [N, D], patches [N, n, D'] (float16, or float32 where half precision overflows)."""

    pooled: np.ndarray
    patches: np.ndarray
    ids: tuple[str, ...]
    grid: tuple[int, int]
    key: str
    hit: bool

    @property
    def row(self) -> dict[str, int]:
        """Row of each image id."""
        return {name: i for i, name in enumerate(self.ids)}


class Meta(TypedDict, total=False):
    """meta.json of an entry. checksum: digest of the other fields."""

    key: str
    format: int
    backbone: str
    encoder: JsonObject
    preprocess: JsonObject
    images: str
    source: str
    ids: list[str]
    grid: list[int]
    sha256: dict[str, str]
    checksum: str


class StoredEntry(TypedDict):
    """A line on an entry. whole: False while it is in the making; images: how many it has, or will have."""

    key: str
    backbone: str
    images: int
    bytes: int
    source: str
    whole: bool


@dataclass(frozen=True)
class _Encoder:
    """A backbone read at some layers over some views: [B, 3, H, W] -> Features, with a views axis where there are views."""

    backbone: Backbone
    layers: tuple[int, ...] | None
    views: Views | None

    def __call__(self, images: torch.Tensor) -> Features:
        b = self.backbone
        x = images if self.views is None else self.views.cut(images).flatten(0, 1)
        features = b.encode(x) if self.layers is None else b.encode_layers(x, self.layers)
        if self.views is None:
            return features
        shape = (len(images), len(self.views.boxes))
        return Features(features.pooled.unflatten(0, shape), features.patches.unflatten(0, shape), features.grid)


def check_size(backbone: Backbone, size: int, device: torch.device) -> None:
    """Raises LevlError in one line where the encoder cannot take images of ``size`` pixels, or would ignore part of them."""
    own, grid = backbone.preprocess.size, backbone.grid
    if size == own:
        return
    stride = own // grid[0]
    if own % grid[0] == 0 and size % stride:
        fits = max(1, round(size / stride)) * stride
        raise LevlError(f"{backbone.name}: field `size`: {size} is no multiple of its patch size {stride}; take {fits}")
    try:
        with torch.inference_mode():
            features = backbone.encode(torch.zeros(1, 3, size, size, device=device))
        fitting = features.grid[0] * features.grid[1] == features.patches.shape[1]
    except (RuntimeError, AssertionError, ValueError) as e:
        why = " ".join(str(e).split())[:120]
        raise LevlError(f"{backbone.name}: does not take {size} px images ({why}); its own size is {own}") from e
    if not fitting:
        raise LevlError(
            f"{backbone.name}: {features.patches.shape[1]} patch tokens do not form the grid {features.grid} at {size} px; its own size is {own}"
        )


class FeatureStore:
    """Features by content below one folder; safe for several processes at once (the first complete entry wins)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._verified: set[str] = set()

    @staticmethod
    def key(
        backbone: Backbone,
        images: ImageSet,
        preprocess: Preprocess,
        layers: Sequence[int] | None = None,
        views: Views | None = None,
        device: torch.device | str = "cpu",
    ) -> str:
        """The content key; see the module's text."""
        return cache_key(
            "features", FORMAT, encoder=backbone.encoder_parts(), preprocess=preprocess.describe(),
            layer="last" if layers is None else backbone.layer_indices(layers),
            views=None if views is None else [list(v) for v in views.boxes], dtype="float16", device=torch.device(device).type,
            images={"fingerprint": images.fingerprint, "order": digest(list(images.ids))},
        )  # fmt: skip

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def get(
        self,
        backbone: Backbone,
        images: ImageSet,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        progress: Progress | None = None,
        preprocess: Preprocess | None = None,
        layers: Sequence[int] | None = None,
        views: Views | None = None,
    ) -> FeatureSet:
        """Features of ``images``, from the store or computed and stored. A damaged entry is noticed and computed again.

        layers: blocks to concatenate (Backbone.encode_layers); None: the last, as ``encode`` gives it. views: crops and flips of
        the preprocessed image, each encoded by itself: pooled [N, V, D], patches [N, V, n, D'].

        Raises LevlError for an image that cannot be decoded, for features that are not finite, for layers the backbone does not
        have and for a size it does not take.
        """
        progress = progress or Progress(quiet=True)
        preprocess = preprocess or backbone.preprocess
        key = self.key(backbone, images, preprocess, layers, views, device)
        with locked(self.folder / "locks" / key):
            if self._whole(key, images, progress):
                return self._open(key, hit=True)
        check_size(backbone, views.side if views else preprocess.size, torch.device(device))
        encoder = _Encoder(backbone, None if layers is None else tuple(layers), views)
        parts = self._extraction(key, encoder, images, preprocess, torch.device(device), batch_size, progress)
        # All processes that want the entry make chunks of it; one at a time may join them or remove a damaged entry.
        while True:
            parts.fill()
            with locked(self.folder / "locks" / key):
                if self._whole(key, images, progress):
                    parts.remove()  # what a late process has left behind
                    return self._open(key, hit=False)
                if self._finish(key, encoder, images, preprocess, parts):
                    return self._open(key, hit=False)
            progress.say(f"features {key[:12]}: a stored part is damaged; computed again")

    def _whole(self, key: str, images: ImageSet, progress: Progress) -> bool:
        """Whether an entry is there and undamaged; a damaged one is removed."""
        if not self._path(key).exists():
            return False
        wrong = self.damage(key, images.ids)
        if wrong:
            progress.say(f"features {key[:12]}: {wrong}; computed again")
            self._verified.discard(key)
            if self._path(key).is_file():
                self._path(key).unlink()
            shutil.rmtree(self._path(key), ignore_errors=True)
        return not wrong

    def _meta(self, key: str) -> Meta:
        out: Meta = json.loads((self._path(key) / "meta.json").read_text(encoding="utf-8"))
        return out

    def _open(self, key: str, hit: bool) -> FeatureSet:
        meta = self._meta(key)
        pooled, patches = (np.load(self._path(key) / f"{a}.npy", mmap_mode="r") for a in ARRAYS)
        self._verified.add(key)
        mark_used(self._path(key) / "meta.json")
        return FeatureSet(pooled, patches, ids=tuple(meta["ids"]), grid=(meta["grid"][0], meta["grid"][1]), key=key, hit=hit)

    def damage(self, key: str, ids: Sequence[str] | None = None) -> str:
        """What is wrong with an entry, or ''. Arrays are hashed once a process. ids: of the images it must be of, in order."""
        folder = self._path(key)
        try:
            meta = self._meta(key)
            checksum = meta.pop("checksum")
            if checksum != digest(meta):
                return "meta.json is damaged (checksum)"
            if meta["key"] != key or (ids is not None and meta["ids"] != list(ids)):
                return "meta.json is another entry's"
            for a in ARRAYS:
                array = np.load(folder / f"{a}.npy", mmap_mode="r")
                if len(array) != len(meta["ids"]):
                    return f"{a}.npy has {len(array)} rows for {len(meta['ids'])} images"
                if key not in self._verified and sha256_file(folder / f"{a}.npy") != meta["sha256"][a]:
                    return f"{a}.npy is damaged (checksum)"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as e:
            return f"incomplete or damaged ({type(e).__name__})"
        return ""

    def _extraction(
        self,
        key: str,
        encoder: _Encoder,
        images: ImageSet,
        preprocess: Preprocess,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> Extraction:
        backbone = encoder.backbone
        scale = (encoder.views.side if encoder.views else preprocess.size) / backbone.preprocess.size
        tokens = max(1, round(backbone.grid[0] * backbone.grid[1] * scale * scale))
        each = 2 * (tokens * backbone.patch_dim + backbone.dim) * len(encoder.layers or (0,))
        each *= len(encoder.views.boxes) if encoder.views else 1
        return Extraction(
            self.folder / PARTS / key,
            self._path(key).exists,
            backbone.name,
            encoder,
            images,
            preprocess,
            device,
            batch_size,
            each,
            progress,
        )

    def _finish(self, key: str, encoder: _Encoder, images: ImageSet, preprocess: Preprocess, parts: Extraction) -> bool:
        """Join the chunks and let the entry appear, whole; False where a chunk turned out to be damaged."""
        joined = parts.join()
        if joined is None:
            return False
        work, grid = joined
        backbone, target = encoder.backbone, self._path(key)
        meta = {
            "key": key, "format": FORMAT, "backbone": backbone.name, "encoder": backbone.encoder_parts(), "preprocess": preprocess.describe(),
            "images": images.fingerprint, "source": images.source, "ids": list(images.ids), "grid": list(grid),
            "sha256": {a: sha256_file(work / f"{a}.npy") for a in ARRAYS},
        }  # fmt: skip
        atomic_write(work / "meta.json", json.dumps({**meta, "checksum": digest(meta)}))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(work, target)
        parts.remove()
        return True

    def entries(self) -> Iterator[Path]:
        """Folders of the entries that are there, in order of their keys; not those in the making."""
        yield from sorted(p.parent for p in self.folder.glob("??/*/meta.json") if not p.parent.name.startswith("."))

    def verify(self) -> list[str]:
        """One line for each damaged entry."""
        self._verified.clear()
        return [f"{p.name[:12]}: {wrong}" for p in self.entries() if (wrong := self.damage(p.name))]

    def table(self) -> list[StoredEntry]:
        """Key, backbone, images, bytes and source of every entry; of one in the making, how many images it will have."""
        out = []
        for path in self.entries():
            meta = _told(path / "meta.json")
            ids = meta.get("ids")
            out.append(_row(path, meta, len(ids) if isinstance(ids, list) else 0, whole=True))
        for plan in sorted(self.folder.glob(f"{PARTS}/*/plan.json")):
            plan_content = _told(plan)
            images = plan_content.get("images")
            out.append(_row(plan.parent, plan_content, images if isinstance(images, int) else 0, whole=False))
        return out

    def ls(self) -> list[list[str]]:
        """A row an entry: key, backbone, images, megabytes, source (or that it is unfinished)."""
        unfinished = "unfinished; the run that makes it resumes from here"
        return [
            [
                r["key"][:12],
                r["backbone"],
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
        self._verified.clear()
        return len(folders)


def _told(path: Path) -> JsonObject:
    """A JSON file's fields; none where it is damaged or gone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _row(path: Path, content: JsonObject, images: int, whole: bool) -> StoredEntry:
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # removed this moment
            size += file.stat().st_size
    return {
        "key": path.name, "backbone": str(content.get("backbone", "")), "images": images, "bytes": size,
        "source": str(content.get("source", "")) if whole else "", "whole": whole,
    }  # fmt: skip
