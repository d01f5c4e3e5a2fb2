"""What a record, a card or a saved model of others could run as Python on this machine, and who has to vouch for it.

A user's own words on the command line are trusted: a `py:` URI, `--set TASK.config=FILE`, `--set TASK.include=DIR`. The same in a
record, in a card's file or in a saved model needs `--trust`. Nothing else in them executes: weights are read without pickled code,
`transformers` without code of the repository, and an mmseg config that is stored as text builds registered types only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from levl_eval.cards.base import TaskFields
from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    from levl_eval.cards import TaskCard

HELP = "execute Python code that the record or card names: `py:` backbones, mmseg config files, task folders of lmms-eval"
REMEDY = "say --trust if you know who wrote it"
FIELDS = ("config", "include")  # of task cards: a Python file, a folder whose task files may call functions


def check_fields(card: TaskFields, where: str, named: set[str], trust: bool) -> None:
    """Raises UsageError for a field that names Python and that the user did not set (``named``)."""
    for field in FIELDS:
        value = getattr(card, field, None)
        if value and field not in named and not trust:
            raise UsageError(
                f"{where}: field `{field}`: {value!r} may run Python here; {REMEDY}, or name it by --set {card.name}.{field}=..."
            )


def check_card(card: TaskCard, where: str) -> None:
    """Raises UsageError for what a resolved task card would execute unless it is trusted: also what its config's text builds."""
    if card.trusted:
        return
    if card.engine == "lmms":
        check_fields(card, where, set(), False)
    if card.engine == "mmseg" and card.config_text:
        from levl_eval.cards.mmseg_text import config_value
        from levl_eval.cards.mmseg_trust import check_config

        check_config(config_value(card), f"{where}: field `config_text`")
