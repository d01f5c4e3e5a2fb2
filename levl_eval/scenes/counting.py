"""Scenes to be counted in and related, in the layouts of TallyQA and VSR."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

from levl_eval.scenes.choices import OPPOSITE, choice_scene
from levl_eval.scenes.language import relation
from levl_eval.scenes.programs import plural
from levl_eval.scenes.world import CATEGORIES, COLORS, Scene, sample_scene, stable_seed

COUNTS: dict[str, int] = {"tallyqa/test": 60, "vsr/test": 60}
ROOMS = tuple(part.partition("/")[0] for part in COUNTS)
IN_WORDS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}  # a relation as VSR says it


def counted_scene(part: str, index: int, seed: int) -> Scene:
    """The scene of an image: of TallyQA with four to six objects, of VSR with two of which one is seen beside or above the other."""
    key = stable_seed("export", part, seed, index)
    return sample_scene(key, 4, 6) if part.startswith("tallyqa") else choice_scene(key)[0]


def image_path(part: str, index: int) -> str:
    """Of an image, below the root."""
    return f"tallyqa/VG_100K/{index + 1}.jpg" if part.startswith("tallyqa") else f"vsr/images/{index + 1:012d}.jpg"


def _tallyqa(part: str, count: int, seed: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index in range(count):
        scene, rng = counted_scene(part, index, seed), random.Random(stable_seed("questions", part, seed, index))
        kinds, colours = scene.counts(), Counter(o.color for o in scene.objects)
        kind = max(kinds, key=lambda c: (kinds[c], c)) if index % 4 else rng.choice([c for c in CATEGORIES if c not in kinds])
        colour = rng.choice(COLORS if index % 3 == 0 else sorted(colours))
        asked = (
            (f"How many {plural(kind)} are there?", kinds.get(kind, 0), True),
            (f"How many {colour} objects are there?", colours[colour], False),
        )
        for k, (question, answer, simple) in enumerate(asked):
            rows.append({
                "answer": answer, "data_source": "scenes", "image": image_path(part, index).removeprefix("tallyqa/"), "image_id": index + 1,
                "issimple": simple, "question": question, "question_id": 10 * (index + 1) + k,
            })  # fmt: skip
    return rows


def _vsr(part: str, count: int, seed: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index in range(count):
        _, x, y = choice_scene(stable_seed("export", part, seed, index))
        side, label = relation(x, y), index % 2
        word, name = IN_WORDS[side if label else OPPOSITE[side]], image_path(part, index).rpartition("/")[2]
        rows.append({
            "image": name, "image_link": "", "caption": f"The {x.category} is {word} the {y.category}.", "label": label, "relation": word,
            "subj": x.category, "obj": y.category,
        })  # fmt: skip
    return rows


def files_of(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the question file that goes with a part's images."""
    if part.startswith("tallyqa"):
        yield "tallyqa/test.json", json.dumps(_tallyqa(part, count, seed))
    else:
        yield "vsr/splits/zeroshot/test.jsonl", "".join(json.dumps(row) + "\n" for row in _vsr(part, count, seed))
