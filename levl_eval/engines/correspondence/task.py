"""Semantic correspondence: keypoints of one image found in another by their patch tokens, scored as PCK. Nothing is trained.

PCK (Yang and Ramanan, TPAMI 2013), as SPair-71k has it: a keypoint is right where it is at most alpha times the longer side of the target's
bounding box away from the true one. ``pck_per_point`` is the mean over all keypoints, ``pck_per_image`` that over pairs of the share of
their keypoints; papers report either, often without saying which.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import CorrespondenceCard
from levl_eval.data.images import fingerprint_of
from levl_eval.data.pairs import image_sizes, points_beyond
from levl_eval.data.readers import read_pairs
from levl_eval.data.types import KeypointPair
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.correspondence.images import keep_images
from levl_eval.engines.correspondence.matching import Frame, Matches, Target, features_at, frames, matched
from levl_eval.engines.reads import arrays_of
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.catalogue import DIFFERENCE
from levl_eval.metrics.dyads import mean_of_dyads
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Sample

CHANCE_GRID = 32  # places a side of the target over which a random guess is averaged
FLOORS = ("same_position", "same_position_in_box", "chance")


@dataclass(frozen=True)
class Scored:
    """Keypoints of all pairs, one below the other. pair: [N] whose. hits: threshold -> [N]; floors: name -> [N] at ``alpha``."""

    pairs: list[KeypointPair]
    pair: np.ndarray
    predicted: np.ndarray
    hits: dict[float, np.ndarray]
    floors: dict[str, np.ndarray]

    @property
    def owners(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[pairs] source, target and category."""
        return tuple(np.array([getattr(p, name) for p in self.pairs]) for name in ("source", "target", "category"))  # type: ignore[return-value]

    def by_pair(self, hits: np.ndarray) -> np.ndarray:
        """[pairs] the share of their keypoints."""
        return np.asarray(np.bincount(self.pair, hits, len(self.pairs)) / np.bincount(self.pair, minlength=len(self.pairs)))


def geometry(card: CorrespondenceCard, own: Preprocess) -> Preprocess:
    """The backbone's normalisation with the task's geometry, in which every place of an image is seen."""
    return replace(own, size=card.size or own.size, resize=card.resize, resize_to=None, interpolation=card.interpolation)


def longer_side(card: CorrespondenceCard, pair: KeypointPair, size: tuple[int, int]) -> float:
    """The longer side that alpha is a share of, of a target of ``size``."""
    left, top, right, bottom = pair.target_box
    return float(max(right - left, bottom - top) if card.threshold == "box" else max(size))


def _blind(pair: KeypointPair, source: tuple[int, int], target: tuple[int, int]) -> dict[str, np.ndarray]:
    """Places [K, 2] in the target without a look at it: the same share of the image, and of the object's box."""
    (left, top, right, bottom), (x0, y0, x1, y1) = pair.source_box, pair.target_box
    share = (pair.source_points - (left, top)) / (right - left, bottom - top)
    return {
        "same_position": (pair.source_points + 0.5) * np.divide(target, source) - 0.5,
        "same_position_in_box": share * (x1 - x0, y1 - y0) + (x0, y0),
    }


def _chance(truth: np.ndarray, size: tuple[int, int], radius: float) -> np.ndarray:
    """[K] how often a random place of the target is within ``radius``."""
    xs, ys = ((np.arange(CHANCE_GRID) + 0.5) * s / CHANCE_GRID - 0.5 for s in size)
    near = np.hypot(xs[None, None] - truth[:, 0, None, None], ys[None, :, None] - truth[:, 1, None, None]) <= radius
    return np.asarray(near.mean((1, 2)))


class Matcher:
    """The card's matching on stored tokens. sizes: (width, height) of each image."""

    def __init__(
        self, context: Context[CorrespondenceCard], features: FeatureSet, side: int, sizes: dict[str, tuple[int, int]]
    ) -> None:
        self.card, self.sizes, self._features, self._side, self._device = context.card, sizes, features, side, context.device
        self._row, self._last = features.row, ("", None)  # type: tuple[dict[str, int], tuple[str, Target | None]]

    def _tokens(self, image: str) -> torch.Tensor:
        return torch.from_numpy(self._features.patches[self._row[image]].astype(np.float32)).to(self._device)

    def _frame(self, image: str) -> Frame:
        return frames(self.card, self._side, self._features.grid, self.sizes[image])

    def __call__(self, pair: KeypointPair) -> Matches:
        """Where the source's keypoints are found in the target."""
        with torch.inference_mode():
            if self._last[0] != pair.target or self._last[1] is None:
                self._last = pair.target, Target(self._tokens(pair.target), self._frame(pair.target), self.card.candidates)
            queries = features_at(self._tokens(pair.source), self._frame(pair.source), pair.source_points, self.card.query)
            assert self._last[1] is not None
            return matched(self._last[1], queries)

    def with_verdict(self, pair: KeypointPair) -> tuple[Matches, np.ndarray]:
        """The same, and [K] whether a keypoint is right at ``alpha``."""
        matches = self(pair)
        return matches, matches.hits(pair.target_points, longer_side(self.card, pair, self.sizes[pair.target]), self.card.alpha)


