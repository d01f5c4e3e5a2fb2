"""Multi-view correspondence on NAVI as Probe3D measures it (El Banani et al., CVPR 2024): points of an object found in another
view of it by their tokens, the error in space. Nothing is trained.

``recall`` is the mean over pairs of the share of a pair's kept matches that are less than ``threshold_cm`` off; ``recall/A-B``
that of the pairs whose views are turned by A to less than B degrees. Pairs follow from the card: see :func:`pairs_of`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import MultiviewCard
from levl_eval.core.errors import LevlError
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_views
from levl_eval.data.types import MultiviewSet, View
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.multiview.images import keep_images
from levl_eval.engines.multiview.matching import Cells, angle_between, cells_of, matched, motion
from levl_eval.engines.reads import arrays_of
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.catalogue import DIFFERENCE
from levl_eval.metrics.dyads import mean_of_dyads
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Sample

FLOORS = ("same_position", "chance")
LEAST_ANGLE = 1e-3  # degrees; views turned by less are one view but for rounding
CHANCE_POINTS = 512  # of each view, over which random matches are averaged


@dataclass(frozen=True)
class Pair:
    """Two views of one object, and the degrees it is turned by between them."""

    source: View
    target: View
    angle: float

    @property
    def name(self) -> str:
        return f"{self.source.image}:{self.target.image.rpartition('/')[2]}"


def pairs_of(views: tuple[View, ...], card: MultiviewCard) -> list[Pair]:
    """Of all views in order every ``every``-th one, paired with one of its scene's others that are turned by more than 0 and at
    most ``max_angle`` degrees, drawn alike by ``random.Random`` of "pair_seed/image"; a view that has none is in no pair.

    Probe3D's rule. Its own draws follow from the order in which a folder lists its files, and cannot be had again.
    """
    of_scene: dict[str, list[View]] = {}
    for v in views:
        of_scene.setdefault(v.scene, []).append(v)
    out = []
    for one in views[:: card.every]:
        others = [(v, angle_between(one, v)) for v in of_scene[one.scene] if v is not one]
        fit = [(v, a) for v, a in others if LEAST_ANGLE < a <= card.max_angle]
        if fit:
            target, angle = random.Random(f"{card.pair_seed}/{one.image}").choice(fit)
            out.append(Pair(one, target, angle))
    return out


@dataclass(frozen=True)
class Scored:
    """right: threshold in metres -> [pairs] the share of right matches;
    floors: name -> [pairs] at the card's threshold; errors: [pairs] median metres."""

    pairs: list[Pair]
    right: dict[float, np.ndarray]
    floors: dict[str, np.ndarray]
    errors: np.ndarray
    matches: np.ndarray


