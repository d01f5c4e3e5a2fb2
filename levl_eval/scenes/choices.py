"""Scenes for choices by image-text score, in the layouts of SugarCrepe, Winoground, ARO and MMVP-VLM.

A caption names two objects, each the only one of its category, their colours and where one is seen from the other. The wrong one differs
in one thing: another object, colour or relation in its place, two of them exchanged, or one added that is not there. Where a pair has two
images, the second is the first with the positions or the colours of the two objects exchanged, or with one of them taken away.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace

from levl_eval.scenes.language import relation
from levl_eval.scenes.world import CATEGORIES, COLORS, TEXTURES, Scene, SceneObject, sample_scene, stable_seed

COUNTS: dict[str, int] = {"sugarcrepe/val2017": 160, "winoground/test": 80, "aro/test": 80, "mmvp_vlm/test": 60}
ROOMS = tuple(part.partition("/")[0] for part in COUNTS)
RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
TYPES = ("Positional and Relational Context", "Color and Appearance", "Presence of Specific Features")  # of MMVP-VLM's nine
_TRIES = 1_000


def a(words: str) -> str:
    """With its article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def named(o: SceneObject) -> str:
    return f"{o.color} {o.category}"


def two_of(scene: Scene) -> tuple[SceneObject, SceneObject] | None:
    """The two most salient objects of which there is one each, where their colours differ and one is seen beside or above the other."""
    counts = scene.counts()
    single = [o for o in scene.salient() if counts[o.category] == 1]
    if len(single) < 2:
        return None
    x, y = single[:2]
    return (x, y) if x.color != y.color and relation(x, y) else None


def exchanged(scene: Scene, x: SceneObject, y: SceneObject) -> Scene:
    """The scene with both objects in each other's place."""
    moved = {x: replace(x, x=y.x, y=y.y, stuff=y.stuff), y: replace(y, x=x.x, y=x.y, stuff=x.stuff)}
    return replace(scene, objects=tuple(moved.get(o, o) for o in scene.objects))


def recoloured(scene: Scene, x: SceneObject, y: SceneObject) -> Scene:
    """The scene with both objects in each other's colour."""
    painted = {x: replace(x, color=y.color), y: replace(y, color=x.color)}
    return replace(scene, objects=tuple(painted.get(o, o) for o in scene.objects))


def without(scene: Scene, x: SceneObject) -> Scene:
    return replace(scene, objects=tuple(o for o in scene.objects if o is not x))


def _still_apart(scene: Scene, x: SceneObject, y: SceneObject) -> bool:
    """Whether exchanged objects are seen the other way round."""
    other = exchanged(scene, x, y)
    by_name = {o.category: o for o in other.objects}
    return relation(by_name[x.category], by_name[y.category]) == OPPOSITE[relation(x, y)]


def choice_scene(key: int) -> tuple[Scene, SceneObject, SceneObject]:
    """A scene with two objects that can be told apart, and they; a pure function of ``key``."""
    for k in range(_TRIES):
        scene = sample_scene(stable_seed("choice", key, k))
        pair = two_of(scene)
        if pair is not None and _still_apart(scene, *pair):
            return scene, *pair
    raise AssertionError("no scene with two objects apart")


def part_scene(part: str, index: int, seed: int) -> tuple[Scene, SceneObject, SceneObject]:
    """The scene of image ``index`` of a part, and the two objects it is asked about; in ARO's one is red and one is blue."""
    scene, x, y = choice_scene(stable_seed("export", part, seed, index))
    if not part.startswith("aro/"):
        return scene, x, y
    colours = ("red", "blue") if index % 2 else ("blue", "red")  # two kinds of attributes, of which there are many each
    painted = {x: replace(x, color=colours[0]), y: replace(y, color=colours[1])}
    return replace(scene, objects=tuple(painted.get(o, o) for o in scene.objects)), painted[x], painted[y]


def images(part: str, index: int, seed: int) -> Iterator[tuple[str, Scene]]:
    """(path below the root, scene) of every image that number ``index`` of ``part`` gives."""
    scene, x, y = part_scene(part, index, seed)
    room = part.partition("/")[0]
    if room == "sugarcrepe":
        yield f"sugarcrepe/val2017/{index + 1:012d}.jpg", scene
    elif room == "aro":
        yield f"aro/images/{index + 1}.jpg", scene
    elif room == "winoground":
        yield f"winoground/images/ex_{index}_img_0.jpg", scene
        yield f"winoground/images/ex_{index}_img_1.jpg", (exchanged if index % 2 else recoloured)(scene, x, y)
    else:
        kind = TYPES[index % len(TYPES)]
        other = (exchanged(scene, x, y), recoloured(scene, x, y), without(scene, x))[index % len(TYPES)]
        for k, shown in enumerate((scene, other)):
            yield f"mmvp_vlm/MLLM_VLM Images/{kind}/{2 * index + k + 1}.jpg", shown


