"""Images of the classification set under a shift: other textures, exchanged colours, sensor noise, and contours in place of surfaces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from levl_eval.scenes.world import TEXTURES, Scene, stable_seed

ROOM = "classification_shifts"
KINDS = ("texture", "colour", "noise", "style")
COUNTS: dict[str, int] = {f"{ROOM}/{kind}": 6 * 24 for kind in KINDS}
NOISE = 40.0  # grey levels, standard deviation


def shifted_scene(scene: Scene, kind: str) -> Scene:
    """The scene, for texture with every object's next texture."""
    if kind != "texture":
        return scene
    objects = tuple(replace(o, texture=TEXTURES[(TEXTURES.index(o.texture) + 1) % len(TEXTURES)]) for o in scene.objects)
    return replace(scene, objects=objects)


def shifted_pixels(pixels: np.ndarray, kind: str, index: int, seed: int) -> np.ndarray:
    """uint8 [H, W, 3] as the kind of shift shows it; a pure function of its arguments."""
    if kind == "colour":
        return np.ascontiguousarray(pixels[..., [2, 0, 1]])
    if kind == "noise":
        rng = np.random.default_rng(stable_seed("noise", seed, index))
        noisy = pixels.astype(np.float64) + NOISE * rng.standard_normal(pixels.shape)
        return np.asarray(noisy.round().clip(0, 255), np.uint8)
    if kind == "style":
        grey = pixels.astype(np.int64).sum(-1)
        steps = np.abs(np.diff(grey, axis=0, append=grey[-1:])) + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
        lines = 255 - np.minimum(255, steps)
        return np.repeat(lines[..., None], 3, -1).astype(np.uint8)
    return pixels
