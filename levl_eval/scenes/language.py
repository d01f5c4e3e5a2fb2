"""What is said about scenes: captions as the web writes them, and complete descriptions that a language model can read.

A web caption names one to three salient objects, category first and colour seldom; what it leaves out is what patch tokens must
carry by themselves. A long caption, as captioning models write them, names most objects with their looks and places. A
description tells everything the questions (`questions`) may ask, in one of two styles.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Literal

from levl_eval.scenes.world import Scene, SceneObject

COLOR_SHARE = 0.15  # share of caption mentions that name the colour

# Words for where something is. Questions and descriptions use the same thresholds, so that every question can be read off.
COLUMNS_OF_IMAGE = ("left", "middle", "right")
ROWS_OF_IMAGE = ("top", "center", "bottom")

_SYNONYMS = {
    "airplane": ("plane",), "cat": ("kitty",), "dog": ("puppy",), "boat": ("ship",), "cup": ("mug",), "house": ("home",),
    "truck": ("lorry",), "kite": ("toy kite",), "tree": ("big tree",),
}  # fmt: skip

_PLACE_WORDS = {
    "sky": ("in the sky", "under the sky"), "grass": ("on the grass", "in a meadow", "on the lawn"), "sand": ("on the sand", "in the sand"),
    "water": ("on the water", "at the lake", "by the sea"), "brick": ("by a brick wall", "in front of bricks"),
    "wood": ("on a wooden floor", "by a wooden wall"), "snow": ("in the snow", "on a snowy day"), "road": ("on the road", "in the street"),
}  # fmt: skip

ONE = (
    "a {a}", "{a} {where}", "photo of a {a}", "a picture of a {a} {where}", "vintage {a}", "the {a} {where}", "{a} for sale", "my {a}",
    "close up of a {a}", "stock photo: {a} {where}", "{a} - free wallpaper", "beautiful {a} {where}", "img_{n} {a}", "look at this {a}",
    "a {a} seen {where}", "handmade {a} illustration",
)  # fmt: skip
TWO = (
    "a {a} and a {b}", "{a} and {b} {where}", "a {a} next to a {b}", "a {a} {rel} a {b}", "photo of a {a} with a {b}",
    "the {a} with the {b} {where}", "{a}, {b}, clipart", "a {a} near a {b} {where}", "{a} meets {b}",
    "a scene with a {a} and a {b}", "there is a {a} {rel} the {b}", "day out: {a} & {b}",
)  # fmt: skip
THREE = (
    "a {a}, a {b} and a {c}", "{a}, {b} and {c} {where}", "a picture with a {a}, a {b} and a {c}", "{a} {rel} a {b}, and a {c}",
    "tags: {a} {b} {c}", "a {a} and a {b} with a {c} in the back", "the {a}, the {b}, the {c}",
)  # fmt: skip


def column(obj: SceneObject) -> str:
    """left, middle or right third of the image, by the box's centre."""
    return COLUMNS_OF_IMAGE[0 if obj.x < 1 / 3 else 1 if obj.x <= 2 / 3 else 2]


def row(obj: SceneObject) -> str:
    """top, center or bottom of the image, by the box's centre."""
    return ROWS_OF_IMAGE[0 if obj.y < 0.40 else 1 if obj.y <= 0.64 else 2]


def relation(a: SceneObject, b: SceneObject) -> str:
    """Where ``a`` is seen from ``b``: "left", "right", "above", "below", or "" where neither thirds nor rows differ.

    Columns win over rows; a question about a pair is asked only along an axis on which they differ.
    """
    dx = COLUMNS_OF_IMAGE.index(column(a)) - COLUMNS_OF_IMAGE.index(column(b))
    if dx:
        return "left" if dx < 0 else "right"
    dy = ROWS_OF_IMAGE.index(row(a)) - ROWS_OF_IMAGE.index(row(b))
    return "above" if dy < 0 else "below" if dy > 0 else ""


_RELATION_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below", "": "beside"}


def _mention(obj: SceneObject, rng: random.Random) -> str:
    name = obj.category
    if name in _SYNONYMS and rng.random() < 0.12:
        name = rng.choice(_SYNONYMS[name])
    if rng.random() < COLOR_SHARE:
        return f"{obj.color} {name}"
    if rng.random() < 0.08:
        return f"{rng.choice(('small', 'little', 'nice', 'old', 'lovely'))} {name}"
    return name


