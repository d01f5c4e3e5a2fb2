"""Plain readers of descriptions and questions, for the tests only. They share nothing with the generator but the words.

`READERS[style](text)` gives (objects, stuff); `answer(question, objects, stuff)` reads the question's English, not its program.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_COLUMNS, _ROWS = ("left", "middle", "right"), ("top", "center", "bottom")
_MEMBERS = {
    "animal": {"cat", "dog"}, "bird": {"bird", "duck"}, "vehicle": {"car", "truck"}, "craft": {"airplane", "boat"},
    "plant": {"cactus", "flower", "mushroom", "tree"}, "furniture": {"chair", "lamp", "table"}, "toy": {"ball", "kite", "snowman"},
    "object": {"clock", "cup", "umbrella"},
}  # fmt: skip
_STUFF = {"sky", "grass", "sand", "water", "brick", "wood", "snow", "road"}
_SINGULAR = {"fish": "fish", "butterflies": "butterfly", "snowmen": "snowman"}


class Told(NamedTuple):
    """What a description says of one object."""

    category: str
    color: str
    texture: str
    size: str
    stuff: str
    row: str
    column: str


def read_list(text: str) -> tuple[list[Told], list[str]]:
    objects: list[Told] = []
    stuff: list[str] = []
    for entry in text.removesuffix(".").split("; "):
        name, rest = entry.split(": ")
        if name == "background":
            stuff = rest.split(" and ")
            continue
        look, size, on, where = rest.split(", ")
        color, texture = (*look.split(), "plain")[:2]
        objects.append(Told(name, color, texture, size, on.removeprefix("on "), *where.split()))
    return objects, stuff


def read_sentences(text: str) -> tuple[list[Told], list[str]]:
    objects: list[Told] = []
    stuff: list[str] = []
    for sentence in text.rstrip(".").split(". "):
        if m := re.search(r"(?:behind them|the background is) (.+)", sentence):
            stuff = m[1].split(" and ")
            continue
        what = re.search(r"\ban? (\w+) (\w+) (?:(striped|spotted|checked) )?(\w+) on the (\w+)", sentence)
        where = re.search(r"(top|center|bottom) (left|middle|right)", sentence)
        assert what and where, sentence
        objects.append(Told(what[4], what[2], what[3] or "plain", what[1], what[5], where[1], where[2]))
    return objects, stuff


READERS = {"list": read_list, "sentences": read_sentences}


def _seen_from(x: Told, y: Told) -> str:
    """Side of ``y`` on which ``x`` is: by columns, and where these agree by rows."""
    if x.column != y.column:
        return "to the left of" if _COLUMNS.index(x.column) < _COLUMNS.index(y.column) else "to the right of"
    if x.row != y.row:
        return "above" if _ROWS.index(x.row) < _ROWS.index(y.row) else "below"
    return ""


def _only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def answer(question: str, objects: list[Told], stuff: list[str]) -> str:
    """The answer by reading the English of a question. AssertionError where the text does not decide it."""
    q = question.lower().rstrip("?")
    number = Counter(o.category for o in objects)
    yes = lambda truth: "yes" if truth else "no"  # noqa: E731

    def the(name: str) -> Told:
        assert number[name] == 1, (question, number)
        return next(o for o in objects if o.category == name)

    sides = r"(to the left of|to the right of|above|below)"
    if m := re.fullmatch(rf"(?:is|do you see) the (\w+) {sides} the (\w+)", q):
        side = _seen_from(the(m[1]), the(m[3]))
        assert side
        return yes(side == m[2])
    if m := re.fullmatch(rf"(?:what|which object) is {sides} the (\w+)", q):
        return _only([o.category for o in objects if o is not the(m[2]) and _seen_from(o, the(m[2])) == m[1]])
    if m := re.fullmatch(r"(?:what|which object) is (?:at|in) the (\w+) (\w+)(?: of the picture)?", q):
        return _only([o.category for o in objects if (o.row, o.column) == (m[1], m[2])])
    if m := re.fullmatch(r"is the (\w+) on the (left|right) or on the (left|right)", q):
        assert the(m[1]).column in (m[2], m[3])
        return the(m[1]).column
    if m := re.fullmatch(r"what is the (\w+) on", q):
        return the(m[1]).stuff
    if m := re.fullmatch(r"(?:what color is the (\w+)|what is the color of the (\w+)|which color does the (\w+) have)", q):
        return the(m[1] or m[2] or m[3]).color
    if m := re.fullmatch(r"is the (\w+) (\w+) or (\w+)", q):
        assert the(m[1]).color in (m[2], m[3])
        return the(m[1]).color
    if m := re.fullmatch(r"(?:is|does) the (\w+) (?:look )?(\w+)", q):
        return yes(the(m[1]).color == m[2])
    if m := re.fullmatch(r"(?:are the (\w+) and the (\w+) the same color|does the (\w+) have the color of the (\w+))", q):
        return yes(the(m[1] or m[3]).color == the(m[2] or m[4]).color)
    if m := re.fullmatch(r"how many (\w+) (?:are there|do you see)", q):
        return str(number[_SINGULAR.get(m[1], m[1].removesuffix("s"))])
    if m := re.fullmatch(r"(?:which is in the picture|what do you see), an? (\w+) or an? (\w+)", q):
        return _only([w for w in (m[1], m[2]) if number[w]])
    if m := re.fullmatch(r"(?:which (\w+) is in the picture|what kind of (\w+) is it|what (\w+) do you see)", q):
        return _only([o.category for o in objects if o.category in _MEMBERS[m[1] or m[2] or m[3]]])
    if q in ("what covers the ground", "what is the ground made of"):
        return stuff[-1]
    if m := re.fullmatch(r"(?:are there both|is there|do you see) (?:either )?an? (\w+) (and|or) an? (\w+)", q):
        there = [number[m[1]] > 0, number[m[3]] > 0]
        return yes(all(there) if m[2] == "and" else any(there))
    if m := re.fullmatch(r"(?:is there|do you see) (?:any )?(\w+)(?: in the picture)?", q):
        if m[1] in _STUFF:
            return yes(m[1] in stuff)
    if m := re.fullmatch(r"(?:is there|do you see) an? (\w+) (\w+)(?: in the picture)?", q):
        if m[2] not in ("in",):
            return yes(any((o.color, o.category) == (m[1], m[2]) for o in objects))
    m = re.fullmatch(r"(?:is there|do you see) an? (\w+)(?: in the (?:picture|image))?", q)
    assert m, question
    return yes(number[m[1]] > 0)
