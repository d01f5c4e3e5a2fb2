"""The depth engine: a linear head on cached tokens, scored in metres at the depth maps' own resolution, image by image."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from levl_eval.cards.dense import DepthCard, MetresFields
from levl_eval.core.errors import LevlError
from levl_eval.data.depth import sampled_depths
from levl_eval.data.types import DepthSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.depth.fitting import Predictor, fit, full_depth, scored, sets_of
from levl_eval.engines.depth.images import keep_images
from levl_eval.engines.map_scores import MapScores, outcome_of
from levl_eval.metrics.depth import METRICS, depth_metrics, depth_sums


def _sums(fitted: Predictor, row: int, truth: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """metrics.depth.depth_sums of one image's prediction against metres [H, W] where bool [H, W] says that they count."""
    card = fitted.card
    predicted, goal = fitted.predict(row, (truth.shape[0], truth.shape[1]))[keep], truth[keep]
    if card.align == "median":
        predicted = (predicted * (np.median(goal) / np.median(predicted))).clip(card.min_depth, card.max_depth)
    return depth_sums(predicted, goal)


def run(context: Context[DepthCard]) -> Outcome:
    """Train the card's head and score it on its test set. Raises UsageError/LevlError for unusable data."""
    train, test = sets_of(context)
    fitted, blind, notes, seconds = fit(context, train, test)
    outcome = scored_outcome(context, (train, test), fitted, blind, notes, seconds)
    if context.work is not None:
        keep_images(context.work, fitted, test)
    return outcome


def scored_outcome(
    context: Context[MetresFields], sets: tuple[DepthSet, DepthSet], fitted: Predictor, blind: Predictor, notes: Mapping[str, object],
    seconds: dict[str, float],
) -> Outcome:  # fmt: skip
    """What a trained head is worth on the test set. sets: training and test set; blind: the floor.

    Raises LevlError where nothing is scored.
    """
    card, test = context.card, sets[1]
    started = time.monotonic()
    kept, unsighted, names, empty = [], [], [], []
    for k, name in enumerate(context.progress.track(test.images.ids, "scoring depths", unit="map")):
        truth = full_depth(test, name)
        keep = scored(truth, fitted.card)
        if not keep.any():
            empty.append(name)
            continue
        kept.append(_sums(fitted, k, truth, keep))
        unsighted.append(_sums(blind, k, truth, keep))
        names.append(name)
    if not kept:
        raise LevlError(
            f"{card.name}: no test pixel is within crop and caps; check `crop`, `min_depth`, `max_depth` and `depth_scale`"
        )
    seconds["scores"] = time.monotonic() - started
    sums = np.stack(kept)
    by_image = depth_metrics(sums)
    scores = MapScores(names, empty, {m: by_image[m] for m in METRICS}, depth_metrics(np.stack(unsighted)), sums)
    return outcome_of(context, sets, scores, depth_metrics, {**notes, "depths": _depths(context, sets)}, seconds, "rmse")


_APART = 5.0  # how many times further one set's middle may be than the other's before it is told


def _depths(context: Context[MetresFields], sets: tuple[DepthSet, DepthSet]) -> dict[str, object]:
    """For the record: middle and largest depth of training and test maps in metres. Where the two are far apart, it is told."""
    train, test = (sampled_depths(s)[0] for s in sets)
    low, high = sorted((train.median, test.median))
    out: dict[str, object] = {"train": asdict(train), "test": asdict(test)}
    if low > 0 and high > _APART * low:
        out["warning"] = (
            f"the middle depth is {train.median:.3g} m in training and {test.median:.3g} m in the test set: "
            "are both stored in the unit that `depth_scale` (`test_depth_scale`) says?"
        )
        context.progress.say(f"  {context.card.name}: {out['warning']}")
    return out
