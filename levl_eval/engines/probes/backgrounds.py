"""ImageNet-9 (Xiao et al., ICLR 2021): a probe trained on Original, read unchanged on images with other backgrounds (docs/paper.md).

Every variant shows the same foregrounds, so a drop is a paired difference over them.
"""

from __future__ import annotations

import math
import time
from pathlib import PurePosixPath

import numpy as np

from levl_eval.cards import BackgroundsCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hashing import digest
from levl_eval.data.backgrounds import REFERENCE, variant_specs
from levl_eval.data.leakage import shared_images
from levl_eval.data.readers import read_classification
from levl_eval.data.types import ClassificationSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import thinned
from levl_eval.engines.floors import majority
from levl_eval.engines.probes.common import Matrix, data_of, features_of, global_features, samples_of
from levl_eval.engines.probes.linear import fit_by_card, logits_of
from levl_eval.metrics.catalogue import DIFFERENCE
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import Z95, mean_estimate, paired_difference, within


def foreground(name: str) -> str:
    """Id of the foreground in a file name: fg_X_bg_Y.JPEG -> X, X.JPEG -> X; class folders are kept."""
    path = PurePosixPath(name)
    stem = path.stem
    if stem.startswith("fg_"):
        stem = stem[3:].split("_bg_")[0]
    return str(path.parent / stem)


def drop_estimate(a: np.ndarray, b: np.ndarray, ids_a: list[str], ids_b: list[str]) -> Estimate:
    """Mean of a minus mean of b: paired over the foregrounds where both sides have the same ones, else of two samples."""
    at = {i: k for k, i in enumerate(ids_b)}
    if len(at) == len(ids_b) == len(ids_a) and set(at) == set(ids_a):
        return paired_difference(a, b[[at[i] for i in ids_a]])
    value = float(a.mean() - b.mean())
    se = math.sqrt(a.var() / len(a) + b.var() / len(b))
    n = min(len(a), len(b))
    estimate = Estimate(
        value=value, stderr=se, low=value - Z95 * se, high=value + Z95 * se, n=n, clusters=n, method="two samples, not paired"
    )
    return within(estimate, DIFFERENCE)


def by_foreground(ids: dict[str, list[str]], wanted: list[str], right: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """For each foreground of ``wanted`` whether it was right on every variant that shows the same foregrounds once each.

    So that two encoders' drops can be compared image by image.
    """
    at = {name: {i: k for k, i in enumerate(there)} for name, there in ids.items()}
    same = [name for name in ids if len(at[name]) == len(ids[name]) == len(wanted) and set(at[name]) == set(wanted)]
    return [{name: float(right[name][at[name][i]]) for name in same} for i in wanted]


def variants_of(card: BackgroundsCard, data: str, limit: int | None) -> dict[str, ClassificationSet]:
    """The test set of every variant that is there, by name. Raises UsageError where a required one is missing."""
    return {name: read_classification(spec, data, limit) for name, spec in variant_specs(card, data)[0].items()}


def fingerprint_of_sets(sets: dict[str, ClassificationSet]) -> str:
    """Of all variants together, as the identity of the job has it (runner.datasets)."""
    if len(sets) == 1:
        return str(data_of(next(iter(sets.values())))["fingerprint"])
    return digest({f"test/{name}": data_of(s)["fingerprint"] for name, s in sets.items()})


def run(context: Context[BackgroundsCard]) -> Outcome:
    """Raises UsageError/LevlError: a required variant is missing, or classes differ."""
    card = context.card
    sets = variants_of(card, context.data, context.limit)
    if REFERENCE not in sets:
        raise UsageError(f"{card.name}: field `variants`: {REFERENCE!r} must be among them, every drop is against it")
    train = read_classification(variant_specs(card, context.data)[1], context.data)
    for name, dataset in sets.items():
        if dataset.classes != train.classes:
            only = sorted(set(train.classes) ^ set(dataset.classes))
            raise LevlError(
                f"{card.name}: class folders of training and {name} differ, first {only[0]!r}; give both the same ones"
            )
    twice = shared_images(sets[REFERENCE].images, train.images, context.cache, context.progress)
    if twice:
        context.progress.say(f"  {card.name}: leakage: {len(twice)} test images are training images too, first {twice[0][0]}")
    started = time.monotonic()

    def matrix(data: ClassificationSet) -> Matrix:
        return Matrix(global_features(features_of(context, data), card.readout), None, card.l2_normalize)

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
            metrics[f"drop_{name}"] = drop_estimate(right[REFERENCE], right[name], ids[REFERENCE], ids[name])
    if {"mixed_same", "mixed_rand"} <= set(sets):  # how much the background's class alone moves answers
        metrics["background_gap"] = drop_estimate(right["mixed_same"], right["mixed_rand"], ids["mixed_same"], ids["mixed_rand"])
    seconds["probe"] = time.monotonic() - started
    main = card.main_metric if card.main_metric in sets else REFERENCE
    data = {
        "fingerprint": fingerprint_of_sets(sets),
        "train": data_of(train)["fingerprint"],
        "counts": {"images": len(sets[main].images), "train_images": len(train.images), "classes": len(train.classes)},
        "split": card.data.split,
    }
    metrics |= majority(right[main], sets[main].labels, train.labels, len(train.classes))
    notes: dict[str, object] = {"probe_loss": thinned(curve), "converged": state, "variants": list(sets)}
    if twice:
        notes["leakage"] = {"test_images_in_training": len(twice), "of": len(sets[REFERENCE].images)}
    samples = samples_of(sets[main], predicted[main], right[main])
    for s, variants in zip(samples, by_foreground(ids, ids[main], right), strict=True):
        s.meta["variants"] = variants
    return Outcome(metrics, samples, data, notes, seconds, context.counts)
