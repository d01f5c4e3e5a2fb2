"""What records say of two roles on one task under one protocol: the difference, what its error comes from, and what forbids its use.

A role is one backbone, or several that differ in their pretraining seed only. Both sides are matched item by item, image by image and
seed by seed: a trained head's records by their head seed, one that all encoders have, else one that the two of a pretraining seed
have; of several backbones the pretraining seeds by the seed that their checkpoints recorded, or, where those are not the same on both
sides, in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from levl_eval.claims.images import by_image, value_of
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import object_at
from levl_eval.core.text import did_you_mean
from levl_eval.metrics.crossed import Crossed, crossed
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record
from levl_eval.records.convergence import converged
from levl_eval.report.derived import Derived
from levl_eval.report.paired import Samples, load_samples
from levl_eval.report.paired import pair as paired
from levl_eval.report.trained_out import Effect, effect_among, lengths, trained_out
from levl_eval.report.units import factor, lower_is_better

MIN_IMAGES = 10  # below it the spread between images says too little of itself
# engines that train nothing
_WITHOUT_HEAD = (
    "zeroshot",
    "knn",
    "retrieval",
    "choice",
    "health",
    "incontext",
    "textseg",
    "correspondence",
    "propagation",
    "instance",
    "multiview",
)


@dataclass(frozen=True)
class Contrast:
    """One difference, subject minus other, in the metric's own numbers (fractions).

    values: of both sides. layout: [outer seeds, images] what each image says under each outer seed. outer: what the rows are
    ("pretraining seeds", "head seeds", or "" for a single one).
    """

    difference: Crossed
    values: tuple[float, float]
    layout: np.ndarray = field(repr=False)
    outer: str
    images: int
    items: int
    pretraining_seeds: int
    head_seeds: int
    left_out: int
    records: tuple[str, ...]  # identity hashes, or keys of records that hold none
    caveats: tuple[str, ...] = ()


class Unusable(LevlError):
    """Evidence that is missing, or that says nothing: the claim is undecided for this reason."""


@dataclass(frozen=True)
class Encoder:
    """A backbone of the run directories: its records by task, comparison hash and head seed."""

    label: str
    tasks: dict[str, dict[str, dict[int, Record]]]

    @property
    def any(self) -> Record:
        return next(r for t in self.tasks.values() for c in t.values() for r in c.values())


def _parts(record: Record) -> dict[str, object]:
    b = record.backbone
    return {"weights": b["weights_sha256"], **{k: b.get(k) or {} for k in ("code", "preprocess", "text")}}


def encoder_of(records: Sequence[Record], word: str) -> Encoder:
    """The backbone that ``word`` names: NAME, or NAME@ and the first letters of its weights' hash.

    Raises UsageError where there is none or where the name stands for several.
    """
    name, at, prefix = word.rpartition("@")
    names = list(dict.fromkeys(r.backbone_name for r in records))
    if word in names or not at:
        name, prefix = word, ""
    mine = [r for r in records if r.backbone_name == name and r.weights.startswith(prefix)]
    if not mine:
        raise UsageError(
            f"--as: no finished record of a backbone {word!r}{did_you_mean(word, names)}; there are {', '.join(names)}"
        )
    first: dict[str, dict[str, object]] = {}
    differing: set[str] = {"weights"} if len({r.external for r in mine}) > 1 else set()
    for r in mine:  # an imported system has a file of predictions for each task, whose hash stands for its weights
        parts = _parts(r)
        differing |= {k for k, v in first.setdefault(r.task if r.external else "", parts).items() if v != parts[k]}
    if differing:
        weights = sorted({f"{name}@{r.weights[:8]}" for r in mine})
        choose = f"give one of {', '.join(weights)}" if len(weights) > 1 else "give run directories that hold one of them"
        raise UsageError(f"--as: several encoders are named {name!r} (other {', '.join(sorted(differing))}); {choose}")
    tasks: dict[str, dict[str, dict[int, Record]]] = {}
    for r in mine:
        seeds = tasks.setdefault(r.task, {}).setdefault(r.comparison_hash, {})
        known = seeds.setdefault(r.seed, r)
        if known is not r and known.metrics != r.metrics:
            raise UsageError(f"{r.key}: {known.home} and {r.home} have it with different values; give only one of them")
    return Encoder(word, tasks)


@dataclass(frozen=True)
class Role:
    """A role of claims and who plays it: one encoder, or one a pretraining seed."""

    name: str
    encoders: tuple[Encoder, ...]

    def protocols(self, task: str) -> list[str]:
        """Comparison hashes under which every encoder of the role was run on a task."""
        of_encoders = [set(e.tasks.get(task, {})) for e in self.encoders]
        common = set.intersection(*of_encoders) if of_encoders else set()
        return [h for h in self.encoders[0].tasks.get(task, {}) if h in common]

    def example(self, task: str) -> Record | None:
        """Any record of a task."""
        return next((r for e in self.encoders for seeds in e.tasks.get(task, {}).values() for r in seeds.values()), None)


def roles_of(records: Sequence[Record], named: Mapping[str, Sequence[str]]) -> dict[str, Role]:
    """``named``: role -> backbones. Raises UsageError for unknown ones, one encoder in two places, or seeds with equal weights."""
    out: dict[str, Role] = {}
    seen: dict[str, str] = {}
    for role, words in named.items():
        encoders = [encoder_of(records, w) for w in words]
        for e in encoders:
            identity = digest(_parts(e.any))
            if identity in seen:
                raise UsageError(
                    f"--as {role}={e.label}: is the same encoder as {seen[identity]}; a difference needs two, and a seed is one"
                )
            seen[identity] = f"{role}={e.label}"
        _check_seeds(role, encoders)
        out[role] = Role(role, tuple(encoders))
    return out


# What a checkpoint records of its training that a seed of the same training has alike.
_OF_TRAINING = ("objective", "model", "batch_size", "step", "architecture")


def _check_seeds(role: str, encoders: Sequence[Encoder]) -> None:
    """Raises UsageError where the backbones of a role are not pretraining seeds of one training, as far as their records say."""
    for k, e in enumerate(encoders):
        for other in encoders[:k]:
            both = (
                f"--as {role}={other.label},{e.label}: the backbones of a role differ in their pretraining seed alone, and these"
            )
            if e.any.weights == other.any.weights:
                raise UsageError(f"{both} have the same weights; give one of them")
            if _pretraining_seed(e) is not None and _pretraining_seed(e) == _pretraining_seed(other):
                raise UsageError(f"{both} were both trained with seed {_pretraining_seed(e)}; give one of them")
            infos = [object_at(x.any.backbone, "info") for x in (other, e)]
            for what in _OF_TRAINING:
                first, second = (i.get(what) for i in infos)
                if first is not None and second is not None and first != second:
                    raise UsageError(f"{both} are of other trainings ({what} {first} against {second}); give roles of their own")


def _pretraining_seed(e: Encoder) -> int | None:
    recorded = object_at(e.any.backbone, "info").get("seed")
    return recorded if isinstance(recorded, int) and not isinstance(recorded, bool) else None


def _seed_pairs(a: Role, b: Role) -> tuple[list[tuple[Encoder, Encoder]], str]:
    """Encoders of both roles, one pair a pretraining seed, and how they were paired."""
    if len(a.encoders) != len(b.encoders):
        raise UsageError(
            f"--as: {a.name} has {len(a.encoders)} backbones and {b.name} {len(b.encoders)}; seeds are paired, so give as many of each"
        )
    left, right = ({_pretraining_seed(e): e for e in r.encoders} for r in (a, b))
    if len(a.encoders) > 1 and None not in left and len(left) == len(a.encoders) and left.keys() == right.keys():
        return [(left[k], right[k]) for k in sorted(left, key=str)], "by their recorded pretraining seed"
    return list(zip(a.encoders, b.encoders, strict=True)), "in the order given"


def _head_seeds(pairs: Sequence[Sequence[set[int]]]) -> list[list[int]]:
    """The head seeds to compare for each pair of encoders, as many for each: those that all have, else those that both of a pair have,
    where each pretraining seed was given heads of its own; [] where there are none.
    """
    common = set.intersection(*(s for pair in pairs for s in pair))
    own = [sorted(common or set.intersection(*pair)) for pair in pairs]
    count = min(map(len, own))
    return [seeds[:count] for seeds in own] if count else []


class Workbench:
    """Records' samples, read once."""

    def __init__(self) -> None:
        self._samples: dict[str, Samples] = {}
        self._derived = Derived(writes=False)
        self._effects: dict[tuple[str, str, str], Effect | None] = {}

    def samples(self, record: Record) -> Samples:
        key = f"{record.home}/{record.key}"
        if key not in self._samples:
            self._samples[key] = load_samples(record)
        return self._samples[key]

    def effect_of_length(self, encoder: Encoder, task: str, protocol: str) -> Effect | None:
        """What training of another length did to an encoder's score under a protocol; None where none was run."""
        key = (encoder.label, task, protocol)
        if key not in self._effects:
            runs = {h: list(seeds.values()) for h, seeds in encoder.tasks[task].items()}
            groups = lengths([records[0] for records in runs.values()])
            self._effects[key] = effect_among(groups, runs, protocol, self._difference)
        return self._effects[key]

    def _difference(self, left: Sequence[Record], right: Sequence[Record]) -> Estimate | None:
        def compute() -> Estimate | None:
            sides = [[(r, self._derived.scores(r)) for r in side] for side in (left, right)]
            return paired(*sides).difference()

        try:
            return self._derived.estimate("difference", (left, right), compute)
        except LevlError:  # the contrast itself says what is wrong with samples that it needs
            return None

    def contrast(self, a: Role, b: Role, task: str, metric: str | None, protocol: str) -> Contrast:
        """``a`` minus ``b`` on a task under one protocol (a comparison hash that both have).

        Raises Unusable where seeds, images or samples do not allow it, or where the head is the limit.
        """
        pairs, how = _seed_pairs(a, b)
        heads = [[e.tasks[task][protocol] for e in pair] for pair in pairs]
        seeds = _head_seeds([[set(h) for h in pair] for pair in heads])
        if not seeds:
            raise Unusable(f"{task}: {a.name} and {b.name} have no head seed in common; run the same --seeds for both")
        used = [[[h[s] for s in own] for h in pair] for pair, own in zip(heads, seeds, strict=True)]
        flat = [r for pair in used for side in pair for r in side]
        name = metric or flat[0].main_metric
        for k, role in enumerate((a, b)):
            self._check_heads(role, [(p[k], u[k]) for p, u in zip(pairs, used, strict=True)], task, protocol)
        _check_sight(flat, (a.name, b.name), name)
        layout, values, images, items, left_out = self._layout(used, name)
        caveats = list(_caveats(flat, used, (a.name, b.name), name))
        if len(pairs) > 1:
            caveats.append(f"{task}: the pretraining seeds are paired {how}")
        dropped = sorted({s for pair in heads for h in pair for s in h} - {s for own in seeds for s in own})
        if dropped:
            caveats.append(f"{task}: head seeds {', '.join(map(str, dropped))} are not on both sides and are left out")
        outer = "pretraining seeds" if len(pairs) > 1 else "head seeds" if len(seeds[0]) > 1 else ""
        if outer and len(layout) == 2 and np.ptp(layout, axis=0).any():  # equal rows: nothing is drawn by seed
            caveats.append(
                f"{task}: two {outer} only, so the spread between them has one degree of freedom and the interval is wide"
            )
        return Contrast(
            crossed(layout, 1.0 if factor(name) == 100.0 else 0.0), values, layout, outer, images, items, len(pairs),
            len(seeds[0]), left_out, tuple(dict.fromkeys(r.identity_hash or r.key for r in flat)), tuple(caveats),
        )  # fmt: skip

    def _check_heads(self, role: Role, side: Sequence[tuple[Encoder, Sequence[Record]]], task: str, protocol: str) -> None:
        """Raises Unusable where a head had not converged: its difference may be the head's."""
        heads = [(e, r) for e, records in side for r in records]
        late = [r for e, r in heads if trained_out(r, self.effect_of_length(e, task, protocol)) is False]
        if late:
            words = f"{len(late)} of {len(heads)} heads of {role.name} ({late[0].backbone_name}, seed {late[0].seed})"
            raise Unusable(f"{task}: {words} had not converged, so the head may be the limit; give it a larger budget")

    def _layout(
        self, used: Sequence[Sequence[Sequence[Record]]], metric: str
    ) -> tuple[np.ndarray, tuple[float, float], int, int, int]:
        """[outer seeds, images] differences; both sides' values; images, items and failed items left out."""
        first = used[0][0][0]
        tables = [self.samples(r) for pair in used for side in pair for r in side]
        common = set.intersection(*(set(t) for t in tables))
        ids = sorted(i for i in common if all(t[i].status == "ok" for t in tables))
        if not ids:
            raise Unusable(f"{first.task}: no item that both sides have answered")
        for i in ids:
            if len({t[i].image_id for t in tables}) > 1:
                raise Unusable(f"{first.task}: item {i!r} is about another image on the other side")
        names, where = np.unique([tables[0][i].image_id for i in ids], return_inverse=True)
        if len(names) < MIN_IMAGES:
            raise Unusable(f"{first.task}: {len(names)} images in common; at least {MIN_IMAGES} are needed")
        sides: tuple[list[list[np.ndarray]], list[list[np.ndarray]]] = ([], [])
        whole = len(ids) == max(len(t) for t in tables)
        for pair in used:
            for k, side in enumerate(pair):
                rows = []
                for r in side:
                    pseudo = by_image(r, [self.samples(r)[i] for i in ids], where, len(names), metric)
                    _check_value(r, metric, float(pseudo.mean()), whole)
                    rows.append(pseudo)
                sides[k].append(rows)
        a, b = np.array(sides[0]), np.array(sides[1])  # [pretraining seeds, head seeds, images]
        d = a - b
        layout = d.mean(1) if len(d) > 1 else d[0]
        return layout, (float(a.mean()), float(b.mean())), len(names), len(ids), len(common) - len(ids)


