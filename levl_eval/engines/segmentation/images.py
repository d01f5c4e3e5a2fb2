"""Images of dense results: truth, prediction, errors and a PCA of the patch tokens, all backbones side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import SegmentationCard
from levl_eval.cards.dense import MMSegCard
from levl_eval.core.files import atomic_write
from levl_eval.core.text import did_you_mean
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.segmentation.fitting import Fitted, full_mask, prepare, train_and_open, truth_of
from levl_eval.engines.segmentation.palettes import paint, palette

_RIGHT, _WRONG, _VOID = (225, 225, 225), (200, 30, 30), (0, 0, 0)
_LINE = 16  # pixels of a caption line


def pca_rgb(tokens: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    """The first three principal components of all tokens [N, n, D] together as red, green and blue: uint8 [h, w, 3] a image.

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


def error_map(predicted: np.ndarray, truth: np.ndarray, ignore: int) -> np.ndarray:
    """uint8 [H, W, 3]: light grey where right, red where wrong, black where void."""
    out = np.empty((*truth.shape, 3), np.uint8)
    out[:] = _RIGHT
    out[predicted != truth] = _WRONG
    out[truth == ignore] = _VOID
    return out


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


def _photo(test: SegmentationSet, name: str, geometry: Preprocess, whole: bool) -> np.ndarray:
    image = test.images.open(name)
    return np.array(image if whole else geometry.geometry(image))


def truth_columns(
    test: SegmentationSet, ids: Sequence[str], geometry: Preprocess, card: SegmentationCard
) -> list[list[np.ndarray]]:
    """Photo and truth of each image, in the data set's colours."""
    colours = palette(card.data.layout, len(test.classes), test.palette)
    out = []
    for name in ids:
        truth = paint(truth_of(test, name, geometry, card), colours, test.ignore_index)
        out.append([_photo(test, name, geometry, card.score == "original"), truth])
    return out


def predicted_columns(fitted: Fitted, test: SegmentationSet, ids: Sequence[str]) -> list[list[np.ndarray]]:
    """Prediction, errors and tokens' PCA of each image."""
    card, row_of = fitted.card, fitted.features.row
    colours, ignore = palette(card.data.layout, len(test.classes), test.palette), test.ignore_index
    tokens = np.asarray(fitted.features.patches)[[row_of[i] for i in ids]]
    if fitted.views is not None:
        tokens = tokens[:, 0]  # the first window
    out = []
    for name, components in zip(ids, pca_rgb(tokens, fitted.features.grid), strict=True):
        truth = truth_of(test, name, fitted.geometry, card)
        predicted = fitted.predict(row_of[name], (truth.shape[0], truth.shape[1])).cpu().numpy()
        out.append([paint(predicted, colours, ignore), error_map(predicted, truth, ignore), components])
    return out


def show_dense(
    contexts: Sequence[tuple[str, Context[SegmentationCard]]], names: Sequence[str] | None = None, count: int = 6, side: int = 128
) -> bytes:
    """One PNG: a row an image; photo and truth, then for each (name, context) its prediction, its errors and its tokens' PCA.

    The contexts hold one task card on several backbones; heads are trained from cached features as in a run, with equal seeds.
    names: image ids; default: ``count`` spread evenly over the test set. Raises UsageError/LevlError as the task does.
    """
    captions = ["image", "truth"]
    rows: list[list[np.ndarray]] = []
    for title, context in contexts:
        train, test, geometry, views = prepare(context)
        fitted = train_and_open(context, train, test, geometry, views)[0]
        ids = list(names) if names else [test.images.ids[i] for i in spread(len(test.images), count)]
        known(ids, fitted.features.row)
        rows = rows or truth_columns(test, ids, geometry, context.card)
        for row, more in zip(rows, predicted_columns(fitted, test, ids), strict=True):
            row += more
        captions += [title, "errors", "PCA"]
    return png(sheet(rows, captions, side))


TRUTH, DENSE, LEGEND = "truth.png", "dense.png", "legend.json"


def _keep_legend(folder: Path, shown: Sequence[np.ndarray], colours: np.ndarray, classes: Sequence[str], most: int = 60) -> None:
    """Names and colours (#rrggbb) of the classes that painted labels [H, W, 3] show, in order of class, for the report's legend."""
    there = {tuple(c) for image in shown for c in np.unique(image.reshape(-1, 3), axis=0)}
    found = [[n, "#" + bytes(c).hex()] for n, c in zip(classes, colours, strict=True) if tuple(c) in there]
    atomic_write(folder / LEGEND, json.dumps(found[:most], ensure_ascii=False))


def keep_images(folder: Path, fitted: Fitted, test: SegmentationSet, count: int = 6, side: int = 96) -> None:
    """The same images of one backbone as files for the report: photo and truth, what the backbone makes of them, and a legend."""
    ids = [test.images.ids[i] for i in spread(len(test.images), count)]
    data, made = truth_columns(test, ids, fitted.geometry, fitted.card), predicted_columns(fitted, test, ids)
    atomic_write(folder / TRUTH, png(sheet(data, ["image", "truth"], side)))
    atomic_write(folder / DENSE, png(sheet(made, ["prediction", "errors", "PCA"], side, photos=False)))
    colours = palette(fitted.card.data.layout, len(test.classes), test.palette)
    _keep_legend(folder, [*(row[1] for row in data), *(row[0] for row in made)], colours, test.classes)


def keep_predictions(
    folder: Path, card: SegmentationCard | MMSegCard, test: SegmentationSet, found: dict[str, np.ndarray], side: int = 96
) -> None:
    """As keep_images, of predictions [H, W] that are there already, at the masks' own resolution and without tokens."""
    colours, ignore = palette(card.data.layout, len(test.classes), test.palette), test.ignore_index
    truth = {name: full_mask(test, name) for name in found}
    data = [[np.array(test.images.open(n)), paint(t, colours, ignore)] for n, t in truth.items()]
    made = [[paint(p, colours, ignore), error_map(p, truth[n], ignore)] for n, p in found.items()]
    atomic_write(folder / TRUTH, png(sheet(data, ["image", "truth"], side)))
    atomic_write(folder / DENSE, png(sheet(made, ["prediction", "errors"], side, photos=False)))
    _keep_legend(folder, [*(row[1] for row in data), *(row[0] for row in made)], colours, test.classes)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def spread(n: int, count: int) -> list[int]:
    """``count`` indices spread evenly over 0..n-1, the same for every backbone."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, count))})


def known(ids: Sequence[str], row_of: dict[str, int]) -> None:
    from levl_eval.core.errors import UsageError

    for name in ids:
        if name not in row_of:
            raise UsageError(f"image {name!r} is not in the test set{did_you_mean(name, list(row_of))}")
