"""SPair-71k's layout: read as published, one fingerprint wherever it lies, and refused in one line where it does not fit together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.readers import read_pairs
from levl_eval.data.set_identity import identity_of

SPEC = DataSpec(layout="spair71k", directory="spair71k", split="test")


def annotation(**changed):
    """A pair's file as published, with more fields than are read."""
    return {
        "pair_id": 0, "filename": "x", "src_imname": "a.jpg", "trg_imname": "b.jpg", "category": "cat", "src_imsize": [40, 30, 3],
        "trg_imsize": [20, 30, 3], "src_bndbox": [2, 3, 30, 25], "trg_bndbox": [1, 1, 18, 28], "kps_ids": ["0", "3"], "mirror": 0,
        "src_kps": [[5, 6], [20, 20]], "trg_kps": [[3, 4], [10, 25]], "viewpoint_variation": 1, "src_pose": "Left", **changed,
    }  # fmt: skip


def small(root, **changed):
    """A set of three pairs over four images of two categories."""
    rng = np.random.default_rng(0)
    for name, size in (("cat/a", (40, 30)), ("cat/b", (20, 30)), ("dog/a", (40, 30)), ("dog/b", (20, 30))):
        path = root / "JPEGImages" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(path)
    pairs = {
        "000001-a-b:cat": annotation(**changed), "000002-b-a:cat": annotation(
            src_imname="b.jpg", trg_imname="a.jpg", src_imsize=None, trg_imsize=None, src_kps=[[3, 4], [10, 25]],
            trg_kps=[[5, 6], [20, 20]], src_bndbox=[1, 1, 18, 28], trg_bndbox=[2, 3, 30, 25],
        ),
        "000003-a-b:dog": annotation(category="dog"),
    }  # fmt: skip
    for name, one in pairs.items():
        path = root / "PairAnnotation" / "test" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    (root / "Layout" / "large").mkdir(parents=True)
    (root / "Layout" / "large" / "test.txt").write_text("\n".join(pairs) + "\n")
    return root


def test_the_published_layout_is_read(tmp_path):
    small(tmp_path / "spair71k" / "SPair-71k")
    found = read_pairs(SPEC, str(tmp_path))
    assert [p.pair_id for p in found.pairs] == ["000001-a-b:cat", "000002-b-a:cat", "000003-a-b:dog"]
    assert found.images.ids == ("cat/a.jpg", "cat/b.jpg", "dog/a.jpg", "dog/b.jpg") and found.images.open("cat/b.jpg").size == (
        20,
        30,
    )
    first = found.pairs[0]
    assert (first.names, first.source, first.target, first.category) == (("0", "3"), "cat/a.jpg", "cat/b.jpg", "cat")
    assert (
        first.source_points.tolist() == [[5, 6], [20, 20]]
        and first.target_box == (1, 1, 18, 28)
        and first.target_size == (20, 30)
    )
    assert identity_of(found, SPEC, str(tmp_path)).counts == {"images": 4, "pairs": 3}


@pytest.mark.parametrize("place", ["spair71k", "SPair-71k", "else"])
def test_one_fingerprint_wherever_it_lies(tmp_path, place):
    first = content_of(read_pairs(SPEC, str(small(tmp_path / "first" / "spair71k").parent)))
    data = tmp_path / "data"
    small(data / place)
    spec = SPEC.model_copy(update={"root": str(data / place)}) if place == "else" else SPEC
    assert content_of(read_pairs(spec, str(data))) == first
    (data / place / "Layout" / "large" / "test.txt").unlink()  # then all files of the split's folder
    assert content_of(read_pairs(spec, str(data))) == first


def test_what_is_annotated_moves_the_fingerprint(tmp_path):
    plain = content_of(read_pairs(SPEC, str(small(tmp_path / "a" / "spair71k").parent))).fingerprint
    for k, change in enumerate((
        {"src_kps": [[5, 7], [20, 20]]}, {"trg_bndbox": [1, 1, 18, 29]}, {"kps_ids": ["0", "4"]}, {"src_kps": [[5, 6.5], [20, 20]]},
    )):  # fmt: skip
        other = content_of(read_pairs(SPEC, str(small(tmp_path / f"b{k}" / "spair71k", **change).parent))).fingerprint
        assert other != plain, change
    # Rows in another order are the same annotation.
    turned = {"kps_ids": ["3", "0"], "src_kps": [[20, 20], [5, 6]], "trg_kps": [[10, 25], [3, 4]]}
    assert content_of(read_pairs(SPEC, str(small(tmp_path / "c" / "spair71k", **turned).parent))).fingerprint == plain