def wrong_captions(scene: Scene, x: SceneObject, y: SceneObject, rng: random.Random) -> dict[str, tuple[str, str]]:
    """Kind of SugarCrepe -> (right, wrong) caption."""
    side = RELATIONS[relation(x, y)]
    right = f"{a(named(x))} {side} {a(named(y))}"
    absent = rng.choice([c for c in CATEGORIES if c not in scene.counts()])
    colour = rng.choice([c for c in COLORS if c not in (x.color, y.color)])
    texture = rng.choice([t for t in TEXTURES[1:] if t != x.texture])
    return {
        "add_obj": (right, f"{right}, and {a(absent)}"),
        "add_att": (right, f"{a(f'{texture} {named(x)}')} {side} {a(named(y))}"),
        "replace_obj": (right, f"{a(f'{x.color} {absent}')} {side} {a(named(y))}"),
        "replace_att": (right, f"{a(f'{colour} {x.category}')} {side} {a(named(y))}"),
        "replace_rel": (right, f"{a(named(x))} {RELATIONS[OPPOSITE[relation(x, y)]]} {a(named(y))}"),
        "swap_obj": (right, f"{a(f'{x.color} {y.category}')} {side} {a(f'{y.color} {x.category}')}"),
        "swap_att": (right, f"{a(f'{y.color} {x.category}')} {side} {a(f'{x.color} {y.category}')}"),
    }


def _sugarcrepe(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    files: dict[str, dict[str, dict[str, str]]] = {}
    for index in range(count):
        scene, x, y = part_scene(part, index, seed)
        rng = random.Random(stable_seed("questions", part, seed, index))
        for kind, (right, wrong) in wrong_captions(scene, x, y, rng).items():
            of_kind = files.setdefault(kind, {})
            of_kind[str(len(of_kind))] = {"filename": f"{index + 1:012d}.jpg", "caption": right, "negative_caption": wrong}
    for kind, entries in files.items():
        yield f"sugarcrepe/data/{kind}.json", json.dumps(entries)


def _winoground(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    lines = []
    for index in range(count):
        _, x, y = part_scene(part, index, seed)
        if index % 2:
            side = RELATIONS[relation(x, y)]
            captions, tag = (f"{a(x.category)} {side} {a(y.category)}", f"{a(y.category)} {side} {a(x.category)}"), "Object"
        else:
            first, second = sorted((x.category, y.category))
            of = {x.category: x.color, y.category: y.color}
            captions = (
                f"{a(f'{of[first]} {first}')} and {a(f'{of[second]} {second}')}",
                f"{a(f'{of[second]} {first}')} and {a(f'{of[first]} {second}')}",
            )
            tag = "Relation"
        lines.append({
            "id": index, "image_0": f"ex_{index}_img_0", "image_1": f"ex_{index}_img_1", "caption_0": captions[0], "caption_1": captions[1],
            "tag": "", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": tag,
        })  # fmt: skip
    yield "winoground/examples.jsonl", "".join(json.dumps(line) + "\n" for line in lines)


def shuffled(words: list[str], rng: random.Random, count: int) -> list[str]:
    """``count`` other orders of a caption's words, all different."""
    right, out = " ".join(words), list[str]()
    while len(out) < count:
        drawn = list(words)
        rng.shuffle(drawn)
        if (text := " ".join(drawn)) not in (right, *out):
            out.append(text)
    return out


def _aro(part: str, count: int, seed: int, size: int) -> Iterator[tuple[str, str]]:
    relations, attributes, orders = [], [], []
    for index in range(count):
        scene, x, y = part_scene(part, index, seed)
        path, side = f"{index + 1}.jpg", RELATIONS[relation(x, y)]
        boxes = (x.box, y.box)
        left, top = (max(0, int(min(b[k] for b in boxes) * size)) for k in (0, 1))
        right, bottom = (min(size, round(max(b[k] for b in boxes) * size) + 1) for k in (2, 3))
        box = {"bbox_x": left, "bbox_y": top, "bbox_w": right - left, "bbox_h": bottom - top}
        relations.append({
            "image_id": index + 1, "image_path": path, "relation_name": side, **box,
            "true_caption": f"the {x.category} is {side} the {y.category}", "false_caption": f"the {y.category} is {side} the {x.category}",
        })  # fmt: skip
        attributes.append({
            "image_id": index + 1, "image_path": path, "attributes": [x.color, y.color], **box,
            "true_caption": f"the {named(x)} and the {named(y)}",
            "false_caption": f"the {y.color} {x.category} and the {x.color} {y.category}",
        })  # fmt: skip
        caption = wrong_captions(scene, x, y, random.Random(0))["replace_rel"][0]
        rng = random.Random(stable_seed("order", part, seed, index))
        orders.append({"image": path, "caption_options": [caption, *shuffled(caption.split(), rng, 4)]})
    for name, rows in (("visual_genome_relation", relations), ("visual_genome_attribution", attributes), ("coco_order", orders)):
        yield f"aro/{name}.json", json.dumps(rows)


def _mmvp_vlm(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    lines = ["Question ID,Type,Statement"]
    for index in range(count):
        _, x, y = part_scene(part, index, seed)
        side = RELATIONS[relation(x, y)]
        statements = (
            (f"{a(x.category)} {side} {a(y.category)}", f"{a(y.category)} {side} {a(x.category)}"),
            (a(named(x)), a(f"{y.color} {x.category}")),
            (f"a scene with {a(x.category)}", f"a scene without {a(x.category)}"),
        )[index % len(TYPES)]
        lines += [f"{2 * index + k + 1},{TYPES[index % len(TYPES)]},{text}" for k, text in enumerate(statements)]
    yield "mmvp_vlm/Questions.csv", "\n".join(lines) + "\n"


def files_of(part: str, count: int, seed: int, size: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the files that go with a part's images."""
    room = part.partition("/")[0]
    if room == "sugarcrepe":
        yield from _sugarcrepe(part, count, seed)
    elif room == "winoground":
        yield from _winoground(part, count, seed)
    elif room == "aro":
        yield from _aro(part, count, seed, size)
    else:
        yield from _mmvp_vlm(part, count, seed)
