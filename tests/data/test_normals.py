"""Normals in the published layout and in one's own folders: what is read, to the pixel, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.normals import load_normals
from levl_eval.data.readers import read_normals
from levl_eval.scenes.depths import deep_scene, map_file
from levl_eval.scenes.export import scene_of
from levl_eval.scenes.geometry import normal_map

SPEC = DataSpec(layout="nyuv2-normals", directory="nyuv2_normals", split="test")


def stored(size=(6, 8), seed: int = 0) -> np.ndarray:
    """Unit vectors as 8 bits a component, one pixel unknown."""
    vectors = np.random.default_rng(seed).normal(size=(*size, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    out = np.round((vectors + 1) / 2 * 255).astype(np.uint8)
    out[0, 0] = 0
    return out


def small(root, n: int = 3) -> None:
    root.mkdir(parents=True)
    for k in range(n):
        Image.fromarray(np.full((6, 8, 3), k, np.uint8)).save(root / f"{k:06d}_img.png")
        Image.fromarray(stored(seed=k)).save(root / f"{k:06d}_normal.png")


def test_published_maps_are_unit_vectors(tmp_path):
    small(tmp_path / "nyuv2_normals/test")
    found = read_normals(SPEC, str(tmp_path))
    assert found.images.ids == ("000000_img.png", "000001_img.png", "000002_img.png")
    normals, raw = found.normals("000001_img.png"), stored(seed=1).astype(float)
    assert (normals[0, 0] == 0).all() and normals.dtype == np.float32
    wanted = raw / 255 * 2 - 1
    wanted /= np.linalg.norm(wanted, axis=-1, keepdims=True)
    wanted[0, 0] = 0
    assert np.allclose(normals, wanted, atol=1e-6)
    assert len(read_normals(SPEC, str(tmp_path), limit=2).images) == 2
    small(tmp_path / "b/dsine_eval/nyuv2/test")  # as the archive unpacks
    assert content_of(read_normals(SPEC, str(tmp_path / "b"))) == content_of(found)
    Image.fromarray(stored(seed=9)).save(tmp_path / "b/dsine_eval/nyuv2/test/000000_normal.png")
    assert content_of(read_normals(SPEC, str(tmp_path / "b"))).fingerprint != content_of(found).fingerprint


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"nyuv2_normals/test: no such folder; get dsine_eval"):
        read_normals(SPEC, str(tmp_path))
    small(tmp_path / "nyuv2_normals/test")
    (tmp_path / "nyuv2_normals/test/000001_normal.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 3 maps of normals are missing, first .*000001_normal\.png; get dsine_eval"):
        read_normals(SPEC, str(tmp_path))
    assert len(read_normals(SPEC.model_copy(update={"skip_broken": "1"}), str(tmp_path)).images) == 2
    for path in (tmp_path / "nyuv2_normals/test").glob("*_img.png"):
        path.unlink()
    with pytest.raises(UsageError, match=r"holds no NAME_img\.png"):
        read_normals(SPEC, str(tmp_path))
    with pytest.raises(UsageError, match="field `split`: expected train or test"):
        read_normals(SPEC.model_copy(update={"split": "val"}), str(tmp_path))
    with pytest.raises(UsageError, match="--data hub: surface normals are read from files"):
        read_normals(SPEC, "hub")
    with pytest.raises(UsageError, match="'ade20k' holds no surface normals"):
        read_normals(DataSpec(layout="ade20k"), str(tmp_path))


def test_own_folders(tmp_path):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images/a.png")
    vectors = np.zeros((3, 4, 3))
    vectors[1:] = (0.6, 0.0, -0.8)
    vectors[2, 2] = np.nan
    np.save(tmp_path / "normals/a.npy", vectors)
    own = DataSpec(layout="normals", images="images", annotations="normals")
    read = read_normals(own, str(tmp_path)).normals("a.png")
    assert (read[0] == 0).all() and (read[2, 2] == 0).all() and np.allclose(read[1], (0.6, 0, -0.8))
    Image.new("RGB", (4, 3)).save(tmp_path / "images/c.png")
    assert read_normals(own, str(tmp_path)).images.left_out == {"images without a map of normals": 1}, "told, not passed over"
    np.save(tmp_path / "normals/b.npy", vectors)
    with pytest.raises(UsageError, match="1 maps of normals have no image, first b"):
        read_normals(own, str(tmp_path))
    with pytest.raises(UsageError, match="`annotations` is not set"):
        read_normals(DataSpec(layout="normals", images="images"), str(tmp_path))
    (tmp_path / "normals/b.npy").unlink()
    np.save(tmp_path / "normals/a.npy", np.zeros((3, 4, 3)))
    with pytest.raises(UsageError, match="no pixel of the 1 maps has a normal"):
        read_normals(own, str(tmp_path))


@pytest.mark.parametrize("array,message", [
    (np.full((2, 2, 3), 2.0), r"holds a vector of length 3\.46; expected unit vectors"),
    (np.zeros((2, 2)), r"holds float64 of shape \(2, 2\)"),
    (np.zeros((2, 2, 3), np.uint8), "holds uint8; expected unit vectors as floats"),
])  # fmt: skip
def test_files_of_another_form_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(LevlError, match=message):
        load_normals(tmp_path / "a.npy")
    Image.new("L", (4, 3)).save(tmp_path / "b.png")
    with pytest.raises(LevlError, match=r"b\.png: a L image; expected normals as 8-bit RGB"):
        load_normals(tmp_path / "b.png")


def test_data_check_knows_them(tmp_path):
    small(tmp_path / "nyuv2_normals/test")
    [found] = check(tmp_path)
    assert (found.level, found.set, found.message) == ("note", "nyuv2_normals/test", "3 pairs; the published split has 654")
    Image.new("RGB", (9, 6)).save(tmp_path / "nyuv2_normals/test/000000_img.png")
    assert any(f.level == "error" and "image 9x6, normals 8x6" in f.message for f in check(tmp_path))


def test_rooms_of_the_scenes_in_the_same_layout(tmp_path):
    part = "nyuv2_normals/test"
    expected = scene_of(part, 4, 0)
    name, content = map_file(part, 4, expected, 64)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert name == "nyuv2_normals/test/000004_normal.png" and deep_scene(part, 1).place == "room"
    angle = np.degrees(np.arccos(np.clip((load_normals(path) * normal_map(expected, 64)).sum(-1), -1, 1)))
    assert angle.max() < 0.7  # of 8 bits a component
