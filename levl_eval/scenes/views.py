"""One object of the scenes photographed by cameras that are turned about their axis, in NAVI's layout: multi-view correspondence.

    navi/CATEGORY_K/wild_set/{images/000.jpg, depth/000.png, annotations.json}

VIEWS photographs an object, each with a place, light, angle and focal length of its own. The object bulges towards the camera as
everything in the scenes does (scenes.geometry), its longer side is LONGER metres, it stands DISTANCE metres away and fills the
image, so that readers cut nothing off.
"""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from levl_eval.scenes.geometry import BULGE
from levl_eval.scenes.keypoints import SHOWN
from levl_eval.scenes.render import placed, render_instances
from levl_eval.scenes.shapes import parts
from levl_eval.scenes.world import Scene, SceneObject, single_object_scene, stable_seed

PART, ROOM = "navi/wild_set", "navi"
VIEWS = 6
COUNTS: dict[str, int] = {PART: 16 * VIEWS}
LONGER, DISTANCE = 0.2, 1.0  # metres
TURN = 80.0  # degrees either way that a camera is turned by
SPAN = (1.03, 1.3)  # of the image's side, what the object takes of it in one direction
_DISPARITY = 655.35  # what NAVI stores, times metres


def _filled(obj: SceneObject, by: float) -> SceneObject:
    """The object in the middle, so large that along one axis it reaches ``by`` times as far as both edges."""
    middle = replace(obj, x=0.5, y=0.5)
    outline = np.array([p for _, points in parts(obj.category, obj.variant) for p in placed(middle, 1.0, points)])
    reach = np.minimum(0.5 - outline.min(0), outline.max(0) - 0.5).max()
    return replace(middle, width=obj.width * by * 0.5 / reach, height=obj.height * by * 0.5 / reach)


def viewed_scene(index: int, seed: int) -> Scene:
    """The scene of image ``index``: object ``index // VIEWS`` by camera ``index % VIEWS``."""
    number = index // VIEWS
    category = SHOWN[number % len(SHOWN)]
    own = single_object_scene(stable_seed("viewed object", seed, number), category).objects[0]
    scene = single_object_scene(stable_seed("view of object", seed, index), category)
    rng = random.Random(stable_seed("camera", seed, index))
    turned = replace(own, tilt=rng.uniform(-TURN, TURN), stuff=scene.objects[0].stuff)
    return replace(scene, objects=(_filled(turned, rng.uniform(*SPAN)),))


def folder_of(index: int) -> str:
    """Of an object's views, below the root."""
    number = index // VIEWS
    return f"navi/{SHOWN[number % len(SHOWN)]}_{number // len(SHOWN)}/wild_set"


def image_path(index: int) -> str:
    return f"{folder_of(index)}/images/{index % VIEWS:03d}.jpg"


def depth_of(obj: SceneObject, size: int) -> np.ndarray:
    """float64 [size, size] metres of the surface that an object's plane bulges to, everywhere."""
    angle = math.radians(obj.tilt)
    offset = (np.arange(size) + 0.5) / size - 0.5
    x, y = offset[None, :], offset[:, None]
    right = (x * math.cos(angle) - y * math.sin(angle)) / (obj.width / 2)
    below = (x * math.sin(angle) + y * math.cos(angle)) / (obj.height / 2)
    width = LONGER * obj.width / max(obj.width, obj.height)
    return np.asarray(DISTANCE - BULGE * width * (1 - right**2 - below**2))


def map_file(index: int, scene: Scene, size: int) -> tuple[str, bytes]:
    """(path below the root, bytes) of an image's depth map, of its object alone."""
    stored = np.where(render_instances(scene, size) == 1, np.round(_DISPARITY / depth_of(scene.objects[0], size)), 0)
    buffer = io.BytesIO()
    Image.fromarray(stored.astype(np.uint16)).save(buffer, "PNG")
    return f"{folder_of(index)}/depth/{index % VIEWS:03d}.png", buffer.getvalue()


def files_of(count: int, seed: int, size: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of every object's cameras."""
    views: dict[str, list[dict[str, object]]] = {}
    for index in range(count):
        obj = viewed_scene(index, seed).objects[0]
        half = -math.radians(obj.tilt) / 2
        camera = {
            "q": [math.cos(half), 0.0, 0.0, math.sin(half)], "t": [0.0, 0.0, 1000 * DISTANCE],
            "focal_length": max(obj.width, obj.height) * size * DISTANCE / LONGER, "camera_model": "scenes",
        }  # fmt: skip
        views.setdefault(folder_of(index), []).append({
            "object_id": folder_of(index).split("/")[1], "camera": camera, "filename": f"{index % VIEWS:03d}.jpg",
            "image_size": [size, size], "scene_name": "wild_set", "split": "val", "occluded": False,
        })  # fmt: skip
    for folder, rows in views.items():
        yield f"{folder}/annotations.json", json.dumps(rows)
