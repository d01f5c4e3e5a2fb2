"""Questions with options about scenes of their own, in the layouts of MMVP, RealWorldQA, SEED-Bench, AI2D and BLINK.

    mmvp/Questions.csv, MMVP Images/*.jpg                   one question about two scenes that differ in one thing
    realworldqa/annotations.jsonl, images/*.jpg             with options in the question; every second one with a short answer
    seed_bench/SEED-Bench.json, SEED-Bench-image/*          six of its kinds, four options each
    ai2d/questions/*.json, images/*.png, ai2d_test_ids.csv  objects with letters at arrows
    blink/TASK/questions.jsonl, images/*.jpg                counts, which of two points is nearer, relations, which of two boxes fits

Questions are worded as those that the scenes' language model has read, where they ask about objects and not about letters.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from levl_eval.scenes.choices import OPPOSITE, RELATIONS, choice_scene, exchanged, recoloured, without
from levl_eval.scenes.geometry import depth_map
from levl_eval.scenes.labels import Label, at
from levl_eval.scenes.language import relation
from levl_eval.scenes.options import LETTERS, to_count
from levl_eval.scenes.programs import SceneQuestion, a, plural
from levl_eval.scenes.questions import ask
from levl_eval.scenes.render import render_instances
from levl_eval.scenes.world import CATEGORIES, COLORS, STUFF, Scene, SceneObject, sample_scene, stable_seed

COUNTS: dict[str, int] = {
    "mmvp/test": 60, "realworldqa/test": 60, "seed_bench/test": 60, "ai2d/test": 48, "blink/Counting": 60, "blink/Relative_Depth": 60,
    "blink/Spatial_Relation": 60, "blink/Object_Localization": 60,
}  # fmt: skip
ROOMS = ("mmvp", "realworldqa", "seed_bench", "ai2d", "blink")
# SEED-Bench's numbers and names of kinds -> the family of questions about scenes (scenes.questions) that is of the kind.
SEED_KINDS: dict[str, tuple[int, str]] = {
    "Scene Understanding": (1, "ground"), "Instance Identity": (2, "query_group"), "Instance Attributes": (3, "query_color"),
    "Instance Location": (4, "query_place"), "Instances Counting": (5, "count"), "Spatial Relation": (6, "query_rel"),
}  # fmt: skip
_WITH_OPTIONS = {"query_rel": 2.0, "query_place": 1.0, "query_color": 1.0, "query_stuff": 1.0, "choose_side": 1.0}
_SHORT = {"count": 2.0, "verify_rel": 1.0, "exist": 1.0}
LETTER_ONLY = "Please answer directly with only the letter of the correct option and nothing else."  # as RealWorldQA asks
_DRAWN = 96  # side at which marks are placed, whatever the images' own
_NEARER = 1.25  # the farther point's metres over the nearer one's
_TRIES = 1_000


def lettered_scene(part: str, index: int, seed: int) -> Scene:
    """The scene of image ``index`` of a part; of MMVP the first of its two."""
    key = stable_seed("export", part, seed, index)
    if part in ("mmvp/test", "blink/Spatial_Relation"):
        return choice_scene(key)[0]
    if part == "blink/Counting":
        return sample_scene(key, 4, 6)
    if part.startswith("ai2d"):
        return diagram_scene(key)
    if part == "blink/Relative_Depth":
        return pointed_scene(key)
    return sample_scene(key)


def diagram_scene(key: int) -> Scene:
    """Three or four objects, of three categories at least: what arrows name."""
    return next(s for k in range(_TRIES) if len((s := sample_scene(stable_seed("diagram", key, k), 3, 4)).counts()) >= 3)


def pointed_scene(key: int) -> Scene:
    """A scene with two points of which one is clearly nearer."""
    return next(s for k in range(_TRIES) if points(s := sample_scene(stable_seed("points", key, k))))


def of_one(scene: Scene) -> list[int]:
    """Numbers of the objects that are the only ones of their category."""
    return [k for k, o in enumerate(scene.objects) if scene.counts()[o.category] == 1]


def _other_scene(index: int, seed: int) -> tuple[Scene, str, tuple[str, str], tuple[str, str]]:
    """Of an MMVP pair: the second scene, the question, its options, and the right one of each scene."""
    scene, x, y = choice_scene(stable_seed("export", "mmvp/test", seed, index))
    if index % 3 == 0:
        question = f"Is the {x.category} {RELATIONS[relation(x, y)]} the {y.category}?"
        return exchanged(scene, x, y), question, ("yes", "no"), ("yes", "no")
    if index % 3 == 1:
        return recoloured(scene, x, y), f"What color is the {x.category}?", (x.color, y.color), (x.color, y.color)
    return without(scene, x), f"Is there {a(x.category)} in the picture?", ("yes", "no"), ("yes", "no")


def images(part: str, index: int, seed: int) -> Iterator[tuple[str, Scene]]:
    """(path below the root, scene) of every image that number ``index`` of ``part`` gives."""
    scene = lettered_scene(part, index, seed)
    if part.startswith("mmvp"):
        shown = [scene, _other_scene(index, seed)[0]]
        for k in range(2):
            yield f"mmvp/MMVP Images/{2 * index + k + 1}.jpg", shown[k ^ _turned(index, seed)]
    else:
        yield image_path(part, index), scene


def _turned(index: int, seed: int) -> int:
    """1 where the changed scene of a pair comes first."""
    return stable_seed("turned", seed, index) % 2


def image_path(part: str, index: int) -> str:
    """Of an image of all sets but MMVP, below the root."""
    room = part.partition("/")[0]
    if room == "seed_bench":
        return f"seed_bench/SEED-Bench-image/{index + 1}_scene"  # without an ending, as the archive has them
    if room == "ai2d":
        return f"ai2d/images/{index}.png"
    return f"{part if room == 'blink' else room}/images/{index + 1:06d}.jpg"


def visible(scene: Scene, k: int) -> tuple[float, float]:
    """A point of object number ``k`` that nothing hides, near the middle of what is seen of it, in shares of the image."""
    rows, columns = np.nonzero(render_instances(scene, _DRAWN) == k + 1)
    if not len(rows):
        return scene.objects[k].x, scene.objects[k].y
    nearest = int(np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2))
    return (float(columns[nearest]) + 0.5) / _DRAWN, (float(rows[nearest]) + 0.5) / _DRAWN


def points(scene: Scene) -> list[tuple[float, float, float]]:
    """Two points (x, y, metres), the nearer one first, of which one is clearly nearer; none where no two objects give such ones."""
    depth = depth_map(scene, _DRAWN)
    seen = []
    for k in range(len(scene.objects)):
        x, y = visible(scene, k)
        if 0.08 < x < 0.92 and 0.08 < y < 0.92:
            seen.append((x, y, float(depth[int(y * _DRAWN), int(x * _DRAWN)])))
    seen = sorted((p for p in seen if p[2] > 0), key=lambda p: p[2])
    apart = [q for q in seen[1:] if q[2] > _NEARER * seen[0][2] and abs(q[0] - seen[0][0]) + abs(q[1] - seen[0][1]) > 0.2]
    return [seen[0], apart[0]] if apart else []


def _of_interest(scene: Scene) -> SceneObject:
    """The most salient object of which there is one; any where there is none."""
    counts = scene.counts()
    return next((o for o in scene.salient() if counts[o.category] == 1), scene.salient()[0])


def _outline(scene: Scene, obj: SceneObject) -> tuple[float, float, float, float]:
    """Box of what is seen of an object, in shares of the image."""
    rows, columns = np.nonzero(render_instances(scene, _DRAWN) == scene.objects.index(obj) + 1)
    if not len(rows):
        left, top, right, bottom = (min(1.0, max(0.0, v)) for v in obj.box)
        return left, top, right, bottom
    left, top, right, bottom = (float(v) / _DRAWN for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return left, top, right, bottom


def _loose(box: tuple[float, float, float, float], rng: random.Random) -> tuple[float, float, float, float]:
    """Another box near a box, moved by a third of its sides, or half as large again or two thirds as large on each side."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    kind = rng.randrange(3)
    if kind == 0:
        dx = rng.choice((-1, 1)) * rng.uniform(0.3, 0.4) * width
        dy = rng.choice((-1, 1)) * rng.uniform(0.3, 0.4) * height
        moved = (left + dx, top + dy, right + dx, bottom + dy)
    else:
        by = 0.25 if kind == 1 else -0.17
        moved = (left - by * width, top - by * height, right + by * width, bottom + by * height)
    clipped = [min(1.0, max(0.0, v)) for v in moved]
    return clipped[0], clipped[1], clipped[2], clipped[3]


