"""POPE's sampling on a hand-made data set whose answer is known, and the official files' fields."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from levl_eval.scenes.pope import STRATEGIES, pope_questions
from levl_eval.scenes.world import sample_scene, stable_seed

# Frequencies: a 5, b 4, c 4, d 4, e 3, f 3, g 2, h 2, i 2, umbrella 1. With "u.jpg" (g, h, i) only umbrella, e and f ever appear.
HAND = [
    ("1.jpg", "abcd"), ("2.jpg", "abcd"), ("3.jpg", "abcd"), ("4.jpg", "abcd"), ("5.jpg", ["a"]), ("6.jpg", "ef"), ("7.jpg", "ef"),
    ("8.jpg", ["g", "h", "e", "f", "umbrella"]), ("u.jpg", "ghi"), ("9.jpg", "i"),
]  # fmt: skip


def absent(questions: list[dict], image: str) -> list[str]:
    return [q["text"].split()[3] for q in questions if q["image"] == image and q["label"] == "no"]


def test_popular_takes_the_most_frequent_absent_and_adversarial_the_most_often_together():
    assert absent(pope_questions(HAND, "popular"), "u.jpg") == ["a", "b", "c"]
    assert absent(pope_questions(HAND, "adversarial"), "u.jpg") == ["e", "f", "umbrella"]
    assert absent(pope_questions(HAND, "popular"), "1.jpg") == ["e", "f", "g"]


def test_only_pictures_with_three_kinds_are_asked_about():
    for strategy in STRATEGIES:
        asked = pope_questions(HAND, strategy)
        assert Counter(q["image"] for q in asked) == {i: 6 for i in ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "8.jpg", "u.jpg")}
        assert [q["question_id"] for q in asked] == list(range(1, len(asked) + 1))
        assert [q["label"] for q in asked] == ["yes", "no"] * (len(asked) // 2)


def test_the_article_fits():
    texts = {q["text"] for s in STRATEGIES for q in pope_questions(HAND, s)}
    assert "Is there an umbrella in the image?" in texts and "Is there a b in the image?" in texts


def test_the_three_splits_share_their_present_objects_and_order_of_input_sets_does_not_matter():
    images = [(f"{i}.jpg", sample_scene(stable_seed("pope", i)).counts()) for i in range(200)]
    yes = [[q["text"] for q in pope_questions(images, s) if q["label"] == "yes"] for s in STRATEGIES]
    assert yes[0] == yes[1] == yes[2]
    shuffled = [(n, random.Random(n).sample(sorted(c), len(c))) for n, c in images]
    assert all(pope_questions(images, s) == pope_questions(shuffled, s) for s in STRATEGIES)
    assert pope_questions(images, "random", 0) != pope_questions(images, "random", 1)


def test_random_absent_objects_are_uniform():
    images = [(f"{i}.jpg", "abc") for i in range(600)] + [("x.jpg", "defghij")]
    drawn = Counter(
        w
        for i in range(600)
        for w in absent([q for q in pope_questions(images[i : i + 1] + images[-1:], "random", i)], f"{i}.jpg")
    )
    assert set(drawn) == set("defghij") and all(0.75 < n / (1800 / 7) < 1.25 for n in drawn.values()), drawn


def test_fields_are_those_of_the_official_files():
    path = Path(__file__).resolve().parents[2] / "../shared/data/pope/coco_pope_adversarial.json"
    if not path.exists():
        pytest.skip("the official POPE files are not here (shared/data/pope)")
    official = [json.loads(line) for line in path.read_text().splitlines()]
    ours = pope_questions(HAND, "adversarial")
    assert list(ours[0]) == list(official[0]) and {type(v) for v in ours[0].values()} == {type(v) for v in official[0].values()}
    assert {q["label"] for q in ours} == {q["label"] for q in official}
    per_image = Counter(q["image"] for q in official)
    assert set(per_image.values()) == {6}  # three present, three absent, as here


def test_an_unknown_strategy_is_told():
    with pytest.raises(ValueError, match="random, popular, adversarial"):
        pope_questions(HAND, "hard")
