"""The in-context engine: each patch of a test image takes the labels of the nearest patches in a memory of labelled ones; mIoU."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import InContextCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.dense_images import Shown
from levl_eval.engines.incontext.memory import QUERIES, Labelled, Memory, NeighbourShares, fill, pixel_counts
from levl_eval.engines.segmentation.fitting import (
    Fitted,
    both_sets,
    full_mask,
    grid_labels,
    majority_map,
    mask_at,
    scored_geometry,
)
from levl_eval.engines.segmentation.images import shown
from levl_eval.engines.segmentation.task import scored
from levl_eval.features.augmented import cropped, cutter


@dataclass
class InContext(Fitted):
    """Predictions from a memory. Test images that share a search are searched for together."""

    nothing: int = -1  # what stands for none of the classes, where void is a class of the memory
    classes: int = 0
    _kept: dict[int, Tensor] = field(init=False, default_factory=dict)

    def logits(self, row: int) -> Tensor:
        many = max(1, QUERIES // self.features.patches.shape[1])
        first = row // many * many
        if first not in self._kept:
            tokens = torch.from_numpy(self.features.patches[first : first + many].astype(np.float32))
            self._kept = {first: self.head(tokens.to(self.device))}
        return self._kept[first][row - first][None]

    @torch.inference_mode()
    def predict(self, row: int, size: tuple[int, int]) -> Tensor:
        """See Fitted.predict."""
        labels = super().predict(row, size)
        return torch.where(labels < self.classes, labels, self.nothing)


def run(context: Context[InContextCard]) -> Outcome:
    """Fill the memory from the card's training set and score its test set. Raises UsageError/LevlError for unusable data."""
    train, test = both_sets(context)
    fitted, labels, notes, seconds = remember(context, train, test)
    floor = majority_map(fitted, labels, len(test.classes), train.ignore_index)
    outcome = scored(context, fitted, train, test, floor)
    outcome.notes = {**notes, **outcome.notes}
    outcome.seconds = seconds | outcome.seconds
    return outcome


def remember(
    context: Context[InContextCard], train: SegmentationSet, test: SegmentationSet
) -> tuple[InContext, np.ndarray, dict[str, object], dict[str, float]]:
    """Features of both sets and the memory: what predicts, the plain training images' labels [N, h, w], notes and seconds.

    Raises UsageError for a memory with less than one patch a view, LevlError where nothing is labelled.
    """
    card = context.card
    geometry = scored_geometry(card, context.backbone.preprocess)
    most = patches_each(card, len(train.images))
    started = time.monotonic()
    judge = context.features(test.images, ("patches",), geometry, card.layers)
    versions = [
        context.features(images, ("patches",), geometry, card.layers)
        for images in ([cropped(train.images, v, *_drawing(card)) for v in range(card.views)] or [train.images])
    ]
    context.ready()
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    masks = Masks(context, train, geometry, judge.grid)
    parts = [Labelled(v.patches, masks.counts(k)) for k, v in enumerate(versions)]
    cell = math.prod(-(-geometry.size // side) for side in judge.grid)
    memory = fill(parts, most, card.sampling, context.seed, cell)
    if not len(memory):
        raise LevlError(f"{card.name}: every training pixel is void; check `ignore_index` and `reduce_zero_label`")
    held = memory_on(memory, context.device)
    seconds["memory"] = time.monotonic() - started
    head = NeighbourShares(held, card.neighbours, card.temperature, judge.grid)
    fitted = InContext(head, judge, None, geometry, card, context.device, test.ignore_index, len(test.classes))
    return fitted, masks.plain(), _notes(card, memory, most, train), seconds


def patches_each(card: InContextCard, images: int) -> int | None:
    """How many patches a training view gives at most. Raises UsageError for a memory of fewer patches than there are views."""
    if card.memory_size is None:
        return None
    views = images * max(1, card.views)
    if card.memory_size < views:
        raise UsageError(
            f"{card.name}: field `memory_size`: {card.memory_size} is less than one patch of each of {views} training views; raise it"
        )
    return card.memory_size // views


def _drawing(card: InContextCard) -> tuple[tuple[float, float], tuple[float, float], float, int]:
    return card.view_scale, card.view_ratio, 0.0, card.view_seed


class Masks:
    """The training masks at the resolution of tokens, each read once where no crops are drawn."""

    def __init__(
        self, context: Context[InContextCard], train: SegmentationSet, geometry: Preprocess, grid: tuple[int, int]
    ) -> None:
        self.context, self.train, self.geometry, self.grid = context, train, geometry, grid
        self._plain: list[np.ndarray] = []

    def _each(self) -> Iterator[str]:
        yield from self.context.progress.track(self.train.images.ids, "training masks", unit="mask")

    def counts(self, version: int) -> Iterator[np.ndarray]:
        """Pixel counts [n, C] of each view, one class more where void is one; masks are cut as their images are."""
        card, void, classes = self.context.card, self.train.ignore_index, len(self.train.classes)
        cut = cutter(self.train.images, version, *_drawing(card)) if card.views else None
        for name in self._each():
            if cut is None:
                mask = self._read(name)
            else:
                part = cut(name, Image.fromarray(full_mask(self.train, name).astype(np.int32)))
                mask = np.asarray(self.geometry.geometry(part, nearest=True, fill=void)).astype(np.int64)
            if card.void != "dropped":
                mask = np.where(mask == void, 0 if card.void == "first" else classes, mask)
            yield pixel_counts(mask, self.grid, classes + (card.void == "class"))

    def _read(self, name: str) -> np.ndarray:
        mask = mask_at(self.train, name, self.geometry)
        self._plain.append(grid_labels(mask, self.grid).astype(np.int16))
        return mask

    def plain(self) -> np.ndarray:
        """int16 [N, h, w]: the label at the centre of each token of the images as they are, for the floor."""
        if not self._plain:
            for name in self._each():
                self._read(name)
        return np.stack(self._plain)


def memory_on(memory: Memory, device: torch.device) -> Memory:
    """The memory on the device, where it takes at most half of what is free there; else where it is, and blocks travel to the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(t.numel() * t.element_size() for t in (memory.tokens, memory.inverse, memory.counts)) > free // 2:
            return memory
    return Memory(memory.tokens.to(device), memory.inverse.to(device), memory.counts.to(device))


def _notes(card: InContextCard, memory: Memory, most: int | None, train: SegmentationSet) -> dict[str, object]:
    held = (memory.counts > 0).any(0)[: len(train.classes)].tolist()
    return {
        "memory": {"patches": len(memory), "asked": card.memory_size,
                   "views": len(train.images) * max(1, card.views), "most_of_a_view": most},
        "classes_absent_from_memory": [name for name, there in zip(train.classes, held, strict=True) if not there],
    }  # fmt: skip


def show_incontext(context: Context[InContextCard]) -> Shown:
    """The test set as the memory sees it, for `levl-eval show-dense`."""
    train, test = both_sets(context)
    return shown(remember(context, train, test)[0], test)
