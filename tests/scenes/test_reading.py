"""Questions about print, letters and comparisons have the answers that the scene gives,
no answer is the easier guess, and readers take the files."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.data.readers import read_questions
from levl_eval.scenes import reading
from levl_eval.scenes.geometry import depth_map
from levl_eval.scenes.language import ROWS_OF_IMAGE, column, relation, row
from levl_eval.scenes.lettered import visible
from levl_eval.scenes.signs import WORDS
from levl_eval.scenes.truth import KINDS, World, digest_of, patch_facts, printed, read_manifest
from levl_eval.scenes.world import CATEGORIES, COLORS, SIZES, TEXTURES

SEED = 0


def all_questions(count=300, plainly=False):
    for index in range(count):
        what = reading.of_image(index, SEED)
        for q in reading.questions(what, random.Random(index), plainly):
            yield what, q


def read_off(what, question):
    """The answer by the question's words alone."""
    scene, text = what.scene, question.strip("?")
    lines = {line.word: line for line in what.lines} | {line.number: line for line in what.lines}
    one = {c: next(o for o in scene.objects if o.category == c) for c in scene.counts()}
    if m := re.fullmatch(r"(?:what is the number of|what number stands beside) (\w+)", text, re.I):
        return lines[m[1]].number
    if m := re.fullmatch(r"Which word stands beside (\d+)", text):
        return lines[m[1]].word
    if m := re.fullmatch(r"Which has the larger number, (\w+) or (\w+)", text):
        return max(m.groups(), key=lambda w: int(lines[w].number))
    if m := re.fullmatch(r"Which is (nearer|farther away|larger|smaller), the (\w+) or the (\w+)", text):
        x, y = m[2], m[3]
        measure = (lambda c: one[c].box[3]) if m[1] in ("nearer", "farther away") else (lambda c: one[c].width * one[c].height)
        return (max if m[1] in ("nearer", "larger") else min)((x, y), key=measure)
    if m := re.fullmatch(r"Is this statement true or false\? The (\w+) is (\w+)(?: of)? the (\w+)\.", question):
        return "true" if relation(one[m[1]], one[m[3]]) == m[2] else "false"
    if m := re.fullmatch(r"Where is (.+)", text):
        words = m[1].split()
        fit = [o for o in scene.objects if all(w in (o.category, o.color, o.texture, o.size) for w in words)]
        (o,) = fit
        return f"{row(o)} {column(o)}"
    if m := re.fullmatch(r"What does arrow (\w) point at", text):
        return dict(what.marks)[m[1]].category
    if m := re.fullmatch(r"Which arrow points at the (\w+)", text):
        return next(x for x, o in what.marks if o.category == m[1])
    if text == "Which point is closer to the camera":
        depth = depth_map(scene, 96)
        metres = {}
        for letter, o in what.marks:
            x, y = visible(scene, scene.objects.index(o))
            metres[letter] = depth[int(y * 96), int(x * 96)]
        return f"{min(metres, key=metres.get)} is closer"
    return {
        "How many lines does the sign have": str(len(what.lines)), "what is written in the image": what.lines and what.lines[0].word,
        "what is the number in the image": what.lines and what.lines[0].number,
        "What is the first word on the sign": what.lines and what.lines[0].word,
    }[text]  # fmt: skip


@pytest.mark.parametrize("plainly", [False, True])
def test_answers_are_those_of_the_scene(plainly):
    asked = defaultdict(Counter)
    for what, q in all_questions(plainly=plainly):
        assert read_off(what, q.question) == q.answer, (what, q)
        asked[q.family][q.answer] += 1
    assert set(asked) == {
        "sign-lines", "sign-word", "sign-digits", "sign-first", "sign-number", "sign-beside", "sign-larger", "arrow-name", "arrow-letter",
        "point", "nearer", "larger", "statement", "where",
    }  # fmt: skip
    for family in ("point", "statement"):  # of two answers none is the better guess
        counts = asked[family].values()
        assert len(counts) == 2 and min(counts) > 0.3 * sum(counts), (family, asked[family])


