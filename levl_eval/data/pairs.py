"""SPair-71k as it is published (Min, Lee, Ponce, Cho, 2019): pairs of images of one category with the keypoints both show.

    ROOT/JPEGImages/CATEGORY/NAME.jpg
    ROOT/PairAnnotation/{trn,val,test}/NUMBER-SOURCE-TARGET:CATEGORY.json
    ROOT/Layout/large/{trn,val,test}.txt      the names of a split's pairs, one a line; where it is absent, all files of the split's folder
    ROOT/ImageAnnotation/                     not needed: a pair's file holds what its two images show

ROOT is the set's folder or SPair-71k in it, or DIR/SPair-71k. Pixels count from 0, boxes are (left, top, right, bottom).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import lines_of
from levl_eval.core.text import printable
from levl_eval.data.fingerprints import pair_text
from levl_eval.data.formats import Entry, Id, Text, checked
from levl_eval.data.images import fingerprint_text, image_set, root_of, under
from levl_eval.data.places import TOPS
from levl_eval.data.questions import read_json
from levl_eval.data.types import KeypointPair, PairSet

SPLITS = {"train": "trn", "trn": "trn", "val": "val", "": "test", "test": "test"}
_GET = "get SPair-71k.tar.gz from cvlab.postech.ac.kr/research/SPair-71k and unpack it there"


def _finite(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("expected a number")
    return float(value)


Number = Annotated[float, BeforeValidator(_finite)]
_Place = Annotated[list[Number], Field(min_length=2, max_length=2)]
_Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)]
_Box = Annotated[list[Number], Field(min_length=4, max_length=4)]


class SPairEntry(Entry):
    """A pair's file. Of a size the first two numbers are read: width and height."""

    src_imname: Text
    trg_imname: Text
    category: Text
    src_kps: list[_Place]
    trg_kps: list[_Place]
    src_bndbox: _Box
    trg_bndbox: _Box
    kps_ids: list[Id] | None = None
    src_imsize: _Size | None = None
    trg_imsize: _Size | None = None
    mirror: int = 0


def _pair(path: Path, name: str) -> KeypointPair:
    """One pair's file. Raises UsageError naming file and field for what does not fit together."""
    one = checked(SPairEntry, read_json(path), path, "pair")
    names = tuple(one.kps_ids if one.kps_ids is not None else map(str, range(len(one.src_kps))))
    if not len(one.src_kps) == len(one.trg_kps) == len(names):
        counts = f"{len(one.src_kps)}, {len(one.trg_kps)} and {len(names)}"
        raise UsageError(f"{path}: fields `src_kps`, `trg_kps`, `kps_ids` hold {counts} entries; each part has one in each")
    if not names:
        raise UsageError(f"{path}: field `src_kps` is empty; a pair needs a keypoint")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UsageError(f"{path}: field `kps_ids`: {printable(twice)[:100]} stands twice; keep one")
    if one.mirror:
        raise UsageError(f"{path}: field `mirror` is {one.mirror}; pairs of mirrored images are not read, take the large layout")
    for field, (left, top, right, bottom) in (("src_bndbox", one.src_bndbox), ("trg_bndbox", one.trg_bndbox)):
        if right <= left or bottom <= top:
            raise UsageError(
                f"{path}: field `{field}`: [{left:g}, {top:g}, {right:g}, {bottom:g}] is no box (left, top, right, bottom)"
            )
    for name_of in (one.category, one.src_imname, one.trg_imname):
        if "/" in name_of or "\\" in name_of or name_of in (".", ".."):
            raise UsageError(f"{path}: {printable(name_of)[:100]!r} is no file name; correct the entry")
    sizes = [None if s is None else (s[0], s[1]) for s in (one.src_imsize, one.trg_imsize)]
    points = [np.array(p, np.float64).reshape(-1, 2) for p in (one.src_kps, one.trg_kps)]
    boxes = [(b[0], b[1], b[2], b[3]) for b in (one.src_bndbox, one.trg_bndbox)]
    if one.src_imname == one.trg_imname:
        raise UsageError(
            f"{path}: fields `src_imname` and `trg_imname` are both {printable(one.src_imname)[:100]!r}; a pair needs two"
        )
    ids = [f"{one.category}/{n}" for n in (one.src_imname, one.trg_imname)]
    return KeypointPair(name, one.category, ids[0], ids[1], names, points[0], points[1], boxes[0], boxes[1], sizes[0], sizes[1])


