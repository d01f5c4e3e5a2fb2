"""Instance retrieval: the images of a query's place or thing ranked by the cosine of one vector an image. Nothing is trained.

Revisited Oxford and Paris (Radenovic et al., CVPR 2018): medium finds easy and hard images, hard the hard ones alone; what does
not count at a level (junk, and at hard the easy ones) is taken out of the list before precision is measured. Queries without an
image to find are left out of a level.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import InstanceCard
from levl_eval.core.errors import LevlError
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_instances
from levl_eval.data.types import InstanceQuery, InstanceSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.instance.images import keep_images
from levl_eval.engines.reads import OF_INSTANCES, arrays_of
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.ranking import average_precision, places, precision_at
from levl_eval.metrics.statistics import mean_estimate, paired_difference
from levl_eval.records import Sample

LEVELS = ("medium", "hard")
KS = (1, 5, 10)
SHUFFLES = 100  # random orders that chance is averaged over
_BLOCK = 256  # images whose tokens are pooled at once


def pooled_by(features: FeatureSet, readout: str, power: float) -> Tensor:
    """float32 [N, D], of length 1: the vectors of a read-out."""
    name = OF_INSTANCES[readout]
    array = getattr(features, name)
    out = []
    for i in range(0, len(array), _BLOCK):
        x = torch.from_numpy(np.array(array[i : i + _BLOCK], np.float32))
        if readout == "gem":
            x = x.clamp(min=1e-6).pow(power).mean(1).pow(1 / power)
        out.append(F.normalize(x, dim=-1))
    return torch.cat(out)


def order_of(query: Tensor, database: Tensor, seed: int = 0) -> np.ndarray:
    """[N] positions of a database [N, D] by falling cosine with a query [D]; those that are equally alike in a random, fixed order.

    Equal vectors are as alike as each other to the bit: each is compared once.
    """
    distinct, at = np.unique(database.numpy(), axis=0, return_inverse=True)
    cosines = (distinct @ query.numpy())[at.reshape(-1)]
    shuffled = np.random.default_rng(seed).permutation(len(cosines))
    return np.asarray(shuffled[np.argsort(-cosines[shuffled], kind="stable")])


@dataclass(frozen=True)
class Found:
    """What a query finds at a level: average precision and precision at KS."""

    ap: float
    precisions: tuple[float, ...]


def wanted(query: InstanceQuery, level: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(images to find, images that do not count) of a query at a level."""
    return ((*query.easy, *query.hard), query.junk) if level == "medium" else (query.hard, (*query.junk, *query.easy))


def scored(order: np.ndarray, right: np.ndarray, junk: np.ndarray) -> Found:
    """Of a ranked list of positions; ``right`` is not empty."""
    found_at = places(order, right, junk)
    return Found(average_precision(found_at, len(right)), tuple(precision_at(found_at, k) for k in KS))


def _chance(right: np.ndarray, junk: np.ndarray, count: int) -> float:
    """The mean average precision of random orders of ``count`` images."""
    rng = np.random.default_rng(0)
    return float(np.mean([scored(rng.permutation(count), right, junk).ap for _ in range(SHUFFLES)]))


def orders(test: InstanceSet, vectors: Tensor, row: dict[str, int]) -> list[np.ndarray]:
    """The database in the order of each query."""
    database = vectors[[row[i] for i in test.database]]
    return [order_of(vectors[row[q.image]], database) for q in test.queries]


class Asked(NamedTuple):
    """A query at a level: its ranked list, and the positions in it that are right and that do not count."""

    query: InstanceQuery
    order: np.ndarray
    right: np.ndarray
    junk: np.ndarray


def asked_at(level: str, test: InstanceSet, ranked: list[np.ndarray]) -> list[Asked]:
    """The queries that have images to find at a level."""
    at = {name: k for k, name in enumerate(test.database)}
    out = []
    for query, order in zip(test.queries, ranked, strict=True):
        right, junk = (np.array([at[i] for i in ids], np.int64) for ids in wanted(query, level))
        if len(right):
            out.append(Asked(query, order, right, junk))
    return out


def level_metrics(level: str, results: list[Found], ending: str) -> dict[str, Estimate]:
    """mAP and mP@k of a level over its queries."""
    out = {f"map_{level}{ending}": mean_estimate(np.array([r.ap for r in results]))}
    return out | {f"mp{k}_{level}{ending}": mean_estimate(np.array([r.precisions[i] for r in results])) for i, k in enumerate(KS)}


def run(context: Context[InstanceCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_instances(card.data, context.data, context.limit)
    started = time.monotonic()
    own = context.backbone.preprocess
    how = replace(own, size=card.size or own.size, resize=card.resize, resize_to=None, interpolation=card.interpolation)
    features = context.features(test.images, arrays_of(card), how, card.layers)
    seconds = {"features": time.monotonic() - started}
    context.ready()
    started = time.monotonic()
    metrics: dict[str, Estimate] = {}
    samples: list[Sample] = []
    for number, readout in enumerate(card.readouts):
        ranked = orders(test, pooled_by(features, readout, card.gem_power), features.row)
        if not number and context.work is not None:
            keep_images(context.work, test, ranked)
        for level in LEVELS:
            asked = asked_at(level, test, ranked)
            results = [scored(a.order, a.right, a.junk) for a in asked]
            if results:
                metrics |= level_metrics(level, results, f"/{readout}" if number else "")
            if not number and card.main_metric == f"map_{level}":
                metrics |= _floor(asked, results, len(test.database))
                samples = [_sample(a, r, test.database) for a, r in zip(asked, results, strict=True)]
    if not samples:
        raise LevlError(
            f"{card.name}: no query has an image to find that {card.main_metric} counts; it is not defined on this set"
        )
    seconds["scores"] = time.monotonic() - started
    counts = {"images": len(test.images), "queries": len(test.queries), "database": len(test.database)}
    about = {"fingerprint": fingerprint_of(test), "counts": counts, "split": test.split}
    notes = {"queries_without_images_to_find": len(test.queries) - len(samples)}
    return Outcome(metrics, samples, about, notes, seconds, context.counts)


def _floor(asked: list[Asked], results: list[Found], count: int) -> dict[str, Estimate]:
    """The mean average precision of random orders, and the gain over it."""
    if not asked:
        return {}
    blind = np.array([_chance(a.right, a.junk, count) for a in asked])
    return {"floor_chance": mean_estimate(blind), "gain_over_chance": paired_difference(np.array([r.ap for r in results]), blind)}


def _sample(asked: Asked, result: Found, database: tuple[str, ...]) -> Sample:
    """The row of a query: what stands first in its list, and its average precision."""
    precisions = {f"p{k}": round(p, 6) for k, p in zip(KS, result.precisions, strict=True)}
    name = asked.query.image
    about: dict[str, object] = {"right": len(asked.right), "junk": len(asked.junk), **precisions}
    return Sample(id=name, image_id=name, prediction=database[int(asked.order[0])], score=result.ap, meta=about)
