"""Part keypoints of the categories, by shape variant, and pairs of scenes that show one category twice: semantic correspondence.

A keypoint is a named place on an object in the unit coordinates of its box (see shapes); None where a variant has no such part. Points
of one name are the same part of all variants, as annotators would say. The places of ORIENTED categories are told by what they are
(nose, tail); those of the others by the side on which they are seen, so these are never mirrored.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from levl_eval.scenes.render import placed
from levl_eval.scenes.shapes import parts
from levl_eval.scenes.world import Scene, SceneObject, single_object_scene, stable_seed

Point = tuple[float, float]
TILT = 35.0  # degrees either way that an object is turned by
SPAN = (0.5, 0.85)  # its longer side in the image, the range it is drawn from: its parts are larger than patches are
PARTNERS = 3  # images that an image is matched with
LEAST = 3  # keypoints of a pair


def _face(x: float, y: float, r: float) -> dict[str, Point]:
    """Places on a cat's face, as shapes.cat draws it around (x, y)."""
    return {
        "left ear": (x - 0.8 * r, y - 1.25 * r), "right ear": (x + 0.8 * r, y - 1.25 * r), "nose": (x, y + 0.32 * r),
        "left eye": (x - 0.4 * r, y - 0.1 * r), "right eye": (x + 0.4 * r, y - 0.1 * r),
    }  # fmt: skip


def _by_name(*variants: dict[str, Point]) -> dict[str, tuple[Point | None, ...]]:
    names = dict.fromkeys(name for v in variants for name in v)
    return {name: tuple(v.get(name) for v in variants) for name in names}


