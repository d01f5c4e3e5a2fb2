"""The feature store: an encoder sees an image once. Content-addressed, memory-mapped, checksummed, written atomically.

An entry's key is the SHA-256 of the canonical JSON of
  weights      sha256 of the backbone's parameters and buffers (not of a path: a retrained file is another entry)
  preprocess   Preprocess.describe(): size, resize, crop, interpolation, mean, std
  layer        which layer's tokens: "last" (after the final norm), or the list of blocks whose outputs are concatenated
  views        only where several views of each image are kept: their boxes and flips (backbones.views)
  dtype        what is stored
  images       fingerprint of the image set (contents and order)
  format       version of this layout
and its folder DIR/KEY[:2]/KEY holds pooled.npy [N, D], patches.npy [N, n, D'] and meta.json with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.views import Views
from levl_eval.data.types import ImageSet
from levl_eval.errors import LevlError, UsageError
from levl_eval.io import locked, sha256_file
from levl_eval.progress import Progress

FORMAT = 1
_ARRAYS = ("pooled", "patches")


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


@dataclass(frozen=True)
class _Encoder:
    """A backbone read at some layers over some views: [B, 3, H, W] -> Features, with a views axis where there are views."""

    backbone: Backbone
    layers: tuple[int, ...] | None
    views: Views | None

    def __call__(self, images: torch.Tensor) -> Features:
        b = self.backbone
        x = images if self.views is None else self.views.cut(images).flatten(0, 1)
        found = b.encode(x) if self.layers is None else b.encode_layers(x, self.layers)
        if self.views is None:
            return found
        shape = (len(images), len(self.views.boxes))
        return Features(found.pooled.unflatten(0, shape), found.patches.unflatten(0, shape), found.grid)


def check_size(backbone: Backbone, size: int, device: torch.device) -> None:
    """Raises LevlError in one line where the encoder cannot take pictures of ``size`` pixels, or would ignore part of them."""
    own, grid = backbone.preprocess.size, backbone.grid
    if size == own:
        return
    stride = own // grid[0]
    if own % grid[0] == 0 and size % stride:
        fits = max(1, round(size / stride)) * stride
        raise LevlError(f"{backbone.name}: field `size`: {size} is no multiple of its patch size {stride}; take {fits}")
    try:
        with torch.inference_mode():
            found = backbone.encode(torch.zeros(1, 3, size, size, device=device))
        fitting = found.grid[0] * found.grid[1] == found.patches.shape[1]
    except (RuntimeError, AssertionError, ValueError) as e:
        why = " ".join(str(e).split())[:120]
        raise LevlError(f"{backbone.name}: does not take {size} px pictures ({why}); its own size is {own}") from e
    if not fitting:
        raise LevlError(
            f"{backbone.name}: {found.patches.shape[1]} patch tokens do not form the grid {found.grid} at {size} px; its own size is {own}"
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
    ) -> str:
        """The content key; see the module's text."""
        layer = "last" if layers is None else backbone.layer_indices(layers)
        parts: dict[str, Any] = {
            "weights": backbone.weights_sha256, "preprocess": preprocess.describe(), "layer": layer, "dtype": "float16",
            "images": images.fingerprint, "format": FORMAT,
        }  # fmt: skip
        if views is not None:
            parts["views"] = [list(v) for v in views.boxes]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

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
        the preprocessed picture, each encoded by itself: pooled [N, V, D], patches [N, V, n, D'].

        Raises LevlError for an image that cannot be decoded, for features that are not finite, for layers the backbone does not
        have and for a size it does not take.
        """
        progress = progress or Progress(quiet=True)
        preprocess = preprocess or backbone.preprocess
        key = self.key(backbone, images, preprocess, layers, views)
        # One process makes an entry or removes a damaged one; others that want it wait and read it.
        with locked(self.folder / "locks" / key):
            if self._path(key).exists():
                wrong = self._damage(key)
                if not wrong:
                    return self._open(key, hit=True)
                progress.say(f"features {key[:12]}: {wrong}; computed again")
                shutil.rmtree(self._path(key), ignore_errors=True)
            check_size(backbone, views.side if views else preprocess.size, torch.device(device))
            encoder = _Encoder(backbone, None if layers is None else tuple(layers), views)
            self._compute(key, encoder, images, preprocess, torch.device(device), batch_size, progress)
            return self._open(key, hit=False)

    def _meta(self, key: str) -> dict[str, Any]:
        return json.loads((self._path(key) / "meta.json").read_text())

    def _open(self, key: str, hit: bool) -> FeatureSet:
        meta = self._meta(key)
        arrays = {a: np.load(self._path(key) / f"{a}.npy", mmap_mode="r") for a in _ARRAYS}
        self._verified.add(key)
        return FeatureSet(**arrays, ids=tuple(meta["ids"]), grid=(meta["grid"][0], meta["grid"][1]), key=key, hit=hit)

    def _damage(self, key: str) -> str:
        """What is wrong with an entry, or ''. Contents are hashed once a process."""
        if key in self._verified:
            return ""
        try:
            meta = self._meta(key)
            for a in _ARRAYS:
                if sha256_file(self._path(key) / f"{a}.npy") != meta["sha256"][a]:
                    return f"{a}.npy is damaged (checksum)"
        except (OSError, ValueError, KeyError) as e:
            return f"incomplete ({type(e).__name__})"
        return ""

    def _compute(
        self,
        key: str,
        encoder: _Encoder,
        images: ImageSet,
        preprocess: Preprocess,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> None:
        target, backbone = self._path(key), encoder.backbone
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{key[:12]}.", dir=target.parent))
        except OSError as e:
            raise UsageError(
                f"{self.folder}: feature store cannot be written ({e.strerror}); set LEVL_CACHE to another folder"
            ) from e
        try:
            grid = self._extract(work, encoder, images, preprocess, device, batch_size, progress, np.dtype(np.float16))
            if grid is None:  # beyond half precision's range
                grid = self._extract(work, encoder, images, preprocess, device, batch_size, progress, np.dtype(np.float32))
            assert grid is not None
            sums = {a: sha256_file(work / f"{a}.npy") for a in _ARRAYS}
            meta = {
                "format": FORMAT, "backbone": backbone.name, "weights": backbone.weights_sha256, "preprocess": preprocess.describe(),
                "images": images.fingerprint, "source": images.source, "ids": list(images.ids), "grid": list(grid), "sha256": sums,
            }  # fmt: skip
            (work / "meta.json").write_text(json.dumps(meta))
            try:
                os.rename(work, target)
            except OSError:  # another process was first; its entry is the same content
                if not target.exists():
                    raise
        except OSError as e:
            if e.errno == 28:
                raise LevlError(
                    f"{self.folder}: disk full while storing features; free space and run the same command again"
                ) from e
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @torch.inference_mode()
    def _extract(
        self,
        work: Path,
        encoder: _Encoder,
        images: ImageSet,
        preprocess: Preprocess,
        device: torch.device,
        batch_size: int,
        progress: Progress,
        dtype: np.dtype,
    ) -> tuple[int, int] | None:
        """Fill the arrays in ``work``; None where float16 cannot hold the values."""
        out: dict[str, np.ndarray] = {}
        grid, done, n, backbone = (0, 0), 0, len(images), encoder.backbone
        with progress.stage(f"features of {backbone.name}", n, "image") as bar:
            for batch in _batches(images, preprocess, batch_size):
                found = encoder(batch.to(device))
                grid = found.grid
                for name in _ARRAYS:
                    values = getattr(found, name).float().cpu().numpy()
                    if not np.isfinite(values).all():
                        raise LevlError(
                            f"{backbone.name}: {name} features of image {images.ids[done]} are not finite; the weights are broken"
                        )
                    with np.errstate(over="ignore"):
                        cast = values.astype(dtype)
                    if not np.isfinite(cast).all():
                        return None
                    if name not in out:
                        out[name] = np.lib.format.open_memmap(
                            work / f"{name}.npy", mode="w+", dtype=dtype, shape=(n, *values.shape[1:])
                        )
                    out[name][done : done + len(values)] = cast
                done += len(batch)
                bar.advance(len(batch))
        for array in out.values():
            array.flush()  # type: ignore[attr-defined]
        return grid

    def entries(self) -> Iterator[Path]:
        yield from sorted(p.parent for p in self.folder.glob("??/*/meta.json") if not p.parent.name.startswith("."))

    def ls(self) -> list[str]:
        """One line an entry: key, backbone, images, megabytes."""
        out = []
        for path in self.entries():
            meta = json.loads((path / "meta.json").read_text())
            size = sum(f.stat().st_size for f in path.iterdir()) / 1e6
            out.append(f"{path.name[:12]}  {meta['backbone']:24}  {len(meta['ids']):8} images  {size:9.1f} MB  {meta['source']}")
        return out

    def verify(self) -> list[str]:
        """One line for each damaged entry."""
        self._verified.clear()
        return [f"{p.name[:12]}: {wrong}" for p in self.entries() if (wrong := self._damage(p.name))]

    def clear(self) -> int:
        """Remove every entry; returns how many."""
        found = list(self.entries())
        for path in found:
            shutil.rmtree(path, ignore_errors=True)
        self._verified.clear()
        return len(found)


def _batches(images: ImageSet, preprocess: Preprocess, size: int) -> Iterator[torch.Tensor]:
    """Preprocessed batches [B, 3, H, W] in order; the next ones are decoded by threads while one is encoded."""

    def load(name: str) -> torch.Tensor:
        return preprocess(images.open(name))

    chunks = [images.ids[i : i + size] for i in range(0, len(images), size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: list[list[Any]] = []
        for k in range(len(chunks) + 1):
            if k < len(chunks):
                ahead.append([pool.submit(load, name) for name in chunks[k]])
            if k > 0:
                yield torch.stack([f.result() for f in ahead.pop(0)])
