"""Training text for print, letters and comparisons (scenes.reading): descriptions that hold them, with the questions about them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from levl_eval.scenes import reading
from levl_eval.scenes.language import STYLES, phrases, swap_words
from levl_eval.scenes.world import stable_seed
from levl_eval.tools.scenes_lm.text import TOGETHER, Asked, Example, Phrase, other_words, told_together

_SHARES: dict[reading.Kind, float] = {"sign": 0.4, "arrow": 0.15, "point": 0.1, "plain": 0.35}
# Words that the language model has no token of before it reads print; each digit behind a space, so that 42 is another sum than 24.
WORDS = (
    *"0123456789", *"ABCD", "sign", "line", "says", "reads", *reading.ORDINALS,
    "arrow", "arrows", "point", "points", "camera", "closer", "nearer",
    "farther", "larger", "smaller", "statement", "true", "false", "number", "word", "beside", "stands", "written", "Where",
)  # fmt: skip
_TWO = frozenset(("nearer", "larger", "statement"))


def _marked(text: str, mark: str) -> str:
    """A phrase with a mark before its last sign: "a cup on the grass, arrow A."."""
    return f"{text[:-1]}, {mark}{text[-1]}"


def _sign_phrases(what: reading.Shown, style: str, rng: random.Random) -> list[str]:
    """One phrase a line of the sign."""
    out = []
    for ordinal, line in zip(reading.ORDINALS, what.lines, strict=False):
        if style == "sentences":
            form = rng.choice(("the {0} line of the sign says {1}.", "a sign reads {1} in the {0} line."))
            out.append(form.format(ordinal, line.text))
        else:
            out.append(f"sign {ordinal}: {line.text};")
    return out


def _pieces(
    what: reading.Shown, style: str, rng: random.Random
) -> tuple[list[tuple[str, str, int]], dict[int, int], dict[str, list[int]]]:
    """(text, category or "", copies) of every phrase; line of the sign -> its phrase; category -> the phrases that name it."""
    repeat = style == TOGETHER and rng.random() < 0.7
    parts = (
        told_together(what.scene, rng, repeat) if style == TOGETHER else [(t, o, 1) for t, o in phrases(what.scene, rng, style)]
    )
    pieces: list[tuple[str, str, int]] = []
    word = "point" if what.kind == "point" else "arrow"
    for text, o, copies in parts:
        letters = [x for x, marked in what.marks if o is not None and marked is o]
        pieces.append((_marked(text, f"{word} {letters[0]}") if letters else text, o.category if o else "", copies))
    where = rng.randint(0, len(pieces))
    lines = [(text, "", rng.randint(1, 4) if repeat else 1) for text in _sign_phrases(what, style, rng)]
    pieces[where:where] = lines
    of_category: dict[str, list[int]] = {}
    for k, (_, category, _) in enumerate(pieces):
        if category:
            of_category.setdefault(category, []).append(k)
    return pieces, {k: where + k for k in range(len(lines))}, of_category


def _asked(
    q: reading.Asked,
    what: reading.Shown,
    line_at: Mapping[int, int],
    of_category: Mapping[str, list[int]],
    table: Mapping[str, str],
) -> Asked:
    """The question in the example's words, with where it is read."""
    text, answer = swap_words(q.question, table), swap_words(q.answer, table)
    cues: list[tuple[int, tuple[int, ...]]] = []
    source: tuple[int, ...] = ()
    if q.family.startswith("sign"):
        for k, line in enumerate(what.lines):
            for part in (line.word, line.number):
                word = swap_words(part, table)
                match = re.search(rf"\b{re.escape(word)}\b", text) if word else None
                if match:
                    cues.append((match.end() - 1, (line_at[k],)))
        source = (line_at[q.line],) if q.line >= 0 else ()
    elif q.family.startswith("arrow"):
        o = (
            dict(what.marks)[q.answer]
            if q.family == "arrow-letter"
            else next(o for x, o in what.marks if f"arrow {x}" in q.question)
        )
        source = tuple(of_category[o.category])
        match = re.search(
            r"arrow [A-D]\b" if q.family == "arrow-name" else rf"{re.escape(swap_words(o.category, table))}\b", text
        )
        if match:
            cues.append((match.end() - 1, source))
    else:
        for name in q.named:
            match = re.search(rf"\b{re.escape(swap_words(name, table))}\b", text)
            if match:
                cues.append((match.end() - 1, tuple(of_category[name])))
        if q.family in ("nearer", "larger"):
            source = tuple(of_category[q.answer])
        elif q.family == "where" and len(of_category[q.named[0]]) == 1:
            source = tuple(of_category[q.named[0]])
    return Asked(text, answer, q.family, tuple(sorted(cues)), source, q.family in _TWO and len(cues) == 2)


def reading_example(seed: int, swap: float = 0.2, style: str | None = None) -> Example:
    """The training text of ``seed``: a scene with a sign, with letters, or with neither. ``swap``: share told in another lexicon."""
    rng = random.Random(stable_seed("reading text", seed))
    kind = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    style = style or rng.choices((*STYLES, TOGETHER), (0.3, 0.25, 0.45))[0]
    what = reading.shown(kind, seed, 1)
    table = other_words(rng) if rng.random() < swap else {}
    pieces, line_at, of_category = _pieces(what, style, rng)
    asked = reading.questions(what, rng, plainly=True)
    if any(copies > 1 for *_, copies in pieces):  # copies cannot be counted
        asked = [q for q in asked if q.family != "sign-lines"]
    parts = tuple(Phrase(swap_words(text, table), table.get(name, name), copies) for text, name, copies in pieces)
    questions = tuple(_asked(q, what, line_at, of_category, table) for q in asked)
    return Example(parts, style, questions)
