"""COCO-Stuff, PASCAL VOC and Context, and Cityscapes as they are published: which files pair up, which label stands for which class.

COCO-Stuff  images/{train,val}2017/*.jpg and annotations/ (or stuffthingmaps/) {train,val}2017/*.png. A pixel holds id - 1 of the
            182 ids, 255 unlabelled (Caesar et al., CVPR 2018); 171 ids are used. Files *_labelTrainIds.png hold 0..170 already.
VOC 2012    JPEGImages, SegmentationClass (palette PNG: 0 background, 255 void), ImageSets/Segmentation/{train,val}.txt. trainaug.txt
            names 10,582 images, most of them annotated by Hariharan et al. (ICCV 2011), with masks in SegmentationClassAug.
Context     VOCdevkit/VOC2010 with JPEGImages, SegmentationClassContext (0 background, then 59 classes) and
            ImageSets/SegmentationContext/{train,val}.txt, 4,998 and 5,105 images (Mottaghi et al., CVPR 2014): what mmsegmentation's
            converter writes of the published annotations. pascal-context-59: background is void.
Cityscapes  leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png (or _labelTrainIds.png); 19 classes
            are scored, every other id is void (Cordts et al., CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import lines_of
from levl_eval.data.coco_stuff import COARSE, coarse_of, fine_classes
from levl_eval.data.images import root_of, under
from levl_eval.data.listing import junk, list_images

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CONTEXT = (
    "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower",
    "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform",
    "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree",
    "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
# name -> id in *_labelIds.png
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19, "traffic sign": 20,
    "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip


class Layout(NamedTuple):
    """(id, image, mask) triples in order, class names, class of each label in the files (None: equal), and where they lie;
    what else lies there, counted."""

    pairs: list[tuple[str, Path, Path]]
    classes: tuple[str, ...]
    table: np.ndarray | None
    source: str
    left_out: Mapping[str, int] = {}


def _table(of_label: dict[int, int]) -> np.ndarray:
    """Lookup table of 8-bit labels; all others are void (-1)."""
    table = np.full(256, -1, np.int64)
    for label, value in of_label.items():
        table[label] = value
    return table


def _folder(candidates: list[Path], what: str) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UsageError(f"{candidates[0]}: no such folder; {what}")


def _complete(pairs: list[tuple[str, Path, Path]], where: Path, spec: DataSpec) -> list[tuple[str, Path, Path]]:
    if not pairs:
        raise UsageError(f"{where}: holds no labelled images")
    lost = [m for _, _, m in pairs if not m.exists()] if spec.skip_broken is None else []
    if lost:
        raise UsageError(f"{where}: {len(lost)} of {len(pairs)} masks are missing, first {lost[0]}; complete the download")
    return pairs


def coco_stuff(spec: DataSpec, data: str) -> Layout:
    """Raises UsageError: missing folders or pairs."""
    root = root_of(spec.root, spec.directory, data)
    split = {"train": "train2017", "val": "val2017", "": "val2017"}.get(spec.split, spec.split)
    get = "get COCO 2017 images and stuffthingmaps_trainval2017.zip and unpack them there"
    images = under(data, spec.images) or _folder([root / "images" / split, root / split], get)
    masks = under(data, spec.annotations) or _folder([root / k / split for k in ("annotations", "stuffthingmaps")], get)
    listed, photos = list_images(masks, (".png",)), list_images(images, (".jpg",))
    files = {p.name.removesuffix(".png"): p for p in listed.files}
    relabelled = {k.removesuffix("_labelTrainIds"): p for k, p in files.items() if k.endswith("_labelTrainIds")}
    raw = {k: p for k, p in files.items() if "_label" not in k}
    of_mask = raw or relabelled
    image_files = {p.stem: p for p in photos.files}
    orphans = sorted(set(of_mask) - set(image_files))
    if orphans and spec.skip_broken is None:
        raise UsageError(f"{images}: {len(orphans)} masks have no image, first {orphans[0]}; complete the download")
    image_files |= {k: images / f"{k}.jpg" for k in orphans}  # missing, which skips them
    pairs = _complete([(p.name, p, of_mask[k]) for k, p in image_files.items() if k in of_mask], masks, spec)
    names, table = coco_labels(spec.layout, bool(raw))
    left_out = listed.left_out + photos.left_out
    left_out["images without a mask"] = len(image_files) - len(pairs)
    return Layout(pairs, names, table, str(images), +left_out)


def coco_labels(layout: str, raw: bool) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names, and the class of each label. raw: labels are id - 1, of which eleven and those above 181 never occur; else 0..170."""
    fine = fine_classes()
    of_id = {i: k if layout == "coco-stuff" else coarse_of(i) for k, i in enumerate(fine)}
    names = tuple(fine.values()) if layout == "coco-stuff" else COARSE
    if raw:
        table = np.where(np.arange(256) == 255, -1, -2)
        table[[i - 1 for i in fine]] = list(of_id.values())
        return names, table
    return names, None if layout == "coco-stuff" else _table(dict(enumerate(of_id.values())))


