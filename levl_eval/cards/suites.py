"""`suite:NAME` among ``--tasks``: which tasks it stands for, and which suites there are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TypeVar

from levl_eval.cards import SuiteCard
from levl_eval.cards.registry import SUITE, cards_in, suite_card
from levl_eval.core.errors import UsageError

_Word = TypeVar("_Word")


def suite_cards() -> list[SuiteCard]:
    """Every suite that is known: those that ship, of plug-ins, and the user's own. A bad card is refused where it is named, not here."""
    out = []
    for name in sorted(cards_in("tasks/suites")):
        with contextlib.suppress(UsageError):
            out.append(suite_card(name))
    return out


def suites_of(words: Sequence[object]) -> list[SuiteCard]:
    """The suites that are named among ``--tasks``, each once. Raises UsageError as suite_card."""
    named = dict.fromkeys(w.removeprefix(SUITE) for w in words if isinstance(w, str) and w.startswith(SUITE))
    return [suite_card(name) for name in named]


def tasks_of(words: Sequence[_Word], data: str) -> list[_Word | str]:
    """``--tasks`` with the tasks of a suite in place of ``suite:NAME``; a name that comes twice comes once. data: ``--data``.

    Raises UsageError as suite_card.
    """
    out: list[_Word | str] = []
    for word in words:
        named = isinstance(word, str) and word.startswith(SUITE)
        meant: Sequence[_Word | str] = suite_card(str(word).removeprefix(SUITE)).on(data).tasks if named else [word]
        out += [m for m in meant if not isinstance(m, str) or m not in out]
    return out


def only_of_suites(words: Sequence[object], data: str) -> frozenset[str]:
    """Names of the tasks that a suite brings and nobody named: of them, what a backbone cannot do is left out and not failed."""
    named = {w for w in words if isinstance(w, str)}
    return frozenset(t for suite in suites_of(words) for t in suite.on(data).tasks if t not in named)


def left_out_by_suites(words: Sequence[object], data: str) -> frozenset[tuple[str, str]]:
    """(backbone, task) of what every suite that brings the task leaves out, and nobody named beside it."""
    optional = only_of_suites(words, data)
    parts = [suite.on(data) for suite in suites_of(words)]
    pairs = {(b, t) for part in parts for b, tasks in part.leave_out.items() for t in tasks if t in optional}
    return frozenset((b, t) for b, t in pairs if all(t in part.leave_out.get(b, ()) for part in parts if t in part.tasks))
