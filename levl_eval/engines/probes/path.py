"""The linear-path engine: logistic regression over a path of C chosen on validation; also few-shot, over several draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from levl_eval.cards import LinearPathCard
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import chance, majority
from levl_eval.engines.probes.common import Matrix, Parts, all_scores, load_parts, matrices, mean_per_class, samples_of
from levl_eval.engines.probes.logistic import PathFit, solve_path
from levl_eval.metrics.statistics import mean_estimate


def strengths_of(card: LinearPathCard) -> np.ndarray:
    """The card's values of C, ascending."""
    return 10.0 ** np.linspace(card.c_powers[0], card.c_powers[1], card.c_values)


def choose(fit: PathFit, x: Matrix, y: np.ndarray, device: torch.device) -> tuple[int, np.ndarray]:
    """Position of the C with the best accuracy on validation (the smallest of equals), and all accuracies."""
    accuracy = (fit.predictions(x, device) == y[:, None]).mean(0)
    return int(accuracy.argmax()), accuracy


def draw(labels: np.ndarray, count: int, *key: int) -> np.ndarray:
    """Positions of at most ``count`` images of each class, drawn without replacement by the integers of ``key``."""
    rng = np.random.default_rng(key)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)]))


def short_of(labels: np.ndarray, shots: Sequence[int]) -> dict[str, object]:
    """What notes say of numbers of shots that some classes do not have:
    of how many, and the fewest that one has. {} where all have enough."""
    counts = np.unique(labels, return_counts=True)[1]
    return {
        str(s): {"classes": int((counts < s).sum()), "of": len(counts), "fewest": int(counts.min())}
        for s in shots
        if counts.min() < s
    }


_RULE = "the largest gradient entry of the mean loss is at most {:g} for every C that was chosen"


def _state(fit: PathFit, best: PathFit, card: LinearPathCard) -> dict[str, object]:
    """What notes say of convergence: the chosen C must have converged, and those that did not by name."""
    left = [float(f"{c:.6g}") for c, done in zip(fit.strengths, fit.converged, strict=True) if not done]
    return {
        "rule": _RULE.format(card.tolerance),
        "value": len(left),
        "converged": bool(best.converged.all()),
        "not_converged_C": left,
    }


def _whole(context: Context[LinearPathCard], parts: Parts) -> Outcome:
    card, device = context.card, context.device
    train, validation, test = matrices(parts, card)
    assert validation is not None and parts.validation is not None
    solve = partial(
        solve_path, device=device, tolerance=card.tolerance, max_iterations=card.max_iterations, progress=context.progress
    )
    y, classes = parts.train.labels, len(parts.classes)
    fit = solve([(train, y)], classes, strengths_of(card))
    at, accuracy = choose(fit, validation, parts.validation.labels, device)
    path = {
        "C": [float(f"{c:.6g}") for c in fit.strengths],
        "validation_top1": [round(float(a), 5) for a in accuracy],
        "iterations": fit.iterations.tolist(),
    }
    best = PathFit(
        fit.strengths[at : at + 1], fit.weight[:, :, at : at + 1], fit.bias[:, at : at + 1], fit.iterations[at : at + 1],
        fit.converged[at : at + 1],
    )  # fmt: skip
    if card.refit:
        both = [(train, y), (validation, parts.validation.labels)]
        best = solve(both, classes, best.strengths, start=best)
    logits = best.logits(test, 0, device)
    metrics, right = all_scores(logits, parts, card.ece_bins)
    metrics |= majority(right, parts.test.labels, y, classes)
    notes = {**parts.notes, "path": path, "chosen_C": float(best.strengths[0]), "converged": _state(fit, best, card)}
    if at in (0, len(fit.strengths) - 1):
        notes["warning"] = "the best C is at an end of the path; widen c_powers"
        context.progress.say(f"  {card.name}: {notes['warning']}")
    return Outcome(metrics, samples_of(parts.test.data, logits.argmax(1).numpy(), right), parts.data, notes)


def _few(context: Context[LinearPathCard], parts: Parts) -> Outcome:
    """Accuracy by shots: the mean over draws of training images; the interval is over test images, the draws' spread in the notes."""
    card, device = context.card, context.device
    assert parts.validation is not None
    raw = card.model_copy(update={"standardize": False})
    train, validation, test = matrices(parts, raw)
    assert validation is not None
    truth, classes = parts.test.labels, len(parts.classes)
    metrics = {}
    draws: dict[str, object] = {}
    right = np.zeros(len(truth))
    predicted = np.zeros(len(truth), int)
    settled = True
    short = short_of(parts.train.labels, card.shots)
    if short:
        context.progress.say(
            f"  {card.name}: some classes have fewer training images than {', '.join(short)} shots; all of theirs are taken"
        )
    for shots in card.shots:
        hits, chosen = [], []
        for number in range(card.draws):
            rows = draw(parts.train.labels, shots, context.seed, number, shots, 0)
            held = draw(parts.validation.labels, min(shots, card.shot_validation), context.seed, number, shots, 1)
            x = Matrix(train.array, train.rows[rows], card.l2_normalize)
            v = Matrix(validation.array, validation.rows[held], card.l2_normalize)
            if card.standardize:
                x.fit_scale()
            for m in (v, test):
                m.scale_like(x)
            fit = solve_path(
                [(x, parts.train.labels[rows])], classes, strengths_of(card), device,
                tolerance=card.tolerance, max_iterations=card.max_iterations,
            )  # fmt: skip
            at, _ = choose(fit, v, parts.validation.labels[held], device)
            settled &= bool(fit.converged[at])
            predicted = fit.logits(test, at, device).argmax(1).numpy()
            hits.append((predicted == truth).astype(float))
            chosen.append(float(f"{fit.strengths[at]:.6g}"))
            context.progress.say(f"  {card.name}: {shots} shots, draw {number + 1}/{card.draws}: {100 * hits[-1].mean():.1f}")
        right = np.mean(hits, 0)
        metrics[f"top1_{shots}shot"] = mean_estimate(right)
        values = [h.mean() for h in hits]
        draws[str(shots)] = {
            "top1": [round(float(v), 5) for v in values],
            "standard_deviation": round(float(np.std(values, ddof=1)), 5) if len(values) > 1 else None,
            "C": chosen,
        }
    metrics["mean_per_class"] = mean_per_class(right, truth)
    metrics |= chance(right, classes)  # every class has the same number of shots
    notes = {**parts.notes, "draws": draws, "converged": {"rule": _RULE.format(card.tolerance), "converged": settled}}
    notes |= {"fewer_images_than_shots": short} if short else {}
    # Samples are of the last entry of `shots`: the share of draws that were right, and the last draw's class.
    return Outcome(metrics, samples_of(parts.test.data, predicted, right), parts.data, notes)


def run(context: Context[LinearPathCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable sets (see common.load_parts)."""
    parts = load_parts(context, choices=True)
    started = time.monotonic()
    outcome = _few(context, parts) if context.card.shots else _whole(context, parts)
    outcome.seconds = {**parts.seconds, "probe": time.monotonic() - started}
    outcome.cache = parts.cache
    return outcome
