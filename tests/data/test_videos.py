"""DAVIS 2017's layout: read as published, one fingerprint wherever it lies, and refused in one line where it does not fit together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.readers import read_videos
from levl_eval.data.set_identity import identity_of

SPEC = DataSpec(layout="davis", directory="davis", split="val")


def indexed(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *range(9, 256), *([7] * 512)])
    image.save(path)


def small(root, videos=(("bear", 4), ("two-cars", 5)), size=(40, 24)):
    """A set of small videos: one object that goes right, in the second video two, one of which leaves."""
    rng = np.random.default_rng(0)
    for name, frames in videos:
        for t in range(frames):
            mask = np.zeros(size[::-1], int)
            mask[4:14, 3 + 2 * t : 15 + 2 * t] = 1
            if "two" in name and t < 3:
                mask[16:22, 5:12] = 2
            mask[0, 0] = 255 if t == 1 else 0
            frame = rng.integers(0, 60, (*size[::-1], 3)) + 60 * mask.clip(0, 2)[..., None]
            path = root / "JPEGImages/480p" / name / f"{t:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.astype(np.uint8)).save(path)
            indexed(root / "Annotations/480p" / name / f"{t:05d}.png", mask)
    listed = root / "ImageSets/2017/val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{name}\n" for name, _ in videos))
    return root


def test_the_published_layout_is_read(tmp_path):
    small(tmp_path / "davis" / "DAVIS")
    found = read_videos(SPEC, str(tmp_path))
    assert [(v.name, len(v.frames)) for v in found.videos] == [("bear", 4), ("two-cars", 5)] and found.images.ids[
        0
    ] == "bear/00000.jpg"
    mask = found.mask("two-cars/00001.jpg")
    assert mask.shape == (24, 40) and set(np.unique(mask)) == {0, 1, 2}  # void is background
    assert identity_of(found, SPEC, str(tmp_path)).counts == {"images": 9, "videos": 2}


@pytest.mark.parametrize("place", ["davis", "DAVIS", "else"])
def test_one_fingerprint_wherever_it_lies(tmp_path, place):
    first = content_of(read_videos(SPEC, str(small(tmp_path / "first" / "davis").parent)))
    data = tmp_path / "data"
    small(data / place)
    spec = SPEC.model_copy(update={"root": str(data / place)}) if place == "else" else SPEC
    assert content_of(read_videos(spec, str(data))) == first
    mask = np.array(Image.open(data / place / "Annotations/480p/bear/00002.png"))
    mask[0, 5] = 1
    indexed(data / place / "Annotations/480p/bear/00002.png", mask)
    assert content_of(read_videos(spec, str(data))).fingerprint != first.fingerprint


def test_a_limit_keeps_whole_videos(tmp_path):
    small(tmp_path / "davis")
    assert [v.name for v in read_videos(SPEC, str(tmp_path), 8).videos] == ["bear"] and len(
        read_videos(SPEC, str(tmp_path), 9).videos
    ) == 2
    with pytest.raises(UsageError, match="the first video has 4 frames, more than --limit 3"):
        read_videos(SPEC, str(tmp_path), 3)


def test_what_does_not_fit_together_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"no such list of videos; get DAVIS-2017-trainval-480p\.zip"):
        read_videos(SPEC, str(tmp_path))
    with pytest.raises(UsageError, match="--data hub: videos are read from files"):
        read_videos(SPEC, "hub")
    with pytest.raises(UsageError, match="holds no videos"):
        read_videos(DataSpec(layout="ade20k"), str(tmp_path))
    root = small(tmp_path / "davis")
    listed = root / "ImageSets/2017/val.txt"
    for content, message in (
        ("bear\nbear\n", "video bear is listed twice"), ("../bear\n", "is no folder's name"),
        ("", "names no videos"), ("cow\n", "480p/cow: no such folder"),
    ):  # fmt: skip
        listed.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_videos(SPEC, str(tmp_path))
    listed.write_text("bear\n")
    masks = root / "Annotations/480p/bear"
    kept = (masks / "00000.png").read_bytes()
    for change, message in (
        (lambda: indexed(masks / "00000.png", np.zeros((24, 40))), "00000.png: shows no object"),
        (lambda: Image.new("RGB", (40, 24)).save(masks / "00000.png"), "00000.png"),
        (lambda: Image.fromarray(np.full((24, 40), 300, np.uint16)).save(masks / "00000.png"),
         "holds the label 300; objects are numbered from 1 to 254"),
        (lambda: (masks / "00000.png").unlink(), "1 of 4 masks are missing, first 00000.png"),
    ):  # fmt: skip
        change()
        with pytest.raises(LevlError, match=message) as told:
            read_videos(SPEC, str(tmp_path))
        assert "\n" not in str(told.value)
        (masks / "00000.png").write_bytes(kept)
    (root / "JPEGImages/480p/bear/00003.jpg").unlink()
    (root / "JPEGImages/480p/bear/00002.jpg").unlink()
    with pytest.raises(UsageError, match="holds 2 frames; a video needs 3 at least"):
        read_videos(SPEC, str(tmp_path))


def test_a_broken_frame_takes_its_video_with_it(tmp_path):
    root = small(tmp_path / "davis")
    (root / "JPEGImages/480p/bear/00001.jpg").write_bytes(b"none")
    found = read_videos(SPEC.model_copy(update={"skip_broken": "1"}), str(tmp_path))
    assert [v.name for v in found.videos] == ["two-cars"] and list(found.images.skipped) == ["bear/00001.jpg"]
    (root / "Annotations/480p/two-cars/00004.png").write_bytes(b"none")
    with pytest.raises(UsageError, match="no video is left"):
        read_videos(SPEC.model_copy(update={"skip_broken": "5"}), str(tmp_path))


def test_data_check_counts_videos_and_names_what_is_wrong(tmp_path):
    root = small(tmp_path / "davis")
    [found] = [f for f in check(tmp_path) if f.set == "davis/val"]
    assert (found.level, found.message) == ("note", "2 videos, 9 frames, 3 objects; published 30 videos")
    indexed(root / "Annotations/480p/bear/00001.png", np.ones((3, 3)))
    [found] = [f for f in check(tmp_path) if f.set == "davis/val"]
    assert found.level == "error" and "frame is 40x24, its mask 3x3; they must be equal" in found.message
