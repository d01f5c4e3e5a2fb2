"""Questions with lettered options about scenes: how many, what is on a side, which one is nearer, which one is larger.

In CV-Bench's files (test_2d.jsonl: Count, Relation; test_3d.jsonl: Depth, Size), and the counts and relations once more in MMBench's, each
question as often as it has options, which are turned round from row to row, over the same images.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping

from levl_eval.scenes.choices import RELATIONS
from levl_eval.scenes.language import relation
from levl_eval.scenes.programs import plural
from levl_eval.scenes.world import CATEGORIES, Scene, SceneObject, sample_scene, stable_seed

PART = "cv_bench/test"
COUNTS: dict[str, int] = {PART: 80}
ROOMS = ("cv_bench", "mmbench")
LETTERS = "ABCD"
APART = 0.08  # of the image's height between two objects' lower edges, so that which one is nearer can be seen
LARGER = 1.6  # times the area of the other one

Asked = tuple[str, str, list[str], int]  # kind, question, options, which of them is right


def option_scene(key: int) -> Scene:
    return sample_scene(stable_seed("options", key))


def image_name(index: int) -> str:
    """Below the set's folder."""
    return f"img/{index + 1:06d}.jpg"


def _mixed(right: str, wrong: list[str], rng: random.Random) -> tuple[list[str], int]:
    options = [right, *wrong]
    rng.shuffle(options)
    return options, options.index(right)


def to_count(counts: Mapping[str, int], rng: random.Random) -> str:
    """A category to count: an absent one, any, or one of several objects, equally often where there is such a one.

    Else most answers were 1.
    """
    several = sorted(c for c, n in counts.items() if n > 1)
    absent = [c for c in CATEGORIES if c not in counts]
    kinds = [absent, sorted(counts), several] if several else [absent, sorted(counts)]
    return rng.choice(rng.choice(kinds))


def _beside(scene: Scene, o: SceneObject) -> tuple[str, str] | None:
    """A side of ``o`` on which one object alone lies, and that object's category; None where there is none, or nothing else to choose."""
    there: dict[str, list[str]] = {}
    for other in scene.objects:
        if other is not o and (side := relation(other, o)):
            there.setdefault(side, []).append(other.category)
    fit = [(side, names[0]) for side, names in sorted(there.items()) if len(names) == 1 and names[0] != o.category]
    return fit[0] if fit and len(scene.counts()) > 2 else None


def questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """What can be asked of a scene, at most one question of each kind."""
    counts = scene.counts()
    out: list[Asked] = []
    category = to_count(counts, rng)
    numbers = [str(n) for n in range(5) if n != counts.get(category, 0)]
    options, at = _mixed(str(counts.get(category, 0)), sorted(rng.sample(numbers, 3)), rng)
    out.append(("Count", f"How many {plural(category)} are there?", options, at))
    single: list[SceneObject] = [o for o in scene.objects if counts[o.category] == 1]
    rng.shuffle(single)
    pairs = [(x, y) for k, x in enumerate(single) for y in single[k + 1 :]]
    beside = next(((o, *sides) for o in single if (sides := _beside(scene, o))), None)
    if beside is not None:
        o, where, there = beside
        others = [c for c in sorted(counts) if c not in (o.category, there)]
        options, at = _mixed(there, rng.sample(others, min(3, len(others))), rng)
        out.append(("Relation", f"What is {RELATIONS[where]} the {o.category}?", options, at))
    near = next(((x, y) for x, y in pairs if abs(x.box[3] - y.box[3]) > APART), None)
    if near is not None:
        x, y = sorted(near, key=lambda o: -o.box[3])
        options, at = _mixed(x.category, [y.category], rng)
        out.append(("Depth", f"Which is nearer, the {options[0]} or the {options[1]}?", options, at))
    sized = next(((x, y) for x, y in pairs if not 1 / LARGER < (x.width * x.height) / (y.width * y.height) < LARGER), None)
    if sized is not None:
        x, y = sorted(sized, key=lambda o: -o.width * o.height)
        options, at = _mixed(x.category, [y.category], rng)
        out.append(("Size", f"Which is larger, the {options[0]} or the {options[1]}?", options, at))
    return out


def files_of(
    count: int, seed: int, scene_of: Callable[[int], Scene], jpeg: Callable[[Scene], bytes]
) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of both sets' files. scene_of: number -> scene; jpeg: scene -> the image's bytes, as written."""
    lines: dict[str, list[str]] = {"2D": [], "3D": []}
    table = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsplit"]
    asked = 0
    for index in range(count):
        scene = scene_of(index)
        rng = random.Random(stable_seed("questions", PART, seed, index))
        for kind, text, options, at in questions(scene, rng):
            room = "2D" if kind in ("Count", "Relation") else "3D"
            row = {
                "idx": len(lines[room]), "type": room, "task": kind, "question": text, "choices": options, "answer": f"({LETTERS[at]})",
                "source": "scenes", "filename": image_name(index),
            }  # fmt: skip
            lines[room].append(json.dumps(row))
            if room == "3D":
                continue
            image = base64.b64encode(jpeg(scene)).decode()
            for turn in range(len(options)):
                turned = options[turn:] + options[:turn]
                cells = [
                    str(turn * 1_000_000 + asked),
                    text,
                    "",
                    *turned,
                    *[""] * (4 - len(turned)),
                    LETTERS[turned.index(options[at])],
                    kind,
                ]
                table.append("\t".join([*cells, image if turn == 0 else str(asked), "dev"]))
            asked += 1
    for room, rows in lines.items():
        yield f"cv_bench/test_{room.lower()}.jsonl", "".join(row + "\n" for row in rows)
    yield "mmbench/mmbench_dev_en.tsv", "\n".join(table) + "\n"
