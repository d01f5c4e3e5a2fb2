"""A linear probe trained on one set and read on another over the same classes, or some of them: distribution shifts of ImageNet.

``top1`` chooses among the classes of the test set: its authors restrict the 1,000 logits to the 200 of ImageNet-A and -R (Hendrycks et
al., CVPR 2021 and ICCV 2021); a class of ObjectNet that stands for several of ImageNet's has the largest of their logits (Wortsman et
al., CVPR 2022). ``top1_all`` chooses among all classes trained on, any of those that the image's class stands for being right, as
ObjectNet's authors count (Barbu et al., NeurIPS 2019).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.cards import LinearTraining, ShiftCard, TaskFields
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.data.leakage import shared_images
from levl_eval.data.readers import read_classification
from levl_eval.data.types import ClassificationSet
from levl_eval.data.wordnet import class_columns
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import thinned
from levl_eval.engines.floors import chance
from levl_eval.engines.probes.common import Matrix, counts_of, data_of, features_of, global_features, samples_of, scores
from levl_eval.engines.probes.linear import fit_by_card, logits_of
from levl_eval.metrics.statistics import mean_estimate


@dataclass(frozen=True)
class Head:
    """A trained probe: the layer, its training loss, what is said of convergence, and the scale of its features."""

    layer: nn.Linear
    curve: list[float]
    state: dict[str, object]
    mean: Tensor | None
    std: Tensor | None


def project(logits: Tensor, columns: list[list[int]]) -> Tensor:
    """[N, C] logits of training classes as [N, K] of test classes: the largest of those that a class stands for."""
    if all(len(c) == 1 for c in columns):
        return logits[:, [c[0] for c in columns]]
    return torch.stack([logits[:, c].amax(1) for c in columns], 1)


def right_among_all(logits: Tensor, labels: np.ndarray, columns: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(1.0 where the largest of all logits is one of the label's classes, which training class that is) [N] each."""
    best = logits.argmax(1).numpy()
    own = [frozenset(c) for c in columns]
    return np.array([float(b in own[y]) for b, y in zip(best.tolist(), labels.tolist(), strict=True)]), best


def _head(context: Context[ShiftCard], train: ClassificationSet, keys: Mapping[str, str], x: Matrix) -> Head:
    """The probe, trained once for all test sets of a run that differ in nothing else."""
    card = context.card
    fields = {n: str(getattr(card, n)) for n in set(LinearTraining.model_fields) - set(TaskFields.model_fields)}
    key = digest([sorted(keys.items()), data_of(train)["fingerprint"], fields, context.seed, context.device.type])

    def make() -> Head:
        if card.standardize:
            x.fit_scale()
        layer, curve, _, state = fit_by_card(
            x, train.labels, len(train.classes), card, context.seed, context.device, None, context.progress
        )
        return Head(layer, curve, state, x.mean, x.std)

    return context.kept.get(f"shift {context.seed}", key, make)


def run(context: Context[ShiftCard]) -> Outcome:
    """Raises UsageError/LevlError: missing or empty folders, a test class that training does not have, images that cannot be decoded."""
    card = context.card
    train, test = read_classification(card.train, context.data), read_classification(card.data, context.data, context.limit)
    try:
        columns = class_columns(train.classes, test.classes)
    except UsageError as e:
        raise UsageError(f"{card.name}: {e}; give it the training set that has them") from e
    twice = shared_images(test.images, train.images, context.cache, context.progress)
    if twice:
        context.progress.say(f"  {card.name}: leakage: {len(twice)} test images are training images too, first {twice[0][0]}")
    started = time.monotonic()
    learn, judge = features_of(context, train), features_of(context, test)
    context.ready()
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    x, y = (Matrix(global_features(f, card.readout), None, card.l2_normalize) for f in (learn, judge))
    head = _head(context, train, learn.keys, x)
    y.mean, y.std = head.mean, head.std
    logits = logits_of(head.layer, y, context.device)
    projected = project(logits, columns)
    metrics, right = scores(projected, test.labels)
    all_right, best = right_among_all(logits, test.labels, columns)
    metrics["top1_all"] = mean_estimate(all_right)
    metrics |= chance(right, len(test.classes))
    seconds["probe"] = time.monotonic() - started
    data: dict[str, object] = {**data_of(test), "train": data_of(train)["fingerprint"]}
    data["counts"] = {**counts_of(test), "train_images": len(train.images)}
    notes: dict[str, object] = {
        "probe_loss": thinned(head.curve), "converged": head.state,
        "classes_trained_on": len(train.classes), "classes_tested": len(test.classes),
    }  # fmt: skip
    if twice:
        notes["leakage"] = {"test_images_in_training": len(twice), "of": len(test.images)}
    samples = samples_of(test, projected.argmax(1).numpy(), all_right if card.main_metric == "top1_all" else right)
    if card.main_metric == "top1_all":
        for sample, k in zip(samples, best.tolist(), strict=True):
            sample.prediction = train.classes[k]
    return Outcome(metrics, samples, data, notes, seconds, context.counts)
