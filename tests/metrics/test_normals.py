"""Angular errors against a plain formulation of the published ones (Probe3D per image, Bae et al. over all pixels)."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.metrics import catalogue
from levl_eval.metrics.normals import BINS, METRICS, angle_sums, angles, image_metrics, pooled


def degrees_one_by_one(predicted: np.ndarray, truth: np.ndarray) -> list[float]:
    """Written down from the definition, a pixel at a time."""
    out = []
    for p, t in zip(predicted.astype(float).tolist(), truth.astype(float).tolist(), strict=True):
        dot = sum(a * b for a, b in zip(p, t, strict=True))
        lengths = sum(a * a for a in p) ** 0.5 * sum(b * b for b in t) ** 0.5
        out.append(float(np.degrees(np.arccos(max(-1.0, min(1.0, dot / lengths))))))
    return out


def images(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    out = []
    for n in (400, 900, 150):
        truth = rng.normal(size=(n, 3))
        out.append(
            (truth / np.linalg.norm(truth, axis=1, keepdims=True) + rng.normal(size=(n, 3)) * rng.uniform(0.1, 1.5), truth)
        )
    return out


def test_an_image_to_the_digit():
    for predicted, truth in images():
        e = np.array(degrees_one_by_one(predicted, truth))
        assert np.allclose(angles(predicted, truth), e, atol=1e-9)
        wanted = {
            "angle_mean": e.mean(), "angle_median": np.median(e), "angle_rmse": np.sqrt(np.mean(e * e)), "within_11.25": (e < 11.25).mean(),
            "within_22.5": (e < 22.5).mean(), "within_30": (e < 30).mean(),
        }  # fmt: skip
        assert image_metrics(angles(predicted, truth)) == pytest.approx(wanted, abs=1e-9) and tuple(wanted) == METRICS


def test_all_pixels_together():
    pairs = images(1)
    every = np.concatenate([angles(p, t) for p, t in pairs])
    found = pooled(np.sum([angle_sums(angles(p, t)) for p, t in pairs], 0))
    assert found["angle_mean"] == pytest.approx(every.mean()) and found["angle_rmse"] == pytest.approx(np.sqrt((every**2).mean()))
    assert found["within_22.5"] == (every < 22.5).mean()
    assert found["angle_median"] == pytest.approx(np.median(every), abs=0.1)
    several = pooled(np.stack([angle_sums(angles(p, t)) for p, t in pairs]))
    assert several["angle_median"].shape == (3,)
    assert np.allclose(several["angle_median"], [np.median(angles(p, t)) for p, t in pairs], atol=0.11)
    fine = pooled(angle_sums(np.linspace(0, 60, 60_001)))["angle_median"]
    assert fine == pytest.approx(30.0, abs=2e-3)  # linear within a bin


def test_ends_and_refusals():
    x = np.array([[1.0, 0, 0]])
    assert angles(x, x).tolist() == [0.0] and angles(-2 * x, x).tolist() == [180.0] and angles(0 * x, x).tolist() == [90.0]
    assert len(angle_sums(np.array([180.0]))) == 6 + BINS and pooled(angle_sums(np.array([180.0])))["angle_median"] > 179
    with pytest.raises(ValueError, match=r"expected \[n, 3\] of both"):
        angles(np.zeros((2, 3)), np.zeros((3, 3)))
    for name in METRICS:
        for known in (name, f"pixels/{name}", f"floor_mean_map/{name}"):
            assert catalogue.metric(known).name
        assert catalogue.metric(name).lower_is_better == name.startswith("angle")
