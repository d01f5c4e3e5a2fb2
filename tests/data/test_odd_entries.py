"""Entries and maps that could be read in two ways, or as something they are not: each is refused in one line."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.depth import load_depth
from levl_eval.data.masks import mask_file
from levl_eval.data.multiple_choice import mmvp_question
from levl_eval.data.normals import load_normals
from levl_eval.data.readers import (
    read_captions,
    read_choices,
    read_classification,
    read_depth,
    read_instances,
    read_pairs,
    read_questions,
    read_segmentation,
)
from levl_eval.data.rgb import open_rgb
from levl_eval.metrics.documents import anls
from tests.data import small_sets as small

UNIT_Z = np.full((4, 6, 3), (128, 128, 255), np.uint8)


def head(shape) -> bytes:
    """A .npy file whose head states more than it holds."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(80)


@pytest.mark.parametrize("load", [lambda p: load_depth(p, 1000.0), load_normals])
@pytest.mark.parametrize("kind", ["archive", "more than the machine holds", "negative", "objects", "empty file"])
def test_an_array_that_is_none_is_told(tmp_path, load, kind):
    path = tmp_path / "a.npy"
    if kind == "archive":
        with open(path, "wb") as f:
            np.savez(f, a=np.ones((4, 6)))
        assert zipfile.is_zipfile(path)
    elif kind == "objects":
        np.save(path, np.array([[1, None]], dtype=object), allow_pickle=True)
    else:
        content = {"more than the machine holds": head((10**7, 10**7)), "negative": head((-1, 4)), "empty file": b""}
        path.write_bytes(content[kind])
    with pytest.raises(LevlError, match=r"a\.npy: (an archive of arrays|the (depth map|map of normals) cannot be read)"):
        load(path)


