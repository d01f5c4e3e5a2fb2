"""How far away everything in a scene is, and which way it faces: depth in metres and unit normals of every pixel, from the scene's layout.

A camera looks straight ahead over a ground plane, which is every band of grass, sand, water, road or snow and the lowest band of
all. It begins at the top of its uppermost band, FAR metres away, and comes nearer downwards; walls (bands of brick and wood above
it) stand where it begins, the sky is infinitely far. An object stands where its lower edge meets the ground, or at the wall where
it ends above it, and bulges towards the camera. Outdoors everything is OUTDOORS times as far.

Axes of normals: x to the right, y downwards, z away from the camera; they point to the camera's side.
"""

from __future__ import annotations

import numpy as np

from levl_eval.scenes.render import band_edges, render_instances
from levl_eval.scenes.world import Scene, SceneObject

FAR = 7.5  # metres: where the ground begins
MARGIN = 0.12  # the horizon above that, of the image's side
OUTDOORS = 8.0
BULGE = 0.2  # of an object's width: how far its middle stands out
INDOORS = ("room", "cabin")
_WALLS = ("brick", "wood")


def ground_top(scene: Scene) -> float:
    """Where the ground begins, as a share of the image's height."""
    top = 0.0
    for k, band in enumerate(scene.bands):
        if k == len(scene.bands) - 1 or band.stuff not in (*_WALLS, "sky"):
            return top
        top = band.bottom
    return top


def scale_of(scene: Scene) -> float:
    """By how much the place of a scene is larger than a room."""
    return 1.0 if scene.place in INDOORS else OUTDOORS


def distance(scene: Scene, y: np.ndarray | float) -> np.ndarray:
    """Metres to the ground at heights ``y`` (shares of the image); above its top, to what stands there."""
    below = np.maximum(np.asarray(y, np.float64) - ground_top(scene), 0.0)
    return np.asarray(scale_of(scene) * FAR * MARGIN / (below + MARGIN))


def _offsets(obj: SceneObject, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every pixel, how far right of and below an object's middle it is, in halves of the box:
    [1, size] and [size, 1], -1 to 1 within."""
    middles = (np.arange(size) + 0.5) / size
    return ((middles - obj.x) / (obj.width / 2))[None, :], ((middles - obj.y) / (obj.height / 2))[:, None]


def depth_map(scene: Scene, size: int) -> np.ndarray:
    """float32 [size, size], metres; 0 where the sky shows."""
    rows = ((np.arange(size) + 0.5) / size)[:, None]
    depth = np.repeat(distance(scene, rows), size, 1)
    depth[_is_sky(scene, size)] = 0.0
    shown = render_instances(scene, size)
    for k, obj in enumerate(scene.objects, 1):
        at = float(distance(scene, obj.box[3]))
        right, below = _offsets(obj, size)
        relief = at - BULGE * obj.width * at * (1 - right**2 - below**2)
        depth = np.where(shown == k, relief, depth)
    return np.asarray(depth, np.float32)


def normal_map(scene: Scene, size: int) -> np.ndarray:
    """float32 [size, size, 3], unit vectors; zeros where the sky shows."""
    rows = ((np.arange(size) + 0.5) / size)[:, None]
    wall, ground = np.array([0.0, 0.0, -1.0]), np.array([0.0, -1.0, 0.0])
    normals = np.where((rows < ground_top(scene))[..., None], wall, ground) + np.zeros((size, size, 1))
    normals[_is_sky(scene, size)] = 0.0
    shown = render_instances(scene, size)
    for k, obj in enumerate(scene.objects, 1):
        right, below = _offsets(obj, size)
        # Of the surface z = -BULGE w (1 - right^2 - below^2), whose sides are w and h at its distance: (dz/dx, dz/dy, -1).
        slopes = np.broadcast_arrays(4 * BULGE * right, 4 * BULGE * below * (obj.width / obj.height), -np.ones((size, size)))
        facing = np.stack(slopes, -1)
        facing = facing / np.linalg.norm(facing, axis=-1, keepdims=True)
        normals = np.where((shown == k)[..., None], facing, normals)
    return np.asarray(normals, np.float32)


def _is_sky(scene: Scene, size: int) -> np.ndarray:
    """bool [size, size]: which pixels of the background are sky."""
    rows = np.arange(size)[:, None] + 0.5
    index = sum((rows >= edge[None, :]).astype(int) for edge in band_edges(scene, size)[:-1])
    return np.isin(index, [k for k, band in enumerate(scene.bands) if band.stuff == "sky"])
