"""Classification sets published as arrays of small images: CIFAR-10, CIFAR-100 (binary and Python versions) and STL-10."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import names_of, regular
from levl_eval.data.classification import class_folders, place
from levl_eval.data.entries import spread_over_classes
from levl_eval.data.fingerprints import pixel_hash
from levl_eval.data.images import fingerprint_contents, fingerprint_text
from levl_eval.data.types import ClassificationSet, ImageSet


def array_set(
    spec: DataSpec, name: str, pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], limit: int | None, source: Path
) -> ClassificationSet:
    """uint8 [N, H, W, 3] and int labels [N] as a set; image ids are the rows' numbers. Raises UsageError: wrong length or label."""
    if len(pixels) != len(labels):
        raise UsageError(
            f"{source}: {len(labels)} labels for {len(pixels)} images; a label for each is needed, download it again"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UsageError(f"{source}: labels from {labels.min()} to {labels.max()} for {len(classes)} classes; download it again")
    rows = spread_over_classes(labels, limit)
    at = {f"{i:06d}": i for i in rows}

    ids = tuple(at)
    known = {i: pixel_hash(pixels[at[i]]) for i in ids}
    images = ImageSet(
        ids, lambda i: Image.fromarray(np.ascontiguousarray(pixels[at[i]])), fingerprint_contents(known), str(source),
        known.__getitem__,
    )  # fmt: skip
    kept = labels[rows].astype(np.int64)
    return ClassificationSet(name, spec.split, images, kept, tuple(classes), fingerprint_text([*classes, *map(str, kept)]))


class _Plain(pickle.Unpickler):
    """Reads the Python version of CIFAR: numpy arrays, lists and strings; anything else in the file is refused, never run."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return np.ndarray.__reduce__(np.empty(0))[0]
        if (module, name) == ("_codecs", "encode"):
            import _codecs

            return _codecs.encode
        raise UsageError(f"holds {module}.{name}, which is no image data")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        value = _Plain(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in value.items()}
    except UsageError as e:
        raise UsageError(f"{path}: {e}; download it again, or use the binary version") from e
    except Exception as e:  # whatever a broken pickle gives
        raise UsageError(f"{path}: not a batch of CIFAR's Python version ({type(e).__name__}); download it again") from e


def _field(content: Mapping[str, object], name: str, path: Path) -> object:
    if name not in content:
        raise UsageError(f"{path}: holds no {name!r}; download it again")
    return content[name]


def _planes(flat: np.ndarray, side: int) -> np.ndarray:
    """[N, 3 * side * side] in planes of red, green, blue -> [N, side, side, 3]."""
    return flat.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _binary(path: Path, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, head] and pixels of a file of CIFAR's binary version."""
    try:
        raw = np.fromfile(regular(path), np.uint8)
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}); it is part of the archive, download it again") from e
    if len(raw) == 0 or len(raw) % (head + 3072):
        raise UsageError(f"{path}: {len(raw)} bytes are not a whole number of CIFAR's records; download it again")
    rows = raw.reshape(-1, head + 3072)
    return rows[:, :head].astype(np.int64), _planes(rows[:, head:], 32)


def read_cifar(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """CIFAR-10 or CIFAR-100: cifar-10-batches-{bin,py}, cifar-100-{binary,python}, or class folders."""
    hundred = spec.layout == "cifar100"
    root = place(spec, data)
    if spec.split not in ("train", "test"):
        raise UsageError(f"{spec.layout}: field `split`: expected train or test, found {spec.split!r}")
    level = spec.level or "fine"
    if level not in ("fine", "coarse") or (level == "coarse" and not hundred):
        raise UsageError(f"{spec.layout}: field `level`: {level!r} is not one of its label sets")
    stems = [spec.split] if hundred else ([f"data_batch_{i}" for i in range(1, 6)] if spec.split == "train" else ["test_batch"])
    if (root / f"{stems[0]}.bin").is_file():
        parts = [_binary(root / f"{s}.bin", 2 if hundred else 1) for s in stems]
        labels = np.concatenate([p[0][:, -1 if level == "fine" else 0] for p in parts])
        classes = names_of(root / (f"{level}_label_names.txt" if hundred else "batches.meta.txt"), "it is part of the archive")
        return array_set(spec, spec.layout, np.concatenate([p[1] for p in parts]), labels, classes, limit, root)
    if (root / stems[0]).is_file():
        batches = [_unpickle(root / s) for s in stems]
        key = f"{level}_labels" if hundred else "labels"
        meta = root / ("meta" if hundred else "batches.meta")
        names = _field(_unpickle(meta), f"{level}_label_names" if hundred else "label_names", meta)
        if not isinstance(names, list):
            raise UsageError(f"{meta}: holds no list of the classes' names; download it again")
        classes = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
        every, planes = list[np.ndarray](), list[np.ndarray]()
        for s, batch in zip(stems, batches, strict=True):
            own, flat = np.asarray(_field(batch, key, root / s)), np.asarray(_field(batch, "data", root / s))
            if flat.dtype != np.uint8 or flat.shape != (len(own), 3072) or own.dtype.kind not in "iu":
                raise UsageError(
                    f"{root / s}: holds {flat.dtype} data of shape {flat.shape} for {len(own)} labels; "
                    "expected uint8 [N, 3072] and N, download it again"
                )
            every.append(own.astype(np.int64))
            planes.append(_planes(flat, 32))
        pixels, labels = np.concatenate(planes), np.concatenate(every)
        return array_set(spec, spec.layout, pixels, labels, classes, limit, root)
    folders = class_folders(spec, root, limit)
    if folders is None:
        raise UsageError(
            f"{root}: holds neither {stems[0]}.bin nor {stems[0]} nor class folders {spec.split}/CLASS; unpack it there"
        )
    return folders


def read_stl10(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """stl10_binary/{train,test}_{X,y}.bin (images column by column, labels from 1), or class folders."""
    root = place(spec, data)
    images, marks = root / f"{spec.split}_X.bin", root / f"{spec.split}_y.bin"
    if not images.is_file():
        folders = class_folders(spec, root, limit)
        if folders is None:
            raise UsageError(
                f"{root}: holds neither {images.name} nor class folders {spec.split}/CLASS; unpack stl10_binary there"
            )
        return folders
    size = images.stat().st_size
    if size == 0 or size % (3 * 96 * 96):
        raise UsageError(f"{images}: {size} bytes are not a whole number of 96 x 96 images; download it again")
    pixels = np.memmap(images, np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    if not marks.is_file():
        raise UsageError(f"{marks}: no such file; it is part of the archive")
    labels = np.fromfile(marks, np.uint8).astype(np.int64) - 1
    classes = names_of(root / "class_names.txt", "it is part of the archive")
    return array_set(spec, "stl10", pixels, labels, classes, limit, root)
