"""Boxes as text, and their overlap, against lmms-eval's functions and a count of pixels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from levl_eval.metrics.boxes import box_iou, box_text, holds_centre, read_box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.38, 0.39, 0.82, 0.92]", (0.38, 0.39, 0.82, 0.92)),
        ("It is at [0.389,0.388,0.816,0.918].", (0.389, 0.388, 0.816, 0.918)),  # as Shikra writes them
        ("[0, 0, 1, 1] or [0.1, 0.1, 0.2, 0.2]", (0, 0, 1, 1)),
        ("[0.1, 0.2, 0.3]", None), ("0.1, 0.2, 0.3, 0.4", None), ("[.1, .2, .3, .4]", None), ("[0.1, 0.2, 0.3, 0.4", None), ("", None),
    ],
)  # fmt: skip
def test_reading(text, box):
    assert read_box(text) == box


def test_writing():
    assert box_text((0.3804, 0.399, 1, 0)) == "[0.38, 0.40, 1.00, 0.00]"
    assert read_box(box_text((0.12345678, 0.2, 0.3, 0.4), 5)) == (0.12346, 0.2, 0.3, 0.4)


def test_overlap_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        boxes = []
        for _ in range(2):
            (left, right), (top, bottom) = (np.sort(rng.choice(41, 2, replace=False)) for _ in range(2))
            boxes.append((left, top, right, bottom))
        a, b = np.zeros((2, 40, 40), bool)
        for mask, (left, top, right, bottom) in zip((a, b), boxes, strict=True):
            mask[top:bottom, left:right] = True
        assert box_iou(*boxes) == pytest.approx((a & b).sum() / (a | b).sum())
        wide = [(x1 / 40, y1 / 80, x2 / 40, y2 / 80) for x1, y1, x2, y2 in boxes]  # shares of an image of another form
        assert box_iou(*wide) == pytest.approx(box_iou(*boxes))


def test_a_box_the_wrong_way_round_covers_nothing():
    assert box_iou((0, 0, 1, 1), (1, 1, 0, 0)) == box_iou((1, 1, 0, 0), (1, 1, 0, 0)) == 0.0


def test_as_lmms_eval_scores():
    """The same answers, to the digit, as lmms-eval 0.7.3 (tasks/refcoco/utils_rec.py)."""
    pytest.importorskip("datasets")
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lmms-eval is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / "tasks" / "refcoco" / "utils_rec.py"
    module_spec = importlib.util.spec_from_file_location("utils_rec", path)
    theirs = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(theirs)
    rng = np.random.default_rng(1)
    for _ in range(300):
        (x1, x2), (y1, y2) = np.sort(rng.uniform(0, 1, (2, 2)), 1)
        truth = (float(x1), float(y1), float(x2), float(y2))
        near = np.clip(np.array(truth) + rng.normal(0, 0.05, 4), 0, 1).tolist()
        given = (*np.minimum(near[:2], near[2:]).tolist(), *(np.maximum(near[:2], near[2:]) + 1e-3).tolist())
        text = f"The region is {box_text(given)}, I think."
        read = theirs.parse_float_sequence_within(text)
        assert read_box(text) == tuple(read)
        if read[0] < read[2] and read[1] < read[3]:
            assert box_iou(truth, read) == pytest.approx(theirs.compute_iou(list(truth), read), abs=1e-12)
            for t in (0.3, 0.5, 0.7, 0.9):
                assert (box_iou(truth, read) >= t) == theirs.compute_accuracy(list(truth), read, t)
            assert holds_centre(truth, read) == theirs.compute_center_accuracy(list(truth), read)
