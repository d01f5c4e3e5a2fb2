"""Part keypoints of the scenes: on their objects, the same part under every pose, and exported as SPair-71k lays itself out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from levl_eval.scenes.export import scene_of
from levl_eval.scenes.keypoints import KEYPOINTS, LEAST, ORIENTED, SHOWN, annotated, pairs
from levl_eval.scenes.render import render_instances
from levl_eval.scenes.world import NUM_VARIANTS, single_object_scene

SIZE = 192


def test_every_keypoint_lies_on_its_object_in_every_pose():
    """Within a pixel or two of what is drawn: corners of thin parts round away from it."""
    for category in SHOWN:
        for variant in range(NUM_VARIANTS):
            scene = single_object_scene(variant, category)
            for flipped in (False, True):
                shown = replace(scene.objects[0], variant=variant, flipped=flipped, tilt=20.0, x=0.5, y=0.5)
                drawn = np.argwhere(render_instances(replace(scene, objects=(shown,)), SIZE))[:, ::-1]
                points = annotated(shown, SIZE).points
                assert len(points) == sum(at[variant] is not None for at in KEYPOINTS[category].values())
                for name, point in points.items():
                    assert np.hypot(*(drawn - point).T).min() <= 3, (category, variant, name)


def test_mirrored_and_turned_objects_carry_their_points_with_them():
    obj = replace(single_object_scene(0, "car").objects[0], x=0.5, y=0.5, tilt=0.0, flipped=False, variant=0)
    there, back = (annotated(replace(obj, flipped=f), SIZE).points["front"] for f in (False, True))
    assert there[0] > SIZE / 2 and there[0] + back[0] in (SIZE - 1, SIZE) and there[1] == back[1]
    turned = annotated(replace(obj, tilt=90.0), SIZE)  # anticlockwise: the front is up
    assert turned.points["front"][1] < turned.points["rear"][1]
    away = annotated(replace(obj, x=-5.0), SIZE)
    assert away.points == {}


def test_images_come_two_by_two_in_many_poses():
    scenes = [scene_of("spair71k/test", i, 0) for i in range(64)]
    objects = [s.objects[0] for s in scenes]
    assert all(a.category == b.category for a, b in zip(objects[::2], objects[1::2], strict=True)) and len(scenes[0].objects) == 1
    assert {o.category for o in objects} == set(SHOWN) and {o.variant for o in objects} == {0, 1, 2}
    assert all(not o.flipped for o in objects if o.category not in ORIENTED) and any(o.flipped for o in objects)
    assert max(abs(o.tilt) for o in objects) > 20 and len({s.seed for s in scenes}) == 64


def test_exported_pairs_are_what_the_scenes_say(world):
    root = world / "spair71k" / "SPair-71k"
    names = (root / "Layout/large/test.txt").read_text().split("\n")[:-1]
    known = {f"scene_{i + 1:06d}": annotated(scene_of("spair71k/test", i, 0).objects[0], 64) for i in range(24)}
    assert len(names) == len(list(pairs(known))) > 10
    for name in names:
        one = json.loads((root / f"PairAnnotation/test/{name}.json").read_text())
        source, target = known[one["src_imname"][:-4]], known[one["trg_imname"][:-4]]
        assert (
            name.endswith(f"{one['src_imname'][:-4]}-{one['trg_imname'][:-4]}:{one['category']}")
            and source.category == target.category
        )
        parts = list(KEYPOINTS[one["category"]])
        for i, at, to in zip(one["kps_ids"], one["src_kps"], one["trg_kps"], strict=True):
            assert source.points[parts[int(i)]] == tuple(at) and target.points[parts[int(i)]] == tuple(to)
        assert len(one["kps_ids"]) >= LEAST and one["trg_bndbox"] == list(target.box)
    one = json.loads(next((root / "ImageAnnotation").rglob("*.json")).read_text())
    assert set(one["kps"]) == {str(k) for k in range(len(KEYPOINTS[one["category"]]))}
