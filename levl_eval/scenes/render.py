"""Images and masks of scenes: anti-aliased by supersampling, deterministic, the same content at every size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from levl_eval.scenes.shapes import PAINT, parts
from levl_eval.scenes.textures import pattern, tile_at
from levl_eval.scenes.world import CLASS_ID, Scene, SceneObject

RGB: dict[str, tuple[int, int, int]] = {
    "red": (204, 40, 38), "orange": (236, 134, 34), "yellow": (240, 208, 52), "green": (52, 150, 66), "blue": (44, 88, 190),
    "purple": (132, 58, 156), "white": (238, 238, 236), "black": (44, 42, 46),
}  # fmt: skip


class Rendered(NamedTuple):
    """image: uint8 [size, size, 3]; mask: uint8 [size, size], world.CLASS_ID values (0 is void and does not occur)."""

    image: np.ndarray
    mask: np.ndarray


def _shade(color: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    t = factor - 1  # above 0: towards white
    red, green, blue = (int(c + (255 - c) * t) if factor > 1 else int(c * factor) for c in color)
    return red, green, blue


def _paint(obj: SceneObject) -> dict[str, tuple[int, int, int]]:
    base = RGB[obj.color]
    dark = _shade(base, 0.68) if obj.color != "black" else (82, 78, 84)
    return {**PAINT, "main": base, "dark": dark, "light": _shade(base, 1.45)}


def placed(obj: SceneObject, size: float, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points in unit coordinates of the object's box in pixels of a canvas of side ``size``: flipped, scaled, tilted, placed."""
    angle = -math.radians(obj.tilt)
    c, s = math.cos(angle) * size, math.sin(angle) * size
    w, h = (-obj.width if obj.flipped else obj.width), obj.height
    x0, y0 = obj.x * size, obj.y * size
    axx, axy, ayx, ayy = w * c, -h * s, w * s, h * c
    return [(x0 + x * axx + y * axy, y0 + x * ayx + y * ayy) for x, y in points]


def _polygons(obj: SceneObject, size: float) -> list[tuple[str, list[tuple[float, float]]]]:
    """Parts in pixels of a canvas of side ``size``."""
    return [(role, placed(obj, size, points)) for role, points in parts(obj.category, obj.variant)]


def band_edges(scene: Scene, size: int) -> list[np.ndarray]:
    """For each band the row of its lower edge in every column, [size] float."""
    x = np.arange(size) / size
    out = []
    for band in scene.bands:
        edge = np.full(size, band.bottom * size)
        if band.roughness > 0:
            edge += (
                band.roughness
                * size
                * (0.7 * np.sin(2 * math.pi * 1.3 * x + band.phase) + 0.3 * np.sin(2 * math.pi * 3.7 * x + 2 * band.phase))
            )
        out.append(edge)
    return out


def _background(scene: Scene, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of the bands' textures; window offsets follow from the scene's phases."""
    canvas = np.empty((size, size, 3), np.uint8)
    rows = np.arange(size)[:, None]
    edges = band_edges(scene, size)
    for i, band in enumerate(scene.bands):
        tile = tile_at(band.stuff, size, round(band.shade * 20))
        dy, dx = int(band.phase * 97 % 1 * size), int(band.phase * 53 % 1 * size)
        if i == 0:
            canvas[:] = tile[dy : dy + size, dx : dx + size]
        else:
            above = edges[i - 1]
            first, last = max(0, int(above.min())), min(size, int(above.max()) + 1)
            canvas[last:] = tile[dy + last : dy + size, dx : dx + size]
            if last > first:
                strip = rows[first:last] >= above[None, :]
                view = canvas[first:last]
                np.copyto(view, tile[dy + first : dy + last, dx : dx + size], where=strip[..., None])
    return canvas


def _draw(image: Image.Image, draw: ImageDraw.ImageDraw, obj: SceneObject, size: int) -> None:
    paint = _paint(obj)
    outline = (20, 18, 20) if obj.color != "black" else (120, 116, 120)
    for role, points in _polygons(obj, size):
        color = paint[role]
        draw.polygon(points, fill=color, outline=outline if role == "main" else None)
        if role == "main" and obj.texture != "plain":
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            left, top = math.floor(min(xs)), math.floor(min(ys))
            w, h = math.ceil(max(xs)) - left + 1, math.ceil(max(ys)) - top + 1
            if w < 3 or h < 3:
                continue
            mask = Image.new("L", (w, h), 0)
            ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
            period = max(8, int(obj.height * size))
            marks = pattern(obj.texture, period)
            reps = (h // period + 1, w // period + 1)
            field = np.tile(marks, reps)[:h, :w] if max(reps) > 1 else marks[:h, :w]
            second = _shade(color, 1.6) if sum(color) < 380 else _shade(color, 0.6)
            mask = Image.fromarray(np.minimum(np.asarray(mask), field))
            image.paste(second, (left, top), mask)
            draw.polygon(points, outline=outline)


def _supersampling(size: int) -> int:
    return 3 if size <= 128 else 2


def render_image(scene: Scene, size: int = 96) -> np.ndarray:
    """The image of ``scene`` as uint8 [size, size, 3]. Pure function of its arguments; size from 64 to 512."""
    factor = _supersampling(size)
    big = size * factor
    image = Image.fromarray(_background(scene, big))
    draw = ImageDraw.Draw(image)
    for obj in scene.objects:
        _draw(image, draw, obj, big)
    x = np.asarray(image.reduce(factor)).astype(np.float32)

    # Light: a linear ramp across the image, overall brightness and colour temperature; then sensor noise.
    t = math.radians(scene.light)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    gain = scene.brightness + 0.10 * (math.cos(t) * ramp[None, :] + math.sin(t) * ramp[:, None])
    tint = np.array([1 + 0.07 * scene.warmth, 1.0, 1 - 0.07 * scene.warmth], np.float32)
    x *= gain[..., None] * tint
    noise = np.random.default_rng(scene.seed).standard_normal((size, size, 3), dtype=np.float32)
    x += noise * scene.noise
    np.clip(x, 0, 255, out=x)
    return x.astype(np.uint8)


def render_mask(scene: Scene, size: int = 96) -> np.ndarray:
    """The label of every pixel, uint8 [size, size]; drawn from the same polygons without anti-aliasing."""
    labels = np.empty((size, size), np.uint8)
    rows = np.arange(size)[:, None] + 0.5
    labels[:] = CLASS_ID[scene.bands[0].stuff]
    for edge, band in zip(band_edges(scene, size), scene.bands[1:], strict=False):
        labels[rows >= edge[None, :]] = CLASS_ID[band.stuff]
    return _draw_labels(labels, scene, size, [CLASS_ID[o.category] for o in scene.objects])


def render_instances(scene: Scene, size: int = 96) -> np.ndarray:
    """Which object every pixel shows, uint8 [size, size]: 0 the background, i + 1 ``scene.objects[i]``, in front of what it hides."""
    return _draw_labels(np.zeros((size, size), np.uint8), scene, size, range(1, len(scene.objects) + 1))


def _draw_labels(ground: np.ndarray, scene: Scene, size: int, labels: Sequence[int]) -> np.ndarray:
    """``ground`` with the polygons of every object filled with its label, without anti-aliasing."""
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    for obj, label in zip(scene.objects, labels, strict=True):
        for _, points in _polygons(obj, size):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in points], fill=label)
    return np.array(image)


def render(scene: Scene, size: int = 96) -> Rendered:
    """Image and mask of ``scene``."""
    return Rendered(render_image(scene, size), render_mask(scene, size))
