"""Segmentation sets: ADE20K's scene-parsing layout, those of segmentation_layouts, and a user's image and mask folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import lines_of, names_of
from levl_eval.data.ade20k import CLASSES as ADE20K_CLASSES
from levl_eval.data.colours import VOC_COLOURS, ColourTable, colour_lines
from levl_eval.data.images import file_contents, fingerprint_contents, image_set, root_of, under
from levl_eval.data.listing import Listing, by_stem, list_images
from levl_eval.data.listing import stem as stem_of
from levl_eval.data.masks import LabelMap, MaskReader, check_palettes, checked_names, json_classes, mask_file, named_ids
from levl_eval.data.rgb import decoding, open_image
from levl_eval.data.segmentation_layouts import LAYOUTS
from levl_eval.data.skipping import broken_files
from levl_eval.data.types import SegmentationSet

_ADE = "get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it there"


def load_mask(path: Path, labels: LabelMap) -> np.ndarray:
    """A label file as int64 [H, W], classes 0..C-1 and ``labels.void``. 8-bit, 16-bit and palette files; RGB is refused.

    Raises LevlError naming the file.
    """
    return labels.apply(mask_file(path), str(path))


def file_palette(path: Path, table: np.ndarray | None, classes: int, reduce_zero: bool) -> tuple[int, ...] | None:
    """The classes' colours in a palette PNG, flat; None for other files, or where the palette does not reach all classes.

    A grey ramp is no choice of colours: writers put it where a image has none.
    """
    try:
        with decoding(str(path)), open_image(path) as image:
            flat = image.getpalette() if image.mode == "P" else None
    except (LevlError, FileNotFoundError):
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


class ClassList(NamedTuple):
    """Names of the classes in order; for sparse ids the table id -> class; for masks of colours their table."""

    names: tuple[str, ...]
    table: np.ndarray | None = None
    colours: ColourTable | None = None

    def labels(self, spec: DataSpec) -> LabelMap:
        """What each value of the set's masks stands for. Ids of a user's colours are its lines, none of which is ``ignore_index``."""
        ignore = -1 if self.colours is not None and self.colours.always else spec.ignore_index
        listed = self.table is not None and spec.classes is not None
        return LabelMap(len(self.names), ignore, spec.reduce_zero_label, self.table, self.colours, listed)


def class_list(spec: DataSpec, data: str, class_file: Path | None) -> ClassList:
    """The card's classes: a list, or a text file with one name a line, a JSON file, or a file of colours (colours.colour_lines)."""
    if isinstance(spec.classes, list):
        return ClassList(checked_names(spec.classes, "field `classes`"))
    path = under(data, spec.classes) if spec.classes else class_file
    if path is None:
        raise UsageError(
            "segmentation: field `classes` is not set; give a list, a text file with one name a line, or a JSON file {id: name}"
        )
    form = "class list: give a text file with one name a line, or a JSON file {id: name}"
    lines = lines_of(path, form)
    if path.suffix == ".json":
        return ClassList(*json_classes(path, "\n".join(lines), spec.ignore_index))
    if lines and lines[0].startswith("Idx"):  # objectInfo150.txt
        if [x.split("\t")[0].strip() for x in lines[1:]] != [str(k) for k in range(1, len(lines))]:
            raise UsageError(f"{path}: column Idx does not count from 1 to {len(lines) - 1}; take the published file")
        return ClassList(tuple(x.split("\t")[-1].strip() for x in lines[1:]))
    coloured = colour_lines(lines, path)
    if coloured is None:
        return ClassList(checked_names(names_of(path, form), str(path)))
    if spec.reduce_zero_label:
        raise UsageError(f"{path}: is a table of colours, of which `reduce_zero_label` cannot be set; name the class Void in it")
    names, rgb = coloured
    kept, table = named_ids(dict(enumerate(names)), str(path))
    return ClassList(kept, table, ColourTable(rgb, np.arange(len(rgb)), always=True))


