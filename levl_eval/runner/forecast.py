"""What a run will read, store and take, before it begins: images by set, bytes of features, hours from what was measured.

Nothing is invented: a set that is not at hand has no count, an encoder that is not at hand no bytes, and a job no hours unless records in
the run's folder measured its encoder's rate and its task on this kind of device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from levl_eval.cards import TaskCard
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


def feature_bytes(handle: BackboneHandle, sets: Sequence[SetSize]) -> int | None:
    """About what the features of these sets take on the disk, each array once; None where the encoder is not at hand.

    Sets of unknown size count nothing. A card that trains on random crops stores more, each crop once.
    """
    try:
        shapes, own = handle.facts.shapes, handle.preprocess
    except LevlError:
        return None
    dim, patch_dim, grid = (shapes[k] for k in ("dim", "patch_dim", "grid"))
    assert (
        isinstance(dim, int) and isinstance(patch_dim, int) and isinstance(grid, (list, tuple)) and isinstance(own["size"], int)
    )
    wanted: dict[tuple[str, str, str], int] = {}
    for s in sets:
        arrays = arrays_of(s.card)
        names = ARRAYS if "patches" in arrays else arrays  # tokens are never made alone
        scale = (getattr(s.card, "size", None) or own["size"]) / own["size"]
        tokens = max(1, round(grid[0] * scale)) * max(1, round(grid[1] * scale))
        layers = len(getattr(s.card, "layers", None) or (0,))
        half = 2 if getattr(s.card, "token_dtype", "float16") == "float16" else 4
        each = {"pooled": 4 * dim, "mean": 4 * patch_dim, "patches": half * tokens * patch_dim}
        for name in names:
            wanted[s.key, f"{scale:g} {layers}", name] = (s.images or 0) * each[name] * layers
    return sum(wanted.values())


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
