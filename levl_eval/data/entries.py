"""From listed images with labels to a classification set: what the readers of classification sets share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.images import fingerprint_text, image_set
from levl_eval.data.types import ClassificationSet

Entry = tuple[str, Path, int]  # id, file, class


def spread_over_classes(labels: Sequence[int] | np.ndarray, limit: int | None) -> list[int]:
    """Positions of at most ``limit`` items, taken from all classes in turn, in their old order."""
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    turn: dict[int, int] = {}
    ranked = []
    for i, y in enumerate(labels):
        turn[int(y)] = turn.get(int(y), 0) + 1
        ranked.append((turn[int(y)], int(y), i))
    return sorted(i for _, _, i in sorted(ranked)[:limit])


def checked_labels(labels: Sequence[int | None] | np.ndarray, classes: int, source: str) -> np.ndarray:
    """Labels as int64 [N], each of 0 to ``classes`` - 1.

    Raises UsageError: missing (-1 or none, as splits without public labels have them), or beyond the classes, with the first row.
    """
    missing = [i for i, y in enumerate(labels) if y is None or y == -1]
    if missing:
        what = "all" if len(missing) == len(labels) else f"{len(missing)} of {len(labels)}"
        raise UsageError(
            f"{source}: {what} labels are missing (-1), first row {missing[0]}; take a split whose labels are public"
        )
    values = np.asarray(labels)
    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
        raise UsageError(f"{source}: labels are {values.dtype} of shape {values.shape}; expected one integer an image")
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if len(wrong):
        raise UsageError(f"{source}: row {wrong[0]}: label {values[wrong[0]]} is beyond the {classes} classes; correct the table")
    return values.astype(np.int64)


def labelled_set(
    spec: DataSpec, name: str, entries: Sequence[Entry], classes: Sequence[str], limit: int | None, source: Path, where: str,
    left_out: Mapping[str, int] | None = None,
) -> ClassificationSet:  # fmt: skip
    """Entries as a set. Raises UsageError for an empty one, an id given twice, or images that are missing."""
    if len(classes) < 2:
        raise UsageError(f"{source}: holds {len(classes)} classes; at least 2 are needed")
    kept = [entries[i] for i in spread_over_classes([e[2] for e in entries], limit)]
    at = {e[0]: e for e in kept}
    if any("./" in i or "//" in i for i in at):  # which paths of one file under two names have
        places = {os.path.normpath(p): i for i, p, _ in kept}
        again = next(((i, first) for i, p, _ in kept if (first := places[os.path.normpath(p)]) != i), None)
        if again is not None:
            raise UsageError(
                f"{source}: {printable(again[0])[:200]} and {printable(again[1])[:200]} are one image; keep one line"
            )
    if len(at) < len(kept):
        ids = [e[0] for e in kept]
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UsageError(f"{source}: image {twice} is listed twice; keep one line")
    images = image_set(at, lambda i: at[i][1], str(source), where, left_out, spec)
    labels = np.array([at[i][2] for i in images.ids], np.int64)
    digest = fingerprint_text([*classes, *map(str, labels)])
    return ClassificationSet(name, spec.split, images, labels, tuple(classes), digest)


def spoken_classes(classes: Sequence[str], spoken: Mapping[str, str], source: Path | None) -> tuple[str, ...]:
    """The classes as one says them; () where ``spoken`` is of other classes.

    Raises UsageError where it has some of them only: an id would stand among the names in texts.
    """
    lacking = [c for c in classes if c not in spoken]
    if lacking and len(lacking) < len(classes):
        raise UsageError(
            f"{source}: has no name for {len(lacking)} of the {len(classes)} classes, first {printable(lacking[0])[:100]}; "
            "take the published file, or take it away"
        )
    return () if lacking else tuple(spoken[c] for c in classes)
