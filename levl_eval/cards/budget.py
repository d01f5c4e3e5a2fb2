"""How long a task's head or connector is trained, as fields of its card: what ``--budget`` multiplies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from levl_eval.cards.base import TaskFields
from levl_eval.core.errors import UsageError

FIELDS = ("steps", "epochs", "max_iterations")  # the first that is set counts
MOST = 64


def budget_of(card: TaskFields) -> tuple[str, float] | None:
    """(field, its value) that says how long something is trained; None where nothing is, or it is trained until a rule holds."""
    if getattr(card, "until", "epochs") != "epochs":
        return None
    for holder, prefix in ((getattr(card, "recipe", None), "recipe."), (card, "")):
        for field in FIELDS:
            value = getattr(holder, field, None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return prefix + field, value
    return None


def parse_budgets(words: str) -> list[int]:
    """``x2,x4`` -> [2, 4]. Raises UsageError for another form."""
    out = []
    for word in filter(None, (w.strip() for w in words.split(","))):
        number = word.removeprefix("x")
        if not number.isdigit() or not 2 <= int(number) <= MOST:
            raise UsageError(f"--budget {words[:40]!r}: expected factors from x2 to x{MOST}, as x2 or x2,x4")
        out.append(int(number))
    if len(set(out)) < len(out):
        raise UsageError(f"--budget {words[:40]!r}: a factor is given twice")
    return sorted(out)


def budget_words(cards: Mapping[str, TaskFields], factors: Sequence[int]) -> list[str]:
    """``--grid`` words that train each task's head as its card says and ``factors`` times as long.

    cards: task as it was named -> its card. Raises UsageError where none of them trains anything for a stated time.
    """
    out = []
    for task, card in cards.items():
        budget = budget_of(card)
        if budget is not None:
            field, value = budget
            values = [value * f for f in (1, *factors)]
            stem = task.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
            out.append(f"{stem}.{field}=" + ",".join(str(int(v)) if v == int(v) else f"{v!r}" for v in values))
    if factors and not out:
        raise UsageError(f"--budget: none of {', '.join(cards)} trains a head for a stated time; leave it out")
    return out


def budget_in(protocol: Mapping[str, object]) -> tuple[str, float] | None:
    """:func:`budget_of` a record's protocol, with dotted names (report.provenance.flat)."""
    if protocol.get("until", "epochs") != "epochs":
        return None
    for prefix in ("recipe.", ""):
        for field in FIELDS:
            value = protocol.get(prefix + field)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return prefix + field, float(value)
    return None
