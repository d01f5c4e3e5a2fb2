"""Published sets are recognised by what they hold; others of as many questions are not."""

from __future__ import annotations

import json
import random
import tarfile

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.data.pope import pope_questions
from levl_eval.data.published import published_set
from levl_eval.data.questions import gqa_file
from levl_eval.data.readers import read_questions
from levl_eval.data.types import ClassificationSet, ImageSet, Question, QuestionSet
from levl_eval.tools.published_sets import main

NONE = ImageSet(("a",), lambda i: Image.new("RGB", (2, 2)), "0")

SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on


def found(name, questions):
    return QuestionSet(name, "", questions, NONE, "")


def test_popes_official_files(shared, capsys):
    questions = pope_questions(shared / "pope")
    whole = published_set(found("pope", questions))
    assert whole is not None and whole.startswith("POPE COCO") and whole.endswith("3 x 3,000")
    for split in ("random", "popular", "adversarial"):
        assert split in str(published_set(found("pope", pope_questions(shared / "pope", split))))
    shuffled = random.Random(0).sample(questions, len(questions))
    assert published_set(found("pope", shuffled)) == whole
    assert published_set(found("pope", questions[:-1])) is None
    assert main(["pope", str(shared / "pope")]) == 0  # the command that made the digests still gives them
    from levl_eval.data import published

    assert all(line.split()[1] in published.POPE for line in capsys.readouterr().out.splitlines())


def test_as_many_other_questions_are_not_pope(tmp_path):
    """3 x 3,000 questions of the same form."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": i, "image": "a.png", "text": f"Is there a thing {i} in the image?", "label": "yes"}
            for i in range(3000)
        ]
        (tmp_path / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)))
    made = read_questions(DataSpec(layout="pope", questions=str(tmp_path), images=str(tmp_path)), "")
    assert "official" not in made.version and "own files" in made.version and published_set(made) is None


def test_one_other_label_is_not_pope(shared, tmp_path):
    for file in (shared / "pope").glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    path = tmp_path / "coco_pope_random.json"
    path.write_text(path.read_text().replace('"yes"', '"no"', 1))
    assert published_set(found("pope", pope_questions(tmp_path))) is None


def test_gqas_testdev(shared, tmp_path):
    with tarfile.open(shared / "gqa" / "testdev_balanced_questions.tar.gz") as t:
        t.extractall(tmp_path, **SAFELY)
    questions = gqa_file(next(tmp_path.rglob("*.json")))
    assert published_set(found("gqa", questions)) == "GQA 1.2 testdev_balanced, 12,578 questions"
    questions[7] = type(questions[7])(**{**{f: getattr(questions[7], f) for f in questions[7].__slots__}, "answer": "other"})
    assert published_set(found("gqa", questions)) is None


@pytest.mark.parametrize(
    "n, classes, split, expected", [(10_000, 10, "test", "(by counts)"), (10_000, 11, "test", None), (9_999, 10, "test", None)]
)
def test_by_counts_says_so(n, classes, split, expected):
    images = ImageSet(tuple(map(str, range(n))), NONE.open, "0")
    made = ClassificationSet("x", split, images, np.zeros(n, np.int64), tuple(map(str, range(classes))), "")
    name = published_set(made, "cifar10")
    assert name is None if expected is None else str(name).endswith(expected)
    assert published_set(made, "imagefolder") is None


@pytest.mark.parametrize(
    "name, split, count, expected",
    [
        ("tallyqa", "test", 38_589, "TallyQA test, 38,589 questions (by counts)"),
        ("vsr", "test", 1_222, "VSR zero-shot test, 1,222 questions (by counts)"),
        ("cv-bench", "3D", 1_200, "CV-Bench 3D, 1,200 questions (by counts)"),
        ("cv-bench", "2D", 1_200, None),
        ("mmbench", "dev_en", 4_329, "MMBench dev_en, 4,329 questions (by counts)"),
        ("ai2d", "", 3_088, "AI2D test, 3,088 questions (by counts)"),
        ("ai2d", "", 15_501, None),
    ],
)
def test_questions_by_counts(name, split, count, expected):
    questions = [Question(str(k), "a", "w?", "x") for k in range(count)]
    assert published_set(QuestionSet(name, split, questions, NONE, "")) == expected
