"""How many images and seeds decide a claim at a margin: from the variances a finished run shows.

Power is found by simulation of the very test that judges the claim (metrics.crossed), with common random numbers for all sizes, so
that it grows with the images. A claim whose differences must all be shown needs each with a power of its own: with k of them,
1 - (1 - power) / k is enough whatever their dependence (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from levl_eval.claims.evidence import MIN_IMAGES
from levl_eval.claims.verdict import Difference, Judged
from levl_eval.core.errors import UsageError
from levl_eval.metrics.crossed import PSEUDO_IMAGES, Components, Crossed, components
from levl_eval.metrics.equivalence import Relation, evidence
from levl_eval.report.units import factor

DRAWS = 1_000
MOST_IMAGES = 1_000_000
SEEDS = (2, 3, 5, 8, 12, 20)


def power_of(
    parts: Components, images: int, seeds: int, relation: Relation, margin: float, alpha: float = 0.05, beyond: float = 0.0
) -> float:
    """Chance that a difference is shown, with so many images and seeds, by simulation of its test.

    margin, beyond, parts: in the metric's own numbers (variances in their squares). greater, less: the true difference is ``margin`` and is
    tested to be beyond ``beyond``, the claim's own margin; equivalent: it is 0 and is tested to lie within ``margin``.
    """
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(DRAWS)
    by_seed = parts.seed / seeds + parts.rest / (seeds * images) if seeds > 1 else 0.0
    by_image = parts.image / images + (0.0 if seeds > 1 else parts.rest / images)
    # of the estimate of the seeds' variance around the truth
    spread = rng.chisquare(max(seeds - 1, 1), DRAWS) / max(seeds - 1, 1)
    other = 1 + rng.standard_normal(DRAWS) * np.sqrt(2 / max(images - 1, 1))
    inner = by_image * np.maximum(other, 0.0) + PSEUDO_IMAGES * 3 * by_image / images  # 3: the fourth moment of the normal
    true = {"greater": margin, "less": -margin, "equivalent": 0.0}[relation]
    value = true + np.sqrt(by_seed + by_image) * normal
    drawn = Crossed(value, by_seed * spread if seeds > 1 else np.zeros(DRAWS), inner, seeds, images)
    result = evidence(drawn, relation, margin if relation == "equivalent" else beyond)
    return float((result.support <= alpha).mean())


def images_needed(
    parts: Components, seeds: int, relation: Relation, margin: float, power: float, alpha: float = 0.05, beyond: float = 0.0
) -> int | None:
    """The fewest images (to 2 %) with which the test reaches ``power``; None where a million do not. The rest as in :func:`power_of`."""

    def enough(n: int) -> bool:
        return power_of(parts, n, seeds, relation, margin, alpha, beyond) >= power

    if not enough(MOST_IMAGES):
        return None
    low, high = MIN_IMAGES - 1, MOST_IMAGES
    while high - low > max(1, low // 50):  # in equal ratios: most claims need far fewer than a million
        middle = max(low + 1, min(high - 1, round((low * high) ** 0.5)))
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Planned:
    """What one difference of a claim needs. seeds: what is counted ("pretraining seeds", "head seeds", or "" where only one was run).

    deviations: standard deviations between seeds, between images, and of what is left, in points or the metric's unit. needs: seeds ->
    images, None where no number of images is enough. now: images and seeds of the run, and the power they have.
    """

    task: str
    metric: str
    against: str
    choices: tuple[tuple[str, str], ...]
    seeds: str
    deviations: tuple[float, float, float]
    needs: tuple[tuple[int, int | None], ...]
    now: tuple[int, int, float]

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {**asdict(self), "choices": dict(self.choices), "needs": [{"seeds": s, "images": n} for s, n in self.needs]}


def plan_one(d: Difference, relation: Relation, margin: float, power: float, alpha: float, beyond: float = 0.0) -> Planned:
    """margin, beyond: in points of a percentage, or in the metric's unit; see :func:`power_of`.

    Raises UsageError for a difference that was not tested.
    """
    if d.contrast is None:
        raise UsageError(f"{d.task}: {d.reason}; a plan needs a finished run of it")
    scale = factor(d.metric)
    parts = components(d.contrast.layout)
    inner, edge = margin / scale, beyond / scale
    seeds = len(d.contrast.layout)
    offered: Sequence[int] = sorted({*SEEDS, seeds}) if d.contrast.outer else (1,)
    needs = tuple((s, images_needed(parts, s, relation, inner, power, alpha, edge)) for s in offered)
    deviations = tuple(float(v) ** 0.5 * scale for v in (parts.seed, parts.image, parts.rest))
    now = power_of(parts, d.contrast.images, seeds, relation, inner, alpha, edge)
    return Planned(
        d.task, d.metric, d.other, d.choices, d.contrast.outer, (deviations[0], deviations[1], deviations[2]), needs,
        (d.contrast.images, seeds, now),
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a claim needs: every one of its differences. power: asked of the claim; each: of one difference."""

    claim: str
    relation: str
    margin: float
    power: float
    each: float
    alpha: float
    differences: tuple[Planned, ...]
    missing: tuple[str, ...]  # differences that were not run

    @property
    def needs(self) -> list[tuple[int, int | None]]:
        """Seeds -> images with which every difference is decided; only seeds that are offered for all of them."""
        tables = [dict(p.needs) for p in self.differences]
        out: list[tuple[int, int | None]] = []
        for s in sorted(set.intersection(*(set(t) for t in tables))) if tables else []:
            needed = [t[s] for t in tables]
            out.append((s, None if None in needed else max(n for n in needed if n is not None)))
        return out

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "claim": self.claim, "relation": self.relation, "margin": self.margin, "power": self.power, "power_each": self.each,
            "alpha": self.alpha, "needs": [{"seeds": s, "images": n} for s, n in self.needs],
            "differences": [p.as_dict() for p in self.differences], "missing": list(self.missing),
        }  # fmt: skip


def plan(judged: Judged, margin: float | None, power: float) -> Plan:
    """From a judged claim: what would decide it by the claim's own test. margin: None takes the claim's own.

    Raises UsageError for a power outside (0, 1), a margin that is not above 0 or, of greater and less, not above the claim's own, and where
    nothing of the claim was run.
    """
    wanted = judged.card.margin if margin is None else margin
    beyond = 0.0 if judged.card.relation == "equivalent" else judged.card.margin
    if not 0.05 < power < 1:
        raise UsageError(f"--power {power}: above 0.05 and below 1")
    if not 0 < wanted < 1e6:
        raise UsageError(
            f"--margin {wanted:g}: above 0; the difference that is to be found (greater, less) or excluded (equivalent)"
        )
    if wanted <= beyond:
        raise UsageError(
            f"--margin {wanted:g}: {judged.card.name} asks for a difference beyond {beyond:g}; "
            "give a true difference above that, which is to be found"
        )
    tested = [d for d in judged.differences if d.contrast is not None]
    if not tested:
        raise UsageError(f"plan: nothing of {judged.card.name} was run: {judged.reasons[0] if judged.reasons else 'no task'}")
    every = "any" not in (judged.card.over.tasks, judged.card.over.against, judged.card.over.protocols)
    each = 1 - (1 - power) / len(judged.differences) if every else power
    relation = judged.card.relation
    planned = tuple(plan_one(d, relation, wanted, each, judged.alpha, beyond) for d in tested)
    return Plan(judged.card.name, relation, wanted, power, each, judged.alpha, planned, judged.reasons)
