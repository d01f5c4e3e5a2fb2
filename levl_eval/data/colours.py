"""Masks whose labels are stored as colours: the published tables by which colours become labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable

_LINE = re.compile(r"\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\S.*?)\s*")


@dataclass(frozen=True)
class ColourTable:
    """rgb: uint8 [K, 3], all different; ids: the label that each colour stands for. always: palette masks are read by their colours too."""

    rgb: np.ndarray
    ids: np.ndarray
    always: bool = False

    def labels(self, pixels: np.ndarray, what: str) -> np.ndarray:
        """uint8 [H, W, 3] -> labels int64 [H, W]. Raises LevlError: a colour that the table does not have."""
        codes = _codes(self.rgb)
        order = np.argsort(codes)
        wanted = _codes(pixels)
        at = np.minimum(np.searchsorted(codes[order], wanted), len(codes) - 1)
        wrong = codes[order][at] != wanted
        if wrong.any():
            colour = ", ".join(map(str, pixels[wrong][0].tolist()))
            raise LevlError(
                f"{what}: colour ({colour}) of {int(wrong.sum())} pixels is none of the {len(codes)} of the colour table; "
                "correct `classes`, or take masks that were neither resized nor compressed"
            )
        out: np.ndarray = self.ids[order][at]
        return out


def _codes(rgb: np.ndarray) -> np.ndarray:
    wide = rgb.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def voc_colours(n: int) -> np.ndarray:
    """uint8 [n, 3] by the VOC devkit's rule: the bits of an index, three at a time, become the high bits of red, green and blue."""
    out = np.zeros((n, 3), np.uint8)
    for i in range(n):
        rest, shift = i, 7
        while rest:
            for channel in range(3):
                out[i, channel] |= ((rest >> channel) & 1) << shift
            rest, shift = rest >> 3, shift - 1
    return out


# Twenty-one classes and void (255, which the rule gives the colour 224, 224, 192).
VOC_COLOURS = ColourTable(voc_colours(256)[[*range(21), 255]], np.array([*range(21), 255]))


def colour_lines(lines: Sequence[str], source: object) -> tuple[list[str], np.ndarray] | None:
    """Names and colours of a file with lines "RED GREEN BLUE NAME", as CamVid's label_colors.txt is; None for other files.

    Raises UsageError naming the line: a number beyond 255, a colour of two classes.
    """
    matches = [_LINE.fullmatch(line) for line in lines]
    if not matches or not all(matches):
        return None
    rgb = [tuple(int(m[k]) for k in (1, 2, 3)) for m in matches if m]
    for number, colour in enumerate(rgb):
        if max(colour) > 255:
            raise UsageError(f"{source}: line {number + 1}: colour {colour} has a value above 255; correct the line")
        if colour in rgb[:number]:
            name = printable(lines[rgb.index(colour)].strip())[:60]
            raise UsageError(f"{source}: line {number + 1}: colour {colour} is that of {name!r} too; make them differ")
    return [m[4] for m in matches if m], np.array(rgb, np.uint8)
