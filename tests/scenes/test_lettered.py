"""Questions with options about scenes: what a plain reader of the questions sees in the scenes,
and the letters that are drawn over them."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from levl_eval.metrics.boxes import box_iou
from levl_eval.scenes.export import image_scenes
from levl_eval.scenes.geometry import depth_map
from levl_eval.scenes.labels import Label, at, labelled
from levl_eval.scenes.language import relation
from levl_eval.scenes.lettered import COUNTS, SEED_KINDS, files_of, images, labels_of, lettered_scene, options_of
from levl_eval.scenes.programs import SceneQuestion, plural
from levl_eval.scenes.render import render_instances

SEED = 3


def rows_of(part, count):
    ((_, text),) = files_of(part, count, SEED)
    return [json.loads(line) for line in text.splitlines()]


def test_a_pair_asks_one_question_of_two_scenes_that_answer_it_differently():
    ((name, text),) = files_of("mmvp/test", 30, SEED)
    assert name == "mmvp/Questions.csv"
    scenes = dict(pair for i in range(30) for pair in images("mmvp/test", i, SEED))
    letters, kinds = [], set()
    for line in text.splitlines()[1:]:
        index, question, options, answer = line.split(",")
        first, second = options.removeprefix("(a) ").split(" (b) ")
        answered = first if answer == "(a)" else second
        scene, words = scenes[f"mmvp/MMVP Images/{index}.jpg"], question.rstrip("?").split()
        if words[0] == "What":
            (obj,) = [o for o in scene.objects if o.category == words[-1]]
            assert obj.color == answered
        elif words[1] == "there":
            assert (words[3] in scene.counts()) == (answered == "yes")
        else:
            x, y = (next(o for o in scene.objects if o.category == w) for w in (words[2], words[-1]))
            side = next(w for w in words if w in ("left", "right", "above", "below"))
            assert (relation(x, y) == side) == (answered == "yes")
        letters.append(answer)
        kinds.add(words[0] + words[1])
    assert letters[::2].count("(a)") not in (0, 30) and len(kinds) == 3
    assert all(one != other for one, other in zip(letters[::2], letters[1::2], strict=True))


def test_short_answers_and_options_are_true():
    rows = rows_of("realworldqa/test", 40)
    for row in rows:
        scene = lettered_scene("realworldqa/test", int(row["image"][:6]) - 1, SEED)
        if row["question"].startswith("How many"):
            assert int(row["answer"]) == sum(plural(o.category) == row["question"].split()[2] for o in scene.objects)
        if row["question"].startswith("What color") or row["question"].startswith("Which color"):
            lines = row["question"].splitlines()
            right = next(x[3:] for x in lines[2:] if x.startswith(f"{row['answer']}. "))
            assert any(o.color == right and o.category in lines[0] for o in scene.objects)
    assert {len(r["answer"]) > 1 for r in rows} == {True, False}


def test_seeds_kinds_and_letters():
    ((name, text),) = files_of("seed_bench/test", 40, SEED)
    content = json.loads(text)
    assert name == "seed_bench/SEED-Bench.json" and content["question_type"] == {k: n for k, (n, _) in SEED_KINDS.items()}
    assert {q["question_type_id"] for q in content["questions"]} == set(range(1, 7))
    assert set("ABCD") == {q["answer"] for q in content["questions"]}
    for q in content["questions"]:
        assert len({q[f"choice_{c}"] for c in "abcd"}) == 4
        if q["question_type_id"] == 1:
            scene = lettered_scene("seed_bench/test", int(q["data_id"].partition("_")[0]) - 1, SEED)
            assert q[f"choice_{q['answer'].lower()}"] == scene.bands[-1].stuff


def test_counts_and_relations_of_blinks_twins():
    for part in ("blink/Counting", "blink/Spatial_Relation"):
        answers = set()
        for k, row in enumerate(rows_of(part, 30)):
            scene, words = lettered_scene(part, k, SEED), row["question"].rstrip("?").split()
            answered = row["options"]["ABCD".index(row["answer"])]
            answers.add(row["answer"])
            if part == "blink/Counting":
                assert int(answered) == sum(plural(o.category) == words[2] for o in scene.objects)
            else:
                x, y = (next(o for o in scene.objects if o.category == w) for w in (words[2], words[-1]))
                side = next(w for w in words if w in ("left", "right", "above", "below"))
                assert (relation(x, y) == side) == (answered == "yes")
        assert len(answers) > 1


def test_the_nearer_point_is_nearer_and_seen():
    part, answers = "blink/Relative_Depth", []
    for k, row in enumerate(rows_of(part, 20)):
        scene = lettered_scene(part, k, SEED)
        labels = labels_of(part, k, SEED, scene)
        shown, depth = render_instances(scene, 96), depth_map(scene, 96)
        cells = [(int(y * 96), int(x * 96)) for _, _, (x, y, *_) in labels]
        assert [label.letter for label in labels] == ["A", "B"] and all(shown[c] for c in cells)
        a, b = (float(depth[c]) for c in cells)
        assert row["answer"] == ("A" if a < b else "B") and max(a, b) > 1.25 * min(a, b)
        answers.append(row["answer"])
    assert set(answers) == {"A", "B"}


def test_the_better_box_is_the_objects():
    part, answers = "blink/Object_Localization", []
    for k, row in enumerate(rows_of(part, 20)):
        scene = lettered_scene(part, k, SEED)
        boxes = {label.letter: label.box for label in labels_of(part, k, SEED, scene)}
        category = row["question"].rstrip("?").split()[-1]
        overlaps = {}
        for letter, (left, top, right, bottom) in boxes.items():
            of = [j for j, o in enumerate(scene.objects, 1) if o.category == category]
            best = 0.0
            for j in of:
                rows, columns = np.nonzero(render_instances(scene, 96) == j)
                own = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                best = max(best, box_iou((left * 96, top * 96, right * 96, bottom * 96), tuple(map(float, own))))
            overlaps[letter] = best
        other = "B" if row["answer"] == "A" else "A"
        assert overlaps[row["answer"]] == pytest.approx(1.0) and overlaps[other] < 0.75
        answers.append(row["answer"])
    assert set(answers) == {"A", "B"}


def test_arrows_point_at_what_the_diagrams_answers_say():
    files = [(name, text) for name, text in files_of("ai2d/test", 20, SEED) if name.endswith(".json")]
    for k, (name, text) in enumerate(files):
        scene, content = lettered_scene("ai2d/test", k, SEED), json.loads(text)
        assert name == f"ai2d/questions/{k}.png.json"
        shown = render_instances(scene, 96)
        named = {}
        for letter, kind, (x, y, *_) in labels_of("ai2d/test", k, SEED, scene):
            there = int(shown[int(y * 96), int(x * 96)])
            assert kind == "arrow"
            if there:  # an object may be hidden wholly
                named[letter] = scene.objects[there - 1].category
        for question, entry in content["questions"].items():
            right, words = entry["answerTexts"][entry["correctAnswer"]], question.rstrip("?").split()
            letter, category = (words[3], right) if words[0] == "What" else (right, words[-1])
            assert named.get(letter, category) == category and len(set(entry["answerTexts"])) == 4


def test_options_hold_the_right_one_once_and_prefer_what_is_there():
    scene = lettered_scene("seed_bench/test", 0, SEED)
    present = list(scene.counts())
    asked = SceneQuestion("?", present[0], "", "query", "obj", "place", [])
    for k in range(20):
        options, right = options_of(asked, scene, random.Random(k), 4)
        assert options[right] == present[0] and len(set(options)) == 4
        assert sum(o in present for o in options) == min(3, len(present))


def test_letters_change_a_few_pixels_near_what_they_name():
    plain = np.full((96, 96, 3), 120, np.uint8)
    for label in (at("A", "arrow", 0.5, 0.5), at("B", "point", 0.1, 0.9), Label("A", "box", (0.2, 0.3, 0.7, 0.8))):
        out = labelled(plain, [label])
        changed = (out != plain).any(-1)
        assert out.dtype == np.uint8 and out.shape == plain.shape and 20 < changed.sum() < 600
        assert np.array_equal(out, labelled(plain, [label])) and (plain == 120).all()
    assert np.array_equal(labelled(plain, []), plain)


def test_every_part_is_drawn_by_its_paths_once():
    for part in COUNTS:
        paths = [path for k in range(8) for path, _ in image_scenes(part, k, SEED)]
        assert len(set(paths)) == len(paths) == (16 if part == "mmvp/test" else 8)
