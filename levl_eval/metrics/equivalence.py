"""Tests of a claim about differences, and of claims made of several: pure functions on p-values and differences.

Every claim is tested both ways: is it shown (*support*), is its opposite shown (*contradiction*). Each way has the p-value
"the smallest alpha at which the two-sided 1 - alpha interval lies wholly on that side", so that a verdict at alpha = 5 % is what one reads
from the 95 % interval, and the chance of any one false verdict is alpha at most, half of it for either way.

Relations
  greater, less    the difference is above (below) a margin, 0 unless the claim says more.
  equivalent       the difference is inside (-margin, margin): two one-sided tests (D. J. Schuirmann, Journal of Pharmacokinetics and
                   Biopharmaceutics 1987). Contradicted where it is shown to be outside.

Several differences
  all must hold    intersection-union: the largest p-value, no adjustment (R. L. Berger, Technometrics 1982).
  any may hold     union-intersection: the smallest, times how many (Bonferroni).
  The opposite of "all hold" is "any fails", and the other way round.
  A family of claims is adjusted by S. Holm (Scandinavian Journal of Statistics 1979; metrics.permutation.holm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from levl_eval.metrics.crossed import Crossed

Relation = Literal["greater", "less", "equivalent"]
Rule = Literal["all", "any"]


@dataclass(frozen=True)
class Evidence:
    """p-values of a claim and of its opposite; both 1 where nothing is known. Arrays of one shape for a batch."""

    support: np.ndarray
    contradiction: np.ndarray


NOTHING = Evidence(np.asarray(1.0), np.asarray(1.0))


def _both_ways(p: np.ndarray) -> np.ndarray:
    """One-sided to the smallest alpha of a two-sided interval."""
    return np.asarray(np.minimum(1.0, 2 * p))


def evidence(difference: Crossed, relation: Relation, margin: float = 0.0) -> Evidence:
    """p-values of one difference. margin: in the metric's own numbers (fractions), 0 or more. Raises ValueError for another relation."""
    if relation == "greater":
        return Evidence(_both_ways(difference.above(margin)), _both_ways(difference.below(margin)))
    if relation == "less":
        return Evidence(_both_ways(difference.below(-margin)), _both_ways(difference.above(-margin)))
    if relation != "equivalent":
        raise ValueError(f"evidence: relation greater, less or equivalent, found {relation!r}")
    inside = np.maximum(difference.above(-margin), difference.below(margin))
    outside = np.minimum(difference.above(margin), difference.below(-margin))
    return Evidence(_both_ways(inside), np.minimum(1.0, 2 * _both_ways(outside)))  # two ways of being outside


def combined(parts: Sequence[Evidence], rule: Rule) -> Evidence:
    """Evidence for "all parts hold" (intersection-union) or "at least one holds" (Bonferroni). Raises ValueError without parts."""
    if not parts:
        raise ValueError("combined: no parts")
    support = np.stack([np.asarray(p.support, float) for p in parts])
    contradiction = np.stack([np.asarray(p.contradiction, float) for p in parts])
    if rule == "all":
        return Evidence(support.max(0), np.minimum(1.0, len(parts) * contradiction.min(0)))
    return Evidence(np.minimum(1.0, len(parts) * support.min(0)), contradiction.max(0))
