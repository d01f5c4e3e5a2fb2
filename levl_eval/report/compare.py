"""`levl_eval.compare`: two results on the same items; difference, interval, p-value, a verdict in words, and where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from levl_eval.core.errors import ProtocolMismatch, UsageError
from levl_eval.metrics.catalogue import Metric
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.permutation import PValue, holm
from levl_eval.metrics.statistics import DRAWS
from levl_eval.records import Record, read_record
from levl_eval.report.derived import Derived, samples_of
from levl_eval.report.labels import short
from levl_eval.report.paired import Scored, pair
from levl_eval.report.results import Results, entry_of
from levl_eval.report.units import amount

if TYPE_CHECKING:
    from typing_extensions import Unpack

ALPHA = 0.05
Side = Record | str | Path  # a record, or the path of one


@dataclass(frozen=True)
class Difference:
    """One item on which two sides differ: the scores (mean over seeds) and the first seed's answers."""

    id: str
    image_id: str
    question: str
    target: str
    predictions: tuple[str, str]
    scores: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """a against b on one task. Fractions in [0, 1]. ``mismatch`` lists what was not alike, where that was allowed."""

    task: str
    metric: str
    a: str
    b: str
    values: tuple[float, float]
    difference: Estimate  # a - b
    p: float
    p_method: str
    p_holm: float  # adjusted over the family the comparison belongs to; equal to p for a family of one
    family: int
    seeds: tuple[int, ...]
    seed_sd: float | None  # spread of the difference between seeds, apart from the interval
    items: int
    images: int
    wins: tuple[int, int]  # items on which a, b does better
    left_out: int
    only_one_side: int
    kind: Metric  # the catalogue's entry of the metric
    mismatch: tuple[str, ...] = ()
    most_different: tuple[Difference, ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> str:
        """The verdict in words, decided by the adjusted p-value."""
        low, high = self.difference.low, self.difference.high
        of = f" after adjustment for {self.family} comparisons" if self.family > 1 else ""
        text = f"p = {self.p_holm:.2g}{of}"
        if low is None or high is None:
            words = "too few images for a verdict"
        elif self.p_holm < ALPHA and self.difference.value:
            ahead = (self.difference.value > 0) != self.kind.lower_is_better
            winner, loser = (self.a, self.b) if ahead else (self.b, self.a)
            by = f"by {amount(abs(self.difference.value), self.kind)} ({text})"
            words = f"{winner} is better than {loser} {by}"
            if not self.kind.ranked:
                words = f"{winner} is above {loser} {by}; which end of {self.metric} is better is not known"
        else:
            least, most = amount(low, self.kind, signed=True, unit=False), amount(high, self.kind, signed=True)
            words = f"no difference shown ({text}): anything from {least} to {most} is possible"
        return f"NOT COMPARABLE as measured ({'; '.join(self.mismatch)}), but: {words}" if self.mismatch else words

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values, with the verdict."""
        rest = {k: v for k, v in asdict(self).items() if k != "kind"}
        return {**rest, "better": self.kind.better, "difference": self.difference.model_dump(), "verdict": self.verdict}


def differing_fields(a: object, b: object, path: str = "") -> list[str]:
    """Dotted fields in which two protocols differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = []
        for key in [*a, *(k for k in b if k not in a)]:
            here = f"{path}.{key}" if path else str(key)
            if key not in a or key not in b:
                only = "the second" if key not in a else "the first"
                value = b[key] if key not in a else a[key]
                if value is not None:
                    out.append(f"{here} only in {only} ({_short(value)})")
            else:
                out += differing_fields(a[key], b[key], here)
        return out
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [f for i, (x, y) in enumerate(zip(a, b, strict=True)) for f in differing_fields(x, y, f"{path}.{i}")]
    return [] if a == b else [f"{path} {_short(a)} against {_short(b)}"]


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _data_field(value: object) -> str:
    return "+".join(short(v) for v in value) or "none" if isinstance(value, list) else short(value) or "none"


def mismatches(a: Record, b: Record) -> list[str]:
    """What forbids a comparison, each with both values: fields of the protocol (precision among them), and the data."""
    out = [f"task {a.task} against {b.task}"] if a.task != b.task else []
    if a.protocol_hash != b.protocol_hash:
        out += differing_fields(a.protocol, b.protocol) or [f"protocol {a.protocol_hash[:12]} against {b.protocol_hash[:12]}"]
    x, y = a.comparison["data"], b.comparison["data"]
    return out + [f"data.{k} differs: {_data_field(x[k])} against {_data_field(y[k])}" for k in x if x[k] != y[k]]


def _records(side: Side | Sequence[Side]) -> list[Record]:
    many = [side] if isinstance(side, (Record, str, Path)) else list(side)
    records = [s if isinstance(s, Record) else read_record(Path(s)) for s in many]
    if not records:
        raise UsageError("compare: a side without records")
    for r in records:
        if r.status != "done":
            raise UsageError(f"{r.backbone_name} on {r.task}: failed ({r.reason}); there is nothing to compare")
    return sorted(records, key=lambda r: r.seed)


def _labels(a: Record, b: Record) -> tuple[str, str]:
    """The backbones' names; if both are equal, with what distinguishes them (in the last resort the folders)."""
    both = Results([a, b])
    if len(both.records) == 2 and (names := (both.label(a), both.label(b)))[0] != names[1]:
        return names
    name = a.shown_name
    if name != b.shown_name:
        return name, b.shown_name
    folders = (a.home, b.home) if a.home.name == b.home.name else (Path(a.home.name), Path(b.home.name))
    return f"{name} ({folders[0]})", f"{name} ({folders[1]})"


def compare(
    a: Side | Sequence[Side],
    b: Side | Sequence[Side],
    *,
    allow_mismatch: bool = False,
    most: int = 10,
    draws: int = DRAWS,
    permutations: int = 10_000,
    _derived: Derived | None = None,
) -> Comparison:
    """Compare the main metric of two results, paired by sample and clustered by image.

    a, b: a record (as ``evaluate`` returns it) or a record's path; a list of them is one side with several seeds.
    most: how many of the most differing items are returned. Raises ProtocolMismatch where the protocols or the data differ,
    listing the fields, unless ``allow_mismatch``; UsageError for failed or unreadable results.
    """
    left, right = _records(a), _records(b)
    wrong = mismatches(left[0], right[0])
    for side in (left, right):
        wrong += [m for r in side[1:] for m in mismatches(side[0], r)]
    names = _labels(left[0], right[0])
    if wrong and not allow_mismatch:
        raise ProtocolMismatch(
            f"{left[0].task}: {names[0]} and {names[1]} were not measured alike: {'; '.join(wrong)}. "
            "Measure both in one way, or compare all the same with --allow-mismatch (allow_mismatch=True)"
        )
    derived = _derived if _derived is not None else Derived()
    sides = [(r, derived.scores(r)) for r in left], [(r, derived.scores(r)) for r in right]
    paired = pair(*sides)
    difference = derived.estimate(
        "difference" if draws == DRAWS else f"difference {draws}", (left, right), lambda: paired.difference(draws)
    )
    p = derived.estimate(f"p {permutations}", (left, right), lambda: _as_estimate(paired.test(permutations)))
    assert difference is not None and p is not None
    x, y = _item_scores(paired.ids, sides[0], paired.seeds), _item_scores(paired.ids, sides[1], paired.seeds)
    apart = sorted(np.flatnonzero(x != y).tolist(), key=lambda k: (-abs(x[k] - y[k]), paired.ids[k]))[:most]
    wins = int((x > y).sum()), int((y > x).sum())
    return Comparison(
        task=left[0].task, metric=left[0].main_metric, a=names[0], b=names[1], values=paired.values,
        difference=difference, p=p.value, p_method=p.method, p_holm=p.value, family=1, seeds=paired.seeds,
        seed_sd=paired.seed_sd, items=len(paired.ids), images=len(np.unique(paired.clusters)),
        wins=wins[::-1] if entry_of(left[0], left[0].main_metric).lower_is_better else wins,
        left_out=paired.left_out, only_one_side=paired.only_one_side, kind=entry_of(left[0], left[0].main_metric),
        mismatch=tuple(dict.fromkeys(wrong)),
        most_different=tuple(_different(sides, paired.seeds, [paired.ids[k] for k in apart], [(float(x[k]), float(y[k])) for k in apart])),
    )  # fmt: skip


def _as_estimate(p: PValue) -> Estimate:
    return Estimate(value=p.p, method=p.method)


def _item_scores(ids: Sequence[str], side: Sequence[Scored], seeds: Sequence[int]) -> np.ndarray:
    """[N] mean score of each item over the seeds (over the only record, where the seeds differ)."""
    used = [s for r, s in side if r.seed in seeds] or [side[0][1]]
    out = np.zeros(len(ids))
    for s in used:
        out += s.score[[s.items.position[i] for i in ids]]
    return out / len(used)


def _different(
    sides: Sequence[Sequence[Scored]], seeds: Sequence[int], ids: Sequence[str], scores: Sequence[tuple[float, float]]
) -> list[Difference]:
    """What the first of ``seeds`` on both sides answered to some items; only their lines are read."""
    used = [next((pair for pair in side if pair[0].seed in seeds), side[0]) for side in sides]
    lines = [samples_of(record, s, [s.items.position[i] for i in ids]) for record, s in used]
    return [
        Difference(one.id, one.image_id, str(one.meta.get("question", "")), one.target, (one.prediction, two.prediction), apart)
        for one, two, apart in zip(*lines, scores, strict=True)
    ]


class CompareOptions(TypedDict, total=False):
    """What :func:`compare` takes besides the two sides."""

    allow_mismatch: bool
    most: int
    draws: int
    permutations: int


def compare_all(
    sides: Sequence[dict[str, list[Record]]], *, derived: Derived | None = None, **options: Unpack[CompareOptions]
) -> list[Comparison]:
    """Every two sides on every task they share, as one family: the p-values are adjusted by Holm.

    sides: task -> the records (one a seed) of one backbone. derived: what is kept of their folders. Options as for :func:`compare`.
    """
    derived = derived or Derived()
    comparisons = [
        compare(a[task], b[task], _derived=derived, **options)
        for a, b in itertools.combinations(sides, 2)
        for task in a
        if task in b
    ]
    derived.save()
    if not comparisons:
        raise UsageError(f"compare: no task in common ({'; '.join(', '.join(s) or 'none' for s in sides)})")
    return [
        replace(c, p_holm=p, family=len(comparisons)) for c, p in zip(comparisons, holm([c.p for c in comparisons]), strict=True)
    ]
