"""`--set task.field=value`: one field of a card's mapping, changed before the card is validated."""

from __future__ import annotations

import shlex
from collections.abc import Callable

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


def embed_recipe(
    read: Callable[[str], dict[str, object]], value: dict[str, object], chosen: str | None, default: str | None, name: str
) -> None:
    """Put the mapping of a card's recipe in its name's place: of the one that ``--set`` names or writes, else of ``default``.

    read: a recipe's mapping by its name. default: "scenes" stands for the recipe that the card, or its own recipe, names for
    them (`on_scenes`).
    """
    recipe = value.get("recipe", "vqa-train")
    if chosen is not None:
        recipe = chosen
        if chosen.lstrip().startswith("{"):  # a whole recipe, written as a YAML mapping
            override(value, "recipe", chosen, name)
            recipe = value["recipe"]
    elif default and isinstance(recipe, str):
        own = (value.get("on_scenes") or read(recipe).get("on_scenes")) if default == "scenes" else None
        recipe = own if isinstance(own, str) else default
    value["recipe"] = read(recipe) if isinstance(recipe, str) else recipe


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