def caption(scene: Scene, rng: random.Random) -> str:
    """A web-like caption of one to three salient objects; never all of a scene with more than three."""
    ranked = scene.salient()
    most = min(3, len(ranked) - 1 if len(ranked) > 3 else len(ranked))
    k = rng.choices(range(1, most + 1), (0.35, 0.40, 0.25)[:most])[0]
    pool = list(ranked[: k + 1])
    chosen = sorted(rng.sample(pool, k), key=pool.index)
    template = rng.choice((ONE, TWO, THREE)[k - 1])
    values: dict[str, str] = {n: _mention(o, rng) for n, o in zip("abc", chosen, strict=False)}
    values["where"] = rng.choice(_PLACE_WORDS[chosen[0].stuff])
    values["n"] = str(rng.randrange(100, 9999))
    if k > 1:
        values["rel"] = _RELATION_WORDS[relation(chosen[0], chosen[1])]
    text = template.format(**values)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    style = rng.random()
    if style < 0.25:
        text = text[0].upper() + text[1:] + "."
    elif style < 0.30:
        text = text + " #" + chosen[0].category
    return text


CaptionStyle = Literal["web", "long", "both"]
MOST_NAMED = 5  # objects that a long caption names


def long_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as a captioning model writes it: up to MOST_NAMED salient objects,
    each with some of its looks or its place, then often the background. The most salient object comes first."""
    chosen = scene.salient()[:MOST_NAMED]
    parts = []
    for o in chosen:
        looks = [o.size] if rng.random() < 0.25 else []
        looks += [o.color] if rng.random() < 0.5 else []
        looks += [o.texture] if o.texture != "plain" and rng.random() < 0.4 else []
        name = rng.choice(_SYNONYMS[o.category]) if o.category in _SYNONYMS and rng.random() < 0.12 else o.category
        where = f" at the {row(o)} {column(o)}" if rng.random() < 0.25 else ""
        what = " ".join([*looks, name])
        parts.append(f"{'an' if what[0] in 'aeiou' else 'a'} {what}{where}")
    text = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
    if rng.random() < 0.5:
        text += f" {rng.choice(_PLACE_WORDS[chosen[0].stuff])}"
    return text


def captions(scene: Scene, rng: random.Random, count: int, style: CaptionStyle = "web") -> list[str]:
    """``count`` captions of a scene. both: every second one is long."""
    write = {"web": (caption, caption), "long": (long_caption, long_caption), "both": (caption, long_caption)}[style]
    return [write[i % 2](scene, rng) for i in range(count)]


def _sentence(o: SceneObject, rng: random.Random) -> str:
    texture = "" if o.texture == "plain" else f"{o.texture} "
    what = f"{o.size} {o.color} {texture}{o.category}"
    where = f"{row(o)} {column(o)}"
    article = "an" if what[0] in "aeiou" else "a"
    return rng.choice(
        (
            f"{article} {what} on the {o.stuff} at the {where}.",
            f"at the {where} {article} {what} on the {o.stuff}.",
            f"there is {article} {what} on the {o.stuff}, {where}.",
        )
    )


def _entry(o: SceneObject) -> str:
    texture = "" if o.texture == "plain" else f" {o.texture}"
    return f"{o.category}: {o.color}{texture}, {o.size}, on {o.stuff}, {row(o)} {column(o)}"


STYLES = ("sentences", "list")


def phrases(scene: Scene, rng: random.Random, style: str) -> list[tuple[str, SceneObject | None]]:
    """A complete description in pieces: one for each object, in random order so that no order can be learned,
    and one for the background (None). Raises ValueError for an unknown style."""
    objects = list(scene.objects)
    rng.shuffle(objects)
    bands = " and ".join(scene.stuff_names())
    if style == "sentences":
        parts: list[tuple[str, SceneObject | None]] = [(_sentence(o, rng), o) for o in objects]
        parts.insert(rng.choice((0, len(parts))), (rng.choice((f"behind them {bands}.", f"the background is {bands}.")), None))
        return parts
    if style == "list":
        return [*((f"{_entry(o)};", o) for o in objects), (f"background: {bands}.", None)]
    raise ValueError(f"style {style!r}: expected one of {', '.join(STYLES)}")


def describe(scene: Scene, rng: random.Random, style: str | None = None) -> str:
    """A complete description: it answers every question that may be asked of the scene."""
    return " ".join(text for text, _ in phrases(scene, rng, style or rng.choice(STYLES)))


def swap_words(text: str, table: Mapping[str, str]) -> str:
    """Replace whole words (used to widen the lexicon of the language model's training text)."""
    if not table:
        return text
    return re.sub(r"\b(" + "|".join(map(re.escape, table)) + r")\b", lambda m: table[m.group(1)], text)
