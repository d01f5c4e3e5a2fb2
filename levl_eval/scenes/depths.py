"""Depth and normals of the scenes, in the layouts of NYUv2, SUN RGB-D and KITTI: rooms, rooms and cabins in other light, and roads.

nyuv2/{train,test}/scenes/rgb_*.jpg, sync_depth_*.png (millimetres)
sunrgbd/SUNRGBD/scenes/*/{image/*.jpg,depth/*.png} (millimetres, three bits to the left), SUNRGBD_val_splits.txt
kitti/input/DATE/DRIVE/image_02/data/*.png, gt_depth/DRIVE/proj_depth/groundtruth/image_02/*.png (256 a metre; no sky),
    kitti_eigen_{train,test}.txt
nyuv2_normals/{train,test}/*_img.png, *_normal.png (8 bit, from -1 to 1 a component)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from levl_eval.scenes.geometry import depth_map, normal_map
from levl_eval.scenes.world import Scene, sample_scene, stable_seed

COUNTS: dict[str, int] = {
    "nyuv2/train": 300, "nyuv2/test": 150, "sunrgbd/test": 120, "kitti/train": 300, "kitti/test": 120,
    "nyuv2_normals/train": 300, "nyuv2_normals/test": 150,
}  # fmt: skip
ROOMS = ("nyuv2", "sunrgbd", "kitti", "nyuv2_normals")
PLACES: dict[str, tuple[str, ...]] = {
    "nyuv2": ("room",),
    "sunrgbd": ("room", "cabin"),
    "kitti": ("street", "avenue"),
    "nyuv2_normals": ("room",),
}
_SCALES = {"nyuv2": 1000.0, "sunrgbd": 1000.0, "kitti": 256.0}
_DATE = "2000_01_01"
_FOCAL = "96.0"  # of KITTI's lists, which no reader takes


def deep_scene(part: str, seed: int) -> Scene:
    """The scene of ``seed``: the first one drawn that is of a place of the part's set."""
    room = part.partition("/")[0]
    tries = 0
    while (scene := sample_scene(stable_seed("depth", room, seed, tries))).place not in PLACES[room]:
        tries += 1
    if room == "sunrgbd":  # another camera
        return replace(scene, brightness=scene.brightness * 0.85, warmth=min(1.0, scene.warmth + 0.4))
    return scene


def image_path(part: str, index: int) -> str:
    """Of image ``index``, below the root."""
    return f"{_base(part)}{_names(part, index)[0]}"


def _base(part: str) -> str:
    room, _, split = part.partition("/")
    return {
        "nyuv2": f"nyuv2/{split}/",
        "sunrgbd": "sunrgbd/",
        "kitti": "kitti/input/",
        "nyuv2_normals": f"nyuv2_normals/{split}/",
    }[room]


def _names(part: str, index: int) -> tuple[str, str]:
    """Image and depth map as the set's lists name them."""
    room, _, split = part.partition("/")
    if room == "nyuv2_normals":
        return f"{index:06d}_img.png", f"{index:06d}_normal.png"
    if room == "nyuv2":
        return f"scenes/rgb_{index:05d}.jpg", f"scenes/sync_depth_{index:05d}.png"
    if room == "sunrgbd":
        folder = f"SUNRGBD/scenes/{index + 1:06d}"
        return f"{folder}/image/{index + 1:06d}.jpg", f"{folder}/depth/{index + 1:06d}.png"
    drive = f"{_DATE}_drive_{1 if split == 'train' else 2:04d}_sync"
    return f"{_DATE}/{drive}/image_02/data/{index:010d}.png", f"{drive}/proj_depth/groundtruth/image_02/{index:010d}.png"


def map_file(part: str, index: int, scene: Scene, size: int) -> tuple[str, bytes]:
    """(path below the root, bytes) of the map of depth or of normals of image ``index``."""
    room = part.partition("/")[0]
    base = "kitti/gt_depth/" if room == "kitti" else _base(part)
    return f"{base}{_names(part, index)[1]}", _normals_png(scene, size) if room == "nyuv2_normals" else _depth_png(
        room, scene, size
    )


def _normals_png(scene: Scene, size: int) -> bytes:
    normals = normal_map(scene, size).astype(np.float64)
    levels = np.where((normals != 0).any(-1, keepdims=True), np.round((normals + 1) / 2 * 255), 0)
    return _png(levels.astype(np.uint8))


def _depth_png(room: str, scene: Scene, size: int) -> bytes:
    stored = np.round(depth_map(scene, size).astype(np.float64) * _SCALES[room]).clip(0, 65535).astype(np.uint16)
    if room == "sunrgbd":
        stored = (stored << np.uint16(3)) | (stored >> np.uint16(13))
    return _png(stored)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files_of(part: str, count: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of a part's list."""
    room, _, split = part.partition("/")
    if room == "sunrgbd":
        yield "sunrgbd/SUNRGBD_val_splits.txt", "".join(f"{' '.join(_names(part, i))}\n" for i in range(count))
    if room == "kitti":
        yield f"kitti/kitti_eigen_{split}.txt", "".join(f"{' '.join(_names(part, i))} {_FOCAL}\n" for i in range(count))
