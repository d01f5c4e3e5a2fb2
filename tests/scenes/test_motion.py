"""Scenes in motion: objects travel, stay in sight and keep their numbers, and are exported as DAVIS lays itself out."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from levl_eval.scenes.export import scene_of
from levl_eval.scenes.motion import FRAMES, moving_scene
from levl_eval.scenes.render import render_image, render_instances


def test_objects_travel_before_a_background_that_stands_still():
    for seed in range(8):
        scenes = [moving_scene(seed, t) for t in range(FRAMES)]
        first, last = scenes[0], scenes[-1]
        assert {tuple(o.category for o in s.objects) for s in scenes} == {tuple(o.category for o in first.objects)}
        assert (
            1 <= len(first.objects) <= 3
            and all(s.bands == first.bands for s in scenes)
            and len({s.seed for s in scenes}) == FRAMES
        )
        for a, b in zip(first.objects, last.objects, strict=True):
            assert (a.color, a.texture, a.variant, a.flipped) == (b.color, b.texture, b.variant, b.flipped)
        for s, t in itertools.pairwise(scenes):
            for a, b in zip(s.objects, t.objects, strict=True):
                assert abs(a.x - b.x) < 0.06 and abs(a.tilt - b.tilt) < 5  # no jumps, also where it turns back
                assert -0.01 < b.x - b.width / 2 and b.x + b.width / 2 < 1.01
        masks = [render_instances(s, 64) for s in scenes]
        numbers = range(1, len(first.objects) + 1)
        assert all((masks[0] == n).any() for n in numbers)
        moved = [(masks[0] == n)[masks[-1] == n].mean() if (masks[-1] == n).any() else 0 for n in numbers]
        assert min(moved) < 0.7  # the first mask is not the last one's


def test_exported_videos_are_what_the_scenes_say(world):
    root = world / "davis" / "DAVIS"
    names = (root / "ImageSets/2017/val.txt").read_text().split()
    assert names == ["scene-001", "scene-002"]
    for number, name in enumerate(names):
        frames = sorted((root / "JPEGImages/480p" / name).iterdir())
        assert [p.name for p in frames] == [f"{t:05d}.jpg" for t in range(FRAMES)]
        for t in (0, 7):
            scene = scene_of("davis/val", number * FRAMES + t, 0)
            with Image.open(root / f"Annotations/480p/{name}/{t:05d}.png") as mask:
                assert mask.mode == "P"
                np.testing.assert_array_equal(np.array(mask), render_instances(scene, 64))
            assert np.abs(np.array(Image.open(frames[t])).astype(int) - render_image(scene, 64)).mean() < 6
