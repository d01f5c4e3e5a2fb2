"""Two sides on the same items: what both records' samples say together, for differences, tests and gains.

The items are matched by id; one whose answer failed on any side (a failure is not a wrong answer) is left out on all sides and
counted. A trained head has one record a seed: its scores are averaged over the seeds both sides share, item by item, so that the
interval shows the sampling of images; the spread of the seeds is told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from levl_eval.core.errors import UsageError
from levl_eval.metrics.catalogue import DIFFERENCE, Bounds, metric_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.permutation import PValue, sign_flip_test, swap_test
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import DRAWS, bootstrap_statistic, paired_difference
from levl_eval.records import Record, Sample, read_samples
from levl_eval.records.scores import Scores

Samples = dict[str, Sample]  # by id


def load_samples(record: Record) -> Samples:
    """The samples of a record by id. Raises UsageError where they are missing, damaged, fewer than the metric's, or an id occurs twice."""
    out: Samples = {}
    for s in read_samples(record.home, record):
        if s.id in out:
            raise UsageError(f"{record.home}/samples/{record.key}.jsonl: id {s.id!r} stands twice; run the task again")
        out[s.id] = s
    _count(record, out)
    return out


def _count(record: Record, samples: Samples) -> None:
    """Records of schema 1 do not say what their samples were: those of a damaged file are fewer than the metric was a mean over."""
    main = record.metrics.get(record.main_metric)
    if record.samples is not None or main is None or not main.n:
        return
    scored = sum(s.score is not None for s in samples.values())
    if scored != main.n and (scored or not samples):
        raise UsageError(
            f"{record.home}/samples/{record.key}.jsonl: "
            f"{scored} scored samples, {record.main_metric} is of {main.n}; damaged: run the task again"
        )


def split_weights(samples: Sequence[Sample]) -> np.ndarray:
    """Factors [N] that turn the mean over samples into the mean over POPE's splits; all 1 where there are no splits."""
    return _weights(np.unique(np.array([str(s.meta.get("split", "")) for s in samples]), return_inverse=True)[1])


def _weights(splits: np.ndarray) -> np.ndarray:
    """splits: [N] a number each, from 0."""
    counts = np.bincount(splits)
    out: np.ndarray = len(splits) / (np.count_nonzero(counts) * counts[splits])
    return out


def _counts(scores: Scores, at: np.ndarray, classes: int) -> np.ndarray:
    """Per-image counts at some places [N] as [N, classes, 3]: intersection, target, prediction."""
    row = np.full(len(scores.score), -1)
    row[at] = np.arange(len(at))
    wanted = row[scores.count_item] >= 0
    out = np.zeros((len(at), classes, 3))
    out[row[scores.count_item[wanted]], scores.count_class[wanted]] = scores.counts[wanted]
    return out


def _classes(scores: Scores, at: np.ndarray) -> int:
    return 1 + int(scores.count_class[np.isin(scores.count_item, at)].max(initial=0))


def mean_iou_over_seeds(sums: np.ndarray) -> np.ndarray:
    """[..., S, C, 3] -> mean over seeds of the mean IoU [...]."""
    out: np.ndarray = statistics_from_counts(sums)["mean_iou"].mean(-1)
    return out


def _difference_of_iou(sums: np.ndarray) -> np.ndarray:
    """[..., 2, S, C, 3] sums of both sides -> difference [...]."""
    iou = mean_iou_over_seeds(sums)
    out: np.ndarray = iou[..., 0] - iou[..., 1]
    return out


@dataclass(frozen=True)
class Paired:
    """a, b: [S, N] weighted scores, or [S, N, C, 3] counts where the metric is mean IoU; S common seeds, N common items.

    clusters: [N] numbers of the items' images, in the order of the images' names.
    """

    ids: tuple[str, ...]
    clusters: np.ndarray
    image_names: np.ndarray
    seeds: tuple[int, ...]
    a: np.ndarray
    b: np.ndarray
    left_out: int = 0  # items that failed on a side
    only_one_side: int = 0  # items the other side does not have
    bounds: Bounds = DIFFERENCE  # of a difference of the metric

    @property
    def images(self) -> np.ndarray:
        """[N] image ids."""
        out: np.ndarray = self.image_names[self.clusters]
        return out

    @property
    def counted(self) -> bool:
        return self.a.ndim == 4

    @property
    def by_seed(self) -> np.ndarray:
        """[S] differences a - b."""
        if self.counted:
            return _difference_of_iou(np.stack([self.a.sum(1), self.b.sum(1)], 1)[:, :, None])
        out: np.ndarray = self.a.mean(1) - self.b.mean(1)
        return out

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation of the difference between seeds, None for one seed."""
        return float(self.by_seed.std(ddof=1)) if len(self.seeds) > 1 else None

    @cached_property
    def values(self) -> tuple[float, float]:
        """The metric of both sides over the common items, mean over seeds."""
        if self.counted:
            return float(mean_iou_over_seeds(self.a.sum(1))), float(mean_iou_over_seeds(self.b.sum(1)))
        return float(self.a.mean()), float(self.b.mean())

    def difference(self, draws: int = DRAWS) -> Estimate:
        """a - b with its 95% interval over images."""
        if self.counted:
            both = np.stack([self.a, self.b]).transpose(2, 0, 1, 3, 4)
            e = bootstrap_statistic(both, _difference_of_iou, draws=draws, seed=0)
            return e.model_copy(update={"method": f"paired {e.method}"})
        return paired_difference(self.a.mean(0), self.b.mean(0), self.clusters, seed=0, draws=draws, bounds=self.bounds)

    def test(self, draws: int = 10_000) -> PValue:
        """p-value of the difference by swapping the sides of whole images."""
        if self.counted:
            return swap_test(self.a.swapaxes(0, 1), self.b.swapaxes(0, 1), mean_iou_over_seeds, draws=draws)
        return sign_flip_test(self.a.mean(0) - self.b.mean(0), self.clusters, draws=draws)


Scored = tuple[Record, Scores]


def _sides(a: Sequence[Scored], b: Sequence[Scored]) -> tuple[list[int], list[tuple[Scores, Scores]]]:
    """The seeds both sides have, and both sides' scores of each. Raises UsageError where there are none, or several records of one."""
    left, right = {r.seed: s for r, s in a}, {r.seed: s for r, s in b}
    first = a[0][0]
    for mine, by_seed in ((a, left), (b, right)):
        if len(by_seed) < len(mine):
            raise UsageError(f"{first.task}: {mine[0][0].backbone_name} has several records of one seed; give one record a seed")
    seeds = sorted(left.keys() & right.keys())
    if seeds:
        return seeds, [(left[k], right[k]) for k in seeds]
    if len(a) > 1 or len(b) > 1:
        raise UsageError(f"{first.task}: no seed in common ({sorted(left)} against {sorted(right)}); run the missing seeds")
    return [first.seed], [(a[0][1], b[0][1])]  # a head of one seed on each side, but not the same one