def test_what_is_compared_can_be_told_from_words_of_place_and_size():
    for what, q in all_questions(plainly=True):
        if q.family in ("nearer", "larger"):
            x, y = (next(o for o in what.scene.objects if o.category == c) for c in q.named)
            if q.family == "nearer":
                assert row(x) != row(y) and (ROWS_OF_IMAGE.index(row(x)) > ROWS_OF_IMAGE.index(row(y))) == (x.box[3] > y.box[3])
            else:
                assert x.size != y.size
                assert (list(SIZES).index(x.size) > list(SIZES).index(y.size)) == (x.width * x.height > y.width * y.height)


def test_the_first_named_is_not_the_better_guess():
    first = Counter(q.answer == q.named[0] for _, q in all_questions(400) if q.family in ("nearer", "larger"))
    assert 0.4 < first[True] / first.total() < 0.6


def test_llavas_reader_takes_the_files(world):
    read = read_questions(DataSpec(layout="llava", directory="reading", split="train"), str(world))
    manifest = read_manifest(world)
    of_image = Counter(q.image_id for q in read.questions)
    assert len(of_image) == manifest["counts"][reading.PART] and max(of_image.values()) <= reading.MOST
    for index in range(len(of_image)):
        what = reading.of_image(index, manifest["seed"])
        here = [q for q in read.questions if q.image_id == reading.image_path(index).rpartition("/")[2]]
        assert all(read_off(what, q.question) == q.answer for q in here)
        assert read.images.open(here[0].image_id).size == (manifest["size"],) * 2


def test_print_is_told_where_it_stands(world):
    """Of every image with print the patches tell the line's word, number and place, and a letter where its object is; nothing elsewhere."""
    manifest = read_manifest(world)
    known, start = World(world, manifest), KINDS["attributes"] + 16
    names = [*WORDS, *(f"tens {k}" for k in range(10)), *(f"units {k}" for k in range(10)), *reading.ORDINALS, *"ABCD"]
    assert KINDS["scene"] == start + len(names)
    kinds = Counter()
    for path in [*sorted((world / "reading/images").iterdir()), *sorted((world / "chartqa/test/png").iterdir())[:4]]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        scene, part, index = known.lookup(digest_of(pixels))
        beside = printed(part, index, manifest["seed"], scene, manifest["size"])
        facts = patch_facts(scene, "scene", manifest["size"], 8, beside)
        plain = patch_facts(scene, "attributes", manifest["size"], 8)
        assert (facts[:, : start - 16] == plain).all()
        places = facts[:, start - 16 : start].reshape(8, 8, 2, 8)
        assert (places[..., 0, :] == np.eye(8)[:, None]).all() and (places[..., 1, :] == np.eye(8)[None]).all()
        told = {name for k, name in enumerate(names) if facts[:, start + k].any()}
        want = set()
        for ordinal, (word, number) in zip(reading.ORDINALS, beside.lines, strict=False):
            want |= {ordinal, *([word] if word else ()), *([f"units {number[-1]}"] if number else ())}
            want |= {f"tens {number[0]}"} if len(number) == 2 else set()
        letters = set(beside.letters)
        assert told == want | letters, path
        kinds["sign" if beside.lines else "letters" if letters else "plain"] += 1
        for letter, k in beside.letters.items():
            shown = facts[:, start + names.index(letter)]
            middle = visible(scene, k)
            assert shown[int(middle[1] * 8) * 8 + int(middle[0] * 8)] > 0
    assert min(kinds.values()) > 1 and len(kinds) == 3


def test_words_of_signs_are_known_to_the_language_model_of_the_scenes():
    assert set(WORDS) <= {*CATEGORIES, *COLORS} and not set(TEXTURES) & set(WORDS)
