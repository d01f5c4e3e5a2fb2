"""Captions and descriptions: what they name, how they vary, and that a plain reader gets the scene back from the text."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from levl_eval.scenes import language
from levl_eval.scenes.language import STYLES, caption, column, describe, phrases, relation, row, swap_words
from levl_eval.scenes.world import CATEGORIES, COLORS, SIZES, STUFF, TEXTURES, SceneObject, sample_scene, stable_seed
from tests.scenes.readers import READERS, Told

SCENES = [sample_scene(stable_seed("language", i)) for i in range(400)]
# Every word a caption may use for a category, written down independently of the module's table.
WORDS = {c: (c,) for c in CATEGORIES} | {
    "airplane": ("airplane", "plane"), "cat": ("cat", "kitty"), "dog": ("dog", "puppy"), "boat": ("boat", "ship"),
    "cup": ("cup", "mug"), "house": ("house", "home"), "truck": ("truck", "lorry"),
}  # fmt: skip


def told(o: SceneObject) -> Told:
    """The object as a description must give it, by thresholds written out once more."""
    across = "left" if o.x < 1 / 3 else "right" if o.x > 2 / 3 else "middle"
    down = "top" if o.y < 0.40 else "bottom" if o.y > 0.64 else "center"
    return Told(o.category, o.color, o.texture, o.size, o.stuff, down, across)


def mentions(text: str) -> list[str]:
    """Categories named in a caption, one entry a mention (the hash tag at the end is no mention)."""
    text = re.sub(r"#\w+", "", text.lower())
    return [c for c, words in WORDS.items() for _ in re.findall(rf"\b(?:{'|'.join(words)})\b", text)]


def captions(n: int, seed: int = 0) -> list[tuple[int, str]]:
    rng = random.Random(seed)
    return [(i % len(SCENES), caption(SCENES[i % len(SCENES)], rng)) for i in range(n)]


def test_captions_name_one_to_three_objects_of_the_scene_and_never_all_of_many():
    sizes: Counter[int] = Counter()
    for i, text in captions(2000):
        scene, named = SCENES[i], mentions(text)
        assert 1 <= len(named) <= 3, text
        assert not Counter(named) - Counter(scene.counts()), text
        if len(scene.objects) > 3:
            assert len(named) < len(scene.objects), text
        sizes[len(named)] += 1
    assert min(sizes[1], sizes[2], sizes[3]) > 0.12 * 2000


def test_captions_name_the_salient_objects_first():
    rank: Counter[int] = Counter()
    for i, text in captions(2000, 1):
        order = [o.category for o in SCENES[i].salient()]
        if len(order) >= 5 and len(set(order)) == len(order):
            for name in mentions(text):
                rank[order.index(name)] += 1
    assert rank[0] > 3 * rank[3] and rank[4] == 0 and rank[1] > rank[3]


def test_a_long_caption_names_the_salient_objects_and_nothing_false():
    for scene in SCENES:
        chosen = scene.salient()[: language.MOST_NAMED]
        text = language.long_caption(scene, random.Random(scene.seed))
        named = mentions(text)
        assert Counter(named) == Counter(o.category for o in chosen), text
        told_colors = Counter(w for w in re.findall(r"\w+", text) if w in COLORS)
        assert not told_colors - Counter(o.color for o in chosen), text
        told_textures = Counter(w for w in re.findall(r"\w+", text) if w in TEXTURES)
        assert not told_textures - Counter(o.texture for o in chosen), text


def test_captions_come_in_the_style_that_is_asked_for():
    scene = next(s for s in SCENES if len(s.objects) == 6)
    web, long, both = (language.captions(scene, random.Random(0), 4, style) for style in ("web", "long", "both"))
    rng = random.Random(0)
    assert web == [caption(scene, rng) for _ in range(4)], "as before there were other styles"
    assert both[0] == web[0] and len(mentions(both[1])) > 3 and all(len(mentions(c)) > 3 for c in long)


def test_colour_is_named_in_about_one_mention_of_seven():
    colored = total = 0
    for _, text in captions(6000, 2):
        words = re.sub(r"#\w+", "", text.lower())
        total += len(mentions(words))
        colored += len(re.findall(rf"\b(?:{'|'.join(COLORS)})\b", words))
    assert 0.12 < colored / total < 0.18


def test_a_named_colour_is_the_objects_own():
    for i, text in captions(2000, 3):
        for color, name in re.findall(rf"\b({'|'.join(COLORS)}) (\w+)", text.lower()):
            category = next((c for c, words in WORDS.items() if name in words), None)
            if category:
                assert any(o.category == category and o.color == color for o in SCENES[i].objects), text


def test_a_named_relation_is_true():
    phrases = {"to the left of": "left", "to the right of": "right", "above": "above", "below": "below"}
    found = 0
    for i, text in captions(4000, 4):
        m = re.search(
            rf"(\w+) ({'|'.join(phrases)}) (?:an?|the) "
            rf"(?:{'|'.join((*COLORS, 'small', 'little', 'nice', 'old', 'lovely', 'toy', 'big'))})? ?(\w+)",
            text.lower(),
        )
        if m:
            found += 1
            names = [next(c for c, words in WORDS.items() if w in words) for w in (m[1], m[3])]
            pairs = [
                (x, y) for x in SCENES[i].objects for y in SCENES[i].objects if [x.category, y.category] == names and x is not y
            ]
            assert any(relation(x, y) == phrases[m[2]] for x, y in pairs), text
    assert found > 100


def test_captions_vary_stay_short_and_read_as_english():
    texts = [t for _, t in captions(3000, 5)]
    assert len(set(texts)) > 0.6 * len(texts)
    frames = Counter(re.sub(rf"\b(?:{'|'.join(w for ws in WORDS.values() for w in ws)})\b", "X", t.lower()) for t in texts)
    assert len([f for f, n in frames.items() if n > 1]) >= 100
    assert len(language.ONE) + len(language.TWO) + len(language.THREE) >= 25
    for t in texts:
        assert len(t.split()) <= 22 and "{" not in t and "  " not in t, t
        assert not re.search(r"\b[Aa] (?=[aeiou])", t) and not re.search(r"\b[Aa]n (?=[^aeiou\W])", t), t


@pytest.mark.parametrize("style", ["sentences", "list"])
def test_a_plain_reader_gets_the_scene_back(style):
    rng = random.Random(6)
    for scene in SCENES:
        objects, stuff = READERS[style](describe(scene, rng, style))
        assert Counter(objects) == Counter(map(told, scene.objects))
        assert stuff == list(scene.stuff_names())


def test_the_order_of_objects_tells_nothing():
    rng = random.Random(7)
    first: Counter[int] = Counter()
    scenes = [s for s in SCENES if len(s.objects) == 4]
    for scene in scenes * 6:
        head = READERS["list"](describe(scene, rng, "list"))[0][0]
        first[[told(o) for o in scene.objects].index(head)] += 1
    total = sum(first.values())
    assert all(0.18 < first[k] / total < 0.32 for k in range(4)), first


def test_descriptions_are_compact_and_regular():
    rng = random.Random(8)
    words: set[str] = set()
    four = [s for s in SCENES if len(s.objects) == 4]
    for style in ("sentences", "list"):
        lengths = [len(describe(s, rng, style).split()) for s in four]
        assert sum(lengths) / len(lengths) <= 60
    for scene in SCENES:
        for style in STYLES:
            words |= set(re.findall(r"[a-z]+", describe(scene, rng, style)))
    content = {*CATEGORIES, *COLORS, *STUFF, *SIZES, *TEXTURES}
    assert words >= (content - {"plain"}) and len(words) <= len(content) + 20


def test_phrases_say_of_which_object_they_tell():
    rng = random.Random(9)
    for scene in SCENES[:100]:
        for style in STYLES:
            told = phrases(scene, rng, style)
            assert sorted(o.category for _, o in told if o) == sorted(o.category for o in scene.objects)
            assert all(o.category in text and o.color in text for text, o in told if o)
            assert [stuff in text for text, o in told if o is None for stuff in scene.stuff_names()] == [True] * len(
                scene.stuff_names()
            )
    with pytest.raises(ValueError, match="'map': expected one of sentences, list"):
        phrases(SCENES[0], rng, "map")


def test_relations_follow_from_the_thirds_alone():
    o = SCENES[0].objects[0]
    at = lambda x, y: replace(o, x=x, y=y)  # noqa: E731
    assert relation(at(0.2, 0.5), at(0.5, 0.5)) == "left" and relation(at(0.9, 0.1), at(0.5, 0.5)) == "right"
    assert relation(at(0.5, 0.1), at(0.4, 0.5)) == "above" and relation(at(0.5, 0.9), at(0.6, 0.5)) == "below"
    assert relation(at(0.34, 0.5), at(0.66, 0.5)) == ""
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above", "": ""}
    for scene in SCENES[:100]:
        for x in scene.objects:
            for y in scene.objects:
                assert relation(x, y) == opposite[relation(y, x)]
                if relation(x, y) in ("above", "below"):
                    assert column(x) == column(y) and row(x) != row(y)


def test_words_are_swapped_whole():
    assert swap_words("a cat, a catfish and a Cat", {"cat": "dog", "dog": "cat"}) == "a dog, a catfish and a Cat"
    assert swap_words("a cat", {}) == "a cat"


def test_equal_seeds_give_equal_text_in_every_process():
    code = (
        "import random; from levl_eval.scenes.world import *; from levl_eval.scenes.language import *\n"
        "s = [sample_scene(stable_seed('p', i)) for i in range(20)]; rng = random.Random(1)\n"
        "print([caption(x, rng) for x in s], [describe(x, rng) for x in s])"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": h}).stdout
        for h in ("1", "2")
    }
    assert len(runs) == 1 and len(runs.pop()) > 1000
