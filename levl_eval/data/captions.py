"""Images with captions: Karpathy's split files (dataset_flickr30k.json, dataset_coco.json) and csv or tsv tables."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.caption_files import read_caption_file
from levl_eval.data.formats import Entry, MaybeText, Text, checked
from levl_eval.data.images import fingerprint_text, image_set, one_name_each, root_of, under
from levl_eval.data.questions import first_of, read_json
from levl_eval.data.types import CaptionSet, ImageSet


class Sentence(Entry):
    raw: Text


class KarpathyImage(Entry):
    filename: Text
    split: Text
    filepath: MaybeText = ""
    sentences: list[Sentence]


def _finish(
    spec: DataSpec, name: str, rows: list[tuple[str, Path, list[str]]], limit: int | None, source: Path, where: str,
    left_out: Mapping[str, int] | None = None,
) -> CaptionSet:  # fmt: skip
    """(id, file, captions) an image as a set. Raises UsageError for an empty one, an image listed twice or without captions."""
    counts = Counter(i for i, _, _ in rows)
    twice = next((i for i, n in counts.items() if n > 1), None)
    if twice is not None:
        raise UsageError(f"{source}: image {printable(twice)[:200]} is listed twice; keep one entry")
    rows = rows[:limit] if limit is not None else rows
    at = {i: (p, c) for i, p, c in rows}
    empty = [i for i, _, c in rows if not c]
    if empty:
        raise UsageError(f"{source}: {len(empty)} images have no caption, first {empty[0]}; every image needs one")
    one_name_each({i: p for i, (p, _) in at.items()}, source)
    images = image_set(at, lambda i: at[i][0], str(source), where, left_out, spec)
    return caption_set(spec, name, images, {i: c for i, (_, c) in at.items()})


def caption_set(spec: DataSpec, name: str, images: ImageSet, of_image: Mapping[str, Sequence[str]]) -> CaptionSet:
    """Images with their captions (id -> captions) as a set."""
    captions = [(c, k) for k, i in enumerate(images.ids) for c in of_image[i]]
    digest = fingerprint_text(json.dumps([images.ids[k], c]) for c, k in captions)
    owner = np.array([k for _, k in captions], np.int64)
    return CaptionSet(name, spec.split, images, tuple(c for c, _ in captions), owner, digest)


_COPIES = 0.05  # share of a set's images that may be copies of others: a few are in published sets too


def check_copies(caption_set: CaptionSet) -> CaptionSet:
    """The set.

    Raises UsageError where many images are byte for byte others of it: a line a caption, whose image is found by one of its own
    captions and counts as wrong for the others.
    """
    images = caption_set.images
    first: dict[str, str] = {}
    copies = [(i, f) for i in images.ids if images.content is not None and (f := first.setdefault(images.content(i), i)) != i]
    if len(copies) > max(1, _COPIES * len(images)):
        one, other = (printable(name)[:200] for name in reversed(copies[0]))
        raise UsageError(
            f"{images.source}: {len(copies)} of {len(images)} images are copies "
            f"of others ({one} and {other} first), and a caption finds one of them; "
            "put the captions of an image together: a list of captions a row, or one name for the image"
        )
    return caption_set


def first_captions(caption_set: CaptionSet, count: int | None) -> CaptionSet:
    """The set with at most the first ``count`` captions of each image; None: all."""
    if count is None:
        return caption_set
    seen = np.zeros(len(caption_set.images), int)
    kept = []
    for j, k in enumerate(caption_set.owner):
        if seen[k] < count:
            kept.append(j)
        seen[k] += 1
    captions = tuple(caption_set.captions[j] for j in kept)
    digest = fingerprint_text([caption_set.fingerprint, str(count)])
    return CaptionSet(caption_set.name, caption_set.split, caption_set.images, captions, caption_set.owner[kept], digest)


def read_karpathy(spec: DataSpec, data: str, limit: int | None = None) -> CaptionSet:
    """ROOT/dataset_*.json with fields images[filename, filepath, split, sentences[raw]]; images by `images`, or below ROOT.

    Raises UsageError: the file or images are missing, a split it does not have.
    """
    root = root_of(spec.root, spec.directory, data)
    own = f"dataset_{spec.directory}.json"  # the archive holds three sets' files
    names = [own, "dataset_*.json"] if spec.directory else ["dataset_*.json"]
    path = under(data, spec.annotations) or first_of(root, names, "Karpathy's split file", "put it there, or set `annotations`")
    if not path.is_file():
        raise UsageError(f"{path}: no such file; put Karpathy's split file there, or set `annotations`")
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list):
        raise UsageError(f"{path}: field `images` is missing; this is not one of Karpathy's split files")
    listed = [checked(KarpathyImage, one, path, f"image {k}") for k, one in enumerate(raw["images"], 1)]
    splits = sorted({i.split for i in listed})
    if spec.split not in splits:
        raise UsageError(f"{path}: field `split`: {spec.split!r} does not occur; it has {', '.join(map(printable, splits))}")
    folder = under(data, spec.images) if spec.images else None
    bases = [folder] if folder else [root, root / "images", root / "flickr30k-images", root / "flickr30k_images", root / "Images"]
    rows = []
    for image in listed:
        if image.split != spec.split:
            continue
        names = [f"{image.filepath}/{image.filename}".lstrip("/"), image.filename]
        file = next((b / n for b in bases for n in names if os.path.exists(b / n)), bases[0] / names[0])
        rows.append((names[0], file, [s.raw.strip() for s in image.sentences]))
    return _finish(
        spec, str(raw.get("dataset", path.stem)), rows, limit, path, "put the images there, or set `images` to their folder"
    )


def read_captions(spec: DataSpec, data: str, limit: int | None = None) -> CaptionSet:
    """A csv or tsv file (`annotations`) with the columns image and caption, and split where `split` is set; a caption a line.
    Or COCO's captions_*.json, or Flickr's token file (caption_files).

    Images by `images`, or beside the file or in images/ there. Raises UsageError: what is missing, with the line.
    """
    if spec.annotations is None:
        raise UsageError("layout captions: field `annotations` must be set to a csv file with the columns image and caption")
    path = under(data, spec.annotations)
    assert path is not None
    by_image: dict[str, list[str]] = {}
    left_out: Counter[str] = Counter()
    for c in read_caption_file(
        path, split="split" if spec.split and path.suffix.lower() in (".csv", ".tsv") else "", left_out=left_out
    ):
        if not c.split or c.split == spec.split:
            by_image.setdefault(c.image, []).append(c.caption.strip())
    if not by_image:
        raise UsageError(f"{path}: column `split`: {spec.split!r} does not occur" if spec.split else f"{path}: holds no captions")
    folder = under(data, spec.images) if spec.images else None
    bases = [folder] if folder else [path.parent, path.parent / "images"]
    rows = [(i, next((b / i for b in bases if os.path.exists(b / i)), bases[0] / i), c) for i, c in by_image.items()]
    return _finish(spec, path.stem, rows, limit, path, "put the images there, or set `images` to their folder", left_out)
