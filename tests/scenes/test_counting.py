"""Counting and relations: what a plain reader of the questions finds in the scenes."""

from __future__ import annotations

import json

from levl_eval.scenes.counting import counted_scene, files_of
from levl_eval.scenes.language import relation
from levl_eval.scenes.programs import plural


def test_counts_are_those_of_the_scene():
    ((name, text),) = files_of("tallyqa/test", 40, 3)
    assert name == "tallyqa/test.json"
    answers = []
    for row in json.loads(text):
        objects = counted_scene("tallyqa/test", row["image_id"] - 1, 3).objects
        word = row["question"].split()[2]
        mine = [o for o in objects if (plural(o.category) == word if row["issimple"] else o.color == word)]
        assert row["answer"] == len(mine), row
        answers.append(row["answer"])
    assert {0, 1, 2} <= set(answers)


def test_half_of_the_statements_are_true():
    ((_, text),) = files_of("vsr/test", 30, 3)
    rows = [json.loads(line) for line in text.splitlines()]
    assert sum(r["label"] for r in rows) == 15 and len({r["relation"] for r in rows}) > 2
    for k, r in enumerate(rows):
        by_name = {o.category: o for o in counted_scene("vsr/test", k, 3).objects}
        side = relation(by_name[r["subj"]], by_name[r["obj"]])
        assert (r["relation"].removesuffix(" of") == side) == bool(r["label"])
        assert r["caption"] == f"The {r['subj']} is {r['relation']} the {r['obj']}."
