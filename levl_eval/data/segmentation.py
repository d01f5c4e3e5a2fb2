"""Segmentation sets: ADE20K's scene-parsing layout, those of segmentation_layouts, and a user's image and mask folders."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import regular
from levl_eval.data.ade20k import CLASSES as ADE20K_CLASSES
from levl_eval.data.images import file_contents, fingerprint_contents, image_set, root_of, under
from levl_eval.data.listing import Listing, by_stem, list_images
from levl_eval.data.segmentation_layouts import LAYOUTS
from levl_eval.data.types import SegmentationSet

_ADE = "get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it there"


def load_mask(path: Path, table: np.ndarray | None, classes: int, ignore: int, reduce_zero: bool) -> np.ndarray:
    """A label file as int64 [H, W], classes 0..C-1 and ``ignore``. 8-bit, 16-bit and palette files; RGB is refused.

    table: for sparse ids, class of each id (``ignore`` for unlisted ones). Raises LevlError naming the file.
    """
    try:
        with Image.open(regular(path)) as image:
            if image.mode not in ("L", "P", "I", "I;16", "I;16B", "I;16L", "1"):
                raise LevlError(
                    f"{path}: a {image.mode} mask; expected one label a pixel (8-bit, 16-bit or palette PNG), convert colours to labels"
                )
            mask = np.array(image).astype(np.int64)
    except (UnidentifiedImageError, OSError, SyntaxError) as e:
        raise LevlError(f"{path}: mask cannot be read ({type(e).__name__}); replace the file") from e
    return to_classes(mask, str(path), table, classes, ignore, reduce_zero)


def _mapped(values: np.ndarray, table: np.ndarray | None, ignore: int, reduce_zero: bool) -> np.ndarray:
    if table is not None:
        return table[np.minimum(values, len(table) - 1)]
    return np.where(values == 0, ignore, values - 1) if reduce_zero else values


def label_map(table: np.ndarray | None, ignore: int, reduce_zero: bool) -> str:
    """Digest of the class that each value of a mask file stands for: how its bytes are read."""
    values = _mapped(np.arange(max(256, 0 if table is None else len(table))), table, ignore, reduce_zero)
    return hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()


def to_classes(mask: np.ndarray, path: str, table: np.ndarray | None, classes: int, ignore: int, reduce_zero: bool) -> np.ndarray:
    """Labels as stored -> int64 classes 0..C-1 and ``ignore``. Raises LevlError naming ``path`` for a label beyond the classes."""
    mask = _mapped(mask, table, ignore, reduce_zero)
    wrong = (mask != ignore) & ((mask < 0) | (mask >= classes))
    if wrong.any():
        value = int(mask[wrong][0]) + int(reduce_zero and table is None)
        raise LevlError(
            f"{path}: label {value} is beyond the {classes} classes; correct `classes`, `ignore_index` or `reduce_zero_label`"
        )
    return mask


def file_palette(path: Path, table: np.ndarray | None, classes: int, reduce_zero: bool) -> tuple[int, ...] | None:
    """The classes' colours in a palette PNG, flat; None for other files, or where the palette does not reach all classes.

    A grey ramp is no choice of colours: writers put it where a image has none.
    """
    try:
        with Image.open(regular(path)) as image:
            flat = image.getpalette() if image.mode == "P" else None
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None
    if not flat:
        return None
    colours = np.array(flat, np.int64).reshape(-1, 3)
    values = np.arange(classes) + int(reduce_zero)
    if table is not None:
        values = np.array([np.flatnonzero(table == c)[0] if (table == c).any() else len(colours) for c in range(classes)])
    if values.max(initial=0) >= len(colours) or (colours == colours[:, :1]).all():
        return None
    return tuple(int(v) for v in colours[values].reshape(-1))


def class_list(spec: DataSpec, data: str, found: Path | None) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names, and for a JSON mapping of sparse ids the table id -> class."""
    if isinstance(spec.classes, list):
        return tuple(spec.classes), None
    path = under(data, spec.classes) if spec.classes else found
    if path is None:
        raise UsageError(
            "segmentation: field `classes` is not set; give a list, a text file with one name a line, or a JSON file {id: name}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{path}: class list cannot be read ({e.strerror})") from e
    if path.suffix == ".json":
        raw = json.loads(text)
        if isinstance(raw, list):
            return tuple(str(x) for x in raw), None
        ids = sorted(int(k) for k in raw if int(k) != 0)
        table = np.full(max(ids) + 2, spec.ignore_index, np.int64)
        table[ids] = np.arange(len(ids))
        return tuple(str(raw[str(i)]) for i in ids), table
    lines = [x for x in text.splitlines() if x.strip()]
    if lines and lines[0].startswith("Idx"):  # objectInfo150.txt
        return tuple(x.split("\t")[-1].strip() for x in lines[1:]), None
    return tuple(x.strip() for x in lines), None