def _blind(source: Cells, target: Cells, move: tuple[np.ndarray, np.ndarray], threshold: float) -> tuple[float, float]:
    """Shares that are right of cells matched with the cell at their own place (none there: wrong), and with any cell of the object."""
    points = source.points.cpu().numpy() @ move[0].T + move[1]
    others = target.points.cpu().numpy()
    at = {int(p): k for k, p in enumerate(target.place)}
    rows = [(k, at[int(p)]) for k, p in enumerate(source.place) if int(p) in at]
    here, there = (np.array([r[k] for r in rows], np.int64) for k in (0, 1))
    same = float((np.linalg.norm(points[here] - others[there], axis=1) < threshold).sum() / len(points))
    some, any_ = (p[:: max(1, len(p) // CHANCE_POINTS)] for p in (points, others))
    return same, float((np.linalg.norm(some[:, None] - any_[None], axis=-1) < threshold).mean())


class Matcher:
    """Cells of views, from stored tokens."""

    def __init__(self, card: MultiviewCard, test: MultiviewSet, features: FeatureSet, device: torch.device) -> None:
        self.card, self._test, self._features, self._row, self._device = card, test, features, features.row, device

    def cells(self, view: View) -> Cells:
        """Raises LevlError where the object shows in no cell."""
        tokens, points = self._features.patches[self._row[view.image]], self._test.points(view.image, self.card.resolution)
        out = cells_of(tokens, self._features.grid, points, self._device)
        if not len(out.place):
            raise LevlError(
                f"{self._test.images.source}: {view.image}: the object shows in none of its cells; raise the field `resolution`"
            )
        return out


def score(context: Context[MultiviewCard], matcher: Matcher, pairs: list[Pair]) -> Scored:
    """Match all pairs and score them at every threshold of the card, and the floors at its own one."""
    card = matcher.card
    thresholds = list(dict.fromkeys([card.threshold_cm / 100, *(t / 100 for t in card.more_thresholds_cm)]))
    right: dict[float, list[float]] = {t: [] for t in thresholds}
    floors: dict[str, list[float]] = {name: [] for name in FLOORS}
    errors, counts = [], []
    for p in context.progress.track(pairs, "matching views", unit="pair"):
        source, target, move = matcher.cells(p.source), matcher.cells(p.target), motion(p.source, p.target)
        made = matched(source, target, move, card.matches, thresholds)
        for t in thresholds:
            right[t].append(float(made.right[t].mean()))
        for name, value in zip(FLOORS, _blind(source, target, move, thresholds[0]), strict=True):
            floors[name].append(value)
        errors.append(float(np.median(made.errors)))
        counts.append(len(made.errors))
    return Scored(
        pairs,
        {t: np.array(v) for t, v in right.items()},
        {n: np.array(v) for n, v in floors.items()},
        np.array(errors),
        np.array(counts),
    )


def strata_of(pairs: list[Pair], card: MultiviewCard) -> np.ndarray:
    """[pairs] number of the range of angles that each is in, the last one with its upper edge; -1: in none."""
    angles, out = np.array([p.angle for p in pairs]), np.full(len(pairs), -1)
    for k, (low, high) in enumerate(zip(card.angle_bins, card.angle_bins[1:], strict=False)):
        last = k == len(card.angle_bins) - 2
        out[(angles >= low) & ((angles < high) | (last & (angles <= high)))] = k
    return out


def metrics_of(scored: Scored, card: MultiviewCard) -> dict[str, Estimate]:
    """Every metric by name, with intervals over images (metrics.dyads). A range of angles without pairs has no metric."""
    source, target = (np.array([getattr(p, k).image for p in scored.pairs]) for k in ("source", "target"))
    main = next(iter(scored.right.values()))
    out = {"recall": mean_of_dyads(main, source, target)}
    for t, values in list(scored.right.items())[1:]:
        out[f"recall@{100 * t:g}cm"] = mean_of_dyads(values, source, target)
    strata = strata_of(scored.pairs, card)
    for k, (low, high) in enumerate(zip(card.angle_bins, card.angle_bins[1:], strict=False)):
        inside = strata == k
        if inside.any():
            out[f"recall/{low:g}-{high:g}"] = mean_of_dyads(main[inside], source[inside], target[inside])
    kept = strata >= 0
    if kept.any():
        out["recall_mean_of_bins"] = mean_of_dyads(main[kept], source[kept], target[kept], strata[kept])
    per_bin = card.main_metric == "recall_mean_of_bins"
    keep, groups = (kept, strata[kept]) if per_bin else (np.ones(len(strata), bool), None)
    for name, blind in scored.floors.items():
        out[f"floor_{name}"] = mean_of_dyads(blind[keep], source[keep], target[keep], groups)
        out[f"gain_over_{name}"] = mean_of_dyads((main - blind)[keep], source[keep], target[keep], groups, DIFFERENCE)
    return out


def samples_of(scored: Scored, card: MultiviewCard) -> Iterator[Sample]:
    """One row a pair; the image it is of is the target.

    Where the main metric is the mean of the ranges of angles, a pair's range is its split, over which paired differences are
    averaged as the metric is, and pairs in none of them have no row.
    """
    main = next(iter(scored.right.values()))
    per_bin, strata = card.main_metric == "recall_mean_of_bins", strata_of(scored.pairs, card)
    for k, p in enumerate(scored.pairs):
        if per_bin and strata[k] < 0:
            continue
        split = {"split": f"{card.angle_bins[strata[k]]:g}-{card.angle_bins[strata[k] + 1]:g}"} if per_bin else {}
        yield Sample(
            id=p.name, image_id=p.target.image, score=float(main[k]),
            meta={**split, "source": p.source.image, "angle": round(p.angle, 3),
                  "matches": int(scored.matches[k]), "median_cm": round(100 * scored.errors[k], 4)},
        )  # fmt: skip


def geometry(card: MultiviewCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation with the task's geometry: the square around the object, whole."""
    return replace(own, size=card.size or own.size, resize="squash", resize_to=None, interpolation=card.interpolation)


def run(context: Context[MultiviewCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_views(card.data, context.data, context.limit)
    pairs = pairs_of(test.views, card)
    if not pairs:
        raise LevlError(
            f"{test.images.source}: no view has another one of its object turned "
            f"by at most {card.max_angle:g} degrees; raise --limit or max_angle"
        )
    if card.main_metric == "recall_mean_of_bins" and (strata_of(pairs, card) < 0).all():
        edges = ", ".join(f"{e:g}" for e in card.angle_bins)
        raise LevlError(
            f"{test.images.source}: none of its {len(pairs)} pairs is turned by an angle in the field `angle_bins` ({edges}), "
            "of which `main_metric` is the mean; give ranges up to `max_angle`"
        )
    started = time.monotonic()
    features = context.features(test.images, arrays_of(card), geometry(card, context.backbone.preprocess), card.layers)
    seconds = {"features": time.monotonic() - started}
    context.ready()
    started = time.monotonic()
    matcher = Matcher(card, test, features, context.device)
    scored = score(context, matcher, pairs)
    metrics = metrics_of(scored, card)
    if context.work is not None:
        keep_images(context.work, test, matcher, pairs)
    seconds["scores"] = time.monotonic() - started
    counts = {"images": len(test.images), "pairs": len(pairs), "objects": len({v.scene for v in test.views})}
    about = {"fingerprint": fingerprint_of(test), "counts": counts, "split": test.split}
    notes = {"pairs_by_angle": np.histogram([p.angle for p in pairs], card.angle_bins)[0].tolist()}
    return Outcome(metrics, list(samples_of(scored, card)), about, notes, seconds, context.counts)
