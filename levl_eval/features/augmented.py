"""Random crops and flips of an image set as image sets of their own, so that the feature store can hold them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from PIL import Image, ImageOps

from levl_eval.data.images import fingerprint_text
from levl_eval.data.types import ImageSet

_VERSION = 2  # 2: drawn by the image, not by its name; of the drawing below; part of the fingerprint
_TRIES = 10


def box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop: area a share within ``scale`` of the image, width to height within ``ratio``.

    Area evenly, ratio evenly in its logarithm, place evenly, as torchvision documents RandomResizedCrop; where ten tries do not fit,
    the largest centred crop whose ratio is allowed.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cutter(
    images: ImageSet, view: int, scale: tuple[float, float], ratio: tuple[float, float], flip: float, seed: int
) -> Callable[[str, Image.Image], Image.Image]:
    """(id, image or a map of its size) -> the part that :func:`cropped` gives of it."""

    def cut(name: str, image: Image.Image) -> Image.Image:
        rng = random.Random(f"view/{_VERSION}/{seed}/{view}/{images.content(name) if images.content else name}")
        part = image.crop(box(*image.size, scale, ratio, rng))
        return ImageOps.mirror(part) if rng.random() < flip else part

    return cut


def cropped(
    images: ImageSet, view: int, scale: tuple[float, float], ratio: tuple[float, float], flip: float, seed: int
) -> ImageSet:
    """Version ``view`` of every image: a random crop, mirrored with probability ``flip``; a function of (seed, view, image) alone.

    The image is known by its content, by its id where the set keeps none: a set under other names gives the same crops.
    """

    cut = cutter(images, view, scale, ratio, flip, seed)

    def open_one(name: str) -> Image.Image:
        return cut(name, images.open(name))

    fingerprint = fingerprint_text([images.fingerprint, f"view {_VERSION} {seed} {view} {scale} {ratio} {flip}"])
    return dataclasses.replace(images, open=open_one, fingerprint=fingerprint, content=None)
