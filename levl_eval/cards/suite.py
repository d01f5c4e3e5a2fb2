"""Suite cards (`tasks/suites/*.yaml`): tasks that belong together, the averages over them, and the claims they decide."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from levl_eval.cards.base import PROSE, StrictModel
from levl_eval.cards.claim import ClaimTask
from levl_eval.cards.fields import Name, not_protocol
from levl_eval.core.text import did_you_mean

_JOBS = "which jobs there are; the protocol of each is its own"
_TABLES = "averages beside the metrics, which do not use them"


def _entry(value: object) -> object:
    """A task's name alone stands for its main metric."""
    return {"task": value} if isinstance(value, str) else value


GroupTask = Annotated[ClaimTask, BeforeValidator(_entry)]


class SuitePart(StrictModel):
    """tasks: names of task cards, HEAD@SET among them. groups: name -> tasks whose metrics are averaged, each with equal weight.

    claims: names of claim cards that are judged when the run ends. leave_out: backbone -> tasks it is not run on, to keep a suite short.
    """

    tasks: list[Name] = not_protocol(_JOBS, min_length=1, max_length=200)
    groups: dict[Name, Annotated[list[GroupTask], Field(min_length=2)]] = not_protocol(_TABLES, {})
    claims: list[Name] = not_protocol(_TABLES, [])
    leave_out: dict[Name, list[Name]] = not_protocol(_JOBS, {})

    @model_validator(mode="after")
    def _fits(self) -> SuitePart:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("`tasks` names a task twice")
        for backbone, tasks in self.leave_out.items():
            for name in tasks:
                if name not in self.tasks:
                    raise ValueError(
                        f"`leave_out.{backbone}` names {name!r}, which is not in `tasks`{did_you_mean(name, self.tasks)}"
                    )
        for group, entries in self.groups.items():
            names = [e.task for e in entries]
            for name in names:
                if name not in self.tasks:
                    raise ValueError(f"`groups.{group}` names {name!r}, which is not in `tasks`{did_you_mean(name, self.tasks)}")
            if len(set(names)) < len(names):
                raise ValueError(f"`groups.{group}` names a task twice: it would weigh double")
        return self


class SuiteCard(SuitePart):
    """``--tasks suite:NAME`` stands for the card's tasks, on ``--data scenes`` for those of ``scenes`` where it has any.

    roles: role of the claims -> backbones that play it unless ``--as`` names others; the first that is among those run.
    """

    kind: Literal["suite"] = not_protocol("a word that tells cards apart", "suite")
    name: Name = not_protocol(_JOBS)
    description: str = not_protocol(PROSE, "")
    source: str = not_protocol(PROSE, "")
    roles: dict[str, list[str]] = not_protocol(_TABLES, {})
    scenes: SuitePart | None = not_protocol(_JOBS, None)

    def on(self, data: str) -> SuitePart:
        """What is run on ``--data`` data."""
        return self.scenes if data == "scenes" and self.scenes is not None else self

    @property
    def parts(self) -> tuple[SuitePart, ...]:
        """The suite itself and, where it has one, its part on the synthetic scenes."""
        return (self,) if self.scenes is None else (self, self.scenes)
