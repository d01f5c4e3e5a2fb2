"""Boxes written as text: how an answer is read, and how far the box it gives covers the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom
THRESHOLD = 0.5  # of the intersection over union, from which on a box is right
DECIMALS = 2  # of a coordinate in a question's answer, as LLaVA-1.5 writes them
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


def box_text(box: Sequence[float], decimals: int = DECIMALS) -> str:
    """ "[0.38, 0.39, 0.82, 0.92]": left, top, right, bottom as shares of the image's width and height."""
    return "[" + ", ".join(f"{v:.{decimals}f}" for v in box) + "]"


def read_box(text: str) -> Box | None:
    """The first four numbers in square brackets, with commas between them;
    None where there are none (lmms-eval's rule for its REC tasks)."""
    match = _BOX.search(text)
    return None if match is None else (float(match[1]), float(match[2]), float(match[3]), float(match[4]))


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), in [0, 1]; a box whose sides are the wrong way round covers nothing.

    The same in pixels and in shares of an image: width and height are scaled alike above and below the line.
    """
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    one, other = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return wide * high / (one + other - wide * high)


def holds_centre(truth: Sequence[float], given: Sequence[float]) -> bool:
    """Whether the centre of the given box lies in the right one (lmms-eval's Center_ACC)."""
    x, y = (given[0] + given[2]) / 2, (given[1] + given[3]) / 2
    return truth[0] <= x <= truth[2] and truth[1] <= y <= truth[3]
