"""DAVIS 2017 as it is published: videos as folders of frames with a mask of numbered objects each.

    ROOT/JPEGImages/480p/VIDEO/00000.jpg      frames, in the order of their names
    ROOT/Annotations/480p/VIDEO/00000.png     palette PNG: 0 the background, 1.. the objects, 255 void, which counts as background
    ROOT/ImageSets/2017/{train,val}.txt       a split's videos, one a line

ROOT is the set's folder or DAVIS in it, or DIR/DAVIS. The objects of a video are those of its first mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import lines_of
from levl_eval.core.text import printable
from levl_eval.data.images import file_contents, fingerprint_contents, image_set, root_of, under
from levl_eval.data.listing import counted_order, list_images
from levl_eval.data.masks import mask_file
from levl_eval.data.places import TOPS
from levl_eval.data.skipping import broken_files
from levl_eval.data.types import Video, VideoSet

_GET = "get DAVIS-2017-trainval-480p.zip from davischallenge.org and unpack it there"
RESOLUTION = "480p"
LEAST = 3  # frames: the first is given, and neither it nor the last one is scored


def object_mask(path: Path, max_pixels: int = 0) -> np.ndarray:
    """int64 [H, W]: a mask's object numbers, void (255) being 0. Raises LevlError naming the file."""
    stored = mask_file(path, max_pixels)
    out: np.ndarray = np.where(stored == 255, 0, stored)
    if out.min() < 0 or out.max() > 254:
        raise LevlError(
            f"{path}: holds the label {int(stored.max() if out.max() > 254 else stored.min())}; objects are numbered from 1 to 254"
        )
    return out


def _frames(name: str, images: Path, masks: Path) -> list[tuple[str, Path, Path]]:
    """(id, frame, mask) of a video, in order. Raises UsageError: too few frames, masks that are missing."""
    folder = images / name
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; {_GET}")
    files = sorted(list_images(folder).files, key=lambda p: p.name)
    counted_order([p.stem for p in files], folder, "write the frames' numbers with equally many digits")
    if len(files) < LEAST:
        raise UsageError(f"{folder}: holds {len(files)} frames; a video needs {LEAST} at least")
    pairs = [(f"{name}/{p.name}", p, masks / name / f"{p.stem}.png") for p in files]
    twice = next((s for s, count in Counter(p.stem for p in files).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{folder}: frame {printable(twice)[:100]} is there twice, under two endings; keep one")
    lost = [m for _, _, m in pairs if not m.is_file()]
    if lost:
        raise UsageError(f"{masks / name}: {len(lost)} of {len(pairs)} masks are missing, first {lost[0].name}; {_GET}")
    return pairs


def _listed(root: Path, split: str) -> list[str]:
    path = root / "ImageSets" / "2017" / f"{split}.txt"
    if not path.is_file():
        raise UsageError(f"{path}: no such list of videos; {_GET}")
    names = lines_of(path, "list of videos")
    twice = next((n for n, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: video {printable(twice)[:200]} is listed twice; keep one line")
    bad = next((n for n in names if "/" in n or "\\" in n or n in (".", "..")), None)
    if bad is not None or not names:
        raise UsageError(
            f"{path}: " + (f"{printable(bad)[:200]!r} is no folder's name; correct the line" if bad else "names no videos")
        )
    return names


def _within(videos: Sequence[Video], limit: int | None, source: Path) -> list[Video]:
    """The first videos that have at most ``limit`` frames together."""
    kept: list[Video] = []
    for one in videos:
        if limit is not None and sum(len(v.frames) for v in kept) + len(one.frames) > limit:
            break
        kept.append(one)
    if not kept:
        raise UsageError(f"{source}: the first video has {len(videos[0].frames)} frames, more than --limit {limit}; raise it")
    return kept


def read_davis(spec: DataSpec, data: str, limit: int | None = None) -> VideoSet:
    """A split of DAVIS 2017. Raises UsageError: what is missing where; LevlError: a mask that cannot be read or shows no object.

    --skip-broken: a video with a frame or mask that cannot be read is left out whole.
    """
    split, home = spec.split or "val", root_of(spec.root, spec.directory, data)
    tops = [home, *(home / t for t in TOPS[spec.layout]), *(Path(data) / t for t in TOPS[spec.layout] if not spec.root)]
    root = next((t for t in tops if (t / "ImageSets").is_dir()), tops[0])
    images = under(data, spec.images) or root / "JPEGImages" / RESOLUTION
    masks = under(data, spec.annotations) or root / "Annotations" / RESOLUTION
    listed = [(name, _frames(name, images, masks)) for name in _listed(root, split)]
    videos = _within([Video(name, tuple(i for i, _, _ in frames)) for name, frames in listed], limit, images)
    used = {i for v in videos for i in v.frames}
    of_image = {i: p for _, frames in listed for i, p, _ in frames if i in used}
    of_mask = {i: m for _, frames in listed for i, _, m in frames if i in used}
    most = spec.max_pixels or 0
    broken: dict[str, str] = {}
    if spec.skip_broken is not None:
        broken = {
            i: f"mask: {why}" for i, why in broken_files(of_mask, lambda m: object_mask(m, most), f"objects {most}").items()
        }
        of_image = {i: p for i, p in of_image.items() if i not in broken}
    held = image_set(of_image, of_image.__getitem__, str(root), _GET, None, spec, broken)
    there = set(held.ids)
    videos = [v for v in videos if all(i in there for i in v.frames)]
    if not videos:
        raise UsageError(f"{root}: no video is left of which every frame can be read; replace them")
    kept = {i: of_mask[i] for v in videos for i in v.frames}
    empty = next((v for v in videos if not object_mask(kept[v.frames[0]], most).any()), None)
    if empty is not None:
        raise UsageError(f"{kept[empty.frames[0]]}: shows no object; the first mask says which objects are followed")
    contents, _ = file_contents(kept)
    return VideoSet(
        "davis",
        split,
        held,
        tuple(videos),
        lambda i: object_mask(kept[i], most),
        fingerprint_contents(contents),
        contents.__getitem__,
    )


def check_sizes(test: VideoSet) -> None:
    """Raises LevlError where frames of a video are not of one size, or a mask is not of its frame's."""
    for video in test.videos:
        first = test.images.open(video.frames[0]).size
        for name in video.frames:
            (width, height), mask = test.images.open(name).size, test.mask(name)
            where = f"{test.images.source}/{name}"
            if (width, height) != first:
                raise LevlError(
                    f"{where}: is {width}x{height}, the video's first frame {first[0]}x{first[1]}; frames of a video must be of one size"
                )
            if mask.shape != (height, width):
                raise LevlError(
                    f"{where}: frame is {width}x{height}, its mask {mask.shape[1]}x{mask.shape[0]}; they must be equal"
                )
