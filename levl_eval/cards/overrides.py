"""`--set task.field=value`: one field of a card's mapping, changed before the card is validated."""

from __future__ import annotations

from levl_eval.core.errors import UsageError
from levl_eval.core.safe_yaml import parse_yaml
from levl_eval.core.text import printable


def override(value: dict[str, object], field: str, text: str, where: str) -> None:
    """Set the dotted ``field`` of a card's mapping to ``text`` read as YAML, in place."""
    *parents, last = field.split(".")
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
    parsed = parse_yaml(text, f"--set {where}.{field}={printable(text[:60])}")
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise UsageError(f"--set {where}.{field}: `{last}` cannot be set there")
