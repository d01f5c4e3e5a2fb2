"""Tiny-ImageNet (200 classes of 64 x 64 pixels) in the layout its archive unpacks to, which no class folders are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import lines_of
from levl_eval.data.entries import labelled_set, spoken_classes
from levl_eval.data.listing import list_images
from levl_eval.data.types import ClassificationSet


def tiny_imagenet(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet | None:
    """Tiny-ImageNet as its archive unpacks: train/WNID/images/*.JPEG, val/images with val_annotations.txt, names in words.txt.

    None where ``root`` is no such folder. Raises UsageError: a file that is missing, a line of another form, the test split (no labels).
    """
    listed = root / "wnids.txt"
    if not listed.is_file():
        return None
    classes = sorted(lines_of(listed, ""))
    if len(set(classes)) < len(classes):
        raise UsageError(f"{listed}: names a class twice; take the file of the archive")
    words = root / "words.txt"
    spoken = dict(line.split("\t", 1) for line in lines_of(words, "") if "\t" in line) if words.is_file() else {}
    left_out: Counter[str] = Counter()
    source = listed
    if spec.split == "train":
        entries = []
        for k, name in enumerate(classes):
            listing = list_images(root / "train" / name / "images")
            left_out += listing.left_out
            entries += [(f"{name}/{p.name}", p, k) for p in listing.files]
    elif spec.split == "val":
        source = root / "val" / "val_annotations.txt"
        rows = [line.split("\t") for line in lines_of(source, "it is part of tiny-imagenet-200.zip")]
        odd = next((i for i, r in enumerate(rows, 1) if len(r) < 2 or r[1] not in classes), None)
        if odd:
            raise UsageError(
                f"{source}: line {odd}: expected IMAGE, a tab and an id of {listed.name}; take the file of the archive"
            )
        entries = [(r[0], root / "val" / "images" / r[0], classes.index(r[1])) for r in rows]
    else:
        raise UsageError(f"{root}: field `split`: expected train or val, found {spec.split!r}; labels of test are not published")
    where = f"unpack tiny-imagenet-200.zip, so that {spec.split} lies in {root}"
    names = spoken_classes(classes, spoken, words)
    return replace(labelled_set(spec, "tiny-imagenet", entries, classes, limit, source, where, left_out), names=tuple(names))
