"""ImageNet-9's backgrounds challenge as class folders: ROOT/VARIANT/SPLIT/CLASS, or below bg_challenge as the release unpacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.images import root_of

REFERENCE = "original"  # the variant that heads are trained on, and that every drop is against


def variant_spec(spec: DataSpec, data: str, name: str) -> tuple[DataSpec, Path]:
    """The set of a variant: ROOT/NAME, or ROOT/bg_challenge/NAME as the release unpacks; and its folder of classes."""
    root = root_of(spec.root, spec.directory, data)
    base = root / "bg_challenge" if (root / "bg_challenge").is_dir() and not (root / name).is_dir() else root
    return spec.model_copy(update={"root": str(base / name)}), base / name / spec.split


def variant_specs(card: Any, data: str) -> tuple[dict[str, DataSpec], DataSpec]:
    """The test set of every variant that is there, by name, and the training set. Raises UsageError where a required one is missing."""
    missing, tests = [], {}
    for name in [*card.variants, *card.optional_variants]:
        spec, folder = variant_spec(card.data, data, name)
        if folder.is_dir():
            tests[name] = spec
        elif name in card.variants:
            missing.append(folder)
    if missing:
        raise UsageError(
            f"{card.name}: {missing[0]} is missing; unpack the backgrounds challenge release below it, or set data.root"
        )
    return tests, variant_spec(card.train, data, REFERENCE)[0]
