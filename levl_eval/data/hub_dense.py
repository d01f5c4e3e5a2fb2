"""Segmentation sets of the hub: a table of images and masks, whose labels are read as those of the layout's files are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError
from levl_eval.data.ade20k import CLASSES as ADE20K_CLASSES
from levl_eval.data.colours import VOC_COLOURS
from levl_eval.data.hub_contents import column_contents
from levl_eval.data.hub_images import TableOpener, check_image_column, source_of, table_images
from levl_eval.data.hub_tables import load_split
from levl_eval.data.images import fingerprint_contents
from levl_eval.data.masks import MaskReader, check_palettes, stored_mask
from levl_eval.data.rgb import decoding
from levl_eval.data.segmentation import ClassList, class_list
from levl_eval.data.segmentation_layouts import VOC, coco_labels
from levl_eval.data.skipping import why_broken
from levl_eval.data.types import SegmentationSet

if TYPE_CHECKING:
    from datasets import Dataset

_MASKS = ("annotation", "mask")


def hub_segmentation(spec: DataSpec, limit: int | None) -> SegmentationSet:
    """A table of an image and its mask (`hub.label` names the mask's column, else annotation or mask).

    ade20k: merve/scene_parse_150, 0 is void. voc: palette masks, or their colours by the devkit's rule. coco-stuff: id - 1 of the 182 ids,
    255 unlabelled, as stuffthingmaps hold them. Raises UsageError/LevlError naming the row.
    """
    hub = source_of(spec)
    got = load_split(hub, hub.questions)
    table, source = got.rows, hub.repo
    column = _column(table, hub.label, source)
    rows = {f"{i:08d}": i for i in range(len(table) if limit is None else min(limit, len(table)))}
    classes = _classes(spec)
    labels = classes.labels(spec)

    masks = TableOpener(table, column, rows, source)  # a row of it is decoded without its image, which may be the broken one

    def called(name: str) -> str:
        return f"{source}: row {rows[name]}"

    def stored(name: str) -> np.ndarray:
        with decoding(called(name)), masks.opened(name) as mask:  # by us: `datasets` turns what an EXIF tag says is to be turned
            return stored_mask(mask, called(name), classes.colours)

    skipped: dict[str, str] = {}
    if spec.skip_broken is not None:
        skipped = {n: f"mask: {why}" for n in rows if (why := why_broken(partial(stored, n), called(n)))}
    if spec.layout == "segmentation" and classes.colours is None:
        check_palettes([n for n in rows if n not in skipped], masks.opened, called)
    images = table_images(got, "image", {n: r for n, r in rows.items() if n not in skipped}, spec, skipped)
    try:
        contents, _ = column_contents(table, column, {n: rows[n] for n in images.ids}, pixels=False)
    except LevlError as e:
        raise LevlError(f"{source}: {e}") from e
    return SegmentationSet(
        spec.layout, spec.split, images, MaskReader(stored, called, labels), classes.names, labels.void, fingerprint_contents(contents),
        None, contents.__getitem__, labels.digest(),
    )  # fmt: skip


def _column(table: Dataset, named: str | None, source: str) -> str:
    """The column of the masks. Raises UsageError: there is none, or none of images."""
    column = named or next((c for c in _MASKS if c in table.column_names), _MASKS[0])
    for wanted in ("image", column):
        check_image_column(table, wanted, source)
    return column


def _classes(spec: DataSpec) -> ClassList:
    if spec.layout == "ade20k" and not spec.classes:
        return ClassList(ADE20K_CLASSES)
    if spec.layout == "voc":
        return ClassList(VOC, None, VOC_COLOURS)
    if spec.layout in ("coco-stuff", "coco-stuff-27"):
        return ClassList(*coco_labels(spec.layout, raw=True))
    return class_list(spec, "", None)