def labels_of(part: str, index: int, seed: int, scene: Scene) -> list[Label]:
    """What is drawn over an image: letters at arrows, two points, two boxes; nothing in the other parts."""
    rng = random.Random(stable_seed("labels", part, seed, index))
    if part.startswith("ai2d"):
        numbers = of_one(scene)
        rng.shuffle(numbers)
        return [at(LETTERS[n], "arrow", *visible(scene, k)) for n, k in enumerate(numbers)]
    if part == "blink/Relative_Depth":
        two = [p[:2] for p in points(scene)]
        rng.shuffle(two)
        return [at(LETTERS[n], "point", *p) for n, p in enumerate(two)]
    if part == "blink/Object_Localization":
        right = _outline(scene, _of_interest(scene))
        boxes = [right, _loose(right, rng)]
        rng.shuffle(boxes)
        return [Label(LETTERS[n], "box", b) for n, b in enumerate(boxes)]
    return []


def named_by_letters(part: str, index: int, seed: int, scene: Scene) -> dict[str, int]:
    """Letter -> number of the object that its arrow or point is at; boxes name none."""
    at_point = {visible(scene, k): k for k in range(len(scene.objects))}
    return {x.letter: at_point[x.box[:2]] for x in labels_of(part, index, seed, scene) if x.kind != "box"}


