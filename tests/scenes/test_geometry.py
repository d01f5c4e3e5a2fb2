"""Depth and normals of scenes: what stands where, and files in the published layouts that say the same."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.cards import DataSpec
from levl_eval.data.readers import read_depth
from levl_eval.scenes.depths import PLACES
from levl_eval.scenes.export import scene_of
from levl_eval.scenes.geometry import BULGE, FAR, MARGIN, OUTDOORS, depth_map, distance, ground_top, normal_map
from levl_eval.scenes.render import render_instances, render_mask
from levl_eval.scenes.truth import KINDS, patch_facts
from levl_eval.scenes.world import CLASS_ID, Band, Scene, SceneObject

SIZE = 64


def scene(place: str, bands, objects=()) -> Scene:
    return Scene(1, place, tuple(Band(s, b, 0.0, 0.0, 1.0) for s, b in bands), tuple(objects), 1.0, 0.0, 0.0, 0.0)


def a_ball(y: float) -> SceneObject:
    return SceneObject("ball", 0, "red", "plain", "medium", False, 0.0, 0.5, y, 0.4, 0.4, "road")


def test_a_plane_a_wall_and_the_sky():
    street = scene("street", [("sky", 0.25), ("brick", 0.5), ("road", 1.0)])
    depth, normals = depth_map(street, SIZE), normal_map(street, SIZE)
    middles = (np.arange(SIZE) + 0.5) / SIZE
    assert ground_top(street) == 0.5
    assert (depth[:16] == 0).all() and (normals[:16] == 0).all()
    assert np.allclose(depth[16:32], OUTDOORS * FAR) and (normals[16:32] == [0, 0, -1]).all()
    expected = OUTDOORS * FAR * MARGIN / (middles[32:] - 0.5 + MARGIN)
    assert np.allclose(depth[32:], expected[:, None]) and (normals[32:] == [0, -1, 0]).all()
    # A level plane: the reciprocal of its depth is linear in the image's height.
    assert np.allclose(np.diff(1 / depth[32:, 0], 2), 0, atol=1e-7)
    room = scene("room", [("brick", 0.5), ("wood", 1.0)])
    assert np.allclose(depth_map(room, SIZE)[16:], depth[16:] / OUTDOORS)


def test_objects_stand_on_the_ground_and_bulge_to_the_camera():
    near = scene("room", [("brick", 0.5), ("wood", 1.0)], [a_ball(0.7)])
    shown = render_instances(near, SIZE) == 1
    depth, normals = depth_map(near, SIZE), normal_map(near, SIZE)
    at = float(distance(near, 0.9))
    middle = (int(0.7 * SIZE), SIZE // 2)
    assert depth[middle] == pytest.approx(at * (1 - BULGE * 0.4), rel=1e-3) and depth[shown].max() < at * 1.02
    assert np.allclose(np.linalg.norm(normals[shown], axis=-1), 1, atol=1e-6) and (normals[shown][:, 2] < 0).all()
    assert normals[middle][2] < -0.99
    left, right = normals[middle[0], SIZE // 2 - 9], normals[middle[0], SIZE // 2 + 8]
    assert left[0] < -0.3 and right[0] > 0.3 and left[0] == pytest.approx(-right[0], abs=0.1)
    # Normals are those of the surface that the depth has: differences of neighbours, at the object's distance.
    row, x = middle[0], SIZE // 2 + 6
    slope = (depth[row, x + 1] - depth[row, x - 1]) / (2 * at / SIZE)
    assert normals[row, x, 0] / -normals[row, x, 2] == pytest.approx(slope, rel=0.02)
    flying = scene("room", [("brick", 0.5), ("wood", 1.0)], [a_ball(0.25)])
    assert float(distance(flying, flying.objects[0].box[3])) == pytest.approx(FAR)


@pytest.mark.parametrize("layout,split,scale", [
    ("nyuv2", "train", 1000.0), ("nyuv2", "test", 1000.0), ("sunrgbd", "test", 1000.0), ("kitti", "train", 256.0), ("kitti", "test", 256.0),
])  # fmt: skip
def test_the_files_say_what_the_scenes_do(world, layout, split, scale):
    found = read_depth(DataSpec(layout=layout, directory=layout, split=split), str(world), scale)
    assert len(found.images) == (24 if split == "train" else 12)
    for k in (0, 7):
        expected = scene_of(f"{layout}/{split}", k, 0)
        name = found.images.ids[k]
        assert expected.place in PLACES[layout]
        assert np.allclose(
            found.depth(name), np.minimum(depth_map(expected, SIZE), 8.0 if layout == "sunrgbd" else 100.0), atol=0.6 / scale
        )
        sky = render_mask(expected, SIZE) == CLASS_ID["sky"]
        assert found.images.open(name).size == (SIZE, SIZE) and ((found.depth(name) == 0) == sky).all()


def test_an_oracle_of_geometry_knows_both():
    known = scene_of("kitti/test", 3, 0)
    facts = patch_facts(known, "geometry", SIZE, 8)
    assert facts.shape == (64, KINDS["geometry"]) and np.isfinite(facts).all()
    share, metres, logs = facts[:, -6:-3].T
    depth = depth_map(known, SIZE)[56:64, 0:8]  # the lower left patch
    assert (
        share[56] == 1
        and metres[56] == pytest.approx(depth.mean(), rel=1e-5)
        and logs[56] == pytest.approx(np.log(depth).mean(), rel=1e-5)
    )
    assert share[0] == 0 and metres[0] == logs[0] == 0
    assert np.allclose(facts[56, -3:], normal_map(known, SIZE)[56:64, 0:8].mean((0, 1)), atol=1e-6)
