"""Augmented training images with their depth maps: a fixed part, rotation,
mirror image, random crop and colours, as DINOv3's evaluation has them.

An augmentation is a function of the seed and of its place in the training alone, so that a training that was resumed gives the same head.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from levl_eval.cards.dense import DepthRecipeCard
from levl_eval.core.errors import LevlError

# Left, top, right, bottom of 640 x 480: NYUv2 without the white border of its images (BTS, AdaBins, DINOv2, DINOv3).
FRAMES = {"nyu": (43 / 640, 45 / 480, 608 / 640, 472 / 480)}


def framed(image: Image.Image, frame: str) -> Image.Image:
    """The card's fixed part of an image or of a depth map."""
    if frame == "none":
        return image
    left, top, right, bottom = FRAMES[frame]
    wide, high = image.size
    return image.crop((int(left * wide), int(top * high), int(right * wide), int(bottom * high)))


def coloured(levels: np.ndarray, card: DepthRecipeCard, rng: np.random.Generator) -> np.ndarray:
    """float32 [H, W, 3] of 0 to 255 with another gamma, brightness and balance, cut off at both ends."""
    out = levels ** rng.uniform(*card.gamma) * rng.uniform(*card.brightness) * rng.uniform(*card.channels, 3)
    return np.asarray(np.clip(out, 0, 255), np.float32)


def augmented(
    image: Image.Image, depth: np.ndarray, card: DepthRecipeCard, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 levels [h, w, 3], metres [h, w], 0 unknown) of an RGB image and its map [H, W].

    Raises LevlError where the image is smaller than the crop.
    """
    image, metres = (
        framed(x, card.frame) for x in (image, Image.fromarray(np.nan_to_num(depth, posinf=0, neginf=0).astype(np.float32)))
    )
    if card.rotation and rng.random() < 0.5:
        angle = rng.uniform(-card.rotation, card.rotation)
        image, metres = image.rotate(angle, Image.Resampling.BILINEAR), metres.rotate(angle, Image.Resampling.NEAREST)
    mirrored = rng.random() < card.flip
    wide, high = image.size
    rows, columns = card.train_crop or (high, wide)
    if rows > high or columns > wide:
        raise LevlError(f"an image has {wide}x{high} pixels, `train_crop` asks for {columns}x{rows}; set a smaller one")
    top, left = int(rng.integers(0, high - rows + 1)), int(rng.integers(0, wide - columns + 1))
    levels, known = (np.asarray(x)[top : top + rows, left : left + columns].astype(np.float32) for x in (image, metres))
    if mirrored:
        levels, known = levels[:, ::-1], known[:, ::-1]
    if rng.random() < card.colour:
        levels = coloured(levels, card, rng)
    return np.ascontiguousarray(levels), np.ascontiguousarray(known)
