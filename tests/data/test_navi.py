"""NAVI's layout: read as published, one fingerprint wherever it lies,
cameras and depth by hand, and refused in one line where it does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.navi import load_disparity, points_in, rotation_of, window_of
from levl_eval.data.readers import read_views
from levl_eval.data.set_identity import identity_of

SPEC = DataSpec(layout="navi", directory="navi", split="wild_set")


def camera(angle, focal=60.0):
    return {"q": [np.cos(angle / 2), 0, 0, np.sin(angle / 2)], "t": [0, 0, 500], "focal_length": focal}


def small(root, objects=("bear", "shoe"), count=3, size=(40, 30), scene="wild_set"):
    """Objects as a block at half a metre in images of ``size`` (width, height), which a camera turns."""
    rng = np.random.default_rng(0)
    for name in objects:
        folder, rows = root / name / scene, []
        for sub in ("images", "depth"):
            (folder / sub).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"images/{k:03d}.jpg")
            depth = np.zeros(size[::-1], np.uint16)
            depth[8:20, 10 : 24 + k] = round(655_350 / 500)
            Image.fromarray(depth).save(folder / f"depth/{k:03d}.png")
            rows.append({"filename": f"{k:03d}.jpg", "image_size": list(size[::-1]), "camera": camera(0.4 * k), "split": "val"})
        (folder / "annotations.json").write_text(json.dumps(rows))
    return root


def changed(path, change):
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_the_published_layout_is_read(tmp_path):
    small(tmp_path / "navi" / "navi_v1.0")
    got = read_views(SPEC, str(tmp_path))
    assert got.images.ids[:2] == ("bear/wild_set/000.jpg", "bear/wild_set/001.jpg") and len(got.views) == 6
    assert got.images.open(got.images.ids[1]).size == (15, 15)  # the square around 15 columns and 12 rows of the object
    assert {v.scene for v in got.views} == {"bear/wild_set", "shoe/wild_set"} and got.views[0].size == (40, 30)
    points = got.points(got.images.ids[0], 14)
    shown = points[..., 2] > 0
    assert shown.sum() == 14 * 12 and points[shown][:, 2] == pytest.approx(0.5, abs=1e-3)
    assert points[1, 0, 0] == pytest.approx((10.5 - 20) * 0.5 / 60, abs=1e-4) and points[1, 0, 1] == pytest.approx(
        (8.5 - 15) * 0.5 / 60, abs=1e-4
    )
    assert identity_of(got, SPEC, str(tmp_path)).counts == {"images": 6, "views": 6}
    assert len(read_views(SPEC, str(tmp_path), 4).images) == 4


def test_multiview_collections_and_reduced_files(tmp_path):
    small(tmp_path / "navi", ("bear",), scene="multiview-00-pixel_5")
    small(tmp_path / "navi", ("bear",), scene="multiview-01-pixel_5")
    spec = SPEC.model_copy(update={"split": "multiview"})
    whole = read_views(spec, str(tmp_path))
    before = whole.points(whole.images.ids[0], 7)
    assert {v.scene for v in whole.views} == {f"bear/multiview-0{k}-pixel_5" for k in (0, 1)}
    folder = tmp_path / "navi/bear/multiview-00-pixel_5"
    for sub, end in (("images", "jpg"), ("depth", "png")):  # as Probe3D's resize_navi.py leaves them
        image = Image.open(folder / sub / f"000.{end}")
        image.resize((20, 15), 0).save(folder / sub / f"downsampled_000.{end}")
        (folder / sub / f"000.{end}").unlink()
    less = read_views(spec, str(tmp_path))
    after = less.points(less.images.ids[0], 7)
    assert less.images.open(less.images.ids[0]).size == (7, 7)
    both = (before[..., 2] > 0) & (after[..., 2] > 0)
    assert both.sum() > 30 and np.abs(before - after)[both].max() < 0.02  # a pixel of the smaller one is 17 mm


@pytest.mark.parametrize("place", ["navi", "navi_v1.0", "else"])
def test_one_fingerprint_wherever_it_lies(tmp_path, place):
    first = content_of(read_views(SPEC, str(small(tmp_path / "first" / "navi").parent)))
    root = small(tmp_path / "second" / place)
    spec = SPEC if place != "else" else SPEC.model_copy(update={"root": str(root)})
    assert content_of(read_views(spec, str(root.parent))) == first


@pytest.mark.parametrize("what", ["camera", "place", "focal", "depth", "image", "name"])
def test_whatever_moves_a_number_moves_the_fingerprint(tmp_path, what):
    plain = content_of(read_views(SPEC, str(small(tmp_path / "a" / "navi").parent))).fingerprint
    root = small(tmp_path / "b" / "navi")
    folder = root / "bear/wild_set"
    if what == "camera":
        changed(folder / "annotations.json", lambda rows: rows[0]["camera"].update(camera(0.01)))
    elif what == "place":
        changed(folder / "annotations.json", lambda rows: rows[0]["camera"].update(t=[1, 2, 3]))
    elif what == "focal":
        changed(folder / "annotations.json", lambda rows: rows[0]["camera"].update(focal_length=77))
    elif what == "depth":
        Image.fromarray(np.full((30, 40), 900, np.uint16)).save(folder / "depth/000.png")
    elif what == "image":
        Image.new("RGB", (40, 30)).save(folder / "images/000.jpg")
    else:
        (root / "bear").rename(root / "bears")
    assert content_of(read_views(SPEC, str(root.parent))).fingerprint != plain


def test_windows_and_rotations_by_hand():
    depth = np.zeros((30, 40), np.float32)
    depth[2:6, 30:40] = 1.0
    w = window_of(depth)
    assert (w.left, w.top, w.side) == (30, 0, 10)  # moved into the map
    depth[:, 5:35] = 1.0
    assert window_of(depth).side == 30  # of at most the shorter side
    assert points_in(depth, window_of(depth), 10.0, 3).shape == (3, 3, 3)
    turn = rotation_of([2.0, 0.0, 0.0, 2.0])  # a quarter about the camera's axis, of any length
    assert turn @ [1, 0, 0] == pytest.approx([0, 1, 0]) and turn @ turn.T == pytest.approx(np.eye(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].pop("camera"), r"annotations\.json: entry 2: field `camera` is missing"),
        (lambda rows: rows[1]["camera"].update(q=[0, 0, 0, 0]), r"entry 2: field `camera\.q` is 0"),
        (lambda rows: rows[1]["camera"].update(q=[1, 0, 0]), r"entry 2: field `camera\.q`"),
        (lambda rows: rows[1]["camera"].update(focal_length=0.0), r"entry 2: field `camera\.focal_length`"),
        (lambda rows: rows[1]["camera"].update(t=[0, 0, "far"]), r"entry 2: field `camera\.t\.2`"),
        (lambda rows: rows[1].update(filename="../a.jpg"), r"entry 2: field `filename`: '\.\./a\.jpg' is no file name"),
        (lambda rows: rows[1].update(filename="000.jpg"), r"image 000\.jpg stands twice"),
        (lambda rows: rows[1].update(filename="009.jpg"), r"depth maps are missing, first .*009\.png"),
        (lambda rows: rows.clear(), "expected a list of views"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, change, message):
    root = small(tmp_path / "navi")
    changed(root / "bear/wild_set/annotations.json", change)
    with pytest.raises(UsageError, match=message) as e:
        read_views(SPEC, str(tmp_path))
    assert "\n" not in str(e.value)


def test_missing_sets_splits_and_images(tmp_path):
    with pytest.raises(UsageError, match=r"holds no OBJECT/wild_set/annotations\.json; get navi_v1\.0\.tar\.gz"):
        read_views(SPEC, str(tmp_path))
    with pytest.raises(UsageError, match="expected wild_set or multiview, found 'train'"):
        read_views(SPEC.model_copy(update={"split": "train"}), str(tmp_path))
    root = small(tmp_path / "navi")
    (root / "bear/wild_set/images/001.jpg").unlink()
    with pytest.raises(UsageError, match=r"1 of 6 images are missing, first .*001\.jpg"):
        read_views(SPEC, str(tmp_path))


def test_maps_that_cannot_be_used(tmp_path):
    root = small(tmp_path / "navi")
    path = root / "bear/wild_set/depth/000.png"
    got = read_views(SPEC, str(tmp_path))
    Image.new("L", (40, 30), 9).save(path)
    with pytest.raises(LevlError, match=r"000\.png: a L image; expected 16-bit disparity"):
        load_disparity(path)
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(path)
    with pytest.raises(LevlError, match="holds no depth"):
        got.points(got.images.ids[0], 4)
    Image.fromarray(np.full((40, 30), 900, np.uint16)).save(path)
    with pytest.raises(LevlError, match=r"000\.png: is 30x40, the annotation says 40x30"):
        got.points(got.images.ids[0], 4)
    with pytest.raises(LevlError, match=r"000\.jpg: is 40x30, its depth map 30x40"):
        got.images.open(got.images.ids[0])
    path.write_bytes(b"no png")
    broken = SPEC.model_copy(update={"skip_broken": "1"})
    kept = read_views(broken, str(tmp_path))
    assert len(kept.views) == 5 and "depth map" in kept.images.skipped["bear/wild_set/000.jpg"]


def test_data_check_counts_it(tmp_path):
    small(tmp_path / "navi")
    assert [(f.level, f.message) for f in check(tmp_path) if f.set == "navi/wild_set"] == [
        ("ok", "6 images in 2 collections"),
        ("note", "is not the published release (2,298 images in 35 collections)"),
    ]
