"""Images of dense results: truth, prediction, errors and a PCA of the patch tokens, all backbones side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import SegmentationCard
from levl_eval.cards.dense import MapCard, MMSegCard
from levl_eval.core.files import atomic_write
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.dense_images import Shown, keep_sheets, pca_rgb, side_by_side
from levl_eval.engines.segmentation.fitting import Fitted, full_mask, prepare, train_and_open, truth_of
from levl_eval.engines.segmentation.palettes import paint, palette

_RIGHT, _WRONG, _VOID = (225, 225, 225), (200, 30, 30), (0, 0, 0)
LEGEND = "legend.json"


def palette_of(card: MapCard | MMSegCard, test: SegmentationSet) -> np.ndarray:
    """uint8 [classes, 3]: the data set's colours."""
    return palette(card.data.layout, len(test.classes), test.palette)


def error_map(predicted: np.ndarray, truth: np.ndarray, ignore: int) -> np.ndarray:
    """uint8 [H, W, 3]: light grey where right, red where wrong, black where void."""
    out = np.empty((*truth.shape, 3), np.uint8)
    out[:] = _RIGHT
    out[predicted != truth] = _WRONG
    out[truth == ignore] = _VOID
    return out


def _photo(test: SegmentationSet, name: str, geometry: Preprocess, whole: bool) -> np.ndarray:
    image = test.images.open(name)
    return np.array(image if whole else geometry.geometry(image))


def truth_columns(test: SegmentationSet, ids: Sequence[str], geometry: Preprocess, card: MapCard) -> list[list[np.ndarray]]:
    """Photo and truth of each image, in the data set's colours."""
    colours = palette_of(card, test)
    out = []
    for name in ids:
        truth = paint(truth_of(test, name, geometry, card), colours, test.ignore_index)
        out.append([_photo(test, name, geometry, card.score == "original"), truth])
    return out


def predicted_columns(fitted: Fitted, test: SegmentationSet, ids: Sequence[str]) -> list[list[np.ndarray]]:
    """Prediction, errors and tokens' PCA of each image."""
    card, row_of = fitted.card, fitted.features.row
    colours, ignore = palette_of(card, test), test.ignore_index
    tokens = fitted.features.patches[[row_of[i] for i in ids]]
    if fitted.views is not None:
        tokens = tokens[:, 0]  # the first window
    out = []
    for name, components in zip(ids, pca_rgb(tokens, fitted.features.grid), strict=True):
        truth = truth_of(test, name, fitted.geometry, card)
        predicted = fitted.predict(row_of[name], (truth.shape[0], truth.shape[1])).cpu().numpy()
        out.append([paint(predicted, colours, ignore), error_map(predicted, truth, ignore), components])
    return out


def _keep_legend(folder: Path, shown: Sequence[np.ndarray], colours: np.ndarray, classes: Sequence[str], most: int = 60) -> None:
    """Names and colours (#rrggbb) of the classes that painted labels [H, W, 3] show, in order of class, for the report's legend."""
    there = {tuple(c) for image in shown for c in np.unique(image.reshape(-1, 3), axis=0)}
    entries = [[n, "#" + bytes(c).hex()] for n, c in zip(classes, colours, strict=True) if tuple(c) in there]
    atomic_write(folder / LEGEND, json.dumps(entries[:most], ensure_ascii=False))


def shown(fitted: Fitted, test: SegmentationSet) -> Shown:
    """The test set as a trained head sees it."""
    return Shown(
        fitted.features.row,
        lambda ids: truth_columns(test, ids, fitted.geometry, fitted.card),
        lambda ids: predicted_columns(fitted, test, ids),
        ("errors", "PCA"),
    )


def show_dense(
    contexts: Sequence[tuple[str, Context[SegmentationCard]]], names: Sequence[str] | None = None, count: int = 6, side: int = 128
) -> bytes:
    """One PNG of prediction, errors and tokens' PCA; see dense_images.side_by_side."""

    def of(context: Context[SegmentationCard]) -> Shown:
        train, test, geometry, views = prepare(context)
        return shown(train_and_open(context, train, test, geometry, views)[0], test)

    return side_by_side(contexts, of, names, count, side)


def keep_images(folder: Path, fitted: Fitted, test: SegmentationSet, count: int = 6, side: int = 96) -> None:
    """The same images of one backbone as files for the report: photo and truth, what the backbone makes of them, and a legend."""
    one = shown(fitted, test)
    ids = one.spread(count)
    _keep(folder, one.truth(ids), one.made(ids), ("prediction", *one.captions), palette_of(fitted.card, test), test.classes, side)


def keep_predictions(
    folder: Path, card: SegmentationCard | MMSegCard, test: SegmentationSet, predictions: dict[str, np.ndarray], side: int = 96
) -> None:
    """As keep_images, of predictions [H, W] that are there already, at the masks' own resolution and without tokens."""
    colours, ignore = palette_of(card, test), test.ignore_index
    truth = {name: full_mask(test, name) for name in predictions}
    data = [[np.array(test.images.open(n)), paint(t, colours, ignore)] for n, t in truth.items()]
    made = [[paint(p, colours, ignore), error_map(p, truth[n], ignore)] for n, p in predictions.items()]
    _keep(folder, data, made, ("prediction", "errors"), colours, test.classes, side)


def _keep(
    folder: Path, truth: list[list[np.ndarray]], made: list[list[np.ndarray]], captions: Sequence[str], colours: np.ndarray,
    classes: Sequence[str], side: int,
) -> None:  # fmt: skip
    keep_sheets(folder, truth, made, captions, side)
    _keep_legend(folder, [*(row[1] for row in truth), *(row[0] for row in made)], colours, classes)
