"""The generated world: determinism, masks, answers by program, captions, POPE sampling, splits."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from levl_eval.scenes.answers import balance_answers
from levl_eval.scenes.language import caption, column, describe, row
from levl_eval.scenes.pope import STRATEGIES, pope_questions
from levl_eval.scenes.programs import execute
from levl_eval.scenes.questions import gqa_questions, vqa_questions
from levl_eval.scenes.render import render, render_image, render_mask
from levl_eval.scenes.world import (
    ASPECT,
    CATEGORIES,
    CLASS_ID,
    COLORS,
    NUM_VARIANTS,
    STUFF,
    sample_scene,
    single_object_scene,
    stable_seed,
    with_background,
)

SCENES = [sample_scene(stable_seed("test", i)) for i in range(300)]


def test_pictures_and_scenes_are_pure_functions_of_the_seed():
    code = (
        "import hashlib; from levl_eval.scenes.world import *; from levl_eval.scenes.render import render\n"
        "r = render(sample_scene(stable_seed('x', 1)), 96); print(hashlib.sha256(r.image.tobytes() + r.mask.tobytes()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] and len(runs[0]) > 60


@pytest.mark.parametrize("size", [64, 96, 200, 512])
def test_sizes_and_mask_values(size):
    r = render(SCENES[0], size)
    assert r.image.shape == (size, size, 3) and r.image.dtype == np.uint8 and r.mask.shape == (size, size)
    expected = {CLASS_ID[s] for s in SCENES[0].stuff_names()} | {CLASS_ID[o.category] for o in SCENES[0].objects}
    assert set(np.unique(r.mask)) <= expected and r.mask.min() >= 1


def test_same_content_at_every_size():
    for scene in SCENES[:5]:
        quiet = replace(scene, noise=0.0)
        large = render_image(quiet, 256).astype(float).reshape(64, 4, 64, 4, 3).mean((1, 3))
        small = render_image(quiet, 64).astype(float)
        assert np.abs(large - small).mean() < 12


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_variant_of_every_category_is_drawn_and_differs(category):
    pictures = []
    for variant in range(NUM_VARIANTS):
        scene = single_object_scene(3, category)
        wide = ASPECT[category] > 1
        obj = replace(
            scene.objects[0],
            variant=variant,
            x=0.5,
            y=0.5,
            height=0.8 / ASPECT[category] if wide else 0.8,
            width=0.8 if wide else 0.8 * ASPECT[category],
        )
        shown = replace(scene, objects=(replace(obj, flipped=False, tilt=0.0, texture="plain"),), noise=0.0)
        m = render_mask(shown, 96) == CLASS_ID[category]
        assert m.sum() > 0.08 * m.size * obj.width * obj.height, variant
        pictures.append(render_image(shown, 96).astype(int))
    differ = [(np.abs(pictures[i] - pictures[j]).max(-1) > 40).sum() for i in range(3) for j in range(i)]
    assert min(differ) > 150


def test_nearer_objects_hide_farther_ones():
    scene = SCENES[0]
    back = replace(scene.objects[0], category="house", x=0.5, y=0.5, width=0.6, height=0.6)
    front = replace(back, category="ball", width=0.4, height=0.4)
    a = render_mask(replace(scene, objects=(back, front)), 96)
    b = render_mask(replace(scene, objects=(front, back)), 96)
    assert a[48, 48] == CLASS_ID["ball"] and b[48, 48] == CLASS_ID["house"]


def test_the_world_is_as_described():
    assert len(CATEGORIES) >= 24 and len(STUFF) >= 8
    assert all(2 <= len(s.objects) <= 6 for s in SCENES)
    on_water = Counter(
        o.stuff for s in (sample_scene(stable_seed("w", i)) for i in range(1500)) for o in s.objects if o.category == "boat"
    )
    assert on_water["water"] > 3 * on_water["grass"]
    seen = {o.category for s in SCENES for o in s.objects}
    assert seen == set(CATEGORIES)


def test_captions_name_few_objects_and_seldom_a_colour():
    rng = random.Random(0)
    colored = mentions = 0
    texts = set()
    for scene in SCENES:
        text = caption(scene, rng).lower()
        texts.add(text)
        named = {c for c in CATEGORIES if re.search(rf"\b{c}\b", text)}
        assert named <= {o.category for o in scene.objects}
        if len(scene.objects) > 3:
            assert len(named) < len(scene.objects)
        mentions += max(1, len(named))
        colored += sum(bool(re.search(rf"\b{c}\b", text)) for c in COLORS)
    assert 0.06 < colored / mentions < 0.25
    assert len(texts) > 250


def test_every_answer_is_what_its_program_gives_and_matches_a_plain_reading():
    rng = random.Random(1)
    for scene in SCENES[:150]:
        listed = describe(scene, rng, "list")
        entries = [e.split(": ") for e in listed.split("; ") if not e.startswith("background")]
        names = [e[0] for e in entries]
        colors = {e[0]: e[1].split(", ")[0].split()[0] for e in entries}
        stuff = {e[0]: e[1].split(" on ")[1].split(",")[0] for e in entries}
        for q in [*gqa_questions(scene, rng), *vqa_questions(scene, rng)]:
            assert execute(q.program, scene) == q.answer
            target = q.program[0]["argument"]
            if q.group == "exist":
                assert q.answer == ("yes" if target in names else "no")
            elif q.group == "color":
                assert q.answer == colors[target]
            elif q.group == "stuff":
                assert q.answer == stuff[target]
            elif q.group == "count":
                assert q.answer == str(names.count(target))
            elif q.group == "place":
                where = {f"{e[1].split(', ')[-1]}": e[0] for e in entries}
                assert q.answer == where[q.program[1]["argument"]]


def test_answers_and_entailments():
    rng = random.Random(2)
    pairs = [(str(i), q) for i, s in enumerate(SCENES) for q in gqa_questions(s, rng)]
    binary = Counter(q.answer for _, q in pairs if q.answer in ("yes", "no") and q.group == "exist")
    assert 0.4 < binary["yes"] / sum(binary.values()) < 0.6
    kept = balance_answers(pairs, random.Random(0))
    again = balance_answers(pairs, random.Random(0))
    assert [q for _, q in kept] == [q for _, q in again] and 0.4 * len(pairs) < len(kept) < len(pairs)
    for group in {q.group for _, q in kept}:
        counts = Counter(q.answer for _, q in kept if q.group == group).most_common()
        if {a for a, _ in counts} == {"yes", "no"}:
            assert counts[0][1] == counts[1][1]
    found = 0
    for scene in SCENES[:100]:
        asked = gqa_questions(scene, rng)
        for q in asked:
            for j in q.entailed:
                found += 1
                assert asked[j].facts and asked[j] is not q
    assert found > 50


def test_ten_annotators_disagree_plausibly():
    rng = random.Random(3)
    questions = [q for s in SCENES for q in vqa_questions(s, rng)]
    assert all(len(q.answers) == 10 and Counter(q.answers).most_common(1)[0][0] == q.answer for q in questions)
    split = sum(len(set(q.answers)) > 1 for q in questions) / len(questions)
    assert 0.3 < split < 0.8


def test_places_use_the_thresholds_of_the_questions():
    o = SCENES[0].objects[0]
    assert [column(replace(o, x=x)) for x in (0.1, 0.5, 0.9)] == ["left", "middle", "right"]
    assert [row(replace(o, y=y)) for y in (0.1, 0.5, 0.9)] == ["top", "center", "bottom"]


def test_pope_sampling():
    images = [(f"{i}.jpg", s.counts()) for i, s in enumerate(SCENES)]
    together = Counter((a, b) for _, c in images for a in c for b in c if a != b)
    strength = {}
    for strategy in STRATEGIES:
        asked = pope_questions(images, strategy, seed=0)
        assert asked == pope_questions(images, strategy, seed=0)
        by_image: dict[str, list] = {}
        for q in asked:
            by_image.setdefault(q["image"], []).append(q)
        present = dict(images)
        total = 0
        for name, qs in by_image.items():
            assert [q["label"] for q in qs] == ["yes", "no"] * 3 and len(present[name]) >= 3
            for q in qs:
                word = re.match(r"Is there an? (\w+) in the image\?", q["text"])[1]
                assert (word in present[name]) == (q["label"] == "yes")
                total += sum(together[p, word] for p in present[name]) if q["label"] == "no" else 0
        strength[strategy] = total / len(asked)
    assert strength["adversarial"] > 1.2 * strength["popular"] > 1.2 * 1.2 * strength["random"]
    with pytest.raises(ValueError, match="strategy"):
        pope_questions(images, "hard")


def test_mixed_backgrounds_keep_the_object():
    a, b = single_object_scene(1, "cat", "meadow"), single_object_scene(2, "boat", "sea")
    mixed = with_background(a, b)
    assert mixed.bands == b.bands and mixed.objects[0].category == "cat"
    assert (render_mask(mixed, 96) == CLASS_ID["cat"]).sum() == (render_mask(a, 96) == CLASS_ID["cat"]).sum()


@pytest.mark.slow
def test_export_is_complete_deterministic_and_done_once(world, tmp_path):
    from levl_eval.core.progress import Progress
    from levl_eval.data.check import check
    from levl_eval.scenes.export import make_scenes
    from tests.conftest import TINY

    findings = check(world)
    assert not [f for f in findings if f.level == "error"]
    assert {
        "gqa/testdev_balanced",
        "vqav2/val2014",
        "pope/all",
        "ade20k/validation",
        "classification/test",
        "imagenet9/mixed_rand/val",
    } <= {f.set for f in findings}
    make_scenes(tmp_path, size=64, counts=TINY, progress=Progress(quiet=True))
    files = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((world / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)
    stamp = (tmp_path / "scenes.json").stat().st_mtime_ns
    make_scenes(tmp_path, size=64, counts=TINY, progress=Progress(quiet=True))
    assert (tmp_path / "scenes.json").stat().st_mtime_ns == stamp


def test_splits_never_share_a_scene():
    from levl_eval.scenes.export import COUNTS, scene_of

    seeds = Counter(
        scene_of(part, i, 0).seed
        for part, n in COUNTS.items()
        if "classification" not in part and "imagenet9" not in part
        for i in range(min(n, 200))
    )
    assert max(seeds.values()) == 1
