"""What a run will read, store and take, before it begins: images by set, passes through the encoder, bytes of features, measured hours.

Nothing is invented: a set that is not at hand has no count, an encoder that is not at hand no bytes, and a job no hours unless records in
the run's folder measured its encoder's rate and its task on this kind of device.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from levl_eval.cards import SegmentationCard, TaskCard, TextSegmentationCard
from levl_eval.core.errors import LevlError
from levl_eval.core.json_types import object_at
from levl_eval.data.places import on_hub
from levl_eval.data.published import images_as_published
from levl_eval.data.set_identity import read_set, remembered_set
from levl_eval.engines.contract import TOGETHER
from levl_eval.engines.reads import arrays_of
from levl_eval.runner.datasets import Part, parts_of

if TYPE_CHECKING:
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.records import Record
    from levl_eval.runner.backbones import BackboneHandle

ARRAYS = ("pooled", "mean", "patches")  # features.extraction.ARRAYS, without torch
_OF_ITEMS = ("answers", "scores")  # stages of an engine that take as long as there are test images


@dataclass(frozen=True)
class SetSize:
    """One set that a task reads. images: None where it is not known. why: why it was not counted; ``images`` then is what its authors
    publish, if anything. key: what tells sets apart.
    """

    task: str
    role: str
    images: int | None
    why: str
    key: str
    card: TaskCard


def sizes(cards: Mapping[str, TaskCard], data: str, limit: int | None, known: FingerprintCache) -> list[SetSize]:
    """Every set of every task. data: the directory that is read, or "hub", of which only what was read before is known."""
    out, counted = [], {}
    for label, card in cards.items():
        try:
            parts = parts_of(card, data, limit)
        except LevlError as e:
            out.append(SetSize(label, "test", None, str(e), label, card))
            continue
        for part in parts:
            key = json.dumps([part.spec.model_dump(mode="json"), part.limit, part.kind], sort_keys=True)
            if key not in counted:
                counted[key] = _images(part, data, known)
            out.append(SetSize(label, part.role, *counted[key], key, card))
    return out


def _images(part: Part, data: str, known: FingerprintCache) -> tuple[int | None, str]:
    """How many images a set has; where it is not at hand, as its authors publish, and why. No image is read."""
    spec = part.spec
    as_published = images_as_published(spec.layout, spec.split, spec.directory, part.role)
    if as_published is not None and part.limit is not None:
        as_published = min(as_published, part.limit)
    try:
        remembered = remembered_set(known, part.kind, part.spec, data, part.limit, **part.options)
        if remembered is not None:
            return remembered.counts["images"], ""
        if on_hub(part.spec, data):
            return as_published, "not read from the hub yet"
        return len(read_set(part.kind, part.spec, data, part.limit, part.options).images), ""
    except LevlError as e:
        return as_published, str(e)


class Pass(NamedTuple):
    """How an encoder is read for a task: what it sees and gives of an image. Equal ones of a set are one pass over its images.

    size: of the image, side: of what the encoder sees of it, in pixels. times: views of an image. tokens: patch tokens of a view.
    """

    set: str
    size: int
    side: int
    times: int
    tokens: int
    layers: int


def _passes(handle: BackboneHandle, sets: Sequence[SetSize]) -> Iterator[tuple[Pass, SetSize]]:
    """One pass a set that is read from the store. Raises LevlError where the encoder is not at hand."""
    grid, depth = handle.facts.shapes["grid"], handle.facts.shapes["depth"]
    # the grid is known at the library's size, not at the card's
    library, own = handle.facts.preprocess["size"], handle.preprocess["size"]
    assert isinstance(grid, (list, tuple)) and isinstance(depth, int) and isinstance(library, int) and isinstance(own, int)
    from levl_eval.backbones.common import resized

    for s in sets:
        if not arrays_of(s.card):
            continue
        size = getattr(s.card, "size", None) or own
        side, times = size, 1
        if isinstance(s.card, (SegmentationCard, TextSegmentationCard)) and (s.card.window or s.card.flip):
            from levl_eval.features.views import make_views

            views = make_views(size, s.card.window, s.card.stride, s.card.flip)
            side, times = (views.side, len(views.boxes)) if views is not None else (side, 1)
        if s.role.startswith("train"):
            times *= max(1, getattr(s.card, "views", 0))
        tokens = math.prod(resized((grid[0], grid[1]), library, side, depth))
        yield Pass(s.key, size, side, times, tokens, len(getattr(s.card, "layers", None) or (0,))), s


def feature_bytes(handle: BackboneHandle, sets: Sequence[SetSize]) -> int | None:
    """About what the features of these sets take on the disk, each array once; None where the encoder is not at hand.

    Sets of unknown size count nothing; views of an image (windows, mirror images, random crops) are stored each.
    """
    try:
        passes = list(_passes(handle, sets))
    except LevlError:
        return None
    dim, patch_dim = (handle.facts.shapes[k] for k in ("dim", "patch_dim"))
    assert isinstance(dim, int) and isinstance(patch_dim, int)
    wanted: dict[tuple[Pass, str], int] = {}
    for p, s in passes:
        arrays = arrays_of(s.card)
        names = ARRAYS if "patches" in arrays else arrays  # tokens are never made alone
        half = 2 if getattr(s.card, "token_dtype", "float16") == "float16" else 4
        each = {"pooled": 4 * dim, "mean": 4 * patch_dim, "patches": half * p.tokens * patch_dim}
        for name in names:
            wanted[p, name] = (s.images or 0) * p.times * each[name] * p.layers
    return sum(wanted.values())


def encoder_passes(handle: BackboneHandle, sets: Sequence[SetSize]) -> dict[tuple[int, int], int] | None:
    """(side in pixels, patch tokens) -> images that go through the encoder at it; None where the encoder is not at hand.

    A set that several tasks read alike goes through once, as a run makes what its jobs read together; sets of unknown size count nothing.
    Encoders inside a training step (engines mmseg, depth-recipe) and texts are not counted.
    """
    try:
        seen = {p: (s.images or 0) * p.times for p, s in _passes(handle, sets)}
    except LevlError:
        return None
    out: dict[tuple[int, int], int] = {}
    for p, images in seen.items():
        out[p.side, p.tokens] = out.get((p.side, p.tokens), 0) + images
    return {k: n for k, n in sorted(out.items()) if n}


@dataclass
class Measured:
    """What records of the run's folder measured of one encoder on one kind of device. rates: images a second, one a record."""

    rates: list[float] = field(default_factory=list)
    rest: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # task -> seconds fixed, by test image, images


