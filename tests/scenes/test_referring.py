"""Expressions of the scenes: a plain reader of their words finds one object, and its box is the one the file gives."""

from __future__ import annotations

import json

import numpy as np

from levl_eval.data.check import check
from levl_eval.scenes.export import scene_of
from levl_eval.scenes.language import column, relation, row
from levl_eval.scenes.referring import PART, SETS, files_of, pixel_box, training_files
from levl_eval.scenes.render import render_instances
from levl_eval.scenes.world import CATEGORIES, COLORS, SIZES, STUFF, TEXTURES


def fits(o, words, scene):
    """Whether an object is what the words say, one by one."""
    head, relations = words, {"to the left of": "left", "to the right of": "right", "above": "above", "below": "below"}
    for text, side in relations.items():
        if f" {text} the " in words:
            head, _, other = words.partition(f" {text} the ")
            (there,) = [x for x in scene.objects if x.category == other]
            if o is there or relation(o, there) != side:
                return False
    said = head.replace("the ", "").split()
    words_of = (
        (CATEGORIES, o.category),
        (COLORS, o.color),
        (TEXTURES, o.texture),
        (SIZES, o.size),
        (("left", "middle", "right"), column(o)),
    )
    words_of += ((("top", "center", "bottom"), row(o)), (STUFF if "on" in said else (), o.stuff))
    return all(word == mine for word in said for names, mine in words_of if word in names)


def test_each_expression_means_one_object_with_its_box():
    kinds = {}
    for path, text in files_of(40, 3, 96, lambda i: scene_of(PART, i, 3)):
        content = json.loads(text)
        assert len(content["images"]) == len(content["annotations"]) > 90
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            scene = scene_of(PART, image["original_id"] - 1, 3)
            (found,) = [o for o in scene.objects if fits(o, image["caption"], scene)]
            assert annotation["image_id"] == image["id"] and annotation["bbox"] == pixel_box(found, 96), image["caption"]
        kinds[path] = {i["caption"] for i in content["images"]}
    assert sorted(kinds) == [
        "refcoco/finetune_refcoco+_testA.json",
        "refcoco/finetune_refcoco_testA.json",
        "refcoco/finetune_refcocog_test.json",
    ]
    places = {"left", "right", "middle", "top", "bottom", "center"}
    assert not any(places & set(c.split()) for c in kinds["refcoco/finetune_refcoco+_testA.json"])
    assert any(places & set(c.split()) for c in kinds["refcoco/finetune_refcoco_testA.json"])


def test_boxes_lie_about_what_is_seen():
    """An object without one before it covers the most of its box, tilt and all."""
    seen = []
    for index in range(20):
        scene = scene_of(PART, index, 0)
        front = scene.objects[-1]  # drawn last
        mask = render_instances(scene, 96) == len(scene.objects)
        rows, columns = np.nonzero(mask)
        x, y, w, h = pixel_box(front, 96)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        wide, high = min(x + w, right) - max(x, left), min(y + h, bottom) - max(y, top)
        seen.append(wide * high / (w * h + (right - left) * (bottom - top) - wide * high))
    assert np.mean(seen) > 0.75 and min(seen) > 0.5, sorted(seen)[:3]


def test_training_files_are_about_others_images():
    files = dict(training_files(["a.jpg", "b.jpg"], 0, 64, lambda i: scene_of("gqa/train", i, 0)))
    assert sorted(files) == sorted(f"refcoco/finetune_{level}_train.json" for level in SETS)
    for text in files.values():
        assert {i["file_name"] for i in json.loads(text)["images"]} == {"a.jpg", "b.jpg"}


def test_data_check_reads_their_training_images_where_the_scenes_have_them(world):
    found = [f for f in check(world) if f.set.startswith("refcoco")]
    assert {f.set for f in found} == {"refcoco/testA", "refcoco+/testA", "refcocog/test", *(f"{n}/train" for n in SETS)}
    assert {f.level for f in found} == {"ok", "note"}