@pytest.mark.parametrize("pixels", [np.full((4, 6, 3), 128, np.uint8), np.arange(72, dtype=np.uint8).reshape(4, 6, 3)])
def test_an_image_that_holds_no_unit_vectors_is_no_map_of_normals(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(LevlError, match=r"a\.png: holds a vector of length .*; expected unit vectors"):
        load_normals(tmp_path / "a.png")


def test_maps_compressed_with_losses_or_marked_as_turned_are_refused(tmp_path):
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(UNIT_Z).save(tmp_path / "n.jpg")
    for load in (lambda: load_depth(tmp_path / "a.jpg", 1000.0), lambda: load_normals(tmp_path / "n.jpg")):
        with pytest.raises(LevlError, match="a JPEG .* whose values its compression changes"):
            load()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(UNIT_Z).save(tmp_path / "n.png", exif=exif)
    for load in (
        lambda: load_depth(tmp_path / "a.png", 1000.0),
        lambda: load_normals(tmp_path / "n.png"),
        lambda: mask_file(tmp_path / "a.png"),
    ):
        with pytest.raises(LevlError, match=r"says by its EXIF orientation \(3\) that it is to be turned"):
            load()


def depth_pairs(root, lines: str | bytes, layout: str = "nyuv2"):
    """Two NYUv2 pairs and a list of them, read."""
    (root / "test").mkdir(parents=True, exist_ok=True)
    for k in range(2):
        Image.new("RGB", (6, 4)).save(root / f"test/rgb_{k}.png")
        Image.fromarray(np.full((4, 6), (k + 1) * 1000, np.uint16)).save(root / f"test/sync_depth_{k}.png")
    (root / "nyu_test.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return read_depth(DataSpec(layout=layout, root=str(root), directory="x", split="test"), str(root), 1000.0)


def test_lists_of_pairs(tmp_path):
    one = "rgb_0.png sync_depth_0.png 518.8579"
    assert len(depth_pairs(tmp_path, f"\ufeff{one}\r\nrgb_1.png sync_depth_1.png 518.8579\r\n").images) == 2
    assert depth_pairs(tmp_path, f"{one}\n{one}\n").images.left_out == {"pairs that are listed again": 1}
    with pytest.raises(UsageError, match=r"rgb_0\.png is listed with two depth maps, sync_depth_0\.png and sync_depth_1\.png"):
        depth_pairs(tmp_path, f"{one}\nrgb_0.png sync_depth_1.png 518.8579\n")
    with pytest.raises(UsageError, match=r"nyu_test\.txt: line 3: expected `IMAGE DEPTH`"):
        depth_pairs(tmp_path, f"{one}\n\nrgb_1.png\n")
    with pytest.raises(UsageError, match=r"nyu_test\.txt: line 1: not UTF-8 text"):
        depth_pairs(tmp_path, b"rgb_\xe9.png sync_depth_0.png\n")
    with pytest.raises(UsageError, match=r"nyu_test\.txt: names no pairs"):
        depth_pairs(tmp_path, "\n")


def test_eight_bits_are_no_depth_of_sun_rgbd(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    Image.fromarray(np.full((4, 6), 200, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "SUNRGBD_val_splits.txt").write_text("a.jpg a.png\n")
    with pytest.raises(LevlError, match=r"a\.png: expected a 16-bit image"):
        read_depth(DataSpec(layout="sunrgbd", root=str(tmp_path), directory="x", split="test"), str(tmp_path), 1000.0)


def test_a_list_of_names_with_a_byte_order_mark(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "JPEGImages/a.jpg")
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "SegmentationClass/a.png")
    listed = tmp_path / "ImageSets/Segmentation/val.txt"
    listed.write_bytes("\ufeffa\r\n".encode())
    spec = DataSpec(layout="voc", root=str(tmp_path), split="val")
    assert read_segmentation(spec, str(tmp_path)).images.ids == ("a.jpg",)
    listed.write_bytes(b"\xe9\n")
    with pytest.raises(UsageError, match=r"val\.txt: line 1: not UTF-8 text"):
        read_segmentation(spec, str(tmp_path))


TALLY = {"image": "a.png", "question": "How many?", "answer": 2, "question_id": 1}
DOC = {"questionId": 1, "question": "q?", "image": "a.png", "answers": ["x"]}


@pytest.mark.parametrize("layout,text,message", [
    ("tallyqa", '[{"image": "a.png", "question": "q?", "answer": 2, "answer": 5, "question_id": 1}]', 'a field "answer" is given twice'),
    ("tallyqa", json.dumps([TALLY]) + json.dumps([TALLY | {"question_id": 2}]), "more text behind the end"),
    ("docvqa", f'{{"data": [{json.dumps(DOC)}], "data": []}}', "field `data` is given twice"),
    ("docvqa", f'{{"data": [{json.dumps(DOC)}]', "ends too early"),
    ("docvqa", f'{{"data": [{json.dumps(DOC)}]}} x', "more text behind the end"),
    ("chartqa", r'[{"imgname": "a.png", "query": "q?", "label": "\ud800"}]', "entry 1: field `label`: holds half of a surrogate pair"),
    ("docvqa", r'{"data": [{"questionId": 1, "question": "q", "image": "a.png", "answers": ["x"], "question_types": ["\ud800"]}]}',
     "field `question_types`: holds half of a surrogate pair"),
    ("mcq", '{"image": "a.png", "question": "q?", "options": ["x", "x "], "answer": "B"}', 'option "x" stands twice'),
])  # fmt: skip
def test_questions_that_could_be_read_in_two_ways(tmp_path, layout, text, message):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "q.json").write_text(text)
    spec = DataSpec(
        layout=layout, questions=str(tmp_path / "q.json"), images=str(tmp_path), split="" if layout == "mcq" else "test"
    )
    with pytest.raises(UsageError, match=message):
        read_questions(spec, str(tmp_path))


@pytest.mark.parametrize("pair,message", [
    ({"images": ["a.png"], "captions": ["x", "y", "x "]}, "entry 1: \"x\" is the right caption and a wrong one too"),
    ({"images": ["a.png", "a.png"], "captions": ["x", "y"]}, 'both images are "a.png"'),
])  # fmt: skip
def test_choices_that_nobody_can_make(tmp_path, pair, message):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "own.jsonl").write_text(json.dumps(pair))
    with pytest.raises(UsageError, match=message):
        read_choices(DataSpec(layout="choices", annotations=str(tmp_path / "own.jsonl")), str(tmp_path))


def test_choices_published_in_tables(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "data/swap_att.json").write_text("{}")
    spec = DataSpec(layout="sugarcrepe", root=str(tmp_path), images=str(tmp_path), split="swap_att")
    with pytest.raises(UsageError, match=r"swap_att\.json: holds no pairs"):
        read_choices(spec, str(tmp_path))
    table = tmp_path / "Questions.csv"
    for rows, message in (("1,Col,\n2,Col,y\n", "a caption is blank"), ("1,../x,x\n2,Col,y\n", "is no folder's name")):
        table.write_text(f"Question ID,Type,Statement\n{rows}")
        with pytest.raises(UsageError, match=message):
            read_choices(DataSpec(layout="mmvp-vlm", root=str(tmp_path), images=str(tmp_path)), str(tmp_path))


@pytest.mark.parametrize("x,size", [(100, 3), (1, 10**9), (10**30, 3), (-2, 3)])
def test_a_box_that_lies_beyond_its_image(tmp_path, x, size):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    row = {
        "image_path": "a.png",
        "true_caption": "x",
        "false_caption": "y",
        "bbox_x": x,
        "bbox_y": 0,
        "bbox_w": size,
        "bbox_h": 2,
    }
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps([row]))
    found = read_choices(DataSpec(layout="aro", root=str(tmp_path), images=str(tmp_path), split="relation"), str(tmp_path))
    with pytest.raises(LevlError, match=r"a\.png: is 6x4, its box .* lies beyond it for the most part"):
        found.images.open(found.images.ids[0])


