"""ImageNet-9 (Xiao et al., ICLR 2021): a probe trained on Original, read unchanged on pictures with other backgrounds (PAPER 2e).

Every variant shows the same foregrounds, so a drop is a paired difference over them.
"""

from __future__ import annotations

import math
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.convergence import thinned
from levl_eval.data.images import fingerprint_text, root_of
from levl_eval.data.leakage import shared_images
from levl_eval.data.readers import read_classification
from levl_eval.data.types import ClassificationSet
from levl_eval.engines import Context, Outcome
from levl_eval.errors import LevlError, UsageError
from levl_eval.floors import majority
from levl_eval.metrics.statistics import Z95, mean_estimate, paired_difference
from levl_eval.probes.common import Matrix, data_of, features_of, global_features, samples_of
from levl_eval.probes.linear import fit_by_card, logits_of
from levl_eval.records import Estimate

REFERENCE = "original"


def foreground(name: str) -> str:
    """Id of the foreground in a file name: fg_X_bg_Y.JPEG -> X, X.JPEG -> X; class folders are kept."""
    path = PurePosixPath(name)
    stem = path.stem
    if stem.startswith("fg_"):
        stem = stem[3:].split("_bg_")[0]
    return str(path.parent / stem)


def _variant(spec: DataSpec, data: str, name: str) -> tuple[DataSpec, Path]:
    """The set of a variant: ROOT/NAME, or ROOT/bg_challenge/NAME as the release unpacks."""
    root = root_of(spec.root, spec.directory, data)
    base = root / "bg_challenge" if (root / "bg_challenge").is_dir() and not (root / name).is_dir() else root
    return spec.model_copy(update={"root": str(base / name)}), base / name / spec.split


def _drop(a: np.ndarray, b: np.ndarray, ids_a: list[str], ids_b: list[str]) -> Estimate:
    """Mean of a minus mean of b: paired over the foregrounds where both sides have the same ones, else of two samples."""
    at = {i: k for k, i in enumerate(ids_b)}
    if len(at) == len(ids_b) == len(ids_a) and set(at) == set(ids_a):
        return paired_difference(a, b[[at[i] for i in ids_a]])
    value = float(a.mean() - b.mean())
    se = math.sqrt(a.var() / len(a) + b.var() / len(b))
    n = min(len(a), len(b))
    return Estimate(
        value=value, stderr=se, low=value - Z95 * se, high=value + Z95 * se, n=n, clusters=n, method="two samples, not paired"
    )


def variants_of(card: Any, data: str, limit: int | None) -> dict[str, ClassificationSet]:
    """The test set of every variant that is there, by name. Raises UsageError where a required one is missing."""
    missing, sets = [], {}
    for name in [*card.variants, *card.optional_variants]:
        spec, folder = _variant(card.data, data, name)
        if folder.is_dir():
            sets[name] = read_classification(spec, data, limit)
        elif name in card.variants:
            missing.append(folder)
    if missing:
        raise UsageError(
            f"{card.name}: {missing[0]} is missing; unpack the backgrounds challenge release below it, or set data.root"
        )
    return sets


def fingerprint_of_sets(sets: dict[str, ClassificationSet]) -> str:
    """Of all variants together."""
    return fingerprint_text(data_of(s)["fingerprint"] for _, s in sorted(sets.items()))


def run(context: Context) -> Outcome:
    """Raises UsageError/LevlError: a required variant is missing, or classes differ."""
    card = context.card
    sets = variants_of(card, context.data, context.limit)
    if REFERENCE not in sets:
        raise UsageError(f"{card.name}: field `variants`: {REFERENCE!r} must be among them, every drop is against it")
    train_spec, _ = _variant(card.train, context.data, REFERENCE)
    train = read_classification(train_spec, context.data)
    for name, found in sets.items():
        if found.classes != train.classes:
            only = sorted(set(train.classes) ^ set(found.classes))
            raise LevlError(
                f"{card.name}: class folders of training and {name} differ, first {only[0]!r}; give both the same ones"
            )
    twice = shared_images(sets[REFERENCE].images, train.images, context.cache, context.progress)
    if twice:
        context.progress.say(f"  {card.name}: leakage: {len(twice)} test images are training images too, first {twice[0][0]}")
    started = time.monotonic()
    cache = {"feature_hits": 0, "feature_misses": 0}

    def matrix(data: ClassificationSet) -> Matrix:
        return Matrix(global_features(features_of(context, data, cache), card.readout), None, card.l2_normalize)

    x = matrix(train)
    tests = {name: matrix(s) for name, s in sets.items()}
    context.ready()
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    if card.standardize:
        x.fit_scale()
    layer, curve, _, state = fit_by_card(
        x, train.labels, len(train.classes), card, context.seed, context.device, None, context.progress
    )
    right, predicted = {}, {}
    for name, m in tests.items():
        m.scale_like(x)
        predicted[name] = logits_of(layer, m, context.device).argmax(1).numpy()
        right[name] = (predicted[name] == sets[name].labels).astype(float)
    ids = {name: [foreground(i) for i in s.images.ids] for name, s in sets.items()}
    metrics: dict[str, Estimate] = {name: mean_estimate(r) for name, r in right.items()}
    for name in sets:
        if name != REFERENCE:
            metrics[f"drop_{name}"] = _drop(right[REFERENCE], right[name], ids[REFERENCE], ids[name])
    if {"mixed_same", "mixed_rand"} <= set(sets):  # how much the background's class alone moves answers
        metrics["background_gap"] = _drop(right["mixed_same"], right["mixed_rand"], ids["mixed_same"], ids["mixed_rand"])
    seconds["probe"] = time.monotonic() - started
    main = card.main_metric if card.main_metric in sets else REFERENCE
    data = {
        "fingerprint": fingerprint_of_sets(sets),
        "train": data_of(train)["fingerprint"],
        "counts": {"images": len(sets[main].images), "train_images": len(train.images), "classes": len(train.classes)},
        "split": card.data.split,
    }
    metrics |= majority(right[main], sets[main].labels, train.labels, len(train.classes))
    notes: dict[str, Any] = {"probe_loss": thinned(curve), "converged": state, "variants": list(sets)}
    if twice:
        notes["leakage"] = {"test_images_in_training": len(twice), "of": len(sets[REFERENCE].images)}
    return Outcome(metrics, samples_of(sets[main], predicted[main], right[main]), data, notes, seconds, cache)
