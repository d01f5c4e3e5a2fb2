"""VQA, GQA and POPE against the published definitions and against lmms-eval's own functions, where they agree and where not."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.core.third_party import repair
from levl_eval.metrics import gqa_scores, normalize_vqa_answer, pope_scores, vqa_accuracy
from levl_eval.metrics.gqa import gqa_correct, gqa_distribution, gqa_steps
from levl_eval.metrics.mme import mme_answer
from levl_eval.metrics.pope import average_precision, calibration_error, yes_probability
from levl_eval.metrics.vqa import textvqa_accuracy, vizwiz_accuracy

repair()  # lmms-eval imports torchvision

SAYINGS = [
    "yes", "Yes.", "the cat", "two", "TWO dogs", "a red, round ball", "1,000", "3.5", "black/white", "don't know", "dont", "tic-tac-toe",
    "it's 5:00 p.m.", "hello!world", "what's that?", "(left) side", "man's", "  an  apple ", "none", "u.s.a.", "t-shirt", "1, 2 and 3",
]  # fmt: skip


@pytest.mark.slow
def test_answer_processing_equals_lmms_evals_copy_of_the_official_one():
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    theirs = EvalAIAnswerProcessor()
    words = [*SAYINGS, *theirs.CONTRACTIONS, *theirs.CONTRACTIONS.values(), *theirs.NUMBER_MAP]
    for text in [*words, *(f"the {w} dog" for w in words)]:
        assert normalize_vqa_answer(text) == theirs.process_digit_article(theirs.process_punctuation(text.strip())), text


def test_vqa_accuracy_equals_lmms_evals_where_annotators_differ():
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results

    rng = np.random.default_rng(0)
    for _ in range(200):
        humans = [SAYINGS[i] for i in rng.choice(len(SAYINGS), 10) // rng.integers(1, 8)]
        said = SAYINGS[rng.integers(len(SAYINGS))]
        doc = {"question_id": 1, "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(humans)]}
        theirs = vqav2_process_results(doc, [said])["exact_match"]
        if len(set(humans)) > 1:
            assert vqa_accuracy(said, humans) == pytest.approx(theirs)
    # Where all ten agree, the official code compares the strings as they are; lmms-eval processes them all the same.
    doc = {"question_id": 1, "answers": [{"answer": "yes", "answer_id": i} for i in range(10)]}
    assert vqa_accuracy("Yes.", ["yes"] * 10) == 0.0 and vqav2_process_results(doc, ["Yes."])["exact_match"] == 1.0
    assert vqa_accuracy("yes", ["yes"] * 10) == 1.0


def test_textvqa_accuracy_equals_lmms_evals_and_vizwiz_takes_references_as_they_are():
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    rng = np.random.default_rng(1)
    for _ in range(300):
        humans = [SAYINGS[i] for i in rng.choice(len(SAYINGS), 10) // rng.integers(1, 23)]
        said = SAYINGS[rng.integers(len(SAYINGS))]
        theirs = textvqa_process_results({"question_id": 1, "answers": list(humans)}, [said])["exact_match"]
        assert textvqa_accuracy(said, humans) == pytest.approx(theirs), (said, humans)
    assert textvqa_accuracy("Nokia.", ["nokia"] * 10) == 1.0 and vqa_accuracy("Nokia.", ["nokia"] * 10) == 0.0
    assert vizwiz_accuracy("The Cat.", ["cat"] * 10) == 1.0 and vizwiz_accuracy("The Cat.", ["the cat"] * 10) == 0.0
    assert vizwiz_accuracy("two", ["2"] * 2 + ["3"] * 8) == pytest.approx(0.6)


def test_gqa_correctness_equals_lmms_evals():
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    for a in SAYINGS:
        for b in SAYINGS[:8]:
            theirs = exact_match_hf_evaluate([a.strip()], [b], ignore_case=True, ignore_punctuation=True)["exact_match"]
            assert gqa_correct(a, b) == bool(theirs), (a, b)


def test_pope_differs_from_lmms_evals_for_three_reasons():
    from lmms_eval.tasks.pope import utils

    said, labels = ["Yes.", "no", "perhaps", "yes"], ["yes", "yes", "yes", "no"]
    results = [
        utils.pope_process_results({"question_id": i, "answer": y}, [a])["pope_accuracy"]
        for i, (a, y) in enumerate(zip(said, labels, strict=True))
    ]
    ours = pope_scores(said, labels)
    # 1: "Yes." is not "yes" there. 2: their yes ratio is that of the labels. 3: unparsed answers are left out of their recall.
    assert ours["accuracy"] == 0.5 and utils.pope_aggregate_accuracy(results) == 0.0
    assert ours["yes_ratio"] == 0.75 and utils.pope_aggregate_yes_ratio(results) == 0.75 == labels.count("yes") / 4
    assert pope_scores(["no"] * 4, labels)["yes_ratio"] == 0.0
    assert ours["recall"] == pytest.approx(2 / 3) and utils.pope_aggregate_recall(results) == 0.0
    assert ours["unparsed"] == 0.25


def test_gqa_distribution_steps_and_common_questions_by_hand():
    # Group a: true {x: 2, y: 1}, said {x: 3}: (1/2 + 1/1) * 3; group b: said as true: 0. Over 4 questions, over 100.
    value = gqa_distribution(["x", "x", "y", "z"], ["x", "x", "x", "z"], ["a", "a", "a", "b"])
    assert value == pytest.approx((0.5 + 1.0) * 3 / 4 / 100)
    program = [{"operation": "select", "argument": "dog"}, {"operation": "query", "argument": "name"}]
    assert gqa_steps(program) == 1 and gqa_steps([program[0], {"operation": "exist", "argument": "?"}]) == 1
    q = {
        "answer": "color",
        "question": "What is common?",
        "types": {"structural": "compare", "semantic": "attr", "detailed": "twoCommon"},
    }
    s = gqa_scores({"1": "Shape"}, {"1": {**q, "semantic": program}}, {"1": {"valid": ["red"], "plausible": ["red"]}})
    assert s["validity"] == 1.0 and s["steps/1"] == 0.0 and s["words/3"] == 0.0


def test_average_precision_and_calibration():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    y, s = rng.random(300) < 0.4, np.round(rng.random(300), 1)
    assert average_precision(s, y) == pytest.approx(average_precision_score(y, s))
    assert np.isnan(average_precision([0.5], [False]))
    assert calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0.0)
    assert calibration_error([1.0, 1.0], [False, True]) == pytest.approx(0.5)
    assert yes_probability(np.log(0.6), np.log(0.2)) == pytest.approx(0.75) and yes_probability(-1e4, 0.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    "text, expected", [("Yes", "yes"), ("no.", "no"), ("Yes, it is", "yes"), ("maybe", "other"), ("It is no", "other")]
)
def test_mme_answers(text, expected):
    assert mme_answer(text) == expected