def _pairs(images: Path, masks: Path, skip: bool) -> tuple[list[tuple[str, Path, Path]], Counter[str]]:
    """(id, image, mask) by equal stem, in order of name; and what the two folders hold besides.

    Raises UsageError for missing folders and, unless ``skip``, for masks without an image.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; {_ADE if 'ADE' in str(folder) else 'set `images` and `annotations`'}")
    images_listed, masks_found = list_images(images), list_images(masks)
    of_stem = by_stem(masks_found, masks)
    if not images_listed.files:
        raise UsageError(f"{images}: holds no images" + (f" ({images_listed.words()})" if images_listed.left_out else ""))
    if camvid := [stem for stem in of_stem if stem.endswith("_L")]:
        stems = {stem_of(p) for p in images_listed.files}
        if len(camvid) == len(of_stem) and not stems & of_stem.keys():
            of_stem = {stem.removesuffix("_L"): path for stem, path in of_stem.items()}  # as CamVid names its masks
    # A folder of more images than masks is a superset (COCO's photos): only what has a mask is used, but something must have one.
    files = by_stem(Listing([p for p in images_listed.files if stem_of(p) in of_stem]), images)
    out = [(p.name, p, of_stem[stem]) for stem, p in files.items()]
    if not out:
        raise UsageError(f"{masks}: no mask has the name of an image in {images} (first {images_listed.files[0].name})")
    orphans = set(of_stem) - set(files)
    if orphans and not skip:
        raise UsageError(f"{images}: {len(orphans)} masks have no image, first {sorted(orphans)[0]}; complete the pairs")
    out += [(f"{stem}.jpg", images / f"{stem}.jpg", of_stem[stem]) for stem in sorted(orphans)]  # missing, which skips them
    left_out = images_listed.left_out + masks_found.left_out
    if len(images_listed.files) > len(out):
        left_out["images without a mask"] = len(images_listed.files) - len(out)
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
        classes = ClassList(ADE20K_CLASSES) if listed is None and not spec.classes else class_list(spec, data, listed)
        name = "ade20k"
    elif spec.layout in LAYOUTS:
        found_layout = LAYOUTS[spec.layout](spec, data)
        classes = ClassList(found_layout.classes, found_layout.table, VOC_COLOURS if spec.layout == "voc" else None)
        return _set(spec, found_layout.pairs[:limit], classes, found_layout.source, spec.split, left_out=found_layout.left_out)
    else:
        for field in ("images", "annotations"):
            if getattr(spec, field) is None:
                raise UsageError(
                    f"task segmentation: field `{field}` is not set; give the folder of the {'images' if field == 'images' else 'masks'}"
                )
        images, masks = Path(under(data, spec.images) or ""), Path(under(data, spec.annotations) or "")
        classes = class_list(spec, data, None)
        name, split = "segmentation", spec.split
    pairs, left_out = _pairs(images, masks, spec.skip_broken is not None)
    return _set(spec, pairs[:limit], classes, str(images), split, name, left_out)


def _set(
    spec: DataSpec, pairs: list[tuple[str, Path, Path]], classes: ClassList, source: str, split: str, name: str = "",
    left_out: Mapping[str, int] | None = None,
) -> SegmentationSet:  # fmt: skip
    """The set of (id, image, mask) triples."""
    of_image = {i: p for i, p, _ in pairs}
    of_mask = {i: m for i, _, m in pairs}
    labels = classes.labels(spec)
    broken: dict[str, str] = {}

    def opened(path: Path) -> np.ndarray:
        return mask_file(path, spec.max_pixels or 0, classes.colours)

    if spec.skip_broken is not None:
        broken = {i: f"mask: {why}" for i, why in broken_files(of_mask, opened, f"mask {spec.max_pixels}").items()}
        of_image, of_mask = ({i: p for i, p in d.items() if i not in broken} for d in (of_image, of_mask))
        pairs = [p for p in pairs if p[0] not in broken]
    read = MaskReader(lambda i: opened(of_mask[i]), lambda i: str(of_mask[i]), labels)
    contents, _ = file_contents(of_mask)
    if spec.layout == "segmentation" and classes.colours is None:
        check_palettes(list(of_mask), lambda i: open_image(of_mask[i]), lambda i: str(of_mask[i]))
    where = _ADE if spec.layout == "ade20k" else "complete the download"
    images = image_set(of_image, of_image.__getitem__, source, where, left_out, spec, broken)
    own = file_palette(pairs[0][2], classes.table, len(classes.names), spec.reduce_zero_label)
    return SegmentationSet(
        name or spec.layout, split, images, read, classes.names, labels.void, fingerprint_contents(contents), own, contents.__getitem__,
        labels.digest(),
    )  # fmt: skip
