"""ImageNet's 1,000 classes by their WordNet ids, in the order of their numbers, which is the ids' own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from levl_eval.core.errors import UsageError

WNID = re.compile(r"n\d{8}")


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The list that timm ships (timm/data/_info/imagenet_synsets.txt), read without importing timm.

    Raises UsageError where it is not there.
    """
    spec = importlib.util.find_spec("timm")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(folders[0]) / "data" / "_info" / "imagenet_synsets.txt" if folders else Path("timm")
    if not path.is_file():
        raise UsageError(f"{path}: ImageNet's list of classes is not there, which timm ships; install timm>=1.0.20,<2 again")
    return tuple(path.read_text(encoding="utf-8").split())


def are_wnids(names: Sequence[str]) -> bool:
    """Whether every name is a WordNet id."""
    return bool(names) and all(WNID.fullmatch(n) for n in names)


def class_columns(training: Sequence[str], test: Sequence[str]) -> list[list[int]]:
    """For each test class the training classes it stands for: that of its name, or those of ``a+b``.

    Raises UsageError naming a test class that training does not have.
    """
    at = {name: k for k, name in enumerate(training)}
    out = []
    for name in test:
        parts = [name] if name in at else name.split("+")
        lacking = [p for p in parts if p not in at]
        if lacking:
            raise UsageError(f"class {lacking[0]!r} of the test set is none of the {len(training)} classes trained on")
        out.append([at[p] for p in parts])
    return out