def test_a_query_whose_box_holds_no_pixel(tmp_path):
    for name in "ab":
        Image.new("RGB", (6, 4)).save(tmp_path / f"{name}.jpg")
    gnd = [{"bbx": [1.1, 1.1, 1.3, 1.3], "easy": [0], "hard": [], "junk": []}]
    (tmp_path / "gnd_x.json").write_text(json.dumps({"imlist": ["a"], "qimlist": ["b"], "gnd": gnd}))
    found = read_instances(DataSpec(layout="revisited", root=str(tmp_path), directory="x"), str(tmp_path))
    with pytest.raises(LevlError, match=r"b\.jpg: is 6x4, its box \[1, 1, 1, 1\] .* holds no whole pixel"):
        found.images.open("query/b")


PAIR = {
    "src_imname": "a.jpg", "trg_imname": "b.jpg", "category": "cat", "src_kps": [[1, 1]], "trg_kps": [[1, 1]],
    "src_bndbox": [0, 0, 6, 4], "trg_bndbox": [0, 0, 6, 4], "src_imsize": [6, 4, 3],
}  # fmt: skip


@pytest.mark.parametrize("change,message", [
    ({"src_imsize": [0, 0, 3]}, "field `src_imsize"),
    ({"trg_imname": "a.jpg"}, "`src_imname` and `trg_imname` are both 'a.jpg'"),
])  # fmt: skip
def test_keypoints_that_their_images_cannot_have(tmp_path, change, message):
    for name in "ab":
        (tmp_path / "JPEGImages/cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / f"JPEGImages/cat/{name}.jpg")
    (tmp_path / "PairAnnotation/test").mkdir(parents=True)
    file = tmp_path / "PairAnnotation/test/1-a-b:cat.json"
    spec = DataSpec(layout="spair71k", root=str(tmp_path), split="test")
    file.write_text(json.dumps(PAIR))
    assert len(read_pairs(spec, str(tmp_path)).pairs) == 1
    file.write_text(json.dumps(PAIR | change))
    with pytest.raises(UsageError, match=message):
        read_pairs(spec, str(tmp_path))


def test_accents_composed_or_taken_apart_are_one_name(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for split, name in (("train", composed), ("test", apart)):
        for folder in (name, "bar"):
            (tmp_path / split / folder).mkdir(parents=True)
            Image.new("RGB", (6, 4)).save(tmp_path / split / folder / "a.png")
    sets = [
        read_classification(DataSpec(layout="imagefolder", root=str(tmp_path), split=s), str(tmp_path)) for s in ("train", "test")
    ]
    assert sets[0].classes == sets[1].classes == ("bar", composed)
    assert sets[1].images.ids == ("bar/a.png", f"{apart}/a.png") and sets[1].images.open(f"{apart}/a.png").size == (6, 4)
    (tmp_path / "train" / apart).mkdir()
    with pytest.raises(UsageError, match=r"train: two folders are named .*, their accents composed and taken apart"):
        read_classification(DataSpec(layout="imagefolder", root=str(tmp_path), split="train"), str(tmp_path))
    for folder, name in (("images", composed), ("maps", apart)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / folder / f"{name}.png")
    own = {"images": "images", "annotations": "maps"}
    assert len(read_depth(DataSpec(layout="depth", **own), str(tmp_path), 1000.0).images) == 1
    assert (
        len(
            read_segmentation(DataSpec(layout="segmentation", classes=["a", *map(str, range(1001))], **own), str(tmp_path)).images
        )
        == 1
    )


@pytest.mark.parametrize("caption", ["\u200b", "\ufeff \u2060", "\u00a0"])
def test_a_caption_that_shows_nothing_is_blank(tmp_path, caption):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "c.csv").write_text(f"image,caption\na.png,{caption}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"c\.csv: line 2: image or caption is empty"):
        read_captions(DataSpec(layout="captions", annotations=str(tmp_path / "c.csv"), images=str(tmp_path)), str(tmp_path), 1)
    (tmp_path / "q.json").write_text(json.dumps(TALLY | {"question": caption}))
    with pytest.raises(UsageError, match="entry 1: field `question`: expected text that is not blank"):
        read_questions(
            DataSpec(layout="tallyqa", questions=str(tmp_path / "q.json"), images=str(tmp_path), split="test"), str(tmp_path)
        )


def test_a_null_character_in_a_text_file(tmp_path):
    (tmp_path / "c.csv").write_bytes(b"image,caption\na.png,x\nb.png,\0y\n")
    with pytest.raises(UsageError, match=r"c\.csv: line 3: holds a null character"):
        read_captions(DataSpec(layout="captions", annotations=str(tmp_path / "c.csv"), images=str(tmp_path)), str(tmp_path))


def test_the_transparent_value_of_16_bits_is_transparent(tmp_path):
    values = np.full((4, 6), 30_000, np.uint16)
    values[0, 0] = 65_535 // 2
    Image.fromarray(values).save(tmp_path / "a.png", transparency=30_000)
    pixels = np.asarray(open_rgb(tmp_path / "a.png"))
    assert pixels[1, 1].tolist() == [255, 255, 255] and pixels[0, 0].tolist() == [127, 127, 127]


def test_letters_of_a_choice_are_one(tmp_path):
    with pytest.raises(UsageError, match="expected an index, options"):
        mmvp_question("1", "q?", "(a) Open (b) Closed", "AB", "1.jpg", "Questions.csv")


@pytest.mark.parametrize("layout", ["docvqa", "infovqa"])
def test_a_blank_answer_among_others_makes_no_blank_prediction_right(tmp_path, layout):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    entry = DOC | {"answers": ["x", " ", ""], "image_local_name": "a.png"}
    (tmp_path / "q.json").write_text(json.dumps({"data": [entry]}))
    spec = DataSpec(layout=layout, questions=str(tmp_path / "q.json"), images=str(tmp_path), split="val")
    [question] = read_questions(spec, str(tmp_path)).questions
    assert question.answers == ("x",) and anls("", question.answers) == 0.0 and anls("x", question.answers) == 1.0


@pytest.mark.parametrize("other", ["cat", "Cat ", " Cat"])
def test_class_folders_that_differ_by_case_or_blanks_alone_are_refused(other, tmp_path):
    """Each was a class of its own."""
    for k, name in enumerate(("Cat", other, "dog")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(tmp_path / name / f"{k}.png")
    with pytest.raises(
        UsageError, match=r"class folders .* differ in the case of letters, in blanks or in characters that are not seen alone"
    ):
        read_classification(DataSpec(layout="imagefolder", root=str(tmp_path)), "")


def test_class_folders_of_one_letter_are_classes_of_their_own(tmp_path):
    """As those of handwriting are, which were refused."""
    for k, name in enumerate("Aab"):
        small.write(tmp_path / name / f"{k}.png", small.image_bytes(k))
    read = read_classification(DataSpec(layout="imagefolder", root=str(tmp_path)), "")
    assert read.classes == ("A", "a", "b") and read.labels.tolist() == [0, 1, 2]


def test_a_mask_of_several_pages_is_refused(tmp_path):
    """The first was read, without a word."""
    from levl_eval.data.masks import stored_mask

    pages = [Image.fromarray(np.full((4, 4), k, np.uint8)) for k in (1, 0)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    with pytest.raises(LevlError, match="two.tif: holds 2 pages or frames"):
        stored_mask(Image.open(tmp_path / "two.tif"), str(tmp_path / "two.tif"))
    assert (stored_mask(Image.open(tmp_path / "one.tif"), "one") == 1).all()
