"""Anything as the list, annotation or map file of a set: a set, or one line without control characters, within a second."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError
from levl_eval.data.readers import read_captions, read_classification, read_depth, read_questions, read_segmentation
from tests.data import small_sets as small

FUZZ = settings(
    max_examples=40, deadline=1000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], derandomize=True
)  # fmt: skip
WORDS = [
    "a.png",
    "0",
    "1",
    "-1",
    "n1",
    "cat",
    "\t",
    " ",
    "\n",
    ",",
    "#",
    "/a/abbey",
    "\u2028",
    "\x1b[31m",
    "\x00",
    "9" * 30,
    "\ufeff",
    "..",
    "1.5",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join) | st.text(max_size=40)
BYTES = TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)
# Layout -> (split, the file that is anything, files beside it).
LISTS = {
    "labels": ("", "l.txt", {}), "places365": ("val", "places365_val.txt", {"categories_places365.txt": "/a/abbey 0\n/b/bar 1\n"}),
    "aircraft": ("test", "images_variant_test.txt", {"variants.txt": "n1\ncat\n"}), "pets": ("test", "annotations/test.txt", {}),
    "sun397": ("Testing_01", "Partitions/Testing_01.txt", {"Partitions/ClassName.txt": "/a/abbey\n/b/bar\n"}),
    "tiny-imagenet": ("val", "val/val_annotations.txt", {"wnids.txt": "n1\nn2\n"}), "imagenet": ("val", "LOC_val_solution.csv", {}),
    "stl10": ("test", "test_y.bin", {"test_X.bin": "\0" * 27648, "class_names.txt": "a\nb\n"}),
    "cifar10": ("test", "test_batch.bin", {"batches.meta.txt": "a\nb\n"}),
}  # fmt: skip


def one_line(read):
    try:
        read()
    except LevlError as e:
        assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in str(e)) and len(str(e)) < 1500


@pytest.mark.parametrize("layout", LISTS)
@FUZZ
@given(content=BYTES)
def test_any_bytes_as_a_list_of_labelled_images(layout, content, tmp_path):
    split, name, others = LISTS[layout]
    small.write(tmp_path / "a.png", small.image_bytes(0))
    small.write(tmp_path / name, content)
    for other, text in others.items():
        small.write(tmp_path / other, text)
    fields = {"images": str(tmp_path), "annotations": str(tmp_path / name)} if layout == "labels" else {"root": str(tmp_path)}
    one_line(lambda: read_classification(DataSpec(layout=layout, split=split, **fields), ""))


FIELDS = ["questions", "annotations", "data", "question_id", "image_id", "question", "answers", "answer", "multiple_choice_answer",
          "choices", "image", "images", "filename", "split", "sentences", "raw", "id", "file_name", "caption", "question_type",
          "answer_type", "questionId", "imgname", "query", "label", "dataset_name", "image_path", "type"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*WORDS, "val"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), x, max_size=5), max_leaves=10,
)  # fmt: skip
FILES = {
    "vqav2": ["v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"],
    "scienceqa": ["problems.json", "pid_splits.json"], "textvqa": ["TextVQA_0.5.1_val.json"], "vizwiz": ["Annotations/val.json"],
    "mme": ["color/1.txt"], "gqa": ["testdev_balanced_questions.json"],
    "chartqa": ["test/test_human.json", "test/test_augmented.json"], "docvqa": ["val_v1.0.json"], "ocrbench": ["OCRBench.json"],
}  # fmt: skip


@pytest.mark.parametrize("layout", FILES)
@FUZZ
@given(contents=st.lists(JSON.map(lambda v: json.dumps(v).encode()) | BYTES, min_size=2, max_size=2))
def test_any_json_as_the_files_of_a_question_set(layout, contents, tmp_path):
    for name, content in zip(FILES[layout], contents, strict=False):
        small.write(tmp_path / name, content)
    one_line(lambda: read_questions(DataSpec(layout=layout, root=str(tmp_path)), ""))


@pytest.mark.parametrize("name", ["dataset_x.json", "captions.json", "c.token"])
@FUZZ
@given(content=JSON.map(lambda v: json.dumps(v).encode()) | BYTES)
def test_any_json_as_captions(name, content, tmp_path):
    layout = "karpathy" if name.startswith("dataset") else "captions"
    file = small.write(tmp_path / name, content)
    one_line(lambda: read_captions(DataSpec(layout=layout, annotations=str(file), split="val"), ""))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@FUZZ
@given(data=st.data())
def test_any_bytes_as_a_depth_map_or_a_mask(suffix, data, tmp_path):
    whole = {".png": small.mask_bytes(0), ".tif": small.image_bytes(0, "TIFF"), ".npy": _npy()}[suffix]
    at = data.draw(st.integers(0, len(whole) - 1))
    content = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 4)) :]
    small.write(tmp_path / "i" / "a.png", small.image_bytes(0))
    small.write(tmp_path / "d" / f"a{suffix}", content)
    folders = {"images": str(tmp_path / "i"), "annotations": str(tmp_path / "d")}
    one_line(lambda: read_depth(DataSpec(layout="depth", **folders), "", 1000.0))
    if suffix != ".npy":
        one_line(lambda: read_segmentation(DataSpec(layout="segmentation", classes=["a", "b"], **folders), "").mask("a.png"))


@FUZZ
@given(
    lines=st.lists(
        st.sampled_from(
            ["0 0 0 Void", "1 2 3\ta", "255 255 255 b", "256 0 0 c", "1 2 3 d", "1,2,3,e", "x", "", "\x1b[31m", "9 9 9 \u2028"]
        ),
        max_size=6,
    )
)
def test_any_lines_as_a_table_of_colours(lines, tmp_path):
    small.write(tmp_path / "i" / "a.png", small.image_bytes(0))
    small.write(tmp_path / "m" / "a.png", small.image_bytes(1))
    classes = small.write(tmp_path / "c.txt", "\n".join(lines))
    folders = {"images": str(tmp_path / "i"), "annotations": str(tmp_path / "m"), "classes": str(classes)}
    one_line(lambda: read_segmentation(DataSpec(layout="segmentation", **folders), "").mask("a.png"))


def _npy() -> bytes:
    import io

    import numpy as np

    out = io.BytesIO()
    np.save(out, np.ones((10, 12), np.float32))
    return out.getvalue()


def test_names_of_files_with_control_characters_are_told_in_one_line(tmp_path):
    root = small.class_files(tmp_path)
    Path(root / "classification" / "test" / "cat" / "\x1b[31m\n.png").write_bytes(b"no image")
    found = read_classification(small.class_spec(), str(root))
    bad = next(i for i in found.images.ids if "\x1b" in i)
    with pytest.raises(LevlError, match="cannot be decoded"):
        found.images.open(bad)
