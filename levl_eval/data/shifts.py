"""Test sets over ImageNet's classes under a distribution shift, as they unpack: ImageNet-V2, -A, -R, -Sketch, ObjectNet.

Classes are WordNet ids, those that the set has, in the order of their folders; of ObjectNet, whose classes may stand for several of
ImageNet's, the ids are joined by "+".
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import lines_of
from levl_eval.core.text import printable
from levl_eval.data.classification import place
from levl_eval.data.entries import Entry, labelled_set
from levl_eval.data.images import fingerprint_contents
from levl_eval.data.listing import list_classes, list_images
from levl_eval.data.questions import read_json
from levl_eval.data.rgb import DEFAULT, Rules, open_rgb
from levl_eval.data.types import ClassificationSet, ImageSet
from levl_eval.data.wordnet import are_wnids, imagenet_wnids

BORDER = 2  # pixels that are cut from each side of ObjectNet's images, whose border is red
_MAPPINGS = (
    "folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json", "pytorch_to_imagenet_2012_id.json", "imagenet_to_label_2012_v2",
)  # fmt: skip


@dataclass(frozen=True)
class BorderOpener:
    """id -> RGB image of the file that ``locate`` names, without ``border`` pixels on each side."""

    locate: Callable[[str], Path]
    border: int
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        image = open_rgb(self.locate(name), self.rules)
        w, h = image.size
        return image.crop((self.border, self.border, w - self.border, h - self.border)) if min(w, h) > 2 * self.border else image


def without_border(images: ImageSet, locate: Callable[[str], Path], border: int) -> ImageSet:
    """The set with its images cut, which is part of what they are."""
    assert images.content is not None
    whole = images.content
    contents = {i: hashlib.sha256(f"{whole(i)} border {border}".encode()).hexdigest() for i in images.ids}
    opener = BorderOpener(locate, border)
    return dataclasses.replace(images, open=opener, content=contents.__getitem__, fingerprint=fingerprint_contents(contents))


def _entries(folder: Path, names: list[str]) -> tuple[list[Entry], dict[str, int]]:
    entries: list[Entry] = []
    left_out: dict[str, int] = {}
    for k, name in enumerate(names):
        listed = list_images(folder / name)
        for reason, count in listed.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
        if not listed.files:
            raise UsageError(f"{folder / name}: holds no images; unpack the archive again")
        entries += [(f"{name}/{p.name}", p, k) for p in listed.files]
    return entries, left_out


def read_imagenet_shift(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Class folders named by WordNet id, or by ImageNet's class numbers 0 to 999 (ImageNet-V2).

    Raises UsageError: the folder is missing, or holds folders of other names.
    """
    folder = place(spec, data)
    folders, left_out = list_classes(folder)
    names = list(folders)
    wnids = imagenet_wnids()
    if names and all(n.isascii() and n.isdigit() and int(n) < len(wnids) for n in names):
        names = sorted(names, key=int)
        classes = [wnids[int(n)] for n in names]
    else:
        strange = next((n for n in names if n not in set(wnids)), None)
        if strange is not None or not are_wnids(names):
            raise UsageError(
                f"{folder}: {printable(strange or '(no folder)')[:100]!r} is no class of ImageNet's 1,000; "
                "expected folders n01440764, ... or 0 to 999"
            )
        classes = list(names)
    entries, others = _entries(folder, names)
    merged = {**left_out, **{k: left_out.get(k, 0) + v for k, v in others.items()}}
    return labelled_set(spec, spec.layout, entries, classes, limit, folder, "unpack the archive again", left_out=merged)


def objectnet_classes(folder: Path) -> dict[str, tuple[str, str]]:
    """Folder of images -> (WordNet ids joined by "+", spoken name) of ObjectNet's classes that ImageNet has, from its mappings/.

    Raises UsageError: a file is missing, or names a label that ImageNet's list does not have.
    """
    mappings = folder / "mappings"
    files = [mappings / n for n in _MAPPINGS]
    missing = next((p for p in files if not p.is_file()), None)
    if missing is not None:
        raise UsageError(f"{missing}: no such file; it is part of objectnet-1.0.zip")
    tables = []
    for path in files[:3]:
        content = read_json(path)
        if not isinstance(content, dict):
            raise UsageError(f"{path}: expected an object; take the published file")
        tables.append({str(k): v for k, v in content.items()})
    folder_of = {str(label): name for name, label in tables[0].items()}
    number_of = {int(v): int(k) for k, v in tables[2].items()}  # ImageNet's own id -> class number
    wnids = imagenet_wnids()
    labels = {line.strip(): wnids[number_of[i]] for i, line in enumerate(lines_of(files[3], "a label a line")) if i in number_of}
    out = {}
    for name, joined in tables[1].items():
        words = str(joined).split("; ")
        strange = next((w for w in words if w not in labels), None)
        if strange is not None or name not in folder_of:
            raise UsageError(
                f"{files[1]}: {printable(strange or name)[:100]!r} is not in the other mappings; take the published files"
            )
        out[folder_of[name]] = ("+".join(labels[w] for w in words), name.lower())
    return out


def read_objectnet(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """objectnet-1.0: images/FOLDER/*.png of the classes that ImageNet has (113 of 313) and mappings/; 2 pixels are cut from each side."""
    root = place(spec, data)
    classes = objectnet_classes(root)
    there, left_out = list_classes(root / "images")
    names = [n for n in there if n in classes]
    if len(names) < len(classes):
        lacking = next(n for n in sorted(classes) if n not in names)
        raise UsageError(f"{root / 'images' / lacking}: no such folder; unpack objectnet-1.0.zip again")
    entries, others = _entries(root / "images", names)
    files = {e[0]: e[1] for e in entries}
    merged = {**left_out, **others, "classes that ImageNet has not": len(there) - len(names)}
    dataset = labelled_set(
        spec, "objectnet", entries, [classes[n][0] for n in names], limit, root, "unpack the archive again", left_out=merged
    )
    images = without_border(dataset.images, files.__getitem__, BORDER)
    return dataclasses.replace(dataset, images=images, names=tuple(classes[n][1] for n in names))
