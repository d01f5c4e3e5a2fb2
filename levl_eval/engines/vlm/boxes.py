"""Answers that are boxes: accuracy at thresholds of the overlap, and what no sight at all and the text's own rounding give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.types import Question
from levl_eval.metrics.boxes import THRESHOLD, Box, box_iou, holds_centre, read_box
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate, paired_difference

MORE = (0.3, 0.7, 0.9)  # further thresholds, as lmms-eval reports them


def right_box(question: Question) -> Box:
    """The box of a question's reference, unrounded where the set gives it so. Raises UsageError: the reference is none."""
    box = read_box(question.answers[0] if question.answers else question.answer)
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        raise UsageError(
            f"scorer box: question {printable(question.question_id)[:200]}: "
            "its answer is no box [left, top, right, bottom] with left below right and top below bottom; correct it"
        )
    return box


def overlap(question: Question, text: str) -> float:
    """Intersection over union of the box an answer gives with the right one; 0 where it gives none."""
    given = read_box(text)
    return 0.0 if given is None else box_iou(given, right_box(question))


def box_estimates(questions: Sequence[Question], answers: Mapping[str, str], scores: np.ndarray) -> dict[str, Estimate]:
    """Beside the accuracy, whose ``scores`` are given [questions]: other thresholds, mean overlap, centres, answers that are no box.

    ``floor_median_box``: every answer the median of the set's own boxes, coordinate by coordinate; ``gain_over_median_box`` is
    paired with it.
    ``ceiling_rounded``: the right boxes as the answers write them.
    """
    images = np.array([q.image_id for q in questions])
    texts = [answers.get(q.question_id, "") for q in questions]
    covered = np.array([overlap(q, t) for q, t in zip(questions, texts, strict=True)])
    given = [read_box(t) for t in texts]
    out = {f"accuracy@{t}": mean_estimate((covered >= t).astype(float), images) for t in MORE}
    out["box_iou"] = mean_estimate(covered, images)
    centred = [float(g is not None and holds_centre(right_box(q), g)) for q, g in zip(questions, given, strict=True)]
    out["center_accuracy"] = mean_estimate(np.array(centred), images)
    out["unparsed"] = mean_estimate(np.array([float(g is None) for g in given]), images)
    boxes = [right_box(q) for q in questions]
    median = np.median(np.array(boxes), 0)
    constant = np.array([float(box_iou(median, b) >= THRESHOLD) for b in boxes])
    out["floor_median_box"] = mean_estimate(constant, images)
    out["gain_over_median_box"] = paired_difference(scores, constant, images)
    rounded = np.array([float(overlap(q, q.answer) >= THRESHOLD) for q in questions])
    out["ceiling_rounded"] = mean_estimate(rounded, images)
    return out
