"""Scenes in motion: a few objects that travel, turn and grow before a background that stands still, as videos of FRAMES frames.

Every frame is a scene, so that it is drawn, and its objects' masks are known, like any other one.
"""

from __future__ import annotations

import random
from dataclasses import replace

from levl_eval.scenes.world import CATEGORIES, Scene, SceneObject, sample_object, single_object_scene, stable_seed

FRAMES = 12
SPAN = (0.3, 0.5)  # an object's longer side in the first frame
STEP = (0.02, 0.045)  # how far it goes in a frame, of the image's side
TURN, GROWTH = 4.0, 0.02  # degrees it turns by, and the share its size changes by, at most in a frame


def _bounced(at: float, low: float, high: float) -> float:
    """``at`` reflected into [low, high]."""
    if high <= low:
        return (low + high) / 2
    span = high - low
    place = (at - low) % (2 * span)
    return low + (place if place <= span else 2 * span - place)


def _apart(a: SceneObject, b: SceneObject) -> bool:
    return abs(a.x - b.x) > (a.width + b.width) / 2 or abs(a.y - b.y) > (a.height + b.height) / 2


def _first(rng: random.Random, base: Scene) -> list[SceneObject]:
    """One to three objects of different categories that do not hide each other."""
    placed: list[SceneObject] = []
    for category in rng.sample(CATEGORIES, rng.randint(1, 3)):
        for _ in range(20):
            obj = sample_object(rng, category, base.bands)
            scale = rng.uniform(*SPAN) / max(obj.width, obj.height)
            width, height = obj.width * scale, obj.height * scale
            x, y = rng.uniform(width / 2, 1 - width / 2), rng.uniform(height / 2, 1 - height / 2)
            obj = replace(obj, width=width, height=height, x=x, y=y)
            if all(_apart(obj, other) for other in placed):
                placed.append(obj)
                break
    return placed


def moving_scene(seed: int, frame: int) -> Scene:
    """Frame ``frame`` of the video of ``seed``; every frame has its own noise."""
    rng = random.Random(stable_seed("video", seed))
    base = single_object_scene(seed, rng.choice(CATEGORIES))
    objects = []
    for obj in _first(rng, base):
        step, vertical = rng.uniform(*STEP) * rng.choice((-1, 1)), rng.uniform(-0.5, 0.5)
        turn, growth = rng.uniform(-TURN, TURN), rng.uniform(-GROWTH, GROWTH)
        scale = (1 + growth) ** frame
        width, height = obj.width * scale, obj.height * scale
        x = _bounced(obj.x + step * frame, width / 2, 1 - width / 2)
        y = _bounced(obj.y + step * vertical * frame, height / 2, 1 - height / 2)
        objects.append(replace(obj, x=x, y=y, width=width, height=height, tilt=obj.tilt + turn * frame))
    return replace(base, seed=stable_seed("frame", seed, frame), objects=tuple(objects))
