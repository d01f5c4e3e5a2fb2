"""Images of depth: photo, truth, prediction and relative error, for the report and `levl-eval show-dense`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards.dense import DepthCard, MetresFields
from levl_eval.data.types import DepthSet
from levl_eval.engines.contract import Context
from levl_eval.engines.dense_images import Shown, keep_sheets, pca_rgb, side_by_side, spread
from levl_eval.engines.depth.fitting import Fitted, Predictor, fit, full_depth, sets_of
from levl_eval.engines.depth.head import valid

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


def _range(maps: Sequence[np.ndarray], card: MetresFields) -> tuple[float, float]:
    """2nd to 98th percentile of the true depths of the images: one ramp for all of them and all backbones."""
    values = np.concatenate([m[valid(m, card)] for m in maps])
    if not len(values):
        return card.min_depth, card.max_depth
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low * 1.01))


def shown(fitted: Fitted, test: DepthSet) -> Shown:
    """The test set as a trained head sees it; one ramp for all images that are asked for together."""
    card, features = fitted.card, fitted.features

    def truth(ids: Sequence[str]) -> list[list[np.ndarray]]:
        maps = [full_depth(test, name) for name in ids]
        ends = _range(maps, card)
        return [[np.array(test.images.open(n)), paint_depth(m, *ends, valid(m, card))] for n, m in zip(ids, maps, strict=True)]

    def made(ids: Sequence[str]) -> list[list[np.ndarray]]:
        maps = [full_depth(test, name) for name in ids]
        ends = _range(maps, card)
        rows = [features.row[i] for i in ids]
        components = pca_rgb(features.patches[rows], features.grid)
        out = []
        for row, metres, tokens in zip(rows, maps, components, strict=True):
            predicted = fitted.predict(row, (metres.shape[0], metres.shape[1]))
            out.append([paint_depth(predicted, *ends), paint_error(predicted, metres, valid(metres, card)), tokens])
        return out

    return Shown(features.row, truth, made, ("error", "PCA"))


def keep_images(folder: Path, fitted: Fitted, test: DepthSet, count: int = 6, side: int = 96) -> None:
    """Two files for the report: photo and truth, and what the backbone makes of them."""
    one = shown(fitted, test)
    ids = one.spread(count)
    keep_sheets(folder, one.truth(ids), one.made(ids), ("prediction", *one.captions), side)


def keep_predictions(folder: Path, made: Predictor, test: DepthSet, count: int = 6, side: int = 96) -> None:
    """The same two files of a head whose tokens are not stored: photo and truth, prediction and error."""
    rows = spread(len(test.images), count)
    names = [test.images.ids[k] for k in rows]
    maps = [full_depth(test, name) for name in names]
    ends = _range(maps, made.card)
    truth = [
        [np.array(test.images.open(n)), paint_depth(m, *ends, valid(m, made.card))] for n, m in zip(names, maps, strict=True)
    ]
    shown = []
    for row, metres in zip(rows, maps, strict=True):
        predicted = made.predict(row, (metres.shape[0], metres.shape[1]))
        shown.append([paint_depth(predicted, *ends), paint_error(predicted, metres, valid(metres, made.card))])
    keep_sheets(folder, truth, shown, ("prediction", "error"), side)


def show_depth(
    contexts: Sequence[tuple[str, Context[DepthCard]]], names: Sequence[str] | None = None, count: int = 6, side: int = 128
) -> bytes:
    """One PNG of prediction, relative error and tokens' PCA; see dense_images.side_by_side."""

    def of(context: Context[DepthCard]) -> Shown:
        train, test = sets_of(context)
        return shown(fit(context, train, test)[0], test)

    return side_by_side(contexts, of, names, count, side)
