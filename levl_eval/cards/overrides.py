"""`--set task.field=value`: one field of a card's mapping, changed before the card is validated."""

from __future__ import annotations

import shlex

from levl_eval.core.errors import UsageError
from levl_eval.core.safe_yaml import parse_yaml
from levl_eval.core.text import printable

_FIXED = ("kind", "name", "engine")
_TEXTS = ("template", "user", "system")  # fields of text in which braces and colons stand, that YAML takes for its own


def override(value: dict[str, object], field: str, text: str, where: str) -> None:
    """Set the dotted ``field`` of a card's mapping to ``text`` read as YAML, in place."""
    *parents, last = field.split(".")
    if field in _FIXED:
        raise UsageError(f"--set {where}.{field}: says which card this is, which is not to be changed; write a card of your own")
    node: object = value
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise UsageError(f"--set {where}.{field}: `{part}` is not inside a mapping")
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
    parsed = _parsed(text, f"{where}.{field}", last)
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise UsageError(f"--set {where}.{field}: `{last}` cannot be set there")


def _parsed(text: str, field: str, last: str) -> object:
    """``text`` read as YAML. Raises UsageError: no YAML, or not text where the field ``last`` is one, with the text as it is quoted."""
    try:
        parsed = parse_yaml(text, f"--set {field}={printable(text[:60])}")
    except UsageError:
        if last not in _TEXTS:
            raise
    else:
        if last not in _TEXTS or isinstance(parsed, str):
            return parsed
    quoted = '"' + text.replace('"', r"\"").replace("\n", r"\n") + '"'
    raise UsageError(
        f"--set {field}={printable(text[:60])}: is no text to YAML, by which values are read; "
        f"quote it: --set {printable(shlex.quote(f'{field}={quoted}'))}"
    )
