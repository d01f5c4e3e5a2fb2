"""Letters in an image, beside what they name: on arrows, at circled points, on boxes. Drawn over a scene that knows nothing of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.scenes.signs import glyph

Kind = Literal["arrow", "point", "box"]
_INK, _PLATE = (28, 26, 30), (250, 248, 240)
_COLOURS = ((214, 32, 40), (28, 72, 200), (20, 120, 60), (150, 40, 150))  # of the first label, the second, ...
_REACH = 0.2  # of the image's side: how far an arrow's letter stands from what it points at


class Label(NamedTuple):
    """A letter and what it names, in shares of the image's side.

    box: (left, top, right, bottom), of a point or an arrow's end twice the same.
    """

    letter: str
    kind: Kind
    box: tuple[float, float, float, float]


def at(letter: str, kind: Kind, x: float, y: float) -> Label:
    """A label of a point."""
    return Label(letter, kind, (x, y, x, y))


def _plate(draw: ImageDraw.ImageDraw, letter: str, middle: tuple[float, float], size: int) -> None:
    """A letter on its plate, wholly within the image."""
    cell = max(1, round(size / 72))
    width, height = 7 * cell, 9 * cell
    left = int(min(size - width, max(0, round(middle[0] - width / 2))))
    top = int(min(size - height, max(0, round(middle[1] - height / 2))))
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_PLATE, outline=_INK if cell > 1 else None)
    for row, column in zip(*np.nonzero(glyph(letter)), strict=True):
        x, y = left + cell * (1 + int(column)), top + cell * (1 + int(row))
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=_INK)


def labelled(pixels: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """uint8 [S, S, 3] with the labels in front; a pure function of its arguments."""
    size = len(pixels)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    thin = max(1, round(size / 96))
    plates = []
    for k, label in enumerate(labels):
        colour = _COLOURS[k % len(_COLOURS)]
        left, top, right, bottom = (round(v * size) for v in label.box)
        if label.kind == "box":
            draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thin)
            plates.append((label.letter, (left + 4.0 * thin, top - 5.0 * thin)))
        elif label.kind == "point":
            r = max(2, round(0.03 * size))
            # on any ground
            draw.ellipse((left - r - thin, top - r - thin, left + r + thin, top + r + thin), outline=_PLATE, width=thin)
            draw.ellipse((left - r, top - r, left + r, top + r), outline=colour, width=thin)
            plates.append((label.letter, (left + r + 6.0 * thin, float(top))))
        else:
            away = _REACH * size
            x = left + (away if left < size / 2 else -away)
            y = top + (-away if top > size / 3 else away)
            draw.line((x, y, left, top), fill=colour, width=2 * thin)
            r = max(1, round(0.015 * size))
            draw.ellipse((left - r, top - r, left + r, top + r), fill=colour)  # the end that points
            plates.append((label.letter, (x, y)))
    for letter, middle in plates:  # in front of every line
        _plate(draw, letter, middle, size)
    return np.asarray(image)
