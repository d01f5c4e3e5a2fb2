"""Feeding an encoder: images decoded and cut ahead of it by worker processes, sent to its device as bytes, normalised there.

A worker opens a batch of images, converts, resizes and crops them (models.preprocess) and hands over uint8 pixels: a quarter of float32's
bytes, and float arithmetic runs once a batch where the encoder runs. Pixels and normalised values are those of
``Preprocess.__call__`` to the bit. Small sets, and machines whose shared memory cannot hold a few batches, are decoded by threads
of this process instead.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from levl_eval.backbones.base import Preprocess
from levl_eval.core.children import begin_child
from levl_eval.core.distributed import cores
from levl_eval.core.errors import LevlError
from levl_eval.data.types import ImageSet

T = TypeVar("T")
PROCESSES_FROM = 512  # images from which worker processes repay their start
AHEAD = 2  # batches that each worker has ready
_SHARED = "/dev/shm"


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Image ids that are encoded together; ``tag`` comes back with their pixels."""

    tag: T
    ids: Sequence[str]


class _Decoded(Dataset[tuple[object, Tensor | LevlError]]):
    """What workers run: Batch -> (tag, uint8 [b, S, S, 3]), or the error instead,
    which would lose its type on the way between processes."""

    def __init__(self, images: ImageSet, preprocess: Preprocess) -> None:
        self._images, self._preprocess = images, preprocess

    def __getitem__(self, batch: Batch[object]) -> tuple[object, Tensor | LevlError]:
        try:
            pixels = np.stack([self._preprocess.pixels(self._images.open(name)) for name in batch.ids])
            return batch.tag, torch.from_numpy(pixels)  # travels through shared memory
        except LevlError as e:
            return batch.tag, e


def worker_count(images: int, batch_size: int, size: int) -> int:
    """Processes that decode: as many as cores, or 0 where threads do as well or shared memory is too small."""
    if images < PROCESSES_FROM or cores() < 2 or sys.platform != "linux":
        return 0
    try:
        shared = os.statvfs(_SHARED)
        room = shared.f_bavail * shared.f_frsize
    except OSError:
        return 0
    wanted = min(cores(), -(-images // batch_size))
    return wanted if 2 * (AHEAD + 1) * wanted * batch_size * size * size * 3 < room else 0


def pixels_of(
    images: ImageSet, preprocess: Preprocess, batches: Iterable[Batch[T]], device: torch.device, workers: int
) -> Iterator[tuple[T, Tensor]]:
    """(tag, uint8 [b, S, S, 3] on the CPU) of each batch, in order, decoded ahead. ``batches`` is read ahead too.

    Raises LevlError for an image that cannot be decoded.
    """
    if not workers:
        yield from _by_threads(images, preprocess, batches)
        return
    loader = DataLoader(
        _Decoded(images, preprocess), batch_size=None, sampler=batches, num_workers=workers, prefetch_factor=AHEAD,
        multiprocessing_context="fork", worker_init_fn=begin_child, pin_memory=device.type == "cuda",
    )  # fmt: skip
    for tag, pixels in loader:
        if isinstance(pixels, LevlError):
            raise pixels
        yield tag, pixels


def _by_threads(images: ImageSet, preprocess: Preprocess, batches: Iterable[Batch[T]]) -> Iterator[tuple[T, Tensor]]:
    """The same; the next batch is decoded by threads while one is encoded."""

    def load(name: str) -> np.ndarray:
        return preprocess.pixels(images.open(name))

    def taken(ready: tuple[T, list[Future[np.ndarray]]]) -> tuple[T, Tensor]:
        return ready[0], torch.from_numpy(np.stack([f.result() for f in ready[1]]))

    with ThreadPoolExecutor(min(8, cores())) as pool:
        ahead: deque[tuple[T, list[Future[np.ndarray]]]] = deque()
        for batch in batches:
            ahead.append((batch.tag, [pool.submit(load, n) for n in batch.ids]))
            if len(ahead) > 1:
                yield taken(ahead.popleft())
        while ahead:
            yield taken(ahead.popleft())


def to_device(pixels: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """uint8 [b, S, S, 3] -> float32 [b, 3, S, S] on the device, normalised there."""
    return preprocess.normalize(pixels.to(device, non_blocking=True))