def of_few_images(pairs: Sequence[KeypointPair], limit: int | None) -> tuple[KeypointPair, ...]:
    """Pairs of all categories in turn, in their order, as long as they need at most ``limit`` images; in the order of ``pairs``."""
    if limit is None:
        return tuple(pairs)
    turn: Counter[str] = Counter()
    ranked = []
    for k, p in enumerate(pairs):
        turn[p.category] += 1
        ranked.append((turn[p.category], k))
    images: set[str] = set()
    kept = []
    for _, k in sorted(ranked):
        needed = {pairs[k].source, pairs[k].target} | images
        if len(needed) <= limit:
            images = needed
            kept.append(k)
    return tuple(pairs[k] for k in sorted(kept))


def _names(root: Path, split: str, folder: Path) -> list[str]:
    """Names of a split's pairs, in order. Raises UsageError where there are none, or one stands twice."""
    listed = root / "Layout" / "large" / f"{split}.txt"
    if listed.is_file():
        names = [x.strip() for x in lines_of(listed, "list of pairs") if x.strip()]
    elif folder.is_dir():
        names = sorted(p.stem for p in folder.glob("*.json") if not p.name.startswith("."))
    else:
        raise UsageError(f"{folder}: no such folder; {_GET}")
    if not names:
        raise UsageError(f"{listed if listed.is_file() else folder}: names no pairs; {_GET}")
    twice = next((n for n, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{listed}: pair {printable(twice)[:200]} is listed twice; keep one line")
    bad = next((n for n in names if "/" in n or "\\" in n), None)
    if bad is not None:
        raise UsageError(f"{listed}: {printable(bad)[:200]!r} is no file name; correct the line")
    return names


def _root(tops: Iterable[Path]) -> Path:
    tops = list(tops)
    return next((t for t in tops if (t / "PairAnnotation").is_dir()), tops[0])


def read_spair(spec: DataSpec, data: str, limit: int | None = None) -> PairSet:
    """A split of SPair-71k. Raises UsageError: what is missing where, an annotation that does not fit together.

    --skip-broken: pairs of an image that cannot be read go with it; annotations are never skipped.
    """
    if spec.split not in SPLITS:
        raise UsageError(f"spair71k: field `split`: expected trn, val or test, found {spec.split!r}")
    split, home = SPLITS[spec.split], root_of(spec.root, spec.directory, data)
    root = _root([home, *(home / t for t in TOPS[spec.layout]), *(Path(data) / t for t in TOPS[spec.layout] if not spec.root)])
    folder = under(data, spec.annotations) or root / "PairAnnotation" / split
    images = under(data, spec.images) or root / "JPEGImages"
    names = _names(root, split, folder)
    lost = [n for n in names if not (folder / f"{n}.json").is_file()]
    if lost:
        raise UsageError(f"{folder}: {len(lost)} of {len(names)} pairs are missing, first {lost[0]}.json; {_GET}")
    pairs = of_few_images([_pair(folder / f"{n}.json", n) for n in names], limit)
    if not pairs:
        raise UsageError(f"{folder}: no pair has {limit} images; raise --limit to 2 at least")
    ids = dict.fromkeys(i for p in pairs for i in (p.source, p.target))
    held = image_set(ids, lambda i: images / i, str(root), _GET, None, spec)
    there = set(held.ids)
    kept = tuple(p for p in pairs if p.source in there and p.target in there)
    if not kept:
        raise UsageError(f"{root}: no pair is left of whose images both can be read; replace them")
    return PairSet("spair71k", split, held, kept, fingerprint_text(f"{p.pair_id} {pair_text(p).decode()}" for p in kept))


def image_sizes(test: PairSet) -> dict[str, tuple[int, int]]:
    """(width, height) of every image. Raises LevlError where a pair's annotation says another one: its points would lie elsewhere."""
    sizes = {i: test.images.open(i).size for i in test.images.ids}
    for p in test.pairs:
        for image, stated in ((p.source, p.source_size), (p.target, p.target_size)):
            if stated is not None and stated != sizes[image]:
                width, height = sizes[image]
                raise LevlError(
                    f"{test.images.source}: pair {p.pair_id}: image {image} is {width}x{height}, "
                    f"its annotation says {stated[0]}x{stated[1]}; take the images as they were published"
                )
    return sizes


def points_beyond(pairs: PairSet, sizes: Mapping[str, tuple[int, int]]) -> int:
    """How many keypoints lie beyond their image, whose (width, height) is in ``sizes``."""
    ends = ((points, sizes[i]) for p in pairs.pairs for points, i in ((p.source_points, p.source), (p.target_points, p.target)))
    return int(sum(((points < -0.5) | (points > np.array(size) - 0.5)).any(1).sum() for points, size in ends))