def voc(spec: DataSpec, data: str) -> Layout:
    """Raises UsageError: missing folders, list or masks."""
    root = root_of(spec.root, spec.directory, data)
    base = next((b for b in (root / "VOCdevkit" / "VOC2012", root / "VOC2012") if b.is_dir()), root)
    listed = base / "ImageSets" / "Segmentation" / f"{spec.split or 'val'}.txt"
    if not listed.is_file():
        raise UsageError(f"{listed}: no such list; get VOCtrainval_11-May-2012.tar and unpack it in {root}")
    names = lines_of(listed, "a name a line")
    images = under(data, spec.images) or base / "JPEGImages"
    masks = under(data, spec.annotations) or base / ("SegmentationClassAug" if spec.split == "trainaug" else "SegmentationClass")
    return Layout(
        _complete([(f"{n}.jpg", images / f"{n}.jpg", masks / f"{n}.png") for n in names], masks, spec), VOC, None, str(images)
    )


def pascal_context(spec: DataSpec, data: str) -> Layout:
    """Raises UsageError: missing folders, list or masks."""
    root = root_of(spec.root, spec.directory, data)
    base = next((b for b in (root / "VOCdevkit" / "VOC2010", root / "VOC2010") if b.is_dir()), root)
    listed = base / "ImageSets" / "SegmentationContext" / f"{spec.split or 'val'}.txt"
    if not listed.is_file():
        raise UsageError(
            f"{listed}: no such list; unpack VOC2010's trainval archive in {root} and convert PASCAL Context's annotations as "
            "mmsegmentation's tools/dataset_converters/pascal_context.py does"
        )
    names = lines_of(listed, "a name a line")
    images = under(data, spec.images) or base / "JPEGImages"
    masks = under(data, spec.annotations) or base / "SegmentationClassContext"
    pairs = _complete([(f"{n}.jpg", images / f"{n}.jpg", masks / f"{n}.png") for n in names], masks, spec)
    if spec.layout == "pascal-context":
        return Layout(pairs, CONTEXT, None, str(images))
    table = np.full(256, -2, np.int64)  # which is refused
    table[[0, 255]] = -1
    table[1 : len(CONTEXT)] = np.arange(len(CONTEXT) - 1)
    return Layout(pairs, CONTEXT[1:], table, str(images))


def cityscapes(spec: DataSpec, data: str) -> Layout:
    """Also any folders of the same form: SPLIT/CITY/NAME_leftImg8bit.png beside SPLIT/CITY/NAME_gtFine_labelIds.png."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    get = "get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com and unpack them there"
    images = _folder([(under(data, spec.images) or root / "leftImg8bit") / split], get)
    masks = _folder([(under(data, spec.annotations) or root / "gtFine") / split], get)
    ready = bool(_shown(masks, "_gtFine_labelTrainIds.png"))
    ending = "_gtFine_labelTrainIds.png" if ready else "_gtFine_labelIds.png"
    pairs = []
    for p in _shown(images, "_leftImg8bit.png"):
        stem = p.name.removesuffix("_leftImg8bit.png")
        pairs.append((f"{p.parent.name}/{p.name}", p, masks / p.parent.name / f"{stem}{ending}"))
    orphans = sorted(set(_shown(masks, ending)) - {m for _, _, m in pairs})
    if orphans and spec.skip_broken is None:
        raise UsageError(f"{images}: {len(orphans)} masks have no image, first {orphans[0]}; complete the download")
    for p in orphans:  # missing, which skips them
        image = images / p.parent.name / f"{p.name.removesuffix(ending)}_leftImg8bit.png"
        pairs.append((f"{image.parent.name}/{image.name}", image, p))
    of_label = {k: k for k in range(19)} if ready else {v: k for k, v in enumerate(CITYSCAPES.values())}
    return Layout(_complete(pairs, masks, spec), tuple(CITYSCAPES), _table(of_label), str(images))


def _shown(folder: Path, ending: str) -> list[Path]:
    """Files CITY/*ENDING of a folder, hidden ones left out, in order."""
    files = (p for p in folder.glob(f"*/*{ending}") if not junk(p.name) and not junk(p.parent.name))
    return sorted(files)


LAYOUTS: dict[str, Callable[[DataSpec, str], Layout]] = {
    "coco-stuff": coco_stuff, "coco-stuff-27": coco_stuff, "voc": voc, "pascal-context": pascal_context,
    "pascal-context-59": pascal_context, "cityscapes": cityscapes,
}  # fmt: skip
