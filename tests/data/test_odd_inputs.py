"""Small odd inputs that were read wrong without a word, each refused in one line now that names the file and the entry."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError
from levl_eval.data.readers import read_captions, read_classification, read_questions, read_segmentation
from tests.data import small_sets as small

ROW = {"image": "a.png", "question": "What?", "answer": "x"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"image": "a.png", "question": "?", "answer": NaN}', "entry 1: field `answer`: expected a text, .*found NaN"),
        ('{"image": "a.png", "question": "?", "answer": -Infinity}', "field `answer`: .*found -Infinity"),
        (
            '{"image": "a.png", "question": "one?", "question": "two?", "answer": "x"}',
            'a field "question" is given twice in one object',
        ),
    ],
)
def test_own_questions(text, words, tmp_path):
    small.write(tmp_path / "a.png", small.image_bytes(0))
    file = small.write(tmp_path / "q.jsonl", text)
    with pytest.raises(LevlError, match=words) as e:
        read_questions(DataSpec(layout="vqa", questions=str(file)), "")
    assert str(file) in str(e.value) and str(e.value).isprintable()


def test_a_table_of_questions_is_told_to_be_stored_as_json_lines(tmp_path):
    file = small.write(tmp_path / "q.csv", "image,question,answer\na.png,What?,x\n")
    with pytest.raises(LevlError, match="q.csv: is a table; store it as JSON lines, one object per row"):
        read_questions(DataSpec(layout="vqa", questions=str(file)), "")


def test_annotations_of_vqav2(tmp_path):
    root = small.vqav2_files(tmp_path)
    file = root / "vqav2" / "v2_mscoco_val2014_annotations.json"
    notes = json.loads(file.read_text())["annotations"]
    spec = DataSpec(layout="vqav2", directory="vqav2")
    for changed, words in (
        ([*notes, {**notes[0], "multiple_choice_answer": "b"}], 'question "10" is annotated twice'),
        ([{**notes[0], "image_id": 3}, *notes[1:]], 'question "10" is about image 0, its annotation about image 3'),
    ):
        file.write_text(json.dumps({"annotations": changed}))
        with pytest.raises(LevlError, match=words):
            read_questions(spec, str(root))


COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 5, "image_id": 1, "caption": "x"}]}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.token", "a.jpg#0\tone\na.jpg#0\ttwo\n", 'line 2: "a.jpg" has a caption of number 0 already'),
        ("c.json", json.dumps({**COCO, "annotations": COCO["annotations"] * 2}), "annotation 2: id 5 is listed twice"),
        (
            "c.json",
            json.dumps({**COCO, "images": [*COCO["images"], {"id": 2, "file_name": "a.jpg"}]}),
            'file "a.jpg" is listed twice, under ids 1 and 2',
        ),
    ],
)
def test_captions(name, text, words, tmp_path):
    small.write(tmp_path / "a.jpg", small.image_bytes(0, "JPEG"))
    file = small.write(tmp_path / name, text)
    with pytest.raises(LevlError, match=words):
        read_captions(DataSpec(layout="captions", annotations=str(file)), "")


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ("+1 0 1", None, "label '.1' stands among numbers"), ("0.0 1.0 1.0", None, "'0.0' stands among numbers or is one of another form"),
        ("0x0 0x1 0x1", None, "'0x0'"), ("cat 1 cat", None, "'cat' stands among numbers"), ("nan 0 1", None, "'nan'"),
        ("\u0660 \u0661 \u0661", None, "one of another form"),
        ("1 2 1", ["1", "2"], "label 1 is the name of class 0 and the number of another"),
    ],
)  # fmt: skip
def test_labels(labels, classes, words, tmp_path):
    for k in range(3):
        small.write(tmp_path / "i" / f"{k}.png", small.image_bytes(k))
    file = small.write(tmp_path / "l.txt", labels.replace(" ", "\n") + "\n")
    with pytest.raises(LevlError, match=words):
        read_classification(DataSpec(layout="labels", images=str(tmp_path / "i"), annotations=str(file), classes=classes), "")


def test_a_jpeg_is_no_mask(tmp_path):
    small.write(tmp_path / "i" / "0.png", small.image_bytes(0))
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (10, 12)).astype(np.uint8)).save(out, "JPEG")
    small.write(tmp_path / "m" / "0.jpg", out.getvalue())
    spec = DataSpec(layout="segmentation", images=str(tmp_path / "i"), annotations=str(tmp_path / "m"), classes=["a", "b", "c"])
    with pytest.raises(LevlError, match="a JPEG mask, whose labels its compression changes; take the original as PNG"):
        read_segmentation(spec, "").mask("0.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": small.image_bytes(1)}, "rows 0 and 1 are about image COCO_000000000001, but hold other images"),
        ({"image_id": -1}, "row 1: field `image_id`: expected a number from 0"),
        ({"image": None, "image_id": 2}, "repo: row 1: column 'image' holds no image"),
    ],
)
def test_hub_rows(change, words, tmp_path):
    row = {
        "question_id": 1,
        "image_id": 1,
        "question": "?",
        "multiple_choice_answer": "a",
        "answers": ["a"] * 10,
        "image": small.image_bytes(0),
    }
    table = small.table_of([row, {**row, "question_id": 2, **change}])
    repo = small.repository(tmp_path / "repo", {"default": ("test", table)})
    with pytest.raises(LevlError, match=words):
        read_questions(DataSpec(layout="vqav2", hub=HubSource(repo=str(repo), split="test")), "hub")
