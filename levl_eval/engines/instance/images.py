"""Images of instance retrieval for the report: queries with an image to find, and the first images of their lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from levl_eval.data.types import InstanceSet
from levl_eval.engines.dense_images import keep_sheets, spread

RIGHT, WRONG, JUNK = (60, 200, 90), (235, 50, 50), (150, 150, 150)


def framed(image: Image.Image, colour: tuple[int, int, int] | None, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: an image squashed to a square, in a frame of ``colour``."""
    width = max(2, side // 24) if colour else 0
    out = Image.new("RGB", (side, side), colour or (0, 0, 0))
    out.paste(image.resize((side - 2 * width, side - 2 * width), Image.Resampling.BICUBIC), (width, width))
    return np.array(out)


def keep_images(
    folder: Path, test: InstanceSet, ranked: Sequence[np.ndarray], count: int = 6, side: int = 112, first: int = 4
) -> None:
    """Two files for the report: some queries with one of their images, and the first images of each one's list, junk in grey."""
    truth, made = [], []
    with_images = [k for k, q in enumerate(test.queries) if q.easy or q.hard]
    for k in (with_images[i] for i in spread(len(with_images), count)):
        query = test.queries[k]
        goal = (query.hard or query.easy)[0]
        truth.append([framed(test.images.open(query.image), None, side), framed(test.images.open(goal), RIGHT, side)])
        names = [test.database[i] for i in ranked[k][:first]]
        colours = [RIGHT if n in (*query.easy, *query.hard) else JUNK if n in query.junk else WRONG for n in names]
        made.append([framed(test.images.open(n), c, side) for n, c in zip(names, colours, strict=True)])
    keep_sheets(folder, truth, made, [f"{k + 1}." for k in range(first)], side)
