"""Two things that could be taken for one, or one for another: sizes that annotations state, files of one name,
images of one id, linked folders, units of depth, files whose pixels are read anew."""

from __future__ import annotations

import io
import json
import os
import re

import datasets
import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprint_cache import FingerprintCache, using
from levl_eval.data.folder import folder_of_images
from levl_eval.data.readers import read_classification, read_depth, read_questions
from levl_eval.data.rgb import Rules
from levl_eval.data.stated_sizes import check_stated_sizes
from levl_eval.runner.evaluate import evaluate
from tests.data import small_sets as small
from tests.data import test_referring as boxes

# ---- boxes


@pytest.mark.parametrize(
    ("name", "content"), [("finetune_refcoco_testA.json", boxes.mdetr), ("REC_refcoco_unc_testA.jsonl", boxes.shikra)]
)
def test_boxes_of_another_image_size_are_refused(name, content, tmp_path):
    file = small.write(tmp_path / "refcoco" / name, content())
    for image, seed in boxes.SEED.items():
        small.write(tmp_path / "refcoco" / "train2014" / image, small.image_bytes(seed))
    spec = task_card("refcoco").data.model_copy(update={"split": "testA"})
    assert len(read_questions(spec, str(tmp_path)).questions) == 4
    other = tmp_path / "refcoco" / "train2014" / boxes.B
    Image.open(io.BytesIO(small.image_bytes(2))).resize((24, 20)).save(other, "PNG")
    with using(FingerprintCache(tmp_path / "cache")):
        for _ in range(2):  # read, and remembered
            with pytest.raises(
                UsageError, match=rf"{file}: 1 of 2 images have another size .*first {other}: is 24x20, stated is 12x10"
            ):
                read_questions(spec, str(tmp_path))
    assert any(f.level == "error" and "is 24x20, stated is 12x10" in f.message for f in check(tmp_path))


def test_stated_sizes_are_of_the_image_as_it_is_opened(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (12, 10)).save(path, exif=exif)
    check_stated_sizes({"a": path}, {"a": (12, 10)}, "f", Rules("stored"))
    with pytest.raises(UsageError, match="is 10x12, stated is 12x10.*set `orientation: stored`"):
        check_stated_sizes({"a": path}, {"a": (12, 10)}, "f", Rules())
    with pytest.raises(LevlError, match="b.jpg: no such image"):
        check_stated_sizes({"b": tmp_path / "b.jpg"}, {"b": (1, 1)}, "f", Rules())


