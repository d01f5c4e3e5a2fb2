"""The scenes' counts and relations with options: right by a plain look at the scene, and no answer is right most of the time."""

from __future__ import annotations

import random
from collections import Counter

from levl_eval.scenes.choices import RELATIONS
from levl_eval.scenes.language import relation
from levl_eval.scenes.options import option_scene, questions
from levl_eval.scenes.programs import plural

SEED = 5
ASKED = [(scene, *q) for k in range(120) for scene in [option_scene(SEED * 1000 + k)] for q in questions(scene, random.Random(k))]


def test_counts_are_those_of_the_scene_and_none_is_most_of_them():
    rights = Counter()
    for scene, kind, text, options, at in ASKED:
        if kind == "Count":
            assert int(options[at]) == sum(plural(o.category) == text.split()[2] for o in scene.objects)
            assert len(set(options)) == 4
            rights[options[at]] += 1
    assert max(rights.values()) < 0.55 * rights.total() and {"0", "1", "2"} <= rights.keys()


def test_one_object_alone_lies_on_the_side_that_is_asked_for():
    asked = 0
    for scene, kind, text, options, at in ASKED:
        if kind == "Relation":
            side, words = next((s, w) for s, w in RELATIONS.items() if f" {w} the " in text)
            (one,) = [o for o in scene.objects if o.category == text.removesuffix("?").rpartition(f"{words} the ")[2]]
            there = [o.category for o in scene.objects if o is not one and relation(o, one) == side]
            assert there == [options[at]] and len(set(options)) == len(options) >= 2 and set(options) <= scene.counts().keys()
            asked += 1
    assert asked > 60