# category -> keypoint -> its place in each shape variant
KEYPOINTS: dict[str, dict[str, tuple[Point | None, ...]]] = {
    "boat": _by_name(
        {"left end": (-0.47, 0.2), "right end": (0.47, 0.2), "keel": (0.0, 0.46), "top": (0.0, -0.47)},
        {"left end": (-0.47, 0.2), "right end": (0.47, 0.2), "keel": (0.0, 0.46), "top": (0.07, -0.47)},
        {"left end": (-0.46, 0.03), "right end": (0.46, 0.03), "keel": (0.0, 0.38)},
    ),
    "butterfly": {
        "left upper wing": ((-0.24, -0.2), (-0.24, -0.2), (-0.34, -0.22)), "right upper wing": ((0.24, -0.2), (0.24, -0.2), (0.34, -0.22)),
        "left lower wing": ((-0.2, 0.24), (-0.2, 0.24), (-0.26, 0.2)), "right lower wing": ((0.2, 0.24), (0.2, 0.24), (0.26, 0.2)),
        "body": ((0.0, 0.02),) * 3, "left antenna": ((-0.13, -0.48),) * 3, "right antenna": ((0.13, -0.48),) * 3,
    },
    "car": {
        "front wheel": ((0.28, 0.3),) * 3, "rear wheel": ((-0.28, 0.3),) * 3, "front": ((0.48, 0.1), (0.44, 0.24), (0.48, 0.2)),
        "rear": ((-0.48, 0.1), (-0.46, 0.24), (-0.48, 0.06)), "roof": ((-0.02, -0.42), (-0.02, -0.42), None),
    },
    "cat": _by_name(
        {**_face(0.0, -0.2, 0.22), "tail": (0.41, -0.07)}, {**_face(0.3, -0.16, 0.18), "tail": (-0.475, -0.42)},
        {**_face(0.24, 0.14, 0.22), "tail": (-0.48, 0.31)},
    ),
    "chair": {
        "top": ((-0.33, -0.47), (0.0, -0.43), (-0.02, -0.46)), "seat": ((0.02, 0.07), (0.0, 0.15), (0.0, 0.07)),
        "left foot": ((-0.31, 0.47), (-0.34, 0.47), (-0.32, 0.49)), "right foot": ((0.35, 0.47), (0.34, 0.47), (0.32, 0.49)),
    },
    "clock": {
        "centre": ((0.0, 0.0),) * 3, "long hand": ((0.0, -0.25),) * 3, "short hand": ((0.19, 0.095),) * 3,
        "lower rim": ((0.0, 0.44), (0.0, 0.41), (0.0, 0.43)),
    },
    "dog": {
        "nose": ((0.47, -0.18), (0.37, -0.22), (0.48, -0.02)), "eye": ((0.28, -0.27), (0.18, -0.31), (0.29, -0.11)),
        "tail": ((-0.45, -0.28), (-0.46, 0.29), (-0.49, -0.08)), "fore paw": ((0.21, 0.47), (0.14, 0.47), (0.175, 0.47)),
        "hind paw": ((-0.26, 0.47), (-0.31, 0.46), (-0.305, 0.47)), "ear": ((0.17, -0.14), (0.05, -0.2), (0.24, -0.32)),
    },
    "duck": {
        "beak": ((0.46, -0.22), (0.46, -0.26), (0.5, -0.1)), "eye": ((0.23, -0.33), (0.22, -0.36), (0.3, -0.22)),
        "tail": ((-0.47, 0.03), (-0.36, 0.12), (-0.48, -0.08)), "breast": ((0.3, 0.26), (0.27, 0.12), (0.34, 0.2)),
    },
    "fish": {
        "eye": ((0.33, -0.08),) * 3, "mouth": ((0.47, 0.0), (0.48, 0.03), (0.44, 0.0)),
        "back fin": ((0.1, -0.46), (-0.01, -0.46), (0.1, -0.46)), "upper tail": ((-0.47, -0.38), (-0.49, -0.42), (-0.44, -0.25)),
        "lower tail": ((-0.47, 0.38), (-0.485, 0.36), (-0.44, 0.25)),
    },
    "flower": {
        "blossom": ((0.0, -0.22), (0.0, -0.2), (0.0, -0.24)), "foot": ((0.0, 0.48),) * 3, "right leaf": ((0.29, 0.16),) * 3,
        "left leaf": ((-0.29, 0.26),) * 3,
    },
    "house": {
        "door": ((0.01, 0.34), (0.0, 0.37), (0.18, 0.34)), "roof": ((0.0, -0.46), (0.0, -0.47), (0.0, -0.31)),
        "left corner": ((-0.38, 0.47), (-0.32, 0.47), (-0.42, 0.47)), "right corner": ((0.38, 0.47), (0.32, 0.47), (0.42, 0.47)),
    },
    "lamp": {
        "shade": ((0.0, -0.27), (0.27, -0.32), (0.2, -0.28)), "light": ((0.0, -0.03), (0.27, -0.2), (0.32, -0.08)),
        "base": ((0.0, 0.44), (-0.2, 0.46), (-0.03, 0.46)), "stem": ((0.0, 0.17), (-0.2, 0.05), (-0.23, 0.22)),
    },
    "snowman": {
        "nose": ((0.26, -0.28), (0.26, -0.28), (0.27, -0.22)), "hat": ((0.0, -0.48), (0.0, -0.48), (0.0, -0.47)),
        "left hand": ((-0.49, -0.275),) * 3, "right hand": ((0.49, -0.235),) * 3, "base": ((0.0, 0.46),) * 3,
    },
    "table": {
        "left edge": ((-0.47, -0.21), (-0.47, -0.22), (-0.47, -0.21)), "right edge": ((0.47, -0.21), (0.47, -0.22), (0.47, -0.21)),
        "top": ((0.0, -0.21), (0.0, -0.22), (0.0, -0.21)), "left foot": ((-0.39, 0.47), None, (-0.28, 0.48)),
        "right foot": ((0.39, 0.47), None, (0.28, 0.48)),
    },
    "truck": {
        "front wheel": ((0.32, 0.34),) * 3, "rear wheel": ((-0.32, 0.34),) * 3, "second wheel": ((-0.08, 0.34),) * 3,
        "front": ((0.48, 0.08),) * 3, "cab roof": ((0.29, -0.22),) * 3, "window": ((0.34, -0.06),) * 3,
    },
    "umbrella": {
        "top": ((0.0, -0.46), (0.0, -0.47), (0.0, -0.47)), "handle": ((0.06, 0.46), (0.0, 0.48), (-0.19, 0.48)),
        "left edge": ((-0.46, -0.04), (-0.46, -0.08), None), "right edge": ((0.46, -0.04), (0.46, -0.08), None),
    },
}  # fmt: skip
ORIENTED = ("car", "dog", "duck", "fish", "lamp", "truck")
SHOWN = tuple(KEYPOINTS)


@dataclass(frozen=True)
class Annotated:
    """What is known of an image: the object's box (left, top, right, bottom) and its visible keypoints, name -> (x, y), in pixels."""

    category: str
    variant: int
    box: tuple[int, int, int, int]
    points: dict[str, tuple[int, int]]


