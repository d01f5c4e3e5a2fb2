"""J, F and their statistics against a plain formulation of DAVIS's official evaluation, and the inputs at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from levl_eval.metrics.video import boundary, boundary_accuracy, dilated, region_similarity, statistics


def blobs(seed: int, size=(60, 90)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 4)
    return noise > np.quantile(noise, 0.8)


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """A pixel whose right, lower or lower right neighbour is of the other kind, by pixel; the last one never."""
    height, width = mask.shape
    out = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                around = [(y, x + 1)]
            if x == width - 1:
                around = [(y + 1, x)]
            out[y, x] = any(mask[a] != mask[y, x] for a in around if a[0] < height and a[1] < width)
    return out


def plain_f(mask: np.ndarray, truth: np.ndarray, bound: float = 0.008) -> float:
    """Dilation by a disk of scipy, precision and recall of the boundaries; the cases without a boundary one by one."""
    radius = int(np.ceil(bound * np.linalg.norm(mask.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    mine, theirs = plain_boundary(mask), plain_boundary(truth)
    if mine.sum() == 0 or theirs.sum() == 0:
        precision, recall = (1, 0) if theirs.sum() > 0 else (0, 1) if mine.sum() > 0 else (1, 1)
    else:
        precision = (mine & ndimage.binary_dilation(theirs, disk)).sum() / mine.sum()
        recall = (theirs & ndimage.binary_dilation(mine, disk)).sum() / theirs.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_f_is_the_official_one_to_the_digit():
    for seed in range(3):
        truth = blobs(seed)
        for mask in (blobs(seed + 50), np.roll(truth, (2, 1), (0, 1)), truth, truth & blobs(seed + 80)):
            np.testing.assert_array_equal(boundary(mask), plain_boundary(mask))
            for bound in (0.008, 0.03):
                assert boundary_accuracy(mask, truth, bound) == plain_f(mask, truth, bound)
    assert boundary_accuracy(truth, truth) == 1 and boundary_accuracy(blobs(99), truth, 0.008) < 0.6
    # in pixels from 1 on
    assert boundary_accuracy(np.roll(truth, 2, 0), truth, 2) > boundary_accuracy(np.roll(truth, 2, 0), truth, 1)


def test_masks_without_a_boundary():
    none, some, whole = np.zeros((20, 30), bool), np.zeros((20, 30), bool), np.ones((20, 30), bool)
    some[5:9, 5:9] = True
    for mask in (none, some, whole):
        for truth in (none, some, whole):
            assert boundary_accuracy(mask, truth) == plain_f(mask, truth)
    assert (region_similarity(none, none), region_similarity(none, some), region_similarity(some, whole)) == (1.0, 0.0, 16 / 600)


def test_dilation_is_by_a_disk():
    for seed, radius in ((1, 0), (2, 1), (3, 5), (4, 200)):
        mask = blobs(seed, (25, 40)) & (np.random.default_rng(seed).random((25, 40)) > 0.9)
        distance = ndimage.distance_transform_edt(~mask)
        np.testing.assert_array_equal(dilated(mask, radius), distance <= radius)


def test_statistics_by_the_official_rule():
    """Mean, frames above one half, and the first quarter's mean less the last one's; quarters overlap by a frame."""
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    found = statistics(values)
    assert found == pytest.approx((0.5, 4 / 9, values[:3].mean() - values[6:].mean()))
    for n in (1, 2, 3, 4, 5, 10, 33, 102):
        x = np.random.default_rng(n).random(n)
        ids = np.round(np.linspace(1, n, 5) + 1e-10).astype(int) - 1
        parts = [x[ids[i] : ids[i + 1] + 1] for i in range(4)]
        assert statistics(x) == pytest.approx((x.mean(), (x > 0.5).mean(), parts[0].mean() - parts[3].mean()))
