"""Scenes to read and compare in, to train connectors on: signs with print, letters at arrows and points, which is nearer or larger, where.

    reading/train.json       LLaVA's instruction files: one conversation an image, a question and its answer each two turns
    reading/images/*.jpg

The questions are worded as those of the test sets that ask for print, letters and comparisons (scenes.signs, scenes.lettered,
scenes.options, scenes.counting, scenes.referring), of scenes that none of these has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from levl_eval.scenes.choices import OPPOSITE
from levl_eval.scenes.counting import IN_WORDS
from levl_eval.scenes.labels import Label, at
from levl_eval.scenes.language import ROWS_OF_IMAGE, column, relation, row
from levl_eval.scenes.lettered import diagram_scene, of_one, pointed_scene, points, visible
from levl_eval.scenes.options import APART, LARGER, LETTERS
from levl_eval.scenes.referring import expression
from levl_eval.scenes.signs import ROOMS as SIGNED
from levl_eval.scenes.signs import Line, lines_of
from levl_eval.scenes.world import SIZES, Scene, SceneObject, sample_scene, stable_seed

PART = "reading/train"
COUNTS: dict[str, int] = {PART: 1500}
ROOM = "reading"
MOST = 8  # questions of an image
Kind = Literal["sign", "arrow", "point", "plain"]
KINDS: tuple[Kind, ...] = ("sign", "arrow", "sign", "point", "plain")  # of images 0, 1, ..., and so on
ORDINALS = ("first", "second", "third")
_OF_NUMBERS = (
    "What is the number of {}?",
    "what is the number of {}?",
    "What number stands beside {}?",
    "what number stands beside {}?",
)


@dataclass(frozen=True)
class Shown:
    """A scene with what is put into it. lines: of its sign, from above.

    marks: letter -> the object it names; of points, the first is the nearer one.
    """

    kind: Kind
    scene: Scene
    lines: tuple[Line, ...] = ()
    marks: tuple[tuple[str, SceneObject], ...] = ()


@dataclass(frozen=True)
class Asked:
    """A question with its answer. named: the categories in it, in order; line: of the sign that it is read from, -1 for none or all."""

    question: str
    answer: str
    family: str
    named: tuple[str, ...] = ()
    line: int = -1


def shown(kind: Kind, index: int, seed: int) -> Shown:
    """What image ``index`` shows; a pure function of its arguments."""
    key = stable_seed("reading", kind, seed, index)
    rng = random.Random(key)
    if kind == "sign":
        return Shown(kind, sample_scene(key, 2, 3), lines_of(PART, index, seed))
    if kind == "point":
        scene = pointed_scene(key)
        of_point = {visible(scene, n): o for n, o in enumerate(scene.objects)}
        letters = rng.sample(LETTERS[:2], 2)
        return Shown(kind, scene, marks=tuple((x, of_point[p[:2]]) for x, p in zip(letters, points(scene), strict=True)))
    if kind == "arrow":
        scene = diagram_scene(key)
        single = [scene.objects[k] for k in of_one(scene)]
        rng.shuffle(single)
        return Shown(kind, scene, marks=tuple(zip(LETTERS, single, strict=False)))
    return Shown(kind, sample_scene(key, 3, 6))


def labels_of(what: Shown) -> list[Label]:
    """The letters that are drawn over the image."""
    kind: Literal["arrow", "point"] = "point" if what.kind == "point" else "arrow"
    return [at(letter, kind, *visible(what.scene, what.scene.objects.index(o))) for letter, o in sorted(what.marks)]


def _of_sign(lines: Sequence[Line], rng: random.Random) -> list[Asked]:
    """What may be asked of the print."""
    out = [Asked("How many lines does the sign have?", str(len(lines)), "sign-lines")]
    if len(lines) == 1:
        word, number = lines[0]
        if number:
            out.append(Asked("what is the number in the image?", number, "sign-digits", line=0))
        else:
            out.append(Asked("what is written in the image?", word, "sign-word", line=0))
    elif lines[0].word:
        out.append(Asked("What is the first word on the sign?", lines[0].word, "sign-first", line=0))
    for k, (word, number) in enumerate(lines):
        if word and number:
            out.append(Asked(rng.choice(_OF_NUMBERS).format(word), number, "sign-number", line=k))
            out.append(Asked(f"Which word stands beside {number}?", word, "sign-beside", line=k))
    whole = [line for line in lines if line.word and line.number]
    if len(whole) > 1:
        x, y = rng.sample(whole, 2)
        larger = max(x, y, key=lambda line: int(line.number))
        out.append(Asked(f"Which has the larger number, {x.word} or {y.word}?", larger.word, "sign-larger"))
    return out


def _of_marks(what: Shown) -> list[Asked]:
    """What may be asked of letters."""
    if what.kind == "point":
        nearer = what.marks[0][0]
        return [Asked("Which point is closer to the camera?", f"{nearer} is closer", "point")]
    out = []
    for letter, o in what.marks:
        out.append(Asked(f"What does arrow {letter} point at?", o.category, "arrow-name"))
        out.append(Asked(f"Which arrow points at the {o.category}?", letter, "arrow-letter", (o.category,)))
    return out


def _compared(scene: Scene, rng: random.Random, plainly: bool) -> list[Asked]:
    """Which is nearer and larger, whether a statement is true, where something is."""
    counts = scene.counts()
    single = [o for o in scene.objects if counts[o.category] == 1]
    out = []
    for k, x in enumerate(single):
        for y in single[k + 1 :]:
            x, y = rng.sample((x, y), 2)
            names, pair = (x.category, y.category), f"the {x.category} or the {y.category}"
            apart, below = x.box[3] - y.box[3], ROWS_OF_IMAGE.index(row(x)) - ROWS_OF_IMAGE.index(row(y))
            if abs(apart) > APART and (not plainly or apart * below > 0):
                nearer, farther = (x, y) if apart > 0 else (y, x)
                out.append(Asked(f"Which is nearer, {pair}?", nearer.category, "nearer", names))
                out.append(Asked(f"Which is farther away, {pair}?", farther.category, "nearer", names))
            ratio, sizes = (x.width * x.height) / (y.width * y.height), list(SIZES)
            stated = sizes.index(x.size) - sizes.index(y.size)
            if not 1 / LARGER < ratio < LARGER and (not plainly or (ratio - 1) * stated > 0):
                larger, smaller = (x, y) if ratio > 1 else (y, x)
                out.append(Asked(f"Which is larger, {pair}?", larger.category, "larger", names))
                out.append(Asked(f"Which is smaller, {pair}?", smaller.category, "larger", names))
            if side := relation(x, y):
                claimed = side if rng.random() < 0.5 else OPPOSITE[side]
                text = f"Is this statement true or false? The {x.category} is {IN_WORDS[claimed]} the {y.category}."
                out.append(Asked(text, "true" if claimed == side else "false", "statement", names))
    for o in scene.objects:
        if text := expression(o, scene, "refcoco+", rng):
            out.append(Asked(f"Where is {text}?", f"{row(o)} {column(o)}", "where", (o.category,)))
    return out


def questions(what: Shown, rng: random.Random, plainly: bool = False) -> list[Asked]:
    """Up to MOST questions: first those of the print and the letters.

    plainly: compare only what a description's words of place and size tell.
    """
    first = _of_sign(what.lines, rng) if what.kind == "sign" else _of_marks(what) if what.marks else []
    rest = _compared(what.scene, rng, plainly)
    rng.shuffle(first)
    by_family: dict[str, list[Asked]] = {}
    for q in rest:
        by_family.setdefault(q.family, []).append(q)
    for group in by_family.values():
        rng.shuffle(group)
    # Of each family the first, then of each the second, ...
    mixed = [group[k] for k in range(MOST) for group in by_family.values() if k < len(group)]
    return [*first[:MOST], *mixed[: MOST - len(first[:MOST])]]


def kind_of(index: int) -> Kind:
    """Of image ``index``."""
    return KINDS[index % len(KINDS)]


def has_sign(part: str, index: int) -> bool:
    """Whether image ``index`` of a part of the world shows a sign."""
    return part.partition("/")[0] in SIGNED or (part == PART and kind_of(index) == "sign")


def of_image(index: int, seed: int) -> Shown:
    """What image ``index`` of the set shows."""
    return shown(kind_of(index), index, seed)


def image_path(index: int) -> str:
    """Below the root."""
    return f"{ROOM}/images/{index + 1:06d}.jpg"


def files_of(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the instruction file."""
    rows = []
    for index in range(count):
        turns = list[dict[str, str]]()
        for q in questions(of_image(index, seed), random.Random(stable_seed("reading questions", seed, index))):
            turns += [{"from": "human", "value": q.question}, {"from": "gpt", "value": q.answer}]
        rows.append({"id": f"{index + 1:06d}", "image": image_path(index).rpartition("/")[2], "conversations": turns})
    yield f"{ROOM}/train.json", json.dumps(rows)
