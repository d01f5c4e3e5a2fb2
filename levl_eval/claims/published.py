"""The published numbers that go with a claim, as differences beside the measured ones; never among them."""

from __future__ import annotations

from dataclasses import dataclass

from levl_eval.cards import ClaimCard
from levl_eval.report.published import load_published


@dataclass(frozen=True)
class PublishedDifference:
    """subject minus other as printed, in percent or points. grade: official | second-hand."""

    value: float
    llm: str
    grade: str
    source: str


def published_differences(card: ClaimCard, task: str, metric: str, other: str) -> tuple[PublishedDifference, ...]:
    """Every published difference of the claim's two roles on a task, one a language model; gains before absolute numbers."""
    a, b = card.published.get(card.subject), card.published.get(other)
    if not a or not b:
        return ()
    numbers = [p for p in load_published() if p.task == task and p.metric == metric]
    out: dict[str, PublishedDifference] = {}
    for kind in ("gain", "value"):
        for x in (p for p in numbers if p.backbone == a and p.kind == kind):
            for y in (p for p in numbers if p.backbone == b and p.kind == kind and p.llm == x.llm):
                if x.llm not in out:
                    grade = x.grade if x.grade == y.grade else f"{x.grade}, {y.grade}"
                    out[x.llm] = PublishedDifference(round(x.value - y.value, 4), x.llm, grade, x.source)
    return tuple(out.values())
