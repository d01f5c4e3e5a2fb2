"""What records hold: a task's metrics from questions and answers, against the published definitions on the same predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.data.pope import pope_version
from levl_eval.data.readers import read_questions
from levl_eval.data.types import Question
from levl_eval.engines.vlm.scoring import chosen_letter, estimates, score
from levl_eval.metrics import gqa_scores, pope_scores, vqa_accuracy
from levl_eval.metrics.pope import average_precision, calibration_error, yes_probability


def test_gqa_equals_the_published_definitions_with_the_choices_file(world, tmp_path):
    """Every metric of metrics.gqa by its name, consistency, validity, plausibility and distribution among them."""
    root = tmp_path / "gqa"
    root.symlink_to(world / "gqa")
    (file,) = (world / "gqa").glob("**/testdev_balanced_questions.json")
    official = json.loads(file.read_text())
    names = list(official)
    entailing = next(i for i in names if len([e for e in official[i].get("entailed", ()) if e in official and e != i]) > 0)
    choices = {i: {"valid": ["yes", "no", "red"], "plausible": ["yes"]} for i in names}
    (tmp_path / "choices.json").write_text(json.dumps(choices))
    spec = DataSpec(layout="gqa", directory="gqa", split="testdev_balanced", choices=str(tmp_path / "choices.json"))
    data = read_questions(spec, str(tmp_path))
    assert "with choices" in data.version
    rng = np.random.default_rng(0)
    said = {
        i: q["answer"].capitalize() + "." if rng.random() < 0.6 else str(rng.choice(["yes", "no", "red"]))
        for i, q in official.items()
    }
    said[entailing] = official[entailing]["answer"]
    want = gqa_scores(said, official, choices)
    found = estimates("gqa", data.questions, said)
    assert {"open", "binary", "consistency", "validity", "plausibility", "distribution"} <= want.keys()
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name].value == pytest.approx(value), name
    assert found["consistency"].low <= found["consistency"].value <= found["consistency"].high
    assert 0 < found["validity"].value < 1 and found["plausibility"].value < found["validity"].value
    with pytest.raises(UsageError, match="no such file; field `data.choices`"):
        read_questions(spec.model_copy(update={"choices": str(tmp_path / "none.json")}), str(tmp_path))


@pytest.mark.parametrize("place", ["questions", "eval"])
def test_gqa_finds_the_official_choices_of_the_validation_questions_by_itself(world, tmp_path, place):
    (file,) = (world / "gqa").glob("**/testdev_balanced_questions.json")
    official = json.loads(file.read_text())
    root = tmp_path / "gqa"
    (root / "questions").mkdir(parents=True)
    (root / "questions" / "val_balanced_questions.json").write_text(json.dumps(official))
    (images,) = (d for d in (world / "gqa").rglob("images") if d.is_dir())
    (root / "images").symlink_to(images)
    spec = task_card("gqa", {"data.split": "val_balanced"}).data
    assert "with choices" not in read_questions(spec, str(tmp_path)).version
    (root / place).mkdir(exist_ok=True)
    (root / place / "val_choices.json").write_text(json.dumps({i: {"valid": ["red"], "plausible": []} for i in official}))
    data = read_questions(spec, str(tmp_path))
    assert "with choices" in data.version
    found = estimates("gqa", data.questions, dict.fromkeys(official, "red"))
    assert found["validity"].value == 1 and found["plausibility"].value == 0


def test_vqav2_by_answer_type_and_question_type(world):
    data = read_questions(DataSpec(layout="vqav2", directory="vqav2", split="val2014"), str(world))
    rng = np.random.default_rng(0)
    said = {q.question_id: str(rng.choice(q.answers)) if rng.random() < 0.7 else "sphinx" for q in data.questions}
    found = estimates("vqav2", data.questions, said)
    right = np.array([vqa_accuracy(said[q.question_id], q.answers) for q in data.questions])
    assert found["accuracy"].value == pytest.approx(right.mean()) and found["accuracy"].clusters == len(data.images)
    for key in ("answer_type", "question_type"):
        kinds = np.array([q.meta[key] for q in data.questions])
        assert len(set(kinds)) > 1
        assert {k for k in found if k.startswith(f"{key}/")} == {f"{key}/{k}" for k in kinds}
        for k in set(kinds):
            assert found[f"{key}/{k}"].value == pytest.approx(right[kinds == k].mean())


def _pope():
    rng, splits = np.random.default_rng(0), ("random", "popular", "adversarial")
    out = []
    for s, n in zip(splits, (40, 30, 50), strict=True):  # unlike sizes: mean over splits and pooled differ
        out += [
            Question(f"{s}/{k}", f"i{k // 6}", "Is there a dog?", "yes" if rng.random() < 0.5 else "no", (), {"split": s})
            for k in range(n)
        ]
    words = ["Yes.", "no", "There is not.", "perhaps", "Yes, there is", "No"]
    return out, {q.question_id: words[rng.integers(6)] for q in out}, splits


def test_pope_by_split_their_mean_and_pooled():
    questions, said, splits = _pope()
    found = estimates("pope", questions, said)
    parts = {s: [q for q in questions if q.meta["split"] == s] for s in splits}
    want = {s: pope_scores([said[q.question_id] for q in qs], [q.answer for q in qs]) for s, qs in parts.items()}
    pooled = pope_scores([said[q.question_id] for q in questions], [q.answer for q in questions])
    for metric in ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed"):
        for s in splits:
            assert found[f"{metric}_{s}"].value == pytest.approx(want[s][metric])
        assert found[metric].value == pytest.approx(np.mean([want[s][metric] for s in splits]))
        assert found[f"{metric}_pooled"].value == pytest.approx(pooled[metric])
        assert found[metric].low <= found[metric].value <= found[metric].high
    assert found["accuracy"].value != pytest.approx(found["accuracy_pooled"].value)
    assert found["yes_ratio"].value != pytest.approx(np.mean([q.answer == "yes" for q in questions]))  # of the predictions
    assert not [k for k in found if "likelihood" in k]


def test_popes_likelihoods_stand_beside_the_answers():
    questions, said, splits = _pope()
    rng = np.random.default_rng(1)
    likely = {q.question_id: [*np.log(rng.dirichlet([2, 2, 1]))[:2].tolist()] for q in questions}
    bare, found = estimates("pope", questions, said), estimates("pope", questions, said, likely)
    assert {k: found[k] for k in bare} == bare  # never instead of them
    p = np.array([yes_probability(*likely[q.question_id]) for q in questions])
    y = np.array([q.answer == "yes" for q in questions])
    assert found["likelihood_ap"].value == pytest.approx(average_precision(p, y))
    assert found["likelihood_calibration_error"].value == pytest.approx(calibration_error(p, y))
    for s in splits:
        mask = np.array([q.meta["split"] == s for q in questions])
        assert found[f"likelihood_ap_{s}"].value == pytest.approx(average_precision(p[mask], y[mask]))
        assert found[f"likelihood_ap_{s}"].low <= found[f"likelihood_ap_{s}"].value <= found[f"likelihood_ap_{s}"].high


def test_popes_releases_are_told_apart():
    """By what they ask: as many questions of another kind are not the release (tests/data/test_published.py has the real files)."""

    def asked(random):
        splits = {"random": random, "popular": 3000, "adversarial": 3000}
        return [
            Question(f"{s}/{i}", str(i), f"Is there a {s} {i}?", "yes", (), {"split": s})
            for s, n in splits.items()
            for i in range(n)
        ]

    assert pope_version(asked(3000)) == "own files, random 3000, popular 3000, adversarial 3000"
    assert "as many random ones as the older release has" in pope_version(asked(2910))
    assert pope_version(asked(12)[:12]) == "own files, random 12"


def test_mme_points_by_hand():
    """Two images of `count` and one of `code_reasoning`, two questions each: (accuracy + both right) / 2, means of categories."""
    rows = [("count/a", "count", "yes"), ("count/a", "count", "no"), ("count/b", "count", "yes"), ("count/b", "count", "no")]
    rows += [("code/a", "code_reasoning", "yes"), ("code/a", "code_reasoning", "no")]
    questions = [Question(str(i), image, "Q?", answer, (), {"category": kind}) for i, (image, kind, answer) in enumerate(rows)]
    said = dict(zip(map(str, range(6)), ["Yes", "No.", "yes", "Yes", "maybe", "no"], strict=True))
    found = estimates("mme", questions, said)
    assert found["category/count"].value == pytest.approx((3 / 4 + 1 / 2) / 2) and found[
        "category/code_reasoning"
    ].value == pytest.approx(0.25)
    assert (
        found["perception"].value == found["category/count"].value
        and found["cognition"].value == found["category/code_reasoning"].value
    )
    assert found["accuracy"].value == pytest.approx(4 / 6) and found["accuracy_plus"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text, letter",
    [
        ("B", "B"),
        (" b.", "B"),
        ("(B) steam", "B"),
        ("B. steam", "B"),
        ("B: steam", "B"),
        ("A dog", ""),
        ("Albania", ""),
        ("", ""),
        ("the B", ""),
    ],
)
def test_the_letter_of_a_choice_is_no_words_first(text, letter):
    assert chosen_letter(text) == letter
    assert score("letter", Question("1", "i", "Which?", "A", (), {"options": 3}), text) == float(letter == "A")


def test_further_cards_have_their_published_rules():
    ten = Question("1", "i", "Which brand?", "nokia", ("nokia",) * 10, {})
    assert [score(task_card(t).scorer, ten, "Nokia.") for t in ("vqav2", "textvqa", "vizwiz")] == [0.0, 1.0, 1.0]
    assert (
        task_card("scienceqa-img").scorer == "letter" and task_card("mme").scorer == "mme" and task_card("vqa").scorer == "soft"
    )
    assert score("exact", Question("1", "i", "Q?", "The cat", (), {}), "cat.") == 1.0


@pytest.mark.parametrize(
    "answers, said, expected",
    [
        (["the cat"], "Cat.", 1.0), (["cat"] * 2, "Cat", 1.0), (["cat", "dog"], "cat", 0.5), (["cat"] * 3, "cat", 1.0),
        (["cat", "cat", "dog"], "cat", (0.5 + 0.5 + 1.0) / 3), (["cat"] * 4, "a cat", 1.0),
        (["cat"] * 3 + ["dog"] * 7, "cat", 0.9), (["cat"] * 3, "dog", 0.0),
    ],
)  # fmt: skip
def test_ones_own_questions_can_be_all_right_whatever_the_number_of_answers(answers, said, expected):
    assert score("soft", Question("1", "i", "Q?", answers[0], tuple(answers), {}), said) == pytest.approx(expected)
    if len(answers) == 1:
        assert score("soft", Question("1", "i", "Q?", answers[0], (), {}), said) == expected
