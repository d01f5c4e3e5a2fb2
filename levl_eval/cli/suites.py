"""What a suite adds to a run: the claims it names, judged on the records of the run when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from levl_eval.core.errors import LevlError

if TYPE_CHECKING:
    from levl_eval.cards import ClaimCard, SuiteCard
    from levl_eval.claims import Judged
    from levl_eval.records import Record


@dataclass(frozen=True)
class Verdicts:
    """judged: in order; left: a line on each claim that could not be judged, with the remedy."""

    judged: list[Judged] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a terminal."""
        from levl_eval.claims.wording import lines

        return [*(line for j in self.judged for line in lines(j)), *self.left]

    def as_list(self) -> list[dict[str, object]]:
        """Plain JSON values of those judged."""
        from levl_eval.claims.wording import as_dict

        return [as_dict(j) for j in self.judged]


def claims_of(suites: Sequence[SuiteCard], data: str) -> list[ClaimCard]:
    """The claims that suites name for this kind of data, each once. Raises UsageError for an unknown one."""
    from levl_eval.cards.registry import claim_card

    names = dict.fromkeys(name for suite in suites for name in suite.on(data).claims)
    wanted = ("scenes", "any") if data == "scenes" else ("published", "any")
    return [card for card in map(claim_card, names) if card.data in wanted]


def players(suites: Sequence[SuiteCard], backbones: Sequence[str], given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Role -> its backbones: those of ``--as``, else the first of the suites' own that is among ``backbones``."""
    out: dict[str, list[str]] = {}
    for suite in suites:
        for role, names in suite.roles.items():
            there = [n for n in names if n in backbones]
            if there:
                out.setdefault(role, there[:1])
    return {**out, **{role: list(names) for role, names in given.items()}}


def verdicts(suites: Sequence[SuiteCard], records: Sequence[Record], data: str, given: Mapping[str, Sequence[str]]) -> Verdicts:
    """The suites' claims, as one family, on the finished records. What cannot be judged is reported and does not affect the others."""
    from levl_eval.claims import judge

    done = [r for r in records if r.status == "done"]
    roles = players(suites, list(dict.fromkeys(r.backbone_name for r in done)), given)
    cards, left = [], []
    for card in claims_of(suites, data):
        lacking = [r for r in card.roles if r not in roles]
        if lacking:
            how = " ".join(f"--as {r}=BACKBONE" for r in lacking)
            left.append(f"claim {card.name} was not judged: no backbone of this run plays {', '.join(lacking)}; add {how}")
        else:
            cards.append(card)
    if not cards:
        return Verdicts([], left)
    used = {role for card in cards for role in card.roles}
    try:
        return Verdicts(judge(cards, done, {r: n for r, n in roles.items() if r in used}), left)
    except LevlError as e:
        return Verdicts([], [*left, f"claims {', '.join(c.name for c in cards)} were not judged: {e}"])