def options_of(question: SceneQuestion, scene: Scene, rng: random.Random, count: int) -> tuple[list[str], int]:
    """Up to ``count`` options in random order, and which is right. Wrong objects are those of the scene first, then others."""
    right, present = question.answer, sorted(scene.counts())
    if right in CATEGORIES:
        here, absent = [c for c in present if c != right], [c for c in CATEGORIES if c not in present]
        rng.shuffle(here)
        rng.shuffle(absent)
        pool = [*here[: max(1, count - 2)], *absent]
    else:
        known: Sequence[str] = next(
            (w for w in (COLORS, STUFF, ("left", "right"), ("yes", "no")) if right in w), [str(n) for n in range(6)]
        )
        pool = [w for w in known if w != right]
        rng.shuffle(pool)
    options = [right, *pool[: count - 1]]
    rng.shuffle(options)
    return options, options.index(right)


def _counted(scene: Scene, rng: random.Random) -> tuple[int, str]:
    """How many there are of some category, and the question."""
    counts = scene.counts()
    kind = to_count(counts, rng)
    return counts.get(kind, 0), f"How many {plural(kind)} are there?"


def _mmvp(count: int, seed: int) -> Iterator[tuple[str, str]]:
    lines = ["Index,Question,Options,Correct Answer"]
    for index in range(count):
        _, question, options, answers = _other_scene(index, seed)
        turned, swapped = _turned(index, seed), stable_seed("swapped", seed, index) % 2
        shown = options[::-1] if swapped else options
        for k in range(2):
            letter = "ab"[shown.index(answers[k ^ turned])]
            lines.append(f"{2 * index + k + 1},{question},(a) {shown[0]} (b) {shown[1]},({letter})")
    yield "mmvp/Questions.csv", "\n".join(lines) + "\n"


