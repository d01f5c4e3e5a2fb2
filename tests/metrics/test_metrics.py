"""Metrics against values worked out by hand, plain re-computations and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.metrics import confusion_matrix, gqa_scores, mean_iou, normalize_vqa_answer, pope_answer, pope_scores, vqa_accuracy
from levl_eval.metrics.gqa import gqa_correct
from levl_eval.metrics.segmentation import mean_accuracy, pixel_accuracy, statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate, paired_difference


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("The Cat.", "cat"),
        ("two", "2"),
        ("a red, round ball", "red round ball"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("dont", "don't"),
        ("yes\n", "yes"),
        ("black/white", "black white"),
        ("  An  apple ", "apple"),
        ("it's", "it's"),
        ("whats", "what's"),
        ("none", "0"),
    ],
)
def test_vqa_processing(raw, expected):
    assert normalize_vqa_answer(raw) == expected


@pytest.mark.parametrize("matches, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_is_the_leave_one_out_mean(matches, expected):
    # With m of 10 matching: (m min(1, (m-1)/3) + (10-m) min(1, m/3)) / 10.
    assert vqa_accuracy("cat", ["cat"] * matches + ["dog"] * (10 - matches)) == pytest.approx(expected)


def test_vqa_single_reference_and_empty():
    assert vqa_accuracy("The cat", ["cat"]) == 1.0
    with pytest.raises(ValueError, match="no reference"):
        vqa_accuracy("x", [])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Yes.", "yes"),
        ("No, there is not", "no"),
        ("There is no dog. Yes.", "no"),
        ("It is not", "no"),
        ("maybe", "yes"),
        ("Yes. No.", "yes"),
        ("no", "no"),
    ],
)
def test_pope_answer_is_the_official_rule(text, expected):
    assert pope_answer(text) == expected


def test_pope_scores_by_hand():
    s = pope_scores(["yes", "yes", "no", "perhaps"], ["yes", "no", "yes", "no"])  # TP 1, FP 2, FN 1, TN 0
    assert s == {
        "accuracy": 0.25,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "f1": pytest.approx(0.4),
        "yes_ratio": 0.75,
        "unparsed": 0.25,
    }


@pytest.mark.parametrize(
    ("said", "right"), [("Red.", True), (" red", True), ("red car", False), ("reddish", False), ("re", False), ("", False)]
)
def test_gqa_is_an_exact_match_but_for_case_and_marks(said, right):
    assert gqa_correct(said, "red") is right


def test_gqa_scores_by_hand():
    def q(answer, structural, entailed=()):
        return {
            "answer": answer,
            "types": {"structural": structural, "semantic": "obj"},
            "entailed": list(entailed),
            "groups": {"global": "g"},
        }

    questions = {
        "1": q("red", "query", ["1", "2", "3"]),
        "2": q("yes", "verify"),
        "3": q("no", "verify"),
        "4": q("cat", "query", ["2"]),
    }
    s = gqa_scores({"1": "Red.", "2": "yes", "3": "yes", "4": "dog"}, questions)
    assert s["accuracy"] == 0.5 and s["open"] == 0.5 and s["binary"] == 0.5 and s["structural/query"] == 0.5
    assert s["consistency"] == 0.5  # only question 1 is right; of 2 and 3, one is
    choices = {"1": {"valid": ["red"], "plausible": ["red"]}, "4": {"valid": ["dog"], "plausible": []}}
    s = gqa_scores({"1": "red", "4": "dog"}, {k: questions[k] for k in ("1", "4")}, choices)
    assert s["validity"] == 1.0 and s["plausibility"] == 0.5


def test_confusion_and_means_against_plain_loops():
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 4, (7, 9)), rng.integers(0, 4, (7, 9))
    target[0] = 255
    target[target == 3] = 2
    pred[pred == 3] = 1
    plain = np.zeros((4, 4), int)
    for p, t in zip(pred.ravel(), target.ravel(), strict=True):
        if t != 255:
            plain[t, p] += 1
    m = confusion_matrix(pred, target, 4, 255)
    assert (m == plain).all()
    ious = [plain[c, c] / (plain[c].sum() + plain[:, c].sum() - plain[c, c]) for c in range(3)]  # class 3: empty union
    assert mean_iou(m) == pytest.approx(np.mean(ious))
    assert pixel_accuracy(m) == pytest.approx(np.trace(plain) / plain.sum())
    counts = np.stack([np.diag(m), m.sum(1), m.sum(0)], -1)
    s = statistics_from_counts(counts[None])
    assert s["mean_iou"][0] == pytest.approx(mean_iou(m)) and s["mean_accuracy"][0] == pytest.approx(mean_accuracy(m))
    with pytest.raises(ValueError, match="outside"):
        confusion_matrix(np.array([4]), np.array([0]), 4, 255)


def test_devkit_sample_matches_its_published_definition(shared):
    """ADE20K devkit: pixel accuracy and IoU over pixels whose annotation is not 0, predictions 1..150 as labels."""
    from PIL import Image

    root = shared / "ade20k_sample" / "sampleData"
    truth = sorted((root / "annotations").glob("*.png"))
    assert len(truth) == 3
    total = np.zeros((150, 150), np.int64)
    right = labelled = 0
    inter, area = np.zeros(150), np.zeros(150)
    for path in truth:
        t = np.array(Image.open(path)).astype(int)
        p = np.array(Image.open(next((root / "predictions").rglob(path.stem + "*.png")))).astype(int)
        keep = t > 0
        total += confusion_matrix(np.where(keep, np.maximum(p, 1) - 1, 0), np.where(keep, t - 1, 255), 150, 255)
        right += int(((p == t) & keep).sum())
        labelled += int(keep.sum())
        for c in range(1, 151):
            both = ((p == c) & (t == c)).sum()
            inter[c - 1] += both
            area[c - 1] += ((p == c) & keep).sum() + (t == c).sum() - both
    assert pixel_accuracy(total) == pytest.approx(right / labelled)
    assert mean_iou(total) == pytest.approx((inter[area > 0] / area[area > 0]).mean(), abs=1e-6)


def test_interval_coverage_by_simulation():
    """Clustered scores: the bootstrap covers the true mean about 95% of the time, the naive interval far less."""
    rng = np.random.default_rng(1)
    hit = naive = 0
    rounds = 120
    for r in range(rounds):
        level = np.repeat(rng.random(60), 8)  # each image has its own difficulty; the true mean is 0.5
        scores = (rng.random(480) < level).astype(float)
        e = mean_estimate(scores, np.repeat(np.arange(60), 8), seed=r, draws=400)
        n = mean_estimate(scores)
        hit += e.low <= 0.5 <= e.high
        naive += n.low <= 0.5 <= n.high
    assert 0.88 <= hit / rounds <= 0.99
    assert naive < hit


def test_estimates_are_deterministic_and_degenerate_cases_are_defined():
    x = np.array([0.0, 1.0, 0.5, 0.25])
    c = np.array(["a", "a", "b", "c"])
    assert mean_estimate(x, c) == mean_estimate(x, c)
    assert mean_estimate(np.array([])).n == 0
    one = mean_estimate(np.array([1.0, 0.0]), np.array(["a", "a"]))
    assert one.low is None and one.clusters == 1
    w = mean_estimate(np.array([1.0] * 10))
    assert w.method == "wilson" and w.low == pytest.approx(10 / (10 + 1.959964**2)) and w.high == pytest.approx(1.0)


def test_paired_difference_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(2)
    base = (rng.random(600) < 0.5).astype(float)
    better = np.where(rng.random(600) < 0.08, 1.0, base)
    clusters = np.repeat(np.arange(150), 4)
    d = paired_difference(better, base, clusters)
    assert d.value == pytest.approx((better - base).mean()) and d.low > 0
    assert d.high - d.low < 0.7 * (mean_estimate(base, clusters).high - mean_estimate(base, clusters).low)
    with pytest.raises(ValueError, match="same items"):
        paired_difference(base, base[:-1])


def test_bootstrap_of_a_statistic_agrees_with_an_explicit_resampling():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 20, (40, 2)).astype(float)
    e = bootstrap_statistic(counts, lambda s: s[..., 0] / s[..., 1], draws=3000, seed=0)
    plain = []
    for _ in range(3000):
        rows = counts[rng.integers(0, 40, 40)].sum(0)
        plain.append(rows[0] / rows[1])
    assert e.value == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    assert e.low == pytest.approx(np.quantile(plain, 0.025), abs=0.02) and e.high == pytest.approx(
        np.quantile(plain, 0.975), abs=0.02
    )
