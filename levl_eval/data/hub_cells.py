"""Cells of a hub table as their columns mean them: class labels by their names, images by what they hold."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def with_images(table: Dataset) -> Dataset:
    """The table with every column of {bytes, path} as images:
    what pandas, polars and pyarrow write of one has lost the library's note on it."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, Mapping) and set(feature) == {"bytes", "path"}:
            table = table.cast_column(name, datasets.Image())
    return table


def named_rows(table: Dataset, numbers: Container[str] = ()) -> Iterator[dict[str, object]]:
    """Rows with class labels as the names they stand for, None where there is none. numbers: columns that are left as numbers."""
    classes = {n: f for n, f in table.features.items() if n not in numbers and _has_names(f)}
    for row in table:
        yield {**row, **{n: _named(row[n], f) for n, f in classes.items()}} if classes else row


def _has_names(feature: object) -> bool:
    if isinstance(feature, Mapping):
        return any(map(_has_names, feature.values()))
    inner = getattr(feature, "feature", None)
    return _names(feature) is not None or (inner is not None and _has_names(inner))


def _names(feature: object) -> list[str] | None:
    """A class label's names; None of other columns, and of labels that were given no names: theirs are the numbers."""
    names = getattr(feature, "names", None)
    return names if isinstance(names, list) and names != [str(k) for k in range(len(names))] else None


def _named(value: object, feature: object) -> object:
    names = _names(feature)
    if names is not None:
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    inner = getattr(feature, "feature", None)
    if isinstance(value, list) and inner is not None:
        return [_named(v, inner) for v in value]
    if isinstance(value, dict) and isinstance(feature, Mapping):
        return {k: _named(v, feature.get(k)) for k, v in value.items()}
    return value