def _check_value(record: Record, metric: str, value: float, whole: bool) -> None:
    """Where nothing was left out the samples must give the record's own number, or they say nothing about it."""
    recorded = value_of(record, metric)
    if whole and recorded is not None and abs(recorded - value) > 1e-6:
        raise Unusable(f"{record.task}: {metric} from the samples of {record.key} is {value:.6f}, the record says {recorded:.6f}")


def _check_sight(flat: Sequence[Record], names: tuple[str, str], metric: str) -> None:
    """Raises Unusable where neither side is above the floor without sight."""
    if metric != flat[0].main_metric:
        return
    floors = [e.value for r in flat for k, e in r.metrics.items() if k.startswith("floor_")]
    if not floors:
        return
    down = lower_is_better(metric)
    floor = min(floors) if down else max(floors)
    ends = [r.metrics[metric].high if down else r.metrics[metric].low for r in flat if metric in r.metrics]
    if ends and all(e is not None and (e >= floor if down else e <= floor) for e in ends):
        raise Unusable(
            f"{flat[0].task}: neither {names[0]} nor {names[1]} is above the floor "
            f"without sight ({factor(metric) * floor:.1f}), so nothing was seen"
        )


def _caveats(
    flat: Sequence[Record], used: Sequence[Sequence[Sequence[Record]]], names: tuple[str, str], metric: str
) -> list[str]:
    """What must be told beside a verdict."""
    task, out = flat[0].task, []
    if imported := list(dict.fromkeys(r.backbone_name for r in flat if r.external)):
        out.append(f"{task}: the answers of {', '.join(imported)} are imported predictions, which nothing here has measured")
    if flat[0].engine not in _WITHOUT_HEAD and any(converged(r) is None for r in flat):
        out.append(f"{task}: whether the heads had converged is not recorded")
    for key in sorted({k for r in flat for k in r.metrics if k.startswith("floor_")}):
        values = [r.metrics[key].value for r in flat if key in r.metrics]
        if max(values) - min(values) > 1e-6 or len(values) < len(flat):
            out.append(f"{task}: {key} is not the same on both sides, so a difference of gains over it is another number")
    shapes = [digest(object_at(side[0].backbone, "info").get("architecture")) for pair in used for side in pair]
    if len(set(shapes)) > 1:
        out.append(
            f"{task}: {names[0]} and {names[1]} are of different architecture: gains over each one's own random twin are other numbers"
        )
    return out
