"""Images of depth: photo, truth, prediction and relative error, for the report and `levl-eval show-dense`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards.dense import DepthCard
from levl_eval.core.files import atomic_write
from levl_eval.data.readers import read_depth
from levl_eval.data.types import DepthSet
from levl_eval.engines.contract import Context
from levl_eval.engines.depth.fitting import Fitted, fit, full_depth
from levl_eval.engines.depth.head import valid
from levl_eval.engines.segmentation.images import DENSE, TRUTH, known, pca_rgb, png, sheet, spread

# Near to far, from light to dark: grey levels fall steadily, so that the order shows in print and to every eye.
_RAMP = np.array([(252, 240, 190), (250, 180, 90), (225, 95, 80), (150, 45, 110), (75, 20, 105), (10, 8, 35)], float)
_ERROR = 0.5  # relative error that is drawn full red


def paint_depth(metres: np.ndarray, low: float, high: float, keep: np.ndarray | None = None) -> np.ndarray:
    """Metres [H, W] -> uint8 [H, W, 3], the logarithm of ``low`` to ``high`` on one ramp; what is not kept is grey."""
    x = np.log(np.clip(np.nan_to_num(metres, nan=low), low, high) / low) / np.log(high / low) * (len(_RAMP) - 1)
    out = np.stack([np.interp(x, range(len(_RAMP)), channel) for channel in _RAMP.T], -1).round().astype(np.uint8)
    if keep is not None:
        out[~keep] = 128
    return out


def paint_error(predicted: np.ndarray, truth: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of |p - t| / t: white for none, red from one half on, grey where unknown."""
    share = np.zeros(truth.shape)
    share[keep] = np.clip(np.abs(predicted[keep] - truth[keep]) / truth[keep] / _ERROR, 0, 1)
    out: np.ndarray = (255 - share[..., None] * np.array([55, 225, 225])).round().astype(np.uint8)
    out[~keep] = 128
    return out


def _range(maps: Sequence[np.ndarray], card: DepthCard) -> tuple[float, float]:
    """2nd to 98th percentile of the true depths of the images: one ramp for all of them and all backbones."""
    values = np.concatenate([m[valid(m, card)] for m in maps])
    if not len(values):
        return card.min_depth, card.max_depth
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low * 1.01))


def _truth(
    test: DepthSet, ids: Sequence[str], card: DepthCard
) -> tuple[list[np.ndarray], tuple[float, float], list[list[np.ndarray]]]:
    """The maps, their range, and photo and truth of each image."""
    maps = [full_depth(test, name) for name in ids]
    ends = _range(maps, card)
    rows = [[np.array(test.images.open(n)), paint_depth(m, *ends, valid(m, card))] for n, m in zip(ids, maps, strict=True)]
    return maps, ends, rows


def _predicted(
    fitted: Fitted, ids: Sequence[str], maps: Sequence[np.ndarray], ends: tuple[float, float]
) -> list[list[np.ndarray]]:
    """Prediction, relative error and tokens' PCA of each image."""
    row_of = fitted.features.row
    components = pca_rgb(np.asarray(fitted.features.patches)[[row_of[i] for i in ids]], fitted.features.grid)
    out = []
    for name, truth, tokens in zip(ids, maps, components, strict=True):
        predicted = fitted.predict(row_of[name], (truth.shape[0], truth.shape[1]))
        out.append([paint_depth(predicted, *ends), paint_error(predicted, truth, valid(truth, fitted.card)), tokens])
    return out


def keep_images(folder: Path, fitted: Fitted, test: DepthSet, count: int = 6, side: int = 96) -> None:
    """Two files for the report: photo and truth, and what the backbone makes of them."""
    ids = [test.images.ids[i] for i in spread(len(test.images), count)]
    maps, ends, truth = _truth(test, ids, fitted.card)
    atomic_write(folder / TRUTH, png(sheet(truth, ["image", "truth"], side)))
    captions = ["prediction", "error", "PCA"]
    atomic_write(folder / DENSE, png(sheet(_predicted(fitted, ids, maps, ends), captions, side, photos=False)))


def show_depth(
    contexts: Sequence[tuple[str, Context[DepthCard]]], names: Sequence[str] | None = None, count: int = 6, side: int = 128
) -> bytes:
    """One PNG: a row an image; photo and truth, then for each (name, context) prediction, relative error and PCA.

    As segmentation.images.show_dense. Raises UsageError/LevlError as the task does.
    """
    captions = ["image", "truth"]
    rows: list[list[np.ndarray]] = []
    for title, context in contexts:
        card = context.card
        test = read_depth(card.data, context.data, card.depth_scale, context.limit)
        train = read_depth(card.train, context.data, card.depth_scale)
        fitted = fit(context, train, test)[0]
        ids = list(names) if names else [test.images.ids[i] for i in spread(len(test.images), count)]
        known(ids, fitted.features.row)
        maps, ends, truth = _truth(test, ids, card)
        rows = rows or truth
        for row, more in zip(rows, _predicted(fitted, ids, maps, ends), strict=True):
            row += more
        captions += [title, "error", "PCA"]
    return png(sheet(rows, captions, side))
