"""Sheets of images from dense tasks, all backbones side by side, for the report and `levl-eval show-dense`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.cards import TaskFields
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.text import did_you_mean
from levl_eval.engines.contract import Context

TRUTH, DENSE = "truth.png", "dense.png"  # a record's sheets: photo and truth, and what the backbone makes of them
_LINE = 16  # pixels of a caption line
Card = TypeVar("Card", bound=TaskFields)


def pca_rgb(tokens: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    """The first three principal components of all tokens [N, n, D] together as red, green and blue: uint8 [h, w, 3] an image.

    One basis for all images, so that equal colours mean equal features; each component spans its 1st to 99th percentile, and
    its sign is fixed so that its largest weight is positive.
    """
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    basis = vectors[:, ::-1][:, :3]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), range(basis.shape[1])])
    scores = centred @ basis
    low, high = np.percentile(scores, (1, 99), axis=0)
    shown = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    if shown.shape[1] < 3:
        shown = np.pad(shown, ((0, 0), (0, 3 - shown.shape[1])))
    return list((255 * shown).round().astype(np.uint8).reshape(len(tokens), *grid, 3))


def _tile(array: np.ndarray, side: int, nearest: bool = True) -> Image.Image:
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return Image.fromarray(array).resize((side, side), method)


def sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], side: int = 128, photos: bool = True) -> Image.Image:
    """Rows of uint8 images as one sheet with a caption above each column; label maps keep hard edges.

    photos: the first column holds photographs.
    """
    columns = len(captions)
    out = Image.new("RGB", (columns * (side + 4) + 4, _LINE + len(rows) * (side + 4) + 4), "white")
    draw = ImageDraw.Draw(out)
    for k, text in enumerate(captions):
        draw.text((4 + k * (side + 4), 3), text[: side // 6], fill="black")
    for r, row in enumerate(rows):
        for k, array in enumerate(row):
            out.paste(_tile(array, side, nearest=k > 0 or not photos), (4 + k * (side + 4), _LINE + 4 + r * (side + 4)))
    return out


def png(image: Image.Image) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def spread(n: int, count: int) -> list[int]:
    """``count`` indices spread evenly over 0..n-1, the same for every backbone."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, count))})


def known(ids: Sequence[str], row_of: dict[str, int]) -> None:
    """Raises UsageError for an id that is not in the test set."""
    for name in ids:
        if name not in row_of:
            raise UsageError(f"image {name!r} is not in the test set{did_you_mean(name, list(row_of))}")


@dataclass(frozen=True)
class Shown:
    """A trained head's test set as columns of images. truth: ids -> a row each of photo and truth; made: a row each of three more.

    captions: of the latter two; the first is the backbone's name, or "prediction".
    """

    row_of: dict[str, int]  # of the test images, in their order
    truth: Callable[[Sequence[str]], list[list[np.ndarray]]]
    made: Callable[[Sequence[str]], list[list[np.ndarray]]]
    captions: tuple[str, ...]

    def spread(self, count: int) -> list[str]:
        """``count`` ids spread evenly over the set."""
        ids = list(self.row_of)
        return [ids[i] for i in spread(len(ids), count)]


def side_by_side(
    contexts: Sequence[tuple[str, Context[Card]]], shown: Callable[[Context[Card]], Shown], names: Sequence[str] | None, count: int,
    side: int,
) -> bytes:  # fmt: skip
    """One PNG: a row an image; photo and truth, then what each (name, context) makes of it.

    The contexts hold one task card on several backbones; heads are trained from cached features as in a run, with equal seeds.
    names: image ids; None: ``count`` spread evenly over the test set. Raises UsageError/LevlError as the task does.
    """
    captions = ["image", "truth"]
    rows: list[list[np.ndarray]] = []
    for title, context in contexts:
        one = shown(context)
        ids = list(names) if names else one.spread(count)
        known(ids, one.row_of)
        rows = rows or one.truth(ids)
        for row, more in zip(rows, one.made(ids), strict=True):
            row += more
        captions += [title, *one.captions]
    return png(sheet(rows, captions, side))


def keep_sheets(
    folder: Path, truth: list[list[np.ndarray]], made: list[list[np.ndarray]], captions: Sequence[str], side: int
) -> None:
    """Two files for the report: photo and truth, and what the backbone makes of them under ``captions``."""
    atomic_write(folder / TRUTH, png(sheet(truth, ["image", "truth"], side)))
    atomic_write(folder / DENSE, png(sheet(made, captions, side, photos=False)))
