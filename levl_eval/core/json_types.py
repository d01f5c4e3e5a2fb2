"""What JSON and YAML may hold, as types, and readers that narrow a value or say in one line what stands there instead.

Use these in place of ``Any``: ``JsonObject`` for a parsed object whose fields are looked at, ``Mapping[str, object]`` for what is only
handed on, a ``TypedDict`` or a pydantic model for what has a fixed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
JsonObject: TypeAlias = dict[str, Json]


def as_object(value: object, what: str) -> JsonObject:
    """``value`` where it is a JSON object with text keys; else a ValueError that begins with ``what`` (a file and entry)."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what}: expected an object, found {_kind(value)}")
    return value


def as_list(value: object, what: str) -> list[Json]:
    """``value`` where it is a JSON list; else a ValueError that begins with ``what``."""
    if not isinstance(value, list):
        raise ValueError(f"{what}: expected a list, found {_kind(value)}")
    return value


def as_text(value: object, what: str) -> str:
    """``value`` where it is text; else a ValueError that begins with ``what``."""
    if not isinstance(value, str):
        raise ValueError(f"{what}: expected text, found {_kind(value)}")
    return value


def as_number(value: object, what: str) -> float:
    """``value`` where it is a number (a bool is none); else a ValueError that begins with ``what``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what}: expected a number, found {_kind(value)}")
    return float(value)


def object_at(value: object, *path: str) -> Mapping[str, object]:
    """The object that lies at ``path`` below ``value``; {} where there is none or something else, as in records of older versions."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
