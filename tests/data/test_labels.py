"""Labels, masks and depth maps: typed and ranged for files and hub alike; common mistakes are asked back in words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.masks import UNLISTED, LabelMap, json_classes, mask_file
from levl_eval.data.readers import read_classification, read_depth, read_segmentation
from levl_eval.metrics.segmentation import confusion_matrix
from tests.data import small_sets as small

CAMVID = "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist".split()


def png(values: Any, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    (values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))).save(out, kind)
    return out.getvalue()


def one(tmp_path: Path, mask: Any, classes: Any, suffix: str = "png", **more: Any) -> DataSpec:
    """A set of one image of 4 x 4."""
    small.write(tmp_path / "images" / "a.png", png(np.zeros((4, 4, 3), np.uint8)))
    small.write(tmp_path / "masks" / f"a.{suffix}", mask if isinstance(mask, bytes) else png(mask))
    if isinstance(classes, dict | str):
        small.write(tmp_path / "classes.json", classes if isinstance(classes, str) else json.dumps(classes))
        classes = str(tmp_path / "classes.json")
    return DataSpec(
        layout="segmentation", images=str(tmp_path / "images"), annotations=str(tmp_path / "masks"), classes=classes, **more
    )


def grid(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype), (4, 4))


def test_a_json_class_list_keeps_every_id_zero_too(tmp_path):
    found = read_segmentation(one(tmp_path, grid(*range(11)), {str(i): n for i, n in enumerate(CAMVID)}), "")
    assert found.classes == tuple(CAMVID) and set(np.unique(found.mask("a.png"))) == set(range(11))


def test_ignore_index_is_an_id_of_the_file_whatever_maps_it(tmp_path):
    sparse = {"0": "void", "7": "road", "9": "sky"}
    found = read_segmentation(one(tmp_path, grid(0, 7, 9, 3), sparse, ignore_index=0), "")
    assert found.classes == ("road", "sky")
    assert found.mask("a.png")[0].tolist() == [found.ignore_index, 0, 1, found.ignore_index]
    target = found.mask("a.png")
    assert confusion_matrix(np.zeros_like(target), target, 2, found.ignore_index).sum() == 8  # class 0 counts
    plain = read_segmentation(one(tmp_path / "b", grid(0, 1, 2, 2), ["a", "b", "c"], ignore_index=1), "")
    assert plain.mask("a.png")[0].tolist() == [0, plain.ignore_index, 2, 2]
    zero = read_segmentation(one(tmp_path / "c", grid(0, 1, 2, 255), ["a", "b"], reduce_zero_label=True), "")
    assert zero.mask("a.png")[0].tolist() == [255, 0, 1, 255]
    deep = read_segmentation(one(tmp_path / "d", grid(0, 1, 65535, 1, dtype=np.uint16), ["a", "b"], ignore_index=65535), "")
    assert deep.mask("a.png")[0].tolist() == [0, 1, deep.ignore_index, 1] and deep.ignore_index < 2**15


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "0 and 255": (grid(0, 255), ["a", "b"], {}, "labels are 0 and 255.*: did you mean classes 0 and 1"),
    "0 and 255, no ignore": (grid(0, 255), ["a", "b"], {"ignore_index": -1}, "labels are 0 and 255: did you mean classes 0 and 1"),
    "0 and 255, zero void": (grid(0, 255), ["a", "b"], {"reduce_zero_label": True}, "no pixel.*mIoU is not defined on this test set"),
    "all void": (grid(255), ["a", "b"], {}, "mIoU is not defined on this test set"),
    "all zero, zero void": (grid(0), ["a", "b"], {"reduce_zero_label": True}, "not defined on this test set"),
    "from 1": (grid(1, 2, 3), ["a", "b", "c"], {}, "labels run from 1 to 3: if they count from 1, set `reduce_zero_label`"),
    "beyond": (grid(0, 9), ["a", "b", "c"], {}, "label 9 is beyond the 3 classes"),
    "16 bits beyond": (grid(0, 300, dtype=np.uint16), ["a", "b"], {}, "label 300 is beyond"),
    "32 bits negative": (png(grid(0, -3, dtype=np.int32), "TIFF"), ["a", "b"], {}, "label -3 is beyond"),
    "float": (png(grid(0, 1, dtype=np.float32), "TIFF"), ["a", "b"], {}, "a F mask; expected one label a pixel"),
    "colours": (np.zeros((4, 4, 3), np.uint8), ["a", "b"], {}, "a RGB mask.*RED GREEN BLUE NAME"),
    "negative id": (grid(0, 1), {"-1": "void", "0": "a", "1": "b"}, {}, "id '-1' is no number"),
    "nested": (grid(0, 1), {"0": {"name": "a"}, "1": "b"}, {}, "id 0: the name is .*expected text"),
    "nested groups": (grid(0, 1), {"things": {"0": "a"}}, {}, "id 'things' is no number"),
    "blank name": (grid(0, 1), {"0": " ", "1": "b"}, {}, "id 0: the name is"),
    "name twice": (grid(0, 1), {"0": "a", "1": "a"}, {}, "id 1: the name 'a' is that of another class"),
    "name twice in a list": (grid(0, 1), ["a", "a"], {}, "class 1: the name 'a' is that of another class"),
    "id twice": (grid(0, 1), '{"0": "a", "0": "b"}', {}, "listed twice"),
    "huge id": (grid(0, 1), {"0": "a", "99999999999": "b"}, {}, "is no number from 0 to 65535"),
    "no JSON": (grid(0, 1), "{0: a}", {}, "not valid JSON"),
    "JSON of a number": (grid(0, 1), "7", {}, "neither a list of names nor"),
    "nothing": (grid(0, 1), "{}", {}, "holds no class"),
    "one class": (grid(0), ["a"], {}, "has the one class 'a', of which every map is right; at least 2 are needed"),
    "text for a mask": (b"no image", ["a", "b"], {}, "no image format"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"), [((0, 2, 1), "labels 1 of its masks"), ((0, 2, 11), "labels 11 of its masks"), ((0, 2, 3, 255), "")]
)
def test_labels_that_a_class_list_leaves_out_are_void_and_said(values, said, tmp_path):
    found = read_segmentation(one(tmp_path, grid(*values), {"0": "a", "2": "b", "3": "Void"}), "")
    assert found.mask("a.png")[0].tolist()[:2] == [0, 1] and set(found.mask("a.png")[0].tolist()[2:]) <= {0, 1, 255}
    assert found.images.remark == (f"{said} are not in `classes`: they are void" if said else "")


@pytest.mark.parametrize("name", REFUSED)
def test_masks_and_class_lists_that_are_refused(name, tmp_path):
    mask, classes, more, words = REFUSED[name]
    with pytest.raises(LevlError, match=words) as e:
        read_segmentation(one(tmp_path, mask, classes, **more), "").mask("a.png")
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    "mask",
    [grid(0, 1), Image.fromarray(grid(0, 1)).convert("1"), grid(0, 1, dtype=np.uint16), png(grid(0, 1, dtype=np.int32), "TIFF"),
     png(Image.fromarray(grid(0, 1)).convert("P").quantize(2) if False else Image.fromarray(grid(0, 1)))],
)  # fmt: skip
def test_masks_of_every_integer_kind_are_read(mask, tmp_path):
    mask = Image.fromarray(grid(0, 255)).convert("1") if isinstance(mask, Image.Image) else mask
    found = read_segmentation(one(tmp_path, mask, ["a", "b"]), "")
    assert set(np.unique(found.mask("a.png"))) == {0, 1}


def test_background_and_void_alone_in_the_first_masks_are_no_mistake(tmp_path):
    for k in range(40):
        small.write(tmp_path / "images" / f"{k:02d}.png", png(np.zeros((4, 4, 3), np.uint8)))
        small.write(tmp_path / "masks" / f"{k:02d}.png", png(grid(0, 1, 255) if k == 38 else grid(0, 255)))
    spec = DataSpec(
        layout="segmentation", images=str(tmp_path / "images"), annotations=str(tmp_path / "masks"), classes=["a", "b"]
    )
    assert len(read_segmentation(spec, "").images) == 40


def test_hub_masks_are_read_as_files_are(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    for k, (mask, words) in enumerate([
        (grid(1, 9), r"row 0: label 9 is beyond the 3 classes"), (grid(0), "not defined on this test set"),
        (np.zeros((4, 4, 3), np.uint8), "row 0: a RGB mask"),
    ]):  # fmt: skip
        table = small.table_of([{"image": png(np.zeros((4, 4, 3), np.uint8)), "annotation": png(mask)}], ("image", "annotation"))
        repo = small.repository(tmp_path / f"r{k}", {"default": ("validation", table)})
        with pytest.raises(LevlError, match=words):
            read_segmentation(small.ade_spec(repo), "hub").mask("00000000")


@pytest.mark.parametrize(
    ("labels", "words"),
    [([-1, -1], "all labels are missing"), ([0, -1], "1 of 2 labels are missing.*row 1"), ([0, None], "1 of 2")],
)
def test_hub_labels_that_are_missing(labels, words, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    rows = [{"image": small.image_bytes(k), "label": y} for k, y in enumerate(labels)]
    table = small.table_of(rows, ("image",), label=datasets.ClassLabel(names=["cat", "dog"]))
    repo = small.repository(tmp_path / "r", {"default": ("test", table)})
    spec = DataSpec(layout="imagefolder", split="test", hub=HubSource(repo=str(repo), split="test"))
    with pytest.raises(UsageError, match=words):
        read_classification(spec, "hub")


def test_hub_labels_of_one_class_are_refused(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    table = small.table_of([{"image": small.image_bytes(0), "label": 0}], label=datasets.ClassLabel(names=["cat"]))
    repo = small.repository(tmp_path / "r", {"default": ("test", table)})
    with pytest.raises(UsageError, match="column 'label' names 1 classes; at least 2 are needed"):
        read_classification(DataSpec(layout="imagefolder", split="test", hub=HubSource(repo=str(repo), split="test")), "hub")


@pytest.mark.parametrize(
    ("text", "classes", "words"),
    [
        ("0.png 1\n1.png 2\n2.png 3\n", None, "labels run from 1 to 3, numbers count from 0"),
        ("0.png 1\n1.png 2\n2.png 3\n", ["a", "b", "c"], "line 3: label 3 is beyond the 3 classes 0 to 2; do the labels count from 1"),
        ("0.png 0\n1.png -1\n2.png 1\n", None, "label -1 stands for no class"),
        ("0 0.png\n1 1.png\n0 2.png\n", None, "expected IMAGE LABEL in this order"),
        ("0.png,0\n1.png,1\n2.png,0\n", None, "separated by a space"),
        ("0.png;0\n1.png;1\n2.png;0\n", None, "line 1: '0.png;0': image and label are separated by a space"),
        ('"0.png"|a\n"1.png"|b\n"2.png"|a\n', None, "separated by a space"),
        ("0.png Cat\n1.png cat\n2.png dog\n", None, "labels 'Cat' and 'cat' differ in the case or form"),
        ("0.png True\n1.png true\n2.png False\n", None, "labels 'True' and 'true' differ"),
        ("0.png caf\u00e9\n1.png cafe\u0301\n2.png tea\n", None, "differ in the case or form"),
        ("0.png\n1.png\n2.png\n", None, "expected|holds no label"),
        ("0\n1\n", None, "2 labels for the 3 images"),
        ("0.png a\n1.png b\n2.png a\n", ["a", "a"], "that of another class"),
        ("0.png 0\n1.png 99999999999999\n2.png 1\n", None, "is no number of a class"),
        ("0.png 0\n1.png 1 \n\ufeff2.png ²\n", ["a", "b"], "is none of the 2 classes"),
    ],
)  # fmt: skip
def test_label_lists_that_are_refused(text, classes, words, tmp_path):
    for k in range(3):
        small.write(tmp_path / "images" / f"{k}.png", small.image_bytes(k))
    file = small.write(tmp_path / "labels.txt", text)
    spec = DataSpec(layout="labels", images=str(tmp_path / "images"), annotations=str(file), classes=classes)
    with pytest.raises(UsageError, match=words) as e:
        read_classification(spec, "")
    assert str(file) in str(e.value) or "field `classes`" in str(e.value)


def test_letters_that_differ_in_case_are_classes_where_a_list_says_so(tmp_path):
    for k in range(3):
        small.write(tmp_path / "images" / f"{k}.png", small.image_bytes(k))
    file = small.write(tmp_path / "labels.txt", "0.png a\n1.png A\n2.png b\n")
    spec = DataSpec(layout="labels", images=str(tmp_path / "images"), annotations=str(file), classes=["a", "A", "b"])
    assert read_classification(spec, "").labels.tolist() == [0, 1, 2]
    alone = spec.model_copy(update={"classes": None})  # of one letter each: as with class folders
    assert read_classification(alone, "").classes == ("A", "a", "b")


def test_depth_maps_without_a_depth_or_with_negative_ones(tmp_path):
    spec = DataSpec(layout="depth", images=str(tmp_path / "images"), annotations=str(tmp_path / "maps"))
    small.write(tmp_path / "images" / "a.png", png(np.zeros((4, 4, 3), np.uint8)))
    for values, words in [
        (grid(0, dtype=np.float32), "errors are not defined on this set"), (np.full((4, 4), np.nan, np.float32), "not defined"),
        (grid(1, -2, dtype=np.float32), r"a\.npy: holds negative depths, first -2"),
        (np.zeros((4, 4, 3), np.float32), "expected one number a pixel"), (np.array([["a"]]), "expected one number"),
    ]:  # fmt: skip
        (tmp_path / "maps").mkdir(exist_ok=True)
        np.save(tmp_path / "maps" / "a.npy", values)
        with pytest.raises(LevlError, match=words):
            read_depth(spec, "", 1.0)
    np.save(tmp_path / "maps" / "a.npy", grid(0, 2, dtype=np.float32))
    assert read_depth(spec, "", 1.0).depth("a.png").max() == 2


@settings(
    max_examples=100,
    deadline=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=6) | st.booleans(), lambda x: st.lists(x, max_size=4) | st.dictionaries(
    st.text(max_size=3) | st.integers(-3, 300).map(str), x, max_size=5)), st.integers(-2, 300))  # fmt: skip
def test_any_json_as_a_class_list(tmp_path, value, ignore):
    try:
        names, table = json_classes(tmp_path / "c.json", json.dumps(value), ignore)
        assert (
            names
            and all(isinstance(n, str) and n for n in names)
            and (table is None or set(table.tolist()) <= {UNLISTED, -1, *range(len(names))})
        )
    except LevlError as e:
        assert str(e).isprintable()


@settings(
    max_examples=60,
    deadline=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=16), st.sampled_from([np.uint8, np.uint16, np.int32]), st.integers(1, 300),
       st.integers(-1, 70_000), st.booleans())  # fmt: skip
def test_any_mask_gives_classes_void_or_one_line(tmp_path, values, dtype, classes, ignore, reduce_zero):
    path = tmp_path / "m.tif"
    path.write_bytes(png(np.array(values).astype(dtype).reshape(1, -1), "TIFF"))
    labels = LabelMap(classes, ignore, reduce_zero)
    try:
        out = labels.apply(mask_file(path), str(path))
        assert (((out >= 0) & (out < classes)) | (out == labels.void)).all()
    except LevlError as e:
        assert str(e).isprintable()
