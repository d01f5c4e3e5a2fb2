"""From listed images with labels to a classification set: what the readers of classification sets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.images import fingerprint_text, image_set
from levl_eval.data.types import ClassificationSet

Entry = tuple[str, Path, int]  # id, file, class


def spread(labels: Sequence[int] | np.ndarray, limit: int | None) -> list[int]:
    """Positions of at most ``limit`` items, taken from all classes in turn, in their old order."""
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    turn: dict[int, int] = {}
    ranked = []
    for i, y in enumerate(labels):
        turn[int(y)] = turn.get(int(y), 0) + 1
        ranked.append((turn[int(y)], int(y), i))
    return sorted(i for _, _, i in sorted(ranked)[:limit])


def labelled_set(
    spec: DataSpec, name: str, entries: Sequence[Entry], classes: Sequence[str], limit: int | None, source: Path, where: str,
    names: Sequence[str] = (), left_out: Mapping[str, int] | None = None,
) -> ClassificationSet:  # fmt: skip
    """Entries as a set. Raises UsageError for an empty one, an id given twice, or images that are missing."""
    if len(classes) < 2:
        raise UsageError(f"{source}: holds {len(classes)} classes; at least 2 are needed")
    kept = [entries[i] for i in spread([e[2] for e in entries], limit)]
    at = {e[0]: e for e in kept}
    if len(at) < len(kept):
        ids = [e[0] for e in kept]
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UsageError(f"{source}: image {twice} is listed twice; keep one line")
    images = image_set(at, lambda i: at[i][1], str(source), where, left_out)
    labels = np.array([at[i][2] for i in images.ids], np.int64)
    digest = fingerprint_text([*classes, *map(str, labels)])
    return ClassificationSet(name, spec.split, images, labels, tuple(classes), digest, tuple(names))
