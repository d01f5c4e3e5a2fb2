"""Random crops as image sets: a function of seed, view and image; areas and shapes as asked."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from levl_eval.data.types import ImageSet
from levl_eval.features.augmented import box, cropped

GRADIENT = np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8)
IMAGES = ImageSet(("a", "b"), lambda name: Image.fromarray(GRADIENT), "f0")


def _pixels(images, name="a"):
    return np.asarray(images.open(name))


def test_views_repeat_and_differ_by_view_image_and_seed():
    args = ((0.08, 1.0), (0.75, 4 / 3), 0.5)
    one, two = cropped(IMAGES, 0, *args, 0), cropped(IMAGES, 1, *args, 0)
    assert np.array_equal(_pixels(one), _pixels(cropped(IMAGES, 0, *args, 0)))
    others = [_pixels(two), _pixels(one, "b"), _pixels(cropped(IMAGES, 0, *args, 1))]
    assert all(x.shape != _pixels(one).shape or not np.array_equal(x, _pixels(one)) for x in others)
    prints = {IMAGES.fingerprint, one.fingerprint, two.fingerprint, cropped(IMAGES, 0, (0.1, 1.0), *args[1:], 0).fingerprint}
    assert len(prints) == 4 and one.ids == IMAGES.ids


def test_flips_and_whole_images():
    whole = cropped(IMAGES, 0, (1.0, 1.0), (1.5, 1.5), 0.0, 0)
    mirrored = cropped(IMAGES, 0, (1.0, 1.0), (1.5, 1.5), 1.0, 0)
    assert np.array_equal(_pixels(whole), GRADIENT) and np.array_equal(_pixels(mirrored), GRADIENT[:, ::-1])


def test_areas_and_ratios_are_those_asked_for():
    rng = random.Random(0)
    boxes = [box(600, 400, (0.08, 1.0), (0.75, 4 / 3), rng) for _ in range(2000)]
    assert all(0 <= x < u <= 600 and 0 <= y < v <= 400 for x, y, u, v in boxes)
    area = np.array([(u - x) * (v - y) for x, y, u, v in boxes]) / 240_000
    ratio = np.array([(u - x) / (v - y) for x, y, u, v in boxes])
    assert 0.079 < area.min() < 0.1 and 0.35 < area.mean() < 0.54
    # wide image: tall crops fit less often
    assert 0.74 < ratio.min() < 0.78 and 1.3 < ratio.max() < 1.35 and abs(np.log(ratio).mean()) < 0.06
    # Nothing fits: the largest centred crop of the nearest allowed shape.
    left, top, right, bottom = box(1000, 10, (1.0, 1.0), (0.75, 4 / 3), rng)
    assert (
        (top, bottom) == (0, 10) and math.isclose((right - left) / 10, 4 / 3, rel_tol=0.06) and left + right in (999, 1000, 1001)
    )
