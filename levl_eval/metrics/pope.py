"""POPE: parsing of answers and scores (Li et al., EMNLP 2023, and its published evaluation script)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from levl_eval.metrics.calibration import calibration_of_sums


def pope_answer(text: str) -> str:
    """ "yes" or "no" by the official rule: of the first sentence, "no" if it holds the word No, no or not, else "yes"."""
    first = text.split(".")[0] if "." in text else text
    words = first.replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def is_unparsed(text: str) -> bool:
    """Whether an answer holds neither yes nor no (nor not) as a word; the official rule reads such an answer as yes."""
    return not re.search(r"\b(yes|no|not)\b", text.lower())


def pope_scores(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """accuracy, precision, recall, f1 (positive class: yes), yes_ratio of the predictions, and the share of unparsed answers.

    answers: generated texts; labels: "yes" or "no". Fractions in [0, 1]; a ratio with an empty denominator is 0, as published.
    """
    if len(answers) != len(labels) or not labels:
        raise ValueError(f"pope_scores: {len(answers)} answers for {len(labels)} labels")
    given = [pope_answer(a) == "yes" for a in answers]
    true = [x == "yes" for x in labels]
    tp = sum(g and t for g, t in zip(given, true, strict=True))
    fp = sum(g and not t for g, t in zip(given, true, strict=True))
    fn = sum(t and not g for g, t in zip(given, true, strict=True))
    n = len(labels)
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "accuracy": (n - fp - fn) / n,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": sum(given) / n,
        "unparsed": sum(map(is_unparsed, answers)) / n,
    }


def average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under precision over recall, stepwise, items of equal score taken together; NaN without a positive."""
    return float(weighted_average_precision(scores, labels, np.ones((1, len(labels))))[0])


def weighted_average_precision(scores: Sequence[float], labels: Sequence[bool], weights: np.ndarray) -> np.ndarray:
    """[b] average precisions of items that count ``weights`` [b, N] times each; NaN where no positive counts."""
    s, y = np.asarray(scores, float), np.asarray(labels, bool)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], y[order], np.asarray(weights, float)[:, order]
    ends = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # last item of each run of equal scores
    seen, hits = np.cumsum(w, 1)[:, ends], np.cumsum(w * y, 1)[:, ends]
    area = (np.diff(hits, axis=1, prepend=0.0) * hits / np.maximum(seen, 1)).sum(1)
    return np.where(hits[:, -1] > 0, area / np.maximum(hits[:, -1], 1), np.nan)


BINS = 15  # of the calibration error


def calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error of the probability of yes: mean gap to the share of yes over equally wide bins, by their counts."""
    p = np.asarray(probabilities, float)
    return float(calibration_of_sums(probability_counts(p, np.asarray(labels, float), np.zeros(len(p), int), bins))[0])


def probability_counts(p: np.ndarray, y: np.ndarray, cluster: np.ndarray, bins: int = BINS) -> np.ndarray:
    """[K, bins + 1] sums by cluster [N] of 0 to K - 1: p - y in each bin of p, and the items (calibration.calibration_of_sums)."""
    out = np.zeros((int(cluster.max()) + 1, bins + 1))
    np.add.at(out, (cluster, np.minimum((p * bins).astype(int), bins - 1)), p - y)
    out[:, bins] = np.bincount(cluster)
    return out


def yes_probability(yes: float, no: float) -> float:
    """Probability of yes among the two from their log-likelihoods."""
    return float(1 / (1 + np.exp(np.clip(no - yes, -700, 700))))
