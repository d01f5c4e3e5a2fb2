"""POPE questions by POPE's published sampling (Li et al., "Evaluating Object Hallucination in LVLMs", EMNLP 2023, section 4).

For every image with at least three kinds of objects: three that are there and three that are not. The absent ones are drawn at
random, or are the most frequent ones of the data set (popular), or those that occur most often together with the present
ones (adversarial).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import TypedDict

STRATEGIES = ("random", "popular", "adversarial")
PER_SIDE = 3


class POPELine(TypedDict):
    """A line of the official files."""

    question_id: int
    image: str
    text: str
    label: str


def pope_questions(images: Sequence[tuple[str, Iterable[str]]], strategy: str, seed: int = 0) -> list[POPELine]:
    """Questions for ``images`` of (file name, names of the objects there), present and absent in turn.

    Returns the official files' lines, numbered from 1. Deterministic in ``seed``;
    the present objects are the same for all three strategies. Raises ValueError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    sets = [(name, sorted(set(objects))) for name, objects in images]
    frequency = Counter(o for _, objects in sets for o in objects)
    together: Counter[tuple[str, str]] = Counter(pair for _, objects in sets for pair in permutations(objects, 2))
    vocabulary = sorted(frequency)
    present_rng, absent_rng = random.Random(f"present/{seed}"), random.Random(f"absent/{strategy}/{seed}")
    out: list[POPELine] = []
    for name, objects in sets:
        if len(objects) < PER_SIDE:
            continue
        missing = [o for o in vocabulary if o not in objects]
        chosen = present_rng.sample(objects, PER_SIDE)
        if len(missing) < PER_SIDE:
            continue
        if strategy == "random":
            absent = absent_rng.sample(missing, PER_SIDE)
        elif strategy == "popular":
            absent = sorted(missing, key=lambda o: (-frequency[o], o))[:PER_SIDE]
        else:
            absent = sorted(missing, key=lambda o: (-sum(together[p, o] for p in objects), o))[:PER_SIDE]
        for yes, no in zip(chosen, absent, strict=True):
            for word, label in ((yes, "yes"), (no, "no")):
                article = "an" if word[0] in "aeiou" else "a"
                out.append(
                    {
                        "question_id": len(out) + 1,
                        "image": name,
                        "text": f"Is there {article} {word} in the image?",
                        "label": label,
                    }
                )
    return out