def score(context: Context[CorrespondenceCard], matcher: Matcher, pairs: list[KeypointPair]) -> Scored:
    """Match all pairs and score them at every threshold of the card, and the floors at ``alpha``."""
    card = matcher.card
    alphas = dict.fromkeys([card.alpha, *card.more_alphas])
    hits: dict[float, list[np.ndarray]] = {a: [] for a in alphas}
    floors: dict[str, list[np.ndarray]] = {name: [] for name in FLOORS}
    predicted = []
    for p in context.progress.track(pairs, "matching keypoints", unit="pair"):
        size = matcher.sizes[p.target]
        longer, matches = longer_side(card, p, size), matcher(p)
        predicted.append(matches.best)
        for a in alphas:
            hits[a].append(matches.hits(p.target_points, longer, a))
        for name, places in _blind(p, matcher.sizes[p.source], size).items():
            floors[name].append((np.hypot(*(places - p.target_points).T) / longer <= card.alpha).astype(float))
        floors["chance"].append(_chance(p.target_points, size, card.alpha * longer))
    pair = np.repeat(np.arange(len(pairs)), [len(p.names) for p in pairs])
    joined = {a: np.concatenate(h) for a, h in hits.items()}
    return Scored(pairs, pair, np.concatenate(predicted), joined, {n: np.concatenate(f) for n, f in floors.items()})


def metrics_of(scored: Scored, card: CorrespondenceCard) -> dict[str, Estimate]:
    """Every metric by name, with intervals over images (metrics.dyads)."""
    source, target, category = scored.owners
    first, second, kind = source[scored.pair], target[scored.pair], category[scored.pair]
    out: dict[str, Estimate] = {}
    for alpha, hits in scored.hits.items():
        ending = "" if alpha == card.alpha else f"@{alpha:g}"
        out[f"pck_per_point{ending}"] = mean_of_dyads(hits, first, second)
        out[f"pck_per_image{ending}"] = mean_of_dyads(scored.by_pair(hits), source, target)
    main, by_pair = scored.hits[card.alpha], scored.by_pair(scored.hits[card.alpha])
    out["pck_mean_of_categories"] = mean_of_dyads(main, first, second, kind)
    per_image = card.main_metric == "pck_per_image"
    for name, blind in scored.floors.items():
        mine, theirs = (by_pair, scored.by_pair(blind)) if per_image else (main, blind)
        one, other = (source, target) if per_image else (first, second)
        out[f"floor_{name}"] = mean_of_dyads(theirs, one, other)
        out[f"gain_over_{name}"] = mean_of_dyads(mine - theirs, one, other, bounds=DIFFERENCE)
    for name in np.unique(category):
        points, pairs = kind == name, category == name
        out[f"pck_per_point/{name}"] = mean_of_dyads(main[points], first[points], second[points])
        out[f"pck_per_image/{name}"] = mean_of_dyads(by_pair[pairs], source[pairs], target[pairs])
    return out


def _place(point: np.ndarray) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def samples_of(scored: Scored, card: CorrespondenceCard) -> Iterator[Sample]:
    """One row an item of the main metric: a keypoint, or a pair. The image it is of is the target."""
    hits = scored.hits[card.alpha]
    if card.main_metric == "pck_per_image":
        for p, share in zip(scored.pairs, scored.by_pair(hits), strict=True):
            yield Sample(id=p.pair_id, image_id=p.target, score=float(share), meta={"category": p.category, "source": p.source})
        return
    row = 0
    for p in scored.pairs:
        for k, name in enumerate(p.names):
            yield Sample(
                id=f"{p.pair_id}/{name}", image_id=p.target, prediction=_place(scored.predicted[row]), target=_place(p.target_points[k]),
                score=float(hits[row]), meta={"category": p.category, "source": p.source, "from": _place(p.source_points[k])},
            )  # fmt: skip
            row += 1


def run(context: Context[CorrespondenceCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_pairs(card.data, context.data, context.limit)
    started = time.monotonic()
    how = geometry(card, context.backbone.preprocess)
    features = context.features(test.images, arrays_of(card), how, card.layers)
    seconds = {"features": time.monotonic() - started}
    context.ready()
    started = time.monotonic()
    sizes = image_sizes(test)
    matcher = Matcher(context, features, how.size, sizes)
    scored = score(context, matcher, list(test.pairs))
    metrics = metrics_of(scored, card)
    if context.work is not None:
        keep_images(context.work, test, matcher.with_verdict)
    seconds["scores"] = time.monotonic() - started
    counts = {"images": len(test.images), "pairs": len(test.pairs), "keypoints": len(scored.pair)}
    about = {"fingerprint": fingerprint_of(test), "counts": counts, "split": test.split}
    notes = {"keypoints_outside_their_image": points_beyond(test, sizes)}
    return Outcome(metrics, list(samples_of(scored, card)), about, notes, seconds, context.counts)