def _realworldqa(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    lines = []
    for index in range(count):
        scene, rng = lettered_scene(part, index, seed), random.Random(stable_seed("questions", part, seed, index))
        image = image_path(part, index).rpartition("/")[2]
        for q in ask(scene, rng, _WITH_OPTIONS, 1):
            options, right = options_of(q, scene, rng, 3)
            text = "\n".join([f"{q.question}\n", *(f"{LETTERS[k]}. {o}" for k, o in enumerate(options)), LETTER_ONLY])
            lines.append({"image": image, "question": text, "answer": LETTERS[right]})
        for q in ask(scene, rng, _SHORT, 1):
            lines.append({"image": image, "question": q.question, "answer": q.answer.capitalize()})
    yield "realworldqa/annotations.jsonl", "".join(json.dumps(line) + "\n" for line in lines)


def _seed(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    rows: list[dict[str, object]] = []
    for index in range(count):
        scene, rng = lettered_scene(part, index, seed), random.Random(stable_seed("questions", part, seed, index))
        for number, family in SEED_KINDS.values():
            for q in ask(scene, rng, {family: 1.0}, 1):
                if family == "count":
                    number_of, text = _counted(scene, rng)
                    q = replace(q, question=text, answer=str(number_of))
                options, right = options_of(q, scene, rng, 4)
                texts = {f"choice_{'abcd'[k]}": o for k, o in enumerate(options)}
                rows.append({
                    "question_id": str(len(rows)), "data_id": image_path(part, index).rpartition("/")[2], "data_type": "image",
                    "question": q.question, **texts, "answer": LETTERS[right], "question_type_id": number,
                })  # fmt: skip
    names = {name: number for name, (number, _) in SEED_KINDS.items()}
    yield "seed_bench/SEED-Bench.json", json.dumps({"questions": rows, "question_type": names})


def _ai2d(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    for index in range(count):
        scene, rng = lettered_scene(part, index, seed), random.Random(stable_seed("questions", part, seed, index))
        labels = labels_of(part, index, seed, scene)
        by_point = {visible(scene, k): o.category for k, o in enumerate(scene.objects)}
        named = {label.letter: by_point[label.box[:2]] for label in labels}
        name = image_path(part, index).rpartition("/")[2]
        asked: dict[str, tuple[list[str], int]] = {}
        letter = rng.choice(sorted(named))
        others = [c for c in named.values() if c != named[letter]]
        absent = rng.sample([c for c in CATEGORIES if c not in scene.counts()], 2)
        options = [named[letter], rng.choice(others), *absent]
        rng.shuffle(options)
        asked[f"What does arrow {letter} point at?"] = (options, options.index(named[letter]))
        letter = rng.choice(sorted(named))
        asked[f"Which arrow points at the {named[letter]}?"] = (list(LETTERS[:4]), LETTERS.index(letter))
        content = {
            text: {"answerTexts": texts, "correctAnswer": right, "questionId": f"{name}-{k}", "abcLabel": k == 1}
            for k, (text, (texts, right)) in enumerate(asked.items())
        }
        yield f"ai2d/questions/{name}.json", json.dumps({"imageName": name, "questions": content})
    yield "ai2d/ai2d_test_ids.csv", "".join(f"{index}\n" for index in range(count))


def _blink_question(part: str, index: int, seed: int) -> tuple[str, list[str], int]:
    """Question, options, which is right."""
    scene, rng = lettered_scene(part, index, seed), random.Random(stable_seed("questions", part, seed, index))
    if part == "blink/Counting":
        right, text = _counted(scene, rng)
        numbers = sorted({right, *rng.sample([n for n in range(6) if n != right], 3)})
        return text, [str(n) for n in numbers], numbers.index(right)
    if part == "blink/Spatial_Relation":
        _, x, y = choice_scene(stable_seed("export", part, seed, index))
        side = relation(x, y)
        asked = side if index % 2 == 0 else OPPOSITE[side]
        return f"Is the {x.category} {RELATIONS[asked]} the {y.category}?", ["yes", "no"], index % 2
    labels = labels_of(part, index, seed, scene)
    if part == "blink/Relative_Depth":
        nearer = points(scene)[0][:2]
        return "Which point is closer to the camera?", ["A is closer", "B is closer"], int(labels[1].box[:2] == nearer)
    obj = _of_interest(scene)
    text = f"Which bounding box more accurately localizes and encloses the {obj.category}?"
    return text, ["Box A", "Box B"], int(labels[1].box == _outline(scene, obj))


def _blink(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    lines = []
    for index in range(count):
        question, options, right = _blink_question(part, index, seed)
        image = image_path(part, index).removeprefix(f"{part}/")
        lines.append(
            {"image": image, "question": question, "options": options, "answer": LETTERS[right], "type": part.partition("/")[2]}
        )
    yield f"{part}/questions.jsonl", "".join(json.dumps(line) + "\n" for line in lines)


def files_of(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the question files that go with a part's images."""
    room = part.partition("/")[0]
    if room == "mmvp":
        yield from _mmvp(count, seed)
    else:
        yield from {"realworldqa": _realworldqa, "seed_bench": _seed, "ai2d": _ai2d, "blink": _blink}[room](part, count, seed)
