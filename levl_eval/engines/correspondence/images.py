"""Images of correspondence for the report: a pair with its true keypoints, and where a backbone finds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.data.types import KeypointPair, PairSet
from levl_eval.engines.correspondence.matching import Matches
from levl_eval.engines.dense_images import keep_sheets, spread

# Of the keypoints of a pair, in order; told apart by lightness too.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
)
RIGHT, WRONG = (60, 220, 90), (235, 50, 50)


def _canvas(image: Image.Image, side: int) -> tuple[Image.Image, np.ndarray]:
    """The image squashed to a square, and what its pixels are multiplied by."""
    return image.resize((side, side), Image.Resampling.BICUBIC), side / np.array(image.size)


def _dot(draw: ImageDraw.ImageDraw, at: np.ndarray, colour: tuple[int, int, int], r: float) -> None:
    x, y = float(at[0]), float(at[1])
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=(0, 0, 0))


def with_points(image: Image.Image, points: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the image with its keypoints [K, 2], one colour each."""
    canvas, scale = _canvas(image, side)
    draw = ImageDraw.Draw(canvas)
    for k, at in enumerate((points + 0.5) * scale):
        _dot(draw, at, COLOURS[k % len(COLOURS)], side / 40)
    return np.array(canvas)


def with_matches(image: Image.Image, pair: KeypointPair, matches: Matches, right: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the target with each keypoint where it was found, and a line to its true place: green if right, else red."""
    canvas, scale = _canvas(image, side)
    draw = ImageDraw.Draw(canvas)
    for k, (at, true) in enumerate(zip((matches.best + 0.5) * scale, (pair.target_points + 0.5) * scale, strict=True)):
        verdict = RIGHT if right[k] > 0.5 else WRONG
        draw.line((*map(float, at), *map(float, true)), fill=verdict, width=2)
        _dot(draw, at, verdict, side / 22)
        _dot(draw, at, COLOURS[k % len(COLOURS)], side / 60)
    return np.array(canvas)


def keep_images(
    folder: Path, test: PairSet, match: Callable[[KeypointPair], tuple[Matches, np.ndarray]], count: int = 6, side: int = 128
) -> None:
    """Two files for the report: both images of some pairs with their keypoints, and the target with where they are found.

    match: a pair -> its matches, and [K] whether they are right.
    """
    truth, made = [], []
    for k in spread(len(test.pairs), count):
        pair = test.pairs[k]
        source, target = test.images.open(pair.source), test.images.open(pair.target)
        truth.append([with_points(source, pair.source_points, side), with_points(target, pair.target_points, side)])
        made.append([with_matches(target, pair, *match(pair), side)])
    keep_sheets(folder, truth, made, ("found",), side)
