"""Answers of several people, after VQAv2, and how often each answer is asked for, after GQA's balancing."""

from __future__ import annotations

import random
from collections import defaultdict

from levl_eval.scenes.programs import SceneQuestion

_NEAR = {
    "red": "orange", "orange": "red", "yellow": "orange", "green": "blue", "blue": "purple", "purple": "blue", "white": "gray",
    "black": "dark", "airplane": "plane", "boat": "ship", "cup": "mug", "cat": "kitten",
    "dog": "puppy", "truck": "lorry", "house": "building", "bird": "owl",
    "duck": "bird", "car": "vehicle", "grass": "ground", "sand": "beach", "water": "lake", "snow": "ice", "road": "street", "brick": "wall",
    "wood": "floor", "sky": "air", "tree": "plant", "flower": "plant", "yes": "no", "no": "yes",
}  # fmt: skip


def annotators(answer: str, rng: random.Random) -> tuple[str, ...]:
    """Ten people's answers: seven to ten agree, the others give a near answer (synonym, neighbouring colour, a miscount)."""
    # On yes or no people seldom differ; a wrong answer must not earn credit for it.
    agree = (
        rng.choices((10, 9), (0.7, 0.3))[0] if answer in ("yes", "no") else rng.choices((10, 9, 8, 7), (0.45, 0.3, 0.15, 0.1))[0]
    )
    if answer.isdigit():
        other = str(max(0, int(answer) + rng.choice((-1, 1))))
        other = other if other != answer else str(int(answer) + 1)
    else:
        other = _NEAR.get(answer, "not sure")
    out = [answer] * agree + [other] * (10 - agree)
    rng.shuffle(out)
    return tuple(out)


def balance_answers(
    questions: list[tuple[str, SceneQuestion]], rng: random.Random, ratio: float = 1.5
) -> list[tuple[str, SceneQuestion]]:
    """Thin out dominant answers of each group, after GQA's balancing: no answer more than ``ratio`` times the next frequent one.

    questions: (image id, question) pairs; order is kept. Deterministic for an equally seeded ``rng``.
    """
    by_group: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (_, q) in enumerate(questions):
        by_group[q.group][q.answer].append(i)
    keep: set[int] = set()
    for group in sorted(by_group):
        answers = sorted(by_group[group].items(), key=lambda kv: (len(kv[1]), kv[0]))
        if {x for x, _ in answers} <= {"yes", "no"}:
            limit = float(len(answers[0][1])) if len(answers) == 2 else float("inf")
            for _, indices in answers:
                keep.update(rng.sample(indices, min(len(indices), int(min(limit, len(indices))))))
            continue
        previous: int | None = None
        for _, indices in answers:  # from the rarest up
            allowed = len(indices) if previous is None else min(len(indices), max(int(previous * ratio), 3))
            keep.update(rng.sample(indices, allowed))
            previous = max(previous or 0, allowed)
    return [pair for i, pair in enumerate(questions) if i in keep]
