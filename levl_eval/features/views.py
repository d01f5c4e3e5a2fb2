"""Several fixed views of one preprocessed image: sliding windows and mirror images, as data for keys and protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from levl_eval.core.errors import UsageError


class Box(NamedTuple):
    """A square cut of a image in pixels, mirrored left to right where ``flip`` is 1."""

    top: int
    left: int
    side: int
    flip: int


@dataclass(frozen=True)
class Views:
    """Equal squares cut out of images of ``size`` x ``size`` pixels."""

    size: int
    boxes: tuple[Box, ...]

    @property
    def side(self) -> int:
        """Side of every view in pixels: what the encoder sees."""
        return self.boxes[0].side

    def cut(self, images: Tensor) -> Tensor:
        """[B, ..., size, size] -> [B, V, ..., side, side]; for images [B, 3, S, S] and label maps [B, S, S] alike."""
        cuts = []
        for box in self.boxes:
            part = images[..., box.top : box.top + box.side, box.left : box.left + box.side]
            cuts.append(part.flip(-1) if box.flip else part)
        return torch.stack(cuts, 1)


def make_views(size: int, window: int | None, stride: int | None, flip: bool) -> Views | None:
    """Windows of ``window`` pixels every ``stride`` pixels over a ``size`` x ``size`` image, each also mirrored with ``flip``.

    The last window of a row or column is moved back so that it ends at the border. None where there is one unmirrored view.
    Raises UsageError for a window beyond the image or a stride that would leave gaps.
    """
    side = window or size
    step = stride or side
    if side > size:
        raise UsageError(f"field `window`: {side} is beyond the image's {size} pixels; raise `size` or lower `window`")
    if not 0 < step <= side:
        raise UsageError(f"field `stride`: {step} is not within 1..{side}, the window; it would leave gaps")
    starts = sorted({min(s, size - side) for s in range(0, size - side + step, step)})
    boxes = tuple(Box(t, x, side, f) for t in starts for x in starts for f in ((0, 1) if flip else (0,)))
    return None if len(boxes) == 1 else Views(size, boxes)
