"""An mmseg config of a card: read from the file a user names, kept as the text of one Python literal, and read back without running it."""

from __future__ import annotations

import ast
import pprint
from pathlib import Path

from levl_eval.cards.dense import MMSegCard
from levl_eval.core.errors import UsageError
from levl_eval.core.third_party import repair_mmseg
from levl_eval.core.user_code import told


def read_config(path: str) -> str:
    """An mmseg config file with everything it inherits, as the text of one Python literal, which later is read without running it.

    Raises UsageError for a file that is missing, cannot be read, or holds more than plain values.
    """
    if not Path(path).expanduser().is_file():
        raise UsageError(f"{path}: no such mmseg config; correct the field `config`")
    repair_mmseg()
    from mmengine.config import Config

    try:
        value = Config.fromfile(str(Path(path).expanduser())).to_dict()
    except Exception as e:  # whatever a config's own code raises
        raise UsageError(f"{path}: not an mmseg config ({told(e)})") from e
    value = {k: v for k, v in value.items() if not callable(v)}
    text = pprint.pformat(value, width=120, sort_dicts=True)
    try:
        same = ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise UsageError(f"{path}: holds more than numbers, texts, lists and dicts; write its types as names")
    return text


def config_value(card: MMSegCard) -> dict[str, object]:
    """The values of a card's ``config_text``, which is read and never run. Raises UsageError where it is no dict of plain values."""
    try:
        value: object = ast.literal_eval(card.config_text or "")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict):
        where = card.config or f"{card.name}: field `config_text`"
        raise UsageError(f"{where}: not the text of a config; set `config` to the file again")
    return value
