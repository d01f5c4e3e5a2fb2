"""KITTI's Eigen split and SUN RGB-D in their published layouts: what is read, to the pixel, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.depth_lists import KITTI_FRAME, framed, load_sun
from levl_eval.data.fingerprints import content_of
from levl_eval.data.readers import read_depth

DRIVE = "2011_09_26_drive_0002_sync"
KITTI = DataSpec(layout="kitti", directory="kitti", split="test")
SUN = DataSpec(layout="sunrgbd", directory="sunrgbd", split="test")
SIZE = (375, 1242)  # most of KITTI's frames


def kitti_lines(n: int, split: str = "test") -> list[str]:
    first = 0 if split == "test" else 100
    return [
        f"2011_09_26/{DRIVE}/image_02/data/{k:010d}.png {DRIVE}/proj_depth/groundtruth/image_02/{k:010d}.png 721.5377"
        for k in range(first, first + n)
    ]


def kitti(root, n: int = 3, split: str = "test", images="input", maps="gt_depth", size=SIZE) -> list[np.ndarray]:
    """A split as its lists have it: frames whose red is their row, green their column (both modulo 256); returns the stored depths."""
    rng = np.random.default_rng(0)
    depths = []
    for line in kitti_lines(n, split):
        image, depth, _ = line.split()
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]] % 256
        pixels = np.stack([rows, columns, np.full(size, len(depths))], -1).astype(np.uint8)
        stored = np.where(rng.random(size) < 0.2, rng.integers(256, 20_000, size), 0).astype(np.uint16)
        for path, array in ((root / images / image, pixels), (root / maps / depth, stored)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        depths.append(stored)
    (root / f"kitti_eigen_{split}.txt").write_text("".join(f"{x}\n" for x in kitti_lines(n, split)))
    return depths


def test_kitti_is_the_benchmarks_part_of_each_frame(tmp_path):
    stored = kitti(tmp_path / "kitti")
    found = read_depth(KITTI, str(tmp_path), 256.0)
    name = found.images.ids[1]
    assert len(found.images) == 3 and name == kitti_lines(3)[1].split()[0]
    pixels = np.asarray(found.images.open(name))
    assert pixels.shape == (*KITTI_FRAME, 3)
    assert tuple(pixels[0, 0, :2]) == (375 - 352, (1242 - 1216) // 2) and tuple(pixels[-1, -1, :2]) == (374 % 256, 1228 % 256)
    assert np.array_equal(found.depth(name), stored[1][23:375, 13:1229].astype(np.float32) / 256)
    whole = read_depth(KITTI.model_copy(update={"level": "whole"}), str(tmp_path), 256.0)
    assert whole.depth(name).shape == SIZE and whole.images.open(name).size == SIZE[::-1]
    assert len({found.fingerprint, whole.fingerprint}) == 2 and content_of(found).fingerprint != content_of(whole).fingerprint
    assert framed(96, 352, True) == (0, 96) and framed(1217, 1216, False) == (0, 1216)  # a smaller frame stays whole


@pytest.mark.parametrize("images,maps,listed", [
    ("raw", "data_depth_annotated/val", "kitti_eigen_test.txt"), (".", "val", "eigen_test_files_with_gt.txt"),
    ("raw_data", "data_depth_annotated", "kitti_eigen_test.txt"),
])  # fmt: skip
def test_kitti_as_its_archives_unpack(tmp_path, images, maps, listed):
    kitti(tmp_path / "a" / "kitti", 2, size=(8, 12))
    kitti(tmp_path / "b" / "kitti", 2, images=images, maps=maps, size=(8, 12))
    (tmp_path / "b/kitti/kitti_eigen_test.txt").rename(tmp_path / "b/kitti" / listed)
    one, other = (read_depth(KITTI, str(tmp_path / k), 256.0) for k in "ab")
    assert content_of(one).fingerprint == content_of(other).fingerprint and one.images.ids == other.images.ids


def test_kitti_leaves_out_frames_without_a_map_and_says_what_is_missing(tmp_path):
    root = tmp_path / "kitti"
    kitti(root, 3, size=(8, 12))
    listed = root / "kitti_eigen_test.txt"
    lines = kitti_lines(3)
    listed.write_text("\n".join([lines[0], f"{lines[1].split()[0]} None 721.5377", lines[2]]))
    found = read_depth(KITTI, str(tmp_path), 256.0)
    assert found.images.ids == (lines[0].split()[0], lines[2].split()[0])
    assert found.images.left_out == {"frames without a depth map": 1}, "told, not passed over"
    (root / "gt_depth" / lines[2].split()[1]).unlink()
    with pytest.raises(UsageError, match=r"1 of 2 depth maps are missing, first .*0000000002\.png"):
        read_depth(KITTI, str(tmp_path), 256.0)
    listed.write_text("a.png\n")
    with pytest.raises(UsageError, match=r"kitti_eigen_test\.txt: line 1: expected `IMAGE DEPTH`"):
        read_depth(KITTI, str(tmp_path), 256.0)
    listed.write_text("a.png None\n")
    with pytest.raises(UsageError, match="names no frame with a depth map"):
        read_depth(KITTI, str(tmp_path), 256.0)
    with pytest.raises(
        UsageError, match=r"kitti_eigen_train\.txt: no such file, the list of the train split; get the raw drives"
    ):
        read_depth(KITTI.model_copy(update={"split": "train"}), str(tmp_path), 256.0)
    for field, value in (("split", "val"), ("level", "half")):
        with pytest.raises(UsageError, match=f"kitti: field `{field}`: expected"):
            read_depth(KITTI.model_copy(update={field: value}), str(tmp_path), 256.0)


def test_broken_maps_of_kitti_are_skipped_where_allowed(tmp_path):
    kitti(tmp_path / "kitti", 3, size=(8, 12))
    (tmp_path / "kitti/gt_depth" / kitti_lines(3)[0].split()[1]).write_bytes(b"nonsense")
    spec = KITTI.model_copy(update={"skip_broken": "1"})
    found = read_depth(spec, str(tmp_path), 256.0)
    assert len(found.images) == 2 and list(found.images.skipped) == [kitti_lines(3)[0].split()[0]]


def sun(root, metres: list[np.ndarray]) -> list[tuple[str, str]]:
    """A test split: depths in millimetres, each 16-bit number turned left by three bits, as SUN RGB-D stores them."""
    names = []
    for k, depth in enumerate(metres):
        folder = f"SUNRGBD/kv2/kinect2data/{k:06d}"
        names.append((f"{folder}/image/{k:07d}.jpg", f"{folder}/depth/{k:07d}.png"))
        for name in names[-1]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*depth.shape, 3), k, np.uint8)).save(root / names[-1][0])
        numbers = (depth * 1000).round().astype(np.uint32)
        Image.fromarray((((numbers << 3) | (numbers >> 13)) & 0xFFFF).astype(np.uint16)).save(root / names[-1][1])
    (root / "SUNRGBD_val_splits.txt").write_text("".join(f"{a} {b}\n" for a, b in names))
    return names


def test_sunrgbd_has_its_bits_turned_back_and_ends_at_8_m(tmp_path):
    depth = np.array([[0.0, 1.234, 7.999], [8.0, 9.5, 60.0]])
    names = sun(tmp_path / "sunrgbd", [depth, depth / 2])
    found = read_depth(SUN, str(tmp_path), 1000.0)
    assert found.images.ids == tuple(a for a, _ in names)
    assert np.allclose(found.depth(names[0][0]), np.minimum(depth, 8.0), atol=1e-6)
    plain = DataSpec(
        layout="depth",
        images="sunrgbd/SUNRGBD/kv2/kinect2data/000000/image",
        annotations="sunrgbd/SUNRGBD/kv2/kinect2data/000000/depth",
    )
    # where no bit is turned round the end
    assert np.allclose(read_depth(plain, str(tmp_path), 8000.0).depth("0000000.jpg")[0], depth[0])
    single = read_depth(SUN, str(tmp_path), 1000.0, limit=1)
    assert single.fingerprint != read_depth(plain, str(tmp_path), 1000.0).fingerprint


def test_sunrgbd_by_the_toolboxs_split(tmp_path):
    from scipy.io import savemat

    depth = np.full((4, 5), 2.0)
    names = sun(tmp_path / "sunrgbd", [depth, depth])
    by_list = read_depth(SUN, str(tmp_path), 1000.0)
    (tmp_path / "sunrgbd/SUNRGBD_val_splits.txt").unlink()
    with pytest.raises(UsageError, match=r"SUNRGBD_val_splits\.txt: no such file, the list of the test split; get SUNRGBD\.zip"):
        read_depth(SUN, str(tmp_path), 1000.0)
    cells = np.empty((1, 2), object)
    for k, (image, _) in enumerate(names):
        cells[0, k] = f"/n/fs/sun3d/data/{image.rpartition('/image/')[0]}/"
    mat = tmp_path / "sunrgbd/SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    mat.parent.mkdir(parents=True)
    savemat(mat, {"alltest": cells, "alltrain": cells})
    by_mat = read_depth(SUN, str(tmp_path), 1000.0)
    assert by_mat.images.ids == by_list.images.ids and by_mat.fingerprint == by_list.fingerprint
    (tmp_path / "sunrgbd" / names[1][1]).unlink()
    with pytest.raises(UsageError, match="000001/depth: its depth map is missing"):
        read_depth(SUN, str(tmp_path), 1000.0)
    mat.write_bytes(b"no mat")
    with pytest.raises(UsageError, match=r"allsplit\.mat: holds no list `alltest`"):
        read_depth(SUN, str(tmp_path), 1000.0)
    with pytest.raises(UsageError, match="sunrgbd: field `split`: expected test"):
        read_depth(SUN.model_copy(update={"split": "train"}), str(tmp_path), 1000.0)


def test_depths_of_another_form_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.5]]))
    with pytest.raises(LevlError, match=r"a\.npy: expected a 16-bit image, as SUN RGB-D has them"):
        load_sun(tmp_path / "a.npy", 1000.0)


def test_data_check_knows_both(tmp_path):
    kitti(tmp_path / "kitti", 2, size=(8, 12))
    kitti(tmp_path / "kitti", 2, "train", size=(8, 12))
    sun(tmp_path / "sunrgbd", [np.full((4, 5), 2.0)])
    found = {f.set: f for f in check(tmp_path)}
    assert set(found) == {"kitti/test", "kitti/train", "sunrgbd/test"} and {f.level for f in found.values()} == {"note"}
    assert found["kitti/train"].message.endswith("; the published split has 23,158") and found["kitti/test"].message.startswith(
        "2 pairs, "
    )
    assert found["sunrgbd/test"].message == "1 pairs, 2.00 to 2.00 m, the middle 2.00 m; the published split has 5,050"