def test_an_image_stated_in_two_sizes_is_refused(tmp_path):
    rows = [json.loads(line) for line in boxes.shikra().splitlines()]
    rows[1]["width"] = 13
    small.write(tmp_path / "refcoco" / "REC_refcoco_unc_val.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match=rf'image "{boxes.A}" is stated to be 12x10 and, of expression "2", 13x10'):
        read_questions(task_card("refcoco").data.model_copy(update={"split": "val"}), str(tmp_path))


# ---- files of one name in two folders


def test_two_documents_of_one_file_name_are_refused(tmp_path):
    rows = [
        {"questionId": k, "question": "Who?", "image": f"{folder}/page.png", "answers": ["A"]} for k, folder in enumerate("ab")
    ]
    small.write(tmp_path / "docvqa" / "val_v1.0.json", json.dumps({"data": rows}))
    small.write(tmp_path / "docvqa" / "spdocvqa_images" / "page.png", small.image_bytes(0))
    with pytest.raises(UsageError, match=r'entry 2: field `image`: "b/page.png" has the file name of "a/page.png"'):
        read_questions(task_card("docvqa").data, str(tmp_path))


def test_two_referred_images_of_one_file_name_are_refused(tmp_path):
    rows = [json.loads(line) for line in boxes.shikra().splitlines()]
    for k, row in enumerate(rows):
        row["img_path"] = f"{'val2014' if k else 'train2014'}/{boxes.A}"
    small.write(tmp_path / "refcoco" / "REC_refcoco_unc_val.jsonl", "\n".join(map(json.dumps, rows)))
    small.write(tmp_path / "refcoco" / "train2014" / boxes.A, small.image_bytes(1))
    with pytest.raises(UsageError, match="entry 2: field `img_path`: .* has the file name of"):
        read_questions(task_card("refcoco").data.model_copy(update={"split": "val"}), str(tmp_path))


def test_an_image_of_two_links_is_refused(tmp_path):
    one = {"image": "a.jpg", "caption": "A cat.", "label": 1, "relation": "on"}
    rows = [{**one, "image_link": f"http://images.cocodataset.org/{part}/a.jpg"} for part in ("train2017", "val2017")]
    small.write(tmp_path / "vsr" / "splits" / "zeroshot" / "test.jsonl", "\n".join(map(json.dumps, rows)))
    for part in ("train2017", "val2017"):
        small.write(tmp_path / "coco" / part / "a.jpg", small.image_bytes(len(part)))
    with pytest.raises(
        UsageError, match="entry 2: field `image_link`: image .a.jpg. is of val2017, in an earlier entry of train2017"
    ):
        read_questions(task_card("vsr").data, str(tmp_path))


# ---- rows of one image


def bitmap(corner: int) -> bytes:
    """A white 12 x 10 image but for one pixel in the middle: of equal size, and equal at both ends of the file."""
    pixels = np.full((10, 12, 3), 255, np.uint8)
    pixels[5, 6] = corner
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    return out.getvalue()


def vqa_rows(tmp_path, images):
    row = {"image_id": 1, "question": "?", "multiple_choice_answer": "a", "answers": ["a"] * 10}
    return [{**row, "question_id": k, "image": image} for k, image in enumerate(images)]


def test_rows_of_one_image_are_compared_whole(tmp_path):
    repo = small.repository(
        tmp_path / "repo", {"default": ("test", small.table_of(vqa_rows(tmp_path, [bitmap(0), bitmap(0), bitmap(9)])))}
    )
    spec = DataSpec(layout="vqav2", hub=HubSource(repo=str(repo), split="test"))
    with pytest.raises(UsageError, match="rows 0 and 2 are about image COCO_000000000001, but hold other images"):
        read_questions(spec, "hub")
    same = small.repository(tmp_path / "same", {"default": ("test", small.table_of(vqa_rows(tmp_path, [bitmap(0), bitmap(0)])))})
    assert len(read_questions(DataSpec(layout="vqav2", hub=HubSource(repo=str(same), split="test")), "hub").questions) == 2


def test_rows_of_one_image_are_compared_where_files_are_named_and_rows_are_chosen(tmp_path):
    from levl_eval.data.hub_contents import check_same_images

    paths = [str(small.write(tmp_path / f"{k}.bmp", bitmap(v))) for k, v in enumerate((0, 0, 9))]
    cells = [{"image": {"bytes": None, "path": p}} for p in paths]
    table = datasets.Dataset.from_list(cells, features=datasets.Features({"image": datasets.Image()}))
    check_same_images(table, "image", ["a", "a", "b"], "s")
    with pytest.raises(UsageError, match="rows 0 and 2 are about image a"):
        check_same_images(table, "image", ["a", "a", "a"], "s")
    with pytest.raises(UsageError, match="rows 0 and 1 are about image a"):
        check_same_images(table.select([2, 0]), "image", ["a", "a"], "s")


# ---- linked folders


def folders(root, *names):
    for k, name in enumerate(names):
        small.write(root / name / f"{k}.png", small.image_bytes(k))
    return root


def test_a_class_that_is_a_link_to_another_is_refused(tmp_path):
    root = folders(tmp_path / "c", "cat", "dog")
    spec = DataSpec(layout="imagefolder", root=str(root))
    assert read_classification(spec, "").classes == ("cat", "dog")
    os.symlink(root / "dog", root / "canine")
    with pytest.raises(UsageError, match="class canine is the folder of class dog too, by a link; remove the link"):
        read_classification(spec, "")
    (root / "canine").unlink()
    os.symlink(tmp_path, root / "all")
    with pytest.raises(UsageError, match="class all is a folder that holds the classes"):
        read_classification(spec, "")


def test_linked_folders_are_listed_once_under_their_own_names(tmp_path):
    root = folders(tmp_path / "c", "sub/deep", "z")
    os.symlink(root / "sub" / "deep", root / "a")
    os.symlink(root, root / "up")
    assert folder_of_images(root).ids == ("sub/deep/0.png", "z/1.png")


# ---- units of depth


def depth_set(root, maps, suffix):
    for k, depth in enumerate(maps):
        small.write(root / "i" / f"{k}.png", small.image_bytes(k))
        (root / "m").mkdir(exist_ok=True)
        np.save(root / "m" / f"{k}.npy", depth) if suffix == "npy" else Image.fromarray(depth).save(root / "m" / f"{k}.{suffix}")
    return DataSpec(layout="depth", images=str(root / "i"), annotations=str(root / "m"))


METRES = np.linspace(0.5, 9.5, 120).reshape(10, 12)


@pytest.mark.parametrize(
    ("depth", "suffix", "words"),
    [
        (
            (METRES * 1000).astype(np.float32),
            "npy",
            r"100 % of what 3 of them hold is further than `max_depth` \(10 m\), up to 9500 m",
        ),
        ((METRES * 1000).astype(np.float32), "tif", "is another unit stored, as millimetres.* floats are metres"),
        (METRES.astype(np.uint16), "png", r"nothing in 3 of them is further than 0.009 m, where `max_depth` is 10 m.*\(1000\)"),
        ((METRES * 25).astype(np.uint8), "png", "nothing in 3 of them is further than 0.237 m"),
        # centimetres of a room: all within the caps, a tenth of what they are
        ((METRES * 100).astype(np.uint16), "png", r"nothing in 3 of them is further than 0.95 m.*whole metres or centimetres"),
    ],
)
def test_maps_of_another_unit_are_told_before_anything_is_trained(depth, suffix, words, tmp_path):
    spec = depth_set(tmp_path, [depth] * 3, suffix)
    with pytest.raises(UsageError, match=words):
        read_depth(spec, "", 1000.0, None, (0.001, 10.0))
    settings = [
        f"depth.{part}.{field}={value}"
        for part in ("train", "data")
        for field, value in (("images", spec.images), ("annotations", spec.annotations))
    ]
    (record,) = evaluate(
        ["random-nano"],
        ["depth"],
        data=str(tmp_path),
        settings=settings,
        out=tmp_path / "out",
        cache=tmp_path / "c",
        device="cpu",
    )
    assert record.status == "failed" and re.search(words, record.reason) and not record.metrics


def test_metres_are_metres(tmp_path):
    for depth, suffix in ((METRES.astype(np.float32), "npy"), ((METRES * 1000).astype(np.uint16), "png"), (METRES / 5, "npy")):
        spec = depth_set(tmp_path / suffix / str(depth.max()), [depth] * 3, suffix)
        assert len(read_depth(spec, "", 1000.0, None, (0.001, 10.0)).images) == 3


def test_the_middle_depths_of_both_sets_are_recorded_and_told_where_they_are_far_apart(world, tmp_path, capsys):
    """What is ten times too far, and still within the caps, shows against the other set."""
    words = ["run", "--backbone", "random-nano", "--tasks", "nyuv2", "--data", str(world), "--limit", "4", "--device", "cpu"]
    words += ["--set", "nyuv2.head=ridge", "--set", "nyuv2.max_depth=60", "--out", str(tmp_path / "o")]
    for scale, far in (("1000", False), ("100", True)):
        assert main([*words, "--set", f"nyuv2.test_depth_scale={scale}"]) == 0
        told = "the middle depth is" in capsys.readouterr().err
        notes = [json.loads(p.read_text())["notes"]["depths"] for p in (tmp_path / "o" / "records").glob("*.json")]
        assert told == far and any((n["test"]["median"] > 5 * n["train"]["median"]) == far for n in notes)


def test_data_check_tells_the_unit(tmp_path):
    names = [f"rgb_{k}.jpg sync_depth_{k}.png" for k in range(2)]
    for k in range(2):
        small.write(tmp_path / "nyuv2" / "test" / f"rgb_{k}.jpg", small.image_bytes(k, "JPEG"))
        Image.fromarray(METRES.astype(np.uint16)).save(tmp_path / "nyuv2" / "test" / f"sync_depth_{k}.png")
    small.write(tmp_path / "nyuv2" / "test.txt", "\n".join(names))
    assert [f.level for f in check(tmp_path) if "is further than 0.009 m" in f.message] == ["error"]
