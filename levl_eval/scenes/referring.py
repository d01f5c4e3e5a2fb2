"""Expressions that mean one object of a scene, with its box, in MDETR's form of RefCOCO, RefCOCO+ and RefCOCOg.

An expression of RefCOCO may say where the object is, one of RefCOCO+ only what it looks like, one of RefCOCOg both in a sentence.
The training expressions are about the scenes that GQA's training questions are about, whose images are not drawn again. A box is
the upright one an object is drawn in, before its tilt of at most ten degrees.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from levl_eval.scenes.language import column, relation, row
from levl_eval.scenes.world import Scene, SceneObject, sample_scene, stable_seed

PART = "refcoco/testA"
COUNTS: dict[str, int] = {PART: 60}
ROOM = "refcoco"
SETS = ("refcoco", "refcoco+", "refcocog")
FIRST = 600_001  # number of the first image: none that the scenes' VQAv2 or POPE has
MOST = 3  # objects of an image that are meant
_SIDES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
_RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def referred_scene(key: int) -> Scene:
    """A scene with three to six objects."""
    return sample_scene(stable_seed("referring", key), 3, 6)


def image_name(index: int) -> str:
    return f"COCO_train2014_{FIRST + index:012d}.jpg"


def image_path(index: int) -> str:
    """Below the root."""
    return f"{ROOM}/train2014/{image_name(index)}"


def _looks(o: SceneObject) -> dict[str, str]:
    """What may be said of an object, by name."""
    return {
        "kind": o.category,
        "colour": o.color,
        "texture": o.texture,
        "size": o.size,
        "stuff": o.stuff,
        "column": column(o),
        "row": row(o),
    }


def _forms(o: SceneObject, scene: Scene, level: str) -> list[tuple[str, str, SceneObject | None]]:
    """(expression, names of what it tells of the object, the other object it is seen from) of all ways to speak of an object."""
    if level == "refcoco":
        side, place = _SIDES[column(o)], f"at the {row(o)} {column(o)}"
        return [
            (o.category, "kind", None), (f"{o.color} {o.category}", "kind colour", None), (f"{o.category} {side}", "kind column", None),
            (f"{o.category} {place}", "kind column row", None), (f"{o.color} {o.category} {side}", "kind colour column", None),
        ]  # fmt: skip
    plain = o.texture == "plain"  # which nobody says
    looks, named = (o.color, "kind colour") if plain else (f"{o.texture} {o.color}", "kind colour texture")
    if level == "refcoco+":
        return [
            (f"{o.color} {o.category}", "kind colour", None), (f"{looks} {o.category}", named, None),
            (f"{o.size} {looks} {o.category}", f"{named} size", None),
        ]  # fmt: skip
    counts = scene.counts()
    others = [x for x in scene.objects if x is not o and counts[x.category] == 1 and relation(o, x)]
    return [
        (f"the {o.size} {looks} {o.category} on the {o.stuff}", f"{named} size stuff", None),
        *((f"the {looks} {o.category} {_RELATIONS[relation(o, x)]} the {x.category}", named, x) for x in others),
    ]


def meant(scene: Scene, named: dict[str, str], seen_from: tuple[SceneObject, str] | None = None) -> list[SceneObject]:
    """The objects of a scene of which all is true that is named, and that are seen so from another one where one is given."""
    fit = [o for o in scene.objects if named.items() <= _looks(o).items()]
    return [o for o in fit if seen_from is None or (o is not seen_from[0] and relation(o, seen_from[0]) == seen_from[1])]


def expression(o: SceneObject, scene: Scene, level: str, rng: random.Random) -> str:
    """An expression that means ``o`` and no other object of the scene; "" where none of ours does."""
    mine, unique = _looks(o), []
    for text, names, other in _forms(o, scene, level):
        named = {name: mine[name] for name in names.split()}
        if len(meant(scene, named, None if other is None else (other, relation(o, other)))) == 1:
            unique.append(text)
    return rng.choice(unique) if unique else ""


def pixel_box(o: SceneObject, size: int) -> list[float]:
    """Left, top, width and height of an object's box within its image of side ``size``, to hundredths of a pixel."""
    left, top, right, bottom = (min(max(v, 0.0), 1.0) * size for v in o.box)
    return [round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)]


def _file(level: str, part: str, names: list[str], scene_of: Callable[[int], Scene], seed: int, size: int) -> str:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index, name in enumerate(names):
        scene, rng = scene_of(index), random.Random(stable_seed(level, part, seed, index))
        for o in rng.sample(scene.objects, min(MOST, len(scene.objects))):
            text = expression(o, scene, level, rng)
            if not text:
                continue
            number, box = len(images), pixel_box(o, size)
            images.append({
                "file_name": name, "height": size, "width": size, "id": number,
                "original_id": index + 1, "caption": text, "dataset_name": level,
            })  # fmt: skip
            annotations.append({
                "area": round(box[2] * box[3], 2), "iscrowd": 0, "image_id": number, "category_id": 1, "id": number, "bbox": box,
                "original_id": number,
            })  # fmt: skip
    return json.dumps({"images": images, "annotations": annotations})


def files_of(count: int, seed: int, size: int, scene_of: Callable[[int], Scene]) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the test files of the three sets, over the same images."""
    names = [image_name(i) for i in range(count)]
    for level in SETS:
        split = "test" if level == "refcocog" else "testA"
        yield f"{ROOM}/finetune_{level}_{split}.json", _file(level, split, names, scene_of, seed, size)


def training_files(names: list[str], seed: int, size: int, scene_of: Callable[[int], Scene]) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the training files, about images that another set has. names: theirs, by number."""
    for level in SETS:
        yield f"{ROOM}/finetune_{level}_train.json", _file(level, "train", names, scene_of, seed, size)
