"""Images of label propagation for the report: frames with their true masks, and with those that were carried there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from levl_eval.data.types import Video, VideoSet
from levl_eval.engines.dense_images import keep_sheets, spread

# Of objects 1, 2, ...; told apart by lightness too.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)], float
)
_OPACITY = 0.65


def overlaid(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: a frame with the objects of a mask [H, W] in their colours."""
    out = frame.astype(float)
    shown = mask > 0
    out[shown] = (1 - _OPACITY) * out[shown] + _OPACITY * COLOURS[(mask[shown] - 1) % len(COLOURS)]
    return out.round().astype(np.uint8)


def keep_images(
    folder: Path, test: VideoSet, follow: Callable[[Video], Iterator[dict[str, np.ndarray]]], count: int = 3, side: int = 128
) -> None:
    """Two files for the report, of some videos the middle frame and the last but one:
    with the true objects, and with what was made of them.

    follow: a video -> for every frame after the first one the masks by what they are made by.
    """
    truth, made = [], []
    for k in spread(len(test.videos), count):
        video = test.videos[k]
        wanted = sorted({len(video.frames) // 2, len(video.frames) - 2})
        for at, masks in enumerate(follow(video), 1):
            if at in wanted:
                frame = np.array(test.images.open(video.frames[at]))
                truth.append([frame, overlaid(frame, test.mask(video.frames[at]))])
                made.append([overlaid(frame, masks["backbone"]), overlaid(frame, masks["first_mask"])])
            if at == wanted[-1]:
                break
    keep_sheets(folder, truth, made, ("carried", "first mask"), side)