def _pairs(images: Path, masks: Path) -> tuple[list[tuple[str, Path, Path]], Counter[str]]:
    """(id, image, mask) by equal stem, in order of name; and what the two folders hold besides. Raises UsageError for missing folders and pairs."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; {_ADE if 'ADE' in str(folder) else 'set `images` and `annotations`'}")
    found, masks_found = list_images(images), list_images(masks)
    of_stem = by_stem(masks_found, masks)
    if not found.files:
        raise UsageError(f"{images}: holds no images" + (f" ({found.words()})" if found.left_out else ""))
    # A folder of more images than masks is a superset (COCO's photos): only what has a mask is used, but something must have one.
    files = by_stem(Listing([p for p in found.files if p.stem in of_stem]), images)
    out = [(p.name, p, of_stem[stem]) for stem, p in files.items()]
    if not out:
        raise UsageError(f"{masks}: no mask has the name of an image in {images} (first {found.files[0].name})")
    orphans = set(of_stem) - set(files)
    if orphans:
        raise UsageError(f"{images}: {len(orphans)} masks have no image, first {sorted(orphans)[0]}; complete the pairs")
    left_out = found.left_out + masks_found.left_out
    if len(found.files) > len(out):
        left_out["images without a mask"] = len(found.files) - len(out)
    return out, left_out


def read_segmentation(spec: DataSpec, data: str, limit: int | None = None) -> SegmentationSet:
    """Read a set of any segmentation layout. Raises UsageError: what is missing, where to put it."""
    if spec.layout == "ade20k":
        root = root_of(spec.root, spec.directory, data)
        base = (
            root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() or not (root / "images").is_dir() else root
        )
        split = {"train": "training", "val": "validation", "": "validation"}.get(spec.split, spec.split)
        images = under(data, spec.images) or base / "images" / split
        masks = under(data, spec.annotations) or base / "annotations" / split
        listed = next((f for f in (base / "objectInfo150.txt", root / "objectInfo150.txt") if f.exists()), None)
        classes, table = (ADE20K_CLASSES, None) if listed is None and not spec.classes else class_list(spec, data, listed)
        name = "ade20k"
    elif spec.layout in LAYOUTS:
        found_layout = LAYOUTS[spec.layout](spec, data)
        return _set(spec, found_layout.pairs[:limit], found_layout.classes, found_layout.table, found_layout.source, spec.split)
    else:
        for field in ("images", "annotations"):
            if getattr(spec, field) is None:
                raise UsageError(
                    f"task segmentation: field `{field}` is not set; give the folder of the {'images' if field == 'images' else 'masks'}"
                )
        images, masks = Path(under(data, spec.images) or ""), Path(under(data, spec.annotations) or "")
        classes, table = class_list(spec, data, None)
        name, split = "segmentation", spec.split
    pairs, left_out = _pairs(images, masks)
    return _set(spec, pairs[:limit], classes, table, str(images), split, name, left_out)


def _set(
    spec: DataSpec, pairs: list[tuple[str, Path, Path]], classes: tuple[str, ...], table: np.ndarray | None, source: str, split: str,
    name: str = "", left_out: Mapping[str, int] | None = None,
) -> SegmentationSet:  # fmt: skip
    """The set of (id, image, mask) triples."""
    of_image = {i: p for i, p, _ in pairs}
    of_mask = {i: m for i, _, m in pairs}
    read = partial(load_mask, table=table, classes=len(classes), ignore=spec.ignore_index, reduce_zero=spec.reduce_zero_label)
    contents, _ = file_contents(of_mask)
    where = _ADE if spec.layout == "ade20k" else "complete the download"
    found = image_set(of_image, of_image.__getitem__, source, where, left_out)
    own = file_palette(pairs[0][2], table, len(classes), spec.reduce_zero_label)
    return SegmentationSet(
        name or spec.layout, split, found, lambda i: read(of_mask[i]), classes, spec.ignore_index, fingerprint_contents(contents), own,
        contents.__getitem__, label_map(table, spec.ignore_index, spec.reduce_zero_label),
    )  # fmt: skip
