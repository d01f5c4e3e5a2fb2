"""Sets of choices by image-text score in their published layouts: SugarCrepe, Winoground, ARO, MMVP-VLM, and a user's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import blank, printable, same_text
from levl_eval.data.caption_files import rows_below
from levl_eval.data.formats import Entry, Id, MaybeText, Text, checked, shown, unique_ids
from levl_eval.data.images import SUFFIXES, fingerprint_contents, fingerprint_text, image_set, put_into, root_of, under
from levl_eval.data.listing import one_of
from levl_eval.data.questions import first_of, read_json
from levl_eval.data.rgb import DEFAULT, Rules, crop_within, open_rgb
from levl_eval.data.types import ChoiceSet, ImageSet, Trial

# SugarCrepe's files at github.com/RAIVNLab/sugar-crepe (data/): kind -> examples in the release.
SUGARCREPE = {
    "add_obj": 2062, "add_att": 692, "replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666,
}  # fmt: skip
ARO_FILES = {
    "relation": "visual_genome_relation.json",
    "attribution": "visual_genome_attribution.json",
    "order": "coco_order.json",
}
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class SugarCrepeEntry(Entry):
    filename: Text
    caption: Text
    negative_caption: Text


class WinogroundEntry(Entry):
    id: Id
    image_0: Text
    image_1: Text
    caption_0: Text
    caption_1: Text
    collapsed_tag: MaybeText = ""


class AROEntry(Entry):
    image_path: Text
    true_caption: Text
    false_caption: Text
    bbox_x: int
    bbox_y: int
    bbox_w: Annotated[int, Field(gt=0)]
    bbox_h: Annotated[int, Field(gt=0)]
    relation_name: MaybeText = ""
    attributes: list[str] = Field(default_factory=list)


class OrderEntry(Entry):
    image: Text
    caption_options: Annotated[list[Text], Field(min_length=2)]


class OwnPair(Entry):
    images: Annotated[list[Text], Field(min_length=1, max_length=2)]
    captions: Annotated[list[Text], Field(min_length=2)]
    kind: MaybeText = ""


@dataclass(frozen=True)
class CropOpener:
    """id -> RGB crop of the file that ``locate`` names. boxes: id -> what is kept of it."""

    locate: Callable[[str], Path]
    boxes: Mapping[str, Box]
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        path = self.locate(name)
        return crop_within(open_rgb(path, self.rules), self.boxes[name], str(path))


def cropped(images: ImageSet, locate: Callable[[str], Path], boxes: Mapping[str, Box]) -> ImageSet:
    """The set with each image cut to its box, which is part of what the image is."""
    assert images.content is not None
    whole = images.content
    contents = {i: hashlib.sha256(f"{whole(i)} {boxes[i]}".encode()).hexdigest() for i in images.ids}
    opener = CropOpener(locate, boxes)
    return dataclasses.replace(images, open=opener, content=contents.__getitem__, fingerprint=fingerprint_contents(contents))


def kept_trials(trials: Sequence[Trial], limit: int | None, source: object) -> list[Trial]:
    """Those about the first ``limit`` distinct images. Raises UsageError: none, an id that repeats, captions that do not fit the images."""
    if not trials:
        raise UsageError(f"{source}: holds no pairs")
    unique_ids((t.trial_id for t in trials), source)
    for t in trials:
        if any(map(blank, t.captions)):
            raise UsageError(f"{source}: pair {shown(t.trial_id)}: a caption is blank; correct it")
        if len(set(map(os.path.normpath, t.images))) < len(t.images):
            raise UsageError(f"{source}: pair {shown(t.trial_id)}: both images are {shown(t.images[0])}; correct it")
        if len(t.images) == 2 and len(t.captions) != 2:
            raise UsageError(
                f"{source}: pair {shown(t.trial_id)}: two images need two captions, found {len(t.captions)}; correct it"
            )
        if len(t.images) == 2 and t.captions[0] == t.captions[1]:
            raise UsageError(
                f"{source}: pair {shown(t.trial_id)}: both images have the caption {shown(t.captions[0])}; correct it"
            )
    if limit is None:
        return list(trials)
    first = set(list(dict.fromkeys(i for t in trials for i in t.images))[:limit])
    kept = [t for t in trials if first >= set(t.images)]
    if not kept:
        raise UsageError(f"{source}: --limit {limit}: no pair is about the first {limit} images alone; raise it")
    return kept


def choice_set(spec: DataSpec, name: str, trials: Sequence[Trial], images: ImageSet) -> ChoiceSet:
    """Trials over an image set; those about skipped images are left out, as the record says."""
    asked = tuple(t for t in trials if not any(i in images.skipped for i in t.images))
    digest = fingerprint_text(json.dumps([t.trial_id, t.images, t.captions, t.kind]) for t in asked)
    return ChoiceSet(name, spec.split, images, asked, digest)


def _finish(
    spec: DataSpec, name: str, trials: list[Trial], locate: Callable[[str], Path], source: Path, where: str,
    boxes: Mapping[str, Box] | None = None, limit: int | None = None,
) -> ChoiceSet:  # fmt: skip
    kept = kept_trials(trials, limit, source)
    images = image_set(dict.fromkeys(i for t in kept for i in t.images), locate, str(source), where, None, spec)
    return choice_set(spec, name, kept, images if boxes is None else cropped(images, locate, boxes))


def read_sugarcrepe(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """data/KIND.json of all seven kinds (an object of index -> filename, caption, negative_caption), COCO's val2017/FILENAME.

    The data field ``split`` names one kind; empty: all. Raises UsageError: a kind's file or images are missing.
    """
    root = root_of(spec.root, spec.directory, data)
    where = "get data/ from github.com/RAIVNLab/sugar-crepe and COCO's val2017 images"
    if spec.split and spec.split not in SUGARCREPE:
        raise UsageError(f"field `data.split`: {spec.split!r} is no kind of SugarCrepe; there are {', '.join(SUGARCREPE)}")
    folder = under(data, spec.images) or next(
        (d for d in (root / "val2017", Path(data) / "coco" / "val2017") if d.is_dir()), root / "val2017"
    )
    trials = []
    for kind in [spec.split] if spec.split else SUGARCREPE:
        file = first_of(root, [f"data/{kind}.json", f"{kind}.json"], f"the file of {kind}", where)
        content = read_json(file)
        if not isinstance(content, (dict, list)) or not content:
            raise UsageError(f"{file}: holds no pairs; {where}")
        rows = content.items() if isinstance(content, dict) else enumerate(content)
        for key, row in rows:
            e = checked(SugarCrepeEntry, row, file, f"entry {shown(key)}")
            trials.append(Trial(f"{kind}/{key}", (e.filename,), (e.caption, e.negative_caption), kind))
    return _finish(spec, "sugarcrepe", trials, lambda i: folder / i, root, f"{put_into(folder)}; {where}", limit=limit)


def read_winoground(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """examples.jsonl (or data/examples.jsonl;
    a line each of id, image_0, image_1, caption_0, caption_1, collapsed_tag), images/NAME.png."""
    root = root_of(spec.root, spec.directory, data)
    where = "accept the licence of huggingface.co/datasets/facebook/winoground and unpack data/images.zip beside examples.jsonl"
    names = ["examples.jsonl", "data/examples.jsonl", "metadata.jsonl"]
    file = under(data, spec.annotations) or first_of(root, names, "examples.jsonl", where)
    folder = under(data, spec.images) or next(
        (d for d in (root / "images", file.parent / "images") if d.is_dir()), root / "images"
    )
    rows = read_json(file)
    trials = []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        e = checked(WinogroundEntry, row, file, f"entry {number}")
        trials.append(Trial(e.id, (e.image_0, e.image_1), (e.caption_0, e.caption_1), e.collapsed_tag))

    def locate(name: str) -> Path:
        if Path(name).suffix.lower() in SUFFIXES:
            return folder / name
        return one_of(folder, name, (".png", ".jpg", ".jpeg"))

    return _finish(spec, "winoground", trials, locate, file, f"{put_into(folder)}; {where}", limit=limit)


def read_aro(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """ARO: split relation or attribution (visual_genome_SPLIT.json, images/NAME, each cut to the box of its entry as the authors do), or
    order (coco_order.json: a list of image and caption_options, the right one first; the authors draw the wrong ones anew each time).
    """
    root = root_of(spec.root, spec.directory, data)
    where = "get files and images as github.com/mertyg/vision-language-models-are-bows says"
    if spec.split not in ARO_FILES:
        raise UsageError(f"field `data.split`: expected one of {', '.join(ARO_FILES)}, found {spec.split!r}")
    file = under(data, spec.annotations) or first_of(root, [ARO_FILES[spec.split]], ARO_FILES[spec.split], where)
    folder = under(data, spec.images) or root / "images"
    rows = read_json(file)
    if not isinstance(rows, list):
        raise UsageError(f"{file}: expected a list of entries; take the published file")
    trials: list[Trial] = []
    if spec.split == "order":
        for number, row in enumerate(rows, 1):
            o = checked(OrderEntry, row, file, f"entry {number}")
            trials.append(Trial(str(number), (o.image,), tuple(o.caption_options)))
        return _finish(spec, "aro", trials, lambda i: folder / i, file, f"{put_into(folder)}; {where}", limit=limit)
    places: dict[str, Path] = {}
    boxes: dict[str, Box] = {}
    for number, row in enumerate(rows, 1):
        e = checked(AROEntry, row, file, f"entry {number}")
        box = (e.bbox_x, e.bbox_y, e.bbox_x + e.bbox_w, e.bbox_y + e.bbox_h)
        name = f"{e.image_path}@{','.join(map(str, box))}"
        places[name], boxes[name] = folder / e.image_path, box
        kind = e.relation_name if spec.split == "relation" else "_".join(e.attributes)
        trials.append(Trial(str(number), (name,), (e.true_caption, e.false_caption), kind))
    return _finish(spec, "aro", trials, places.__getitem__, file, f"{put_into(folder)}; {where}", boxes, limit)


def read_mmvp_vlm(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """Questions.csv (Question ID, Type, Statement; two lines a pair), "MLLM_VLM Images/TYPE/ID.jpg".

    TYPE is that of the pair's first line.
    """
    root = root_of(spec.root, spec.directory, data)
    where = "get huggingface.co/datasets/MMVP/MMVP_VLM"
    file = under(data, spec.annotations) or first_of(root, ["Questions.csv"], "Questions.csv", where)
    folder = under(data, spec.images) or root / "MLLM_VLM Images"
    rows = rows_below(file, ("Question ID", "Type", "Statement"))
    if not rows or len(rows) % 2 or any(len(r) != 3 for r in rows):
        raise UsageError(
            f"{file}: expected lines of Question ID, Type and Statement, two a pair, below a head; take the published file"
        )
    trials = []
    for (first, kind, one), (second, _, other) in zip(rows[::2], rows[1::2], strict=True):
        if "/" in kind or "\\" in kind or kind in ("", ".", ".."):
            raise UsageError(
                f"{file}: pair {shown(first.strip())}: type {shown(kind)} is no folder's name; take the published file"
            )
        images = tuple(f"{kind}/{i.strip()}.jpg" for i in (first, second))
        trials.append(Trial(f"{first.strip()}-{second.strip()}", images, (one.strip(), other.strip()), kind))
    return _finish(spec, "mmvp-vlm", trials, lambda i: folder / i, file, f"{put_into(folder)}; {where}", limit=limit)


def read_own(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """A user's pairs (`annotations`): JSON lines of images (one, or two),
    captions (the right one first, or one for each image), and kind."""
    file = under(data, spec.annotations)
    if file is None:
        raise UsageError("layout choices: field `annotations` must be set to a JSON-lines file of images, captions and kind")
    folder = under(data, spec.images) or file.parent
    rows = read_json(file)
    trials = []
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        e = checked(OwnPair, row, file, f"entry {number}")
        if len(e.images) == 1 and same_text(e.captions[0]) in set(map(same_text, e.captions[1:])):
            raise UsageError(
                f"{file}: entry {number}: {shown(e.captions[0])} is the right caption and a wrong one too; correct it"
            )
        trials.append(Trial(str(number), tuple(e.images), tuple(e.captions), e.kind))
    return _finish(spec, printable(file.stem), trials, lambda i: folder / i, file, "set `images` to their folder", limit=limit)


def counts_of(pairs: ChoiceSet) -> dict[str, int]:
    """Trials of each kind."""
    return dict(Counter(t.kind for t in pairs.trials))
