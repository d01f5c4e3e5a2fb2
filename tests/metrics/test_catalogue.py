"""The metric catalogue knows every metric that an engine gives, and nothing is guessed from a name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from levl_eval.data.types import Question
from levl_eval.engines.segmentation.task import METRICS as DENSE
from levl_eval.engines.vlm.scoring import estimates
from levl_eval.metrics.catalogue import METRICS, metric, metric_of
from levl_eval.metrics.depth import METRICS as DEPTH
from levl_eval.report.published import load_published
from levl_eval.report.units import lower_note, text


def questions(scorer):
    """A question of every kind that brings metrics of its own, two an image."""
    meta = {
        "pope": lambda k: {"split": ("random", "popular", "adversarial")[k % 3]},
        "mme": lambda k: {"category": ("existence", "code_reasoning")[k % 4 // 2]},
        "gqa": lambda k: {
            "types": {"structural": ("query", "verify")[k % 2], "semantic": "attr"}, "steps": 2, "entailed": [str((k + 1) % 12)],
            "valid": ["yes"], "plausible": ["yes"], "groups": {"global": "color"},
        },
    }.get(scorer, lambda k: {"answer_type": "yes/no", "question_type": "is the", "type": "logic", "subject": "physics"})  # fmt: skip
    ten = (("yes",) * 10) if scorer == "vqav2" else ()
    return [Question(str(k), f"i{k // 2}", f"q {k}?", "yes" if k % 2 else "no", ten, meta(k)) for k in range(12)]


@pytest.mark.parametrize("scorer", ["pope", "gqa", "mme", "exact", "vqav2"])
def test_all_metrics_of_question_tasks_are_declared(scorer):
    asked = questions(scorer)
    likelihoods = {q.question_id: (-0.2, -1.0) for q in asked} if scorer == "pope" else None
    found = estimates(scorer, asked, {q.question_id: "yes" for q in asked}, likelihoods)
    assert found and [m for m in found if metric(m).better == "unknown"] == []
    for name, e in found.items():
        low, high = metric(name).bounds
        assert low <= e.value <= high and (e.low is None or low <= e.low <= e.high <= high), name
    # POPE's splits are told; any other metric with an underscore is none of ours.
    assert metric("accuracy_score").better == "unknown"


def test_all_other_engines_metrics_are_declared():
    names = [*DEPTH, *(f"pixels/{m}" for m in DEPTH), *DENSE]
    names += [
        "top1",
        "top5",
        "mean_per_class",
        "calibration_error",
        "top1_unleaked",
        "top1_best_epoch",
        "top1_k20",
        "top1_16shot",
    ]
    names += [f"{m}/{r}" for m in ("top1", "mean_recall", "text_to_image_r10") for r in ("embedding", "predicted-image-to-text")]
    names += [
        "floor_text_only",
        "gain_over_shuffled_images",
        "drop_mixed_rand",
        "background_gap",
        "answered",
        *(p.metric for p in load_published()),
    ]
    assert [n for n in names if metric(n).better == "unknown"] == []
    assert metric_of("my_variant", "backgrounds").unit == "percent" and metric_of("my_variant", "linear").better == "unknown"


def test_directions_ranges_and_chance_are_data():
    lower = {m.name for m in METRICS if m.better == "lower"}
    assert {
        "rmse",
        "silog",
        "pixels/absrel",
        "calibration_error",
        "drop_{name}",
        "background_gap",
        "distribution",
        "unparsed",
    } <= lower
    assert not {"top1", "mean_iou", "delta1", "accuracy", "effective_rank"} & lower
    assert metric("distribution").bounds == (0.0, math.inf) and metric("drop_mixed_rand").bounds == (-1.0, 1.0)
    assert metric("top1").chance_among(50) == 0.02 and metric("top5/average").chance_among(3) == 1.0
    assert metric("top1").chance_among(None) is None and metric("mean_iou").chance_among(10) is None


@pytest.mark.parametrize(
    "name", ["rmse_like", "nll", "brier_score", "calibrated", "dropout", "rank", "some_error", "mme_anything"]
)
def test_a_name_that_only_looks_like_another_is_unknown(name):
    """Once these were lower-is-better, or raw, by their beginning or end."""
    m = metric(name)
    assert m.better == "unknown" and not m.ranked and not m.lower_is_better and text(0.25, name) == "0.250"
    assert "not known of" in lower_note([name])


def test_lmms_evals_own_direction_is_used():
    notes = {"lmms": {"higher_is_better": {"a": {"wer": False, "exact_match": True, "mixed": True}, "b": {"mixed": False}}}}
    assert metric_of("a/wer,none", "lmms", notes).better == "lower" and metric_of("exact_match", "lmms", notes).better == "higher"
    assert metric_of("mixed", "lmms", notes).better == "unknown"  # its tasks disagree
    assert metric_of("mixed", "lmms", {"lmms": ["no object"]}).better == "unknown"
    assert metric_of("rmse", "lmms", {}).better == "unknown"  # ours says lower, but that is another metric
    assert metric_of("exact_match", "lmms", notes).unit == "percent" and metric_of("accuracy", "lmms", notes).factor == 1.0
    assert np.isinf(metric_of("accuracy", "lmms", notes).bounds).all()
