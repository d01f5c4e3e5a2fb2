"""Expected calibration error (Guo et al., ICML 2017): how far confidence is from accuracy, over bins of equal width."""

from __future__ import annotations

import numpy as np

from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import bootstrap_statistic


def calibration_counts(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> np.ndarray:
    """[N, bins + 1]: confidence minus correctness in each item's bin, and a one for the item."""
    confidence = np.asarray(confidence, float)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins (0, 1/b], (1/b, 2/b], ...
    out = np.zeros((len(confidence), bins + 1))
    out[np.arange(len(confidence)), at] = confidence - np.asarray(right, float)
    out[:, bins] = 1
    return out


def calibration_of_sums(sums: np.ndarray) -> np.ndarray:
    """[..., bins + 1] summed counts -> calibration error [...]."""
    out: np.ndarray = np.abs(sums[..., :-1]).sum(-1) / np.maximum(sums[..., -1], 1e-12)
    return out


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Estimate:
    """Expected calibration error of confidences [N] in [0, 1] and 0/1 correctness [N], with a bootstrap interval over items.

    The percentile interval leans upwards, since resampling adds noise to every bin; it is not centred on the value.
    """
    return bootstrap_statistic(calibration_counts(confidence, right, bins), calibration_of_sums)