def posed_scene(seed: int, index: int) -> Scene:
    """Image ``index``: two in a row show one category, in other shapes, poses, sizes, paints, places and light."""
    category = SHOWN[index // 2 % len(SHOWN)]
    scene = single_object_scene(seed, category)
    rng = random.Random(stable_seed("pose", seed, index))
    obj = scene.objects[0]
    scale = rng.uniform(*SPAN) / max(obj.width, obj.height)
    width, height = obj.width * scale, obj.height * scale
    x, y = (rng.uniform(min(0.5, side / 2), max(0.5, 1 - side / 2)) for side in (width, height))
    posed = replace(
        obj, tilt=rng.uniform(-TILT, TILT), flipped=obj.flipped and category in ORIENTED, width=width, height=height, x=x, y=y
    )
    return replace(scene, objects=(posed,))


def annotated(obj: SceneObject, size: int) -> Annotated:
    """The pixels of an object's keypoints and box in an image of side ``size``; points that fall outside of it are left out."""
    names = [n for n, at in KEYPOINTS[obj.category].items() if at[obj.variant] is not None]
    places = [p for n in names if (p := KEYPOINTS[obj.category][n][obj.variant]) is not None]
    pixels = [(math.floor(x), math.floor(y)) for x, y in placed(obj, size, places)]
    inside = {n: p for n, p in zip(names, pixels, strict=True) if 0 <= p[0] < size and 0 <= p[1] < size}
    outline = [p for _, points in parts(obj.category, obj.variant) for p in placed(obj, size, points)]
    xs, ys = ([min(size - 1, max(0, math.floor(p[k]))) for p in outline] for k in (0, 1))
    return Annotated(obj.category, obj.variant, (min(xs), min(ys), max(xs), max(ys)), inside)


def pairs(images: Mapping[str, Annotated]) -> Iterator[tuple[str, str, list[str]]]:
    """(source, target, names of the keypoints both show): every image as source of up to PARTNERS others of its category,
    the ones that follow it in a ring, where both show three points at least."""
    for category in SHOWN:
        ring = [name for name, one in images.items() if one.category == category]
        for k, source in enumerate(ring):
            for target in [*ring[k + 1 :], *ring[:k]][:PARTNERS]:
                shared = [n for n in images[source].points if n in images[target].points]
                if len(shared) >= LEAST:
                    yield source, target, shared


def spair_files(images: Mapping[str, Annotated], split: str, size: int) -> Iterator[tuple[str, str]]:
    """(path, text) of the annotations of SPair-71k's layout, for images by stem: of every image, of every pair, and the list of pairs."""
    ids = {c: {name: str(k) for k, name in enumerate(KEYPOINTS[c])} for c in SHOWN}
    for stem, one in images.items():
        known = {i: list(one.points[n]) if n in one.points else None for n, i in ids[one.category].items()}
        content = {
            "filename": f"{stem}.jpg", "category": one.category, "image_width": size, "image_height": size, "image_depth": 3,
            "bndbox": list(one.box), "kps": known,
        }  # fmt: skip
        yield f"ImageAnnotation/{one.category}/{stem}.json", json.dumps(content)
    listed = []
    for number, (source, target, names) in enumerate(pairs(images), 1):
        one, other = images[source], images[target]
        name = f"{number:06d}-{source}-{target}:{one.category}"
        height = [image.box[3] - image.box[1] for image in (one, other)]
        content = {
            "pair_id": number - 1, "filename": name, "src_imname": f"{source}.jpg",
            "trg_imname": f"{target}.jpg", "src_imsize": [size, size, 3],
            "trg_imsize": [size, size, 3], "category": one.category, "src_bndbox": list(one.box), "trg_bndbox": list(other.box),
            "kps_ids": [ids[one.category][n] for n in names], "src_kps": [list(one.points[n]) for n in names],
            "trg_kps": [list(other.points[n]) for n in names], "mirror": 0, "viewpoint_variation": int(one.variant != other.variant),
            "scale_variation": int(max(height) > 1.3 * min(height)), "truncation": 0, "occlusion": 0,
        }  # fmt: skip
        listed.append(name)
        yield f"PairAnnotation/{split}/{name}.json", json.dumps(content)
    yield f"Layout/large/{split}.txt", "".join(f"{name}\n" for name in listed)