def test_a_limit_takes_categories_in_turn(tmp_path):
    small(tmp_path / "spair71k")
    assert [p.pair_id for p in read_pairs(SPEC, str(tmp_path), 2).pairs] == ["000001-a-b:cat", "000002-b-a:cat"]
    assert len(read_pairs(SPEC, str(tmp_path), 3).images) == 2 and len(read_pairs(SPEC, str(tmp_path), 4).pairs) == 3
    with pytest.raises(UsageError, match="raise --limit to 2"):
        read_pairs(SPEC, str(tmp_path), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kps_ids": ["0"]}, "hold 2, 2 and 1 entries"),
        ({"trg_kps": [[3, 4]]}, "hold 2, 1 and 2 entries"),
        ({"kps_ids": ["3", "3"]}, "`kps_ids`: 3 stands twice"),
        ({"src_kps": [], "trg_kps": [], "kps_ids": []}, "`src_kps` is empty"),
        ({"src_kps": [[5, 6, 1], [20, 20, 1]]}, "src_kps.0"),
        ({"src_kps": [[5, "6"], [20, 20]]}, "src_kps.0.1"),
        ({"trg_kps": [[3, float("nan")], [10, 25]]}, "trg_kps.0.1"),
        ({"trg_bndbox": [18, 1, 1, 28]}, "is no box"),
        ({"trg_bndbox": [1, 1, 18]}, "trg_bndbox"),
        ({"mirror": 1}, "mirrored images are not read"),
        ({"category": "../cat"}, "is no file name"),
        ({"category": ""}, "field `category`"),
        ({"trg_imname": "c.jpg"}, "1 of 5 images are missing"),
        ({"src_imsize": 40}, "field `src_imsize`"),
    ],
)
def test_bad_annotations_are_refused_in_one_line(tmp_path, change, message):
    small(tmp_path / "spair71k", **change)
    with pytest.raises(UsageError, match=message) as told:
        read_pairs(SPEC, str(tmp_path))
    assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)


def test_missing_files_and_lists(tmp_path):
    with pytest.raises(UsageError, match=r"no such folder; get SPair-71k\.tar\.gz"):
        read_pairs(SPEC, str(tmp_path))
    root = small(tmp_path / "spair71k")
    with pytest.raises(UsageError, match="expected trn, val or test, found 'tst'"):
        read_pairs(SPEC.model_copy(update={"split": "tst"}), str(tmp_path))
    with pytest.raises(UsageError, match="--data hub: pairs of images are read from files"):
        read_pairs(SPEC, "hub")
    with pytest.raises(UsageError, match="holds no pairs of images"):
        read_pairs(DataSpec(layout="ade20k"), str(tmp_path))
    listed = root / "Layout/large/test.txt"
    text = listed.read_text()
    for content, message in (
        (text + "000009-a-c:cat\n", "1 of 4 pairs are missing, first 000009-a-c:cat.json"), (text + text, "is listed twice"),
        ("", "names no pairs"), ("../../etc/passwd\n", "is no file name"),
    ):  # fmt: skip
        listed.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_pairs(SPEC, str(tmp_path))
    listed.write_text(text)
    (root / "PairAnnotation/test/000001-a-b:cat.json").write_text("{")
    with pytest.raises(UsageError, match="is not valid JSON"):
        read_pairs(SPEC, str(tmp_path))


def test_broken_images_take_their_pairs_with_them(tmp_path):
    root = small(tmp_path / "spair71k")
    (root / "JPEGImages/dog/a.jpg").write_bytes(b"no image")
    spec = SPEC.model_copy(update={"skip_broken": "2"})
    found = read_pairs(spec, str(tmp_path))
    assert [p.category for p in found.pairs] == ["cat", "cat"] and list(found.images.skipped) == ["dog/a.jpg"]
    with pytest.raises(LevlError, match="more than --skip-broken 0"):
        read_pairs(SPEC.model_copy(update={"skip_broken": "0"}), str(tmp_path))
    shutil.rmtree(root / "JPEGImages/cat")
    with pytest.raises(UsageError, match="no pair is left"):
        read_pairs(SPEC.model_copy(update={"skip_broken": "90%"}), str(tmp_path))


def test_data_check_counts_pairs_and_names_what_is_wrong(tmp_path):
    root = small(tmp_path / "spair71k", src_kps=[[-3, 6], [20, 20]])
    lines = [(f.level, f.message) for f in check(tmp_path) if f.set == "spair71k/test"]
    assert lines == [
        ("note", "3 pairs of 4 images, 6 keypoints, 2 categories; published 12,234 pairs"), ("note", "1 keypoints lie beyond their image"),
    ]  # fmt: skip
    Image.new("RGB", (20, 31)).save(root / "JPEGImages/cat/b.jpg")
    [only] = [f for f in check(tmp_path) if f.set == "spair71k/test"]
    assert only.level == "error" and "is 20x31, its annotation says 20x30" in only.message