def measured(records: Sequence[Record], weights: str, device: str) -> Measured:
    """Rates of one encoder from the finished records. An encoding rate is taken where all features of a job were computed by it."""
    out = Measured()
    for r in records:
        if r.status != "done" or r.weights != weights or r.device != device:
            continue
        counts = object_at(r.data, "counts")
        test, train = (n if isinstance(n := counts.get(k, 0), int) else 0 for k in ("images", "train_images"))
        encoding = r.seconds.get("features", 0.0)
        whole = r.cache.get("feature_misses", 0) > 0 and not r.cache.get("feature_hits", 0)
        if whole and encoding > 0 and test and r.engine not in (*TOGETHER, "backgrounds"):
            out.rates.append((test + train) / encoding)
        if test and encoding > 0:
            of_items = sum(r.seconds.get(stage, 0.0) for stage in _OF_ITEMS)
            out.rest[r.task] = (max(0.0, r.seconds.get("total", 0.0) - encoding - of_items), of_items / test, test)
    return out


def hours(rates: Measured, sets: Sequence[SetSize], jobs: Mapping[str, int]) -> tuple[float, list[str]]:
    """(hours of what is known, names of the tasks of which it is not). jobs: task -> how many are still to be computed.

    Encoding is counted once a set, at the slowest measured rate.
    """
    unknown: list[str] = []
    total, encoded = 0.0, dict[str, float]()
    for task, count in jobs.items():
        mine = [s for s in sets if s.task == task]
        name = mine[0].card.name if mine else task
        if not count:
            continue
        if not rates.rates or name not in rates.rest or any(s.images is None for s in mine):
            unknown.append(task)
            continue
        encoded |= {s.key: (s.images or 0) / min(rates.rates) for s in mine}
        fixed, each, _ = rates.rest[name]
        total += count * (fixed + each * sum(s.images or 0 for s in mine if s.role.startswith("test")))
    return (total + sum(encoded.values())) / 3600, unknown
