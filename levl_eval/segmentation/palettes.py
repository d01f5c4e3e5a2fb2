"""Colours of classes: a mask file's own palette, Cityscapes' published one, else PASCAL VOC's rule, which names any number of classes."""

from __future__ import annotations

import numpy as np

_CITYSCAPES = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0),
    (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100),
    (0, 0, 230), (119, 11, 32),
)  # fmt: skip


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


def palette(layout: str, classes: int, own: list[int] | None = None) -> np.ndarray:
    """uint8 [classes, 3]. own: flat RGB palette of the set's mask files, where they have one that covers all classes.

    ADE20K and COCO-Stuff masks carry none: they get VOC's rule from index 1 on, so that black stays void.
    """
    if own is not None and len(own) >= 3 * classes:
        return np.array(own[: 3 * classes], np.uint8).reshape(classes, 3)
    if layout == "cityscapes" and classes == len(_CITYSCAPES):
        return np.array(_CITYSCAPES, np.uint8)
    return voc_colours(classes) if layout == "voc" else voc_colours(classes + 1)[1:]


def paint(labels: np.ndarray, colours: np.ndarray, ignore: int) -> np.ndarray:
    """Labels [H, W] -> uint8 [H, W, 3]; void is black."""
    out = np.zeros((*labels.shape, 3), np.uint8)
    keep = labels != ignore
    out[keep] = colours[labels[keep]]
    return out