@dataclass(frozen=True)
class _Matched:
    """ids: of the items that all tables have and have answered, in order; at: their places in each table. images, splits: [N] numbers."""

    ids: Sequence[str]
    at: list[np.ndarray]
    images: np.ndarray
    splits: np.ndarray
    common: int
    only_one_side: int


def _match(tables: Sequence[Scores]) -> _Matched:
    items = tables[0].items
    if all(t.items is items for t in tables):
        ids, images, splits = items.ordered
        usable_by_all = np.logical_and.reduce([t.usable for t in tables])
        if usable_by_all.all():
            return _Matched(ids, [items.order] * len(tables), images, splits, len(ids), 0)
        kept = usable_by_all[items.order]
        some = [i for i, keep in zip(ids, kept, strict=True) if keep]
        return _Matched(some, [items.order[kept]] * len(tables), images[kept], splits[kept], len(ids), 0)
    places = [t.items.position for t in tables]
    common, union = set(items.ids).intersection(*places[1:]), set(items.ids).union(*places[1:])
    usable = [t.usable for t in tables]
    chosen = sorted(i for i in common if all(u[p[i]] for u, p in zip(usable, places, strict=True)))
    at = [np.array([p[i] for i in chosen], np.int64) for p in places]
    return _Matched(chosen, at, items.image_codes[1][at[0]], items.split_codes[at[0]], len(common), len(union) - len(common))


def pair(a: Sequence[Scored], b: Sequence[Scored]) -> Paired:
    """Match two sides, each one (record, scores) a seed. Raises UsageError where nothing is in common or can be rebuilt."""
    first, other = a[0][0], b[0][0]
    seeds, sides = _sides(a, b)
    tables = [t for side in sides for t in side]
    matched = _match(tables)
    if not matched.common:
        raise UsageError(f"{first.task}: {first.backbone_name} and {other.backbone_name} have no item in common")
    if not matched.ids:
        raise UsageError(f"{first.task}: every answer failed on one of the sides; nothing is left to compare")
    head, at = tables[0], matched.at[0]
    names = head.items.image_codes[0]
    if first.main_metric == "mean_iou" and head.counted[at[0]]:
        classes = max(_classes(t, k) for t, k in zip(tables, matched.at, strict=True))
        rows = [_counts(t, k, classes) for t, k in zip(tables, matched.at, strict=True)]
    else:
        weights = _weights(matched.splits)
        rows = [t.score[k] * weights for t, k in zip(tables, matched.at, strict=True)]
    bounds = metric_of(first.main_metric, first.engine, first.notes).difference_bounds
    out = Paired(
        tuple(matched.ids), matched.images, names, tuple(seeds), np.stack(rows[::2]), np.stack(rows[1::2]),
        matched.common - len(matched.ids), matched.only_one_side, bounds,
    )  # fmt: skip
    if not out.left_out and not out.only_one_side:
        _check(first, a, seeds, out.values[0])
        _check(other, b, seeds, out.values[1])
    return out


def _check(record: Record, side: Sequence[Scored], seeds: Sequence[int], value: float) -> None:
    """The record's metric must follow from its samples, else pairing the samples would not compare it."""
    recorded = [r.metrics[r.main_metric].value for r, _ in side if r.seed in seeds or len(side) == 1]
    if recorded and abs(float(np.mean(recorded)) - value) > 1e-6:
        raise UsageError(
            f"{record.home}/samples/{record.key}.jsonl: {record.main_metric} from the samples is {100 * value:.4f}, the record says "
            f"{100 * float(np.mean(recorded)):.4f}; this metric cannot be paired by sample, or a file is damaged"
        )
