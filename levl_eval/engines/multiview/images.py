"""Images of multi-view correspondence for the report: two views, and some of the matches in the second, green where right, else red."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.data.types import MultiviewSet
from levl_eval.engines.correspondence.images import COLOURS, RIGHT, WRONG
from levl_eval.engines.dense_images import keep_sheets, spread
from levl_eval.engines.multiview.matching import matched, motion

if TYPE_CHECKING:
    from levl_eval.engines.multiview.task import Matcher, Pair

SHOWN = 12  # matches of a pair


def with_cells(
    image: Image.Image, cells: np.ndarray, resolution: int, rings: list[tuple[int, int, int]], side: int
) -> np.ndarray:
    """uint8 [side, side, 3]: the image with the middles of cells [K], each in its colour within a ring."""
    canvas = image.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for k, cell in enumerate(cells.tolist()):
        x, y = ((v + 0.5) * side / resolution for v in (cell % resolution, cell // resolution))
        for r, fill in ((side / 30, rings[k]), (side / 50, COLOURS[k % len(COLOURS)])):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    return np.array(canvas)


def keep_images(folder: Path, test: MultiviewSet, matcher: Matcher, pairs: list[Pair], count: int = 6, side: int = 128) -> None:
    """Two files for the report: both views of some pairs with a few points, and the second view with where they are found."""
    card, truth, made = matcher.card, [], []
    for k in spread(len(pairs), count):
        p = pairs[k]
        source, target = matcher.cells(p.source), matcher.cells(p.target)
        threshold = card.threshold_cm / 100
        kept = matched(source, target, motion(p.source, p.target), card.matches, [threshold])
        some = spread(len(kept.source), SHOWN)
        images = [test.images.open(v.image) for v in (p.source, p.target)]
        black, right = [(0, 0, 0)] * len(some), kept.right[threshold][some]
        first = with_cells(images[0], kept.source[some], card.resolution, black, side)
        truth.append([first, np.array(images[1].resize((side, side), Image.Resampling.BICUBIC))])
        rings = [RIGHT if r > 0.5 else WRONG for r in right]
        made.append([with_cells(images[1], kept.target[some], card.resolution, rings, side)])
    keep_sheets(folder, truth, made, ("found",), side)
