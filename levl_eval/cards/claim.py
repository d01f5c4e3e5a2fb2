"""Claim cards (`tasks/claims/*.yaml`): a statement, who is in it, on which tasks, and over what it must hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from levl_eval.cards.base import PROSE, StrictModel
from levl_eval.cards.fields import Between, Name, not_protocol, protocol
from levl_eval.core.text import did_you_mean

_Role = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
_Seeds = Annotated[int, Between(1, 1_000)]


class ClaimTask(StrictModel):
    """A task the claim is about. metric: the task's main metric unless another is named."""

    task: Name = protocol()
    metric: Annotated[str, Field(min_length=1, max_length=200)] | None = protocol(None)


class Over(StrictModel):
    """Over what the claim must hold.

    tasks, against, protocols: "all" or "any" of the tasks, of the roles it is against, and of the protocols that were run.
    pretraining_seeds, head_seeds: at least so many a role; with fewer the claim is undecided.
    """

    tasks: Literal["all", "any"] = protocol("all")
    against: Literal["all", "any"] = protocol("all")
    protocols: Literal["all", "any"] = protocol("all")
    pretraining_seeds: _Seeds = protocol(1)
    head_seeds: _Seeds = protocol(1)


class ClaimCard(StrictModel):
    """``subject`` stands in ``relation`` to every (any) role of ``against`` on every (any) task.

    The difference is always subject minus other, of the metric as it is: of an error or a drop, "less" is the better one.
    margin: in points of a percentage, or in the metric's own unit where it is no fraction. greater, less: the difference must be beyond
    it, 0 unless said; equivalent: inside it on both sides, and it must be said.
    data: what the claim is about: published data sets, generated scenes, or any.
    published: role -> the name under which results/published has the numbers that go with the claim.
    """

    kind: Literal["claim"] = protocol("claim")
    name: Name = protocol()
    statement: str = not_protocol(PROSE, min_length=1)
    source: str = not_protocol(PROSE, "")
    note: str = not_protocol(PROSE, "")
    roles: dict[_Role, str] = not_protocol(PROSE)  # name -> who that is
    subject: str = protocol()
    against: list[str] = protocol(min_length=1)
    relation: Literal["greater", "less", "equivalent"] = protocol()
    margin: Annotated[float, Between(0, 1_000_000)] = protocol(0.0)
    tasks: list[ClaimTask] = protocol(min_length=1)
    over: Over = protocol(Over())
    data: Literal["published", "scenes", "any"] = protocol("any")
    published: dict[_Role, str] = not_protocol("beside the measured numbers, never among them", {})

    @model_validator(mode="after")
    def _fits(self) -> ClaimCard:
        known = list(self.roles)
        for field, names in (("subject", [self.subject]), ("against", self.against), ("published", list(self.published))):
            for name in names:
                if name not in self.roles:
                    raise ValueError(f"`{field}` names {name!r}{did_you_mean(name, known)}; `roles` has {', '.join(known)}")
        if self.subject in self.against or len(set(self.against)) < len(self.against):
            raise ValueError("`against` names a role twice, or the subject itself")
        unused = [r for r in known if r != self.subject and r not in self.against]
        if unused:
            raise ValueError(f"role {unused[0]!r} is neither the subject nor in `against`")
        if self.relation == "equivalent" and not self.margin:
            raise ValueError("`relation: equivalent` needs a `margin` above 0: no data can show a difference of exactly 0")
        pairs = [(t.task, t.metric) for t in self.tasks]
        if len(set(pairs)) < len(pairs):
            raise ValueError("`tasks` has an entry twice")
        return self
