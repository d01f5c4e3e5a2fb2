"""Which of several files, lines, fields or columns is read: the one that says so, or none."""

from __future__ import annotations

import io
import json
import pickle

import datasets
import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.registry import set_card, task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import names_of
from levl_eval.data.listing import one_of
from levl_eval.data.multiple_choice import HUB_ROWS, mmvp_question
from levl_eval.data.predictions import read_predictions
from levl_eval.data.questions import first_of
from levl_eval.data.readers import (
    read_captions,
    read_classification,
    read_instances,
    read_questions,
    read_segmentation,
    read_videos,
)
from levl_eval.data.rgb import open_rgb
from levl_eval.pretrain.samples import TWO_IMAGES
from levl_eval.pretrain.tars import read_tar, shards
from levl_eval.runner.importing import ImportOptions, import_predictions
from tests.data import small_sets as small

# ---- files


def test_several_files_of_one_pattern_are_refused_and_hidden_ones_passed_over(tmp_path):
    for name in ("._a_1.json", "a_1.json", ".trash/a_0.json"):
        small.write(tmp_path / name, "{}")
    assert first_of(tmp_path, ["b.json", "a_*.json"], "the file", "") == tmp_path / "a_1.json"
    small.write(tmp_path / "a_2.json", "{}")
    with pytest.raises(UsageError, match=r"the file could be each of 2 files \(a_1.json, a_2.json\); keep one there"):
        first_of(tmp_path, ["a_*.json"], "the file", "")
    for name in ("x.png", "x.jpg"):
        small.write(tmp_path / name, b"")
    with pytest.raises(UsageError, match="x.jpg and x.png have one name"):
        one_of(tmp_path, "x", (".jpg", ".png"))


def test_llava_does_not_train_on_whichever_file_comes_first(tmp_path):
    rows = [{"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "yes"}]}]
    for name in ("blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json"):
        small.write(tmp_path / "llava" / name, json.dumps(rows))
    with pytest.raises(UsageError, match="the conversation file could be each of 2 files"):
        read_questions(DataSpec(layout="llava", directory="llava"), str(tmp_path))


def test_textvqas_ocr_file_is_no_question_file(tmp_path):
    row = {"question_id": 1, "image_id": "a", "question": "?", "answers": ["x"] * 10}
    small.write(
        tmp_path / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json", json.dumps({"data": [row, {**row, "question_id": 2}]})
    )
    small.write(tmp_path / "textvqa" / "train_images" / "a.jpg", small.image_bytes(0))
    spec = task_card("textvqa").data
    with pytest.raises(UsageError, match="the question file is missing"):
        read_questions(spec, str(tmp_path))
    small.write(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", json.dumps({"data": [row]}))
    assert len(read_questions(spec, str(tmp_path)).questions) == 1


def test_karpathys_archive_holds_three_sets(tmp_path):
    for name in ("coco", "flickr30k", "flickr8k"):
        images = [{"filename": f"{j}.png", "split": "test", "sentences": [{"raw": f"{name} {j}"}]} for j in range(2)]
        small.write(tmp_path / "flickr30k" / f"dataset_{name}.json", json.dumps({"dataset": name, "images": images}))
    for j in range(2):
        small.write(tmp_path / "flickr30k" / f"{j}.png", small.image_bytes(j))
    spec = DataSpec(layout="karpathy", directory="flickr30k", split="test")
    assert read_captions(spec, str(tmp_path)).captions == ("flickr30k 0", "flickr30k 1")
    with pytest.raises(UsageError, match="could be each of 3 files"):
        read_captions(DataSpec(layout="karpathy", root=str(tmp_path / "flickr30k"), split="test"), "")


def test_two_revisited_sets_in_one_folder(tmp_path):
    for k, name in enumerate(("roxford5k", "rparis6k")):
        gnd = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": [{"bbx": [0, 0, 8, 8], "easy": [k], "hard": [], "junk": []}]}
        small.write(tmp_path / "rparis6k" / f"gnd_{name}.json", json.dumps(gnd))
    for k, name in enumerate("abq"):
        small.write(tmp_path / "rparis6k" / f"{name}.jpg", small.image_bytes(k))
    assert read_instances(DataSpec(layout="revisited", directory="rparis6k"), str(tmp_path)).queries[0].easy == ("b",)
    with pytest.raises(UsageError, match="could be each of 2 files"):
        read_instances(DataSpec(layout="revisited", root=str(tmp_path / "rparis6k")), "")


def test_mme_passes_over_hidden_folders_and_refuses_two_images_of_a_stem(tmp_path):
    for category in ("count", ".ipynb_checkpoints", "__MACOSX"):
        small.write(tmp_path / "mme" / category / "1.txt", "Is it?\tYes\nIs it not?\tNo\n")
        small.write(tmp_path / "mme" / category / "1.png", small.image_bytes(0))
    small.write(tmp_path / "mme" / "count" / "._1.txt", b"\0\5\x16\7")
    spec = DataSpec(layout="mme", directory="mme")
    assert len(read_questions(spec, str(tmp_path)).questions) == 2
    small.write(tmp_path / "mme" / "count" / "1.jpg", small.image_bytes(1))
    with pytest.raises(UsageError, match="1.jpg and 1.png have one name"):
        read_questions(spec, str(tmp_path))


def test_what_coco_stuff_and_cityscapes_lack_is_said(tmp_path):
    for k in range(3):
        small.write(tmp_path / "coco" / "images" / "val2017" / f"{k}.jpg", small.image_bytes(k))
        if k:
            small.write(tmp_path / "coco" / "annotations" / "val2017" / f"{k}.png", small.mask_bytes(k))
    small.write(tmp_path / "coco" / "annotations" / "val2017" / "._1.png", b"\0")
    found = read_segmentation(DataSpec(layout="coco-stuff", directory="coco", split="val"), str(tmp_path))
    assert len(found.images) == 2 and found.images.left_out == {"images without a mask": 1, "hidden": 1}
    for k in range(2):
        small.write(tmp_path / "city" / "gtFine" / "val" / "x" / f"x_{k}_gtFine_labelIds.png", small.mask_bytes(k))
    small.write(tmp_path / "city" / "leftImg8bit" / "val" / "x" / "x_0_leftImg8bit.png", small.image_bytes(0))
    small.write(tmp_path / "city" / "leftImg8bit" / "val" / "x" / "._x_0_leftImg8bit.png", b"\0")
    with pytest.raises(UsageError, match="1 masks have no image, first .*x_1_gtFine_labelIds.png"):
        read_segmentation(DataSpec(layout="cityscapes", directory="city", split="val"), str(tmp_path))


# ---- lines


def test_names_are_counted_by_lines(tmp_path):
    for content, words in (("sky\n\ntree\n", "line 2 is blank, and names are counted by lines"),
                           ("0 sky\n1 tree\n", "every line begins with a number"),
                           ("1: sky\n2: tree", "every line begins with a number")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            names_of(small.write(tmp_path / "c.txt", content), "")
    assert names_of(small.write(tmp_path / "c.txt", "sky\n2 wheeler\n4 wheeler\n\n"), "") == ["sky", "2 wheeler", "4 wheeler"]
    assert names_of(small.write(tmp_path / "c.txt", "0\n1\n"), "") == ["0", "1"]
    for k in range(2):
        small.write(tmp_path / "i" / f"{k}.png", small.image_bytes(k))
        small.write(tmp_path / "m" / f"{k}.png", small.mask_bytes(k))
    classes = small.write(tmp_path / "c.txt", "a\n\nb\nc\nd\n")
    spec = DataSpec(layout="segmentation", images=str(tmp_path / "i"), annotations=str(tmp_path / "m"), classes=str(classes))
    with pytest.raises(UsageError, match="line 2 is blank"):
        read_segmentation(spec, "")


def test_a_csv_without_its_head_is_refused(tmp_path):
    lines = '1,"Is it open?","(a) Open (b) Closed",(a)\n2,"Is it closed?","(a) Open (b) Closed",(b)\n'
    for k in (1, 2):
        small.write(tmp_path / "mmvp" / "MMVP Images" / f"{k}.jpg", small.image_bytes(k))
    small.write(tmp_path / "mmvp" / "Questions.csv", lines)
    with pytest.raises(
        UsageError, match=r"Questions.csv: the head is \[\"1\".*; expected Index, Question, Options, Correct Answer"
    ):
        read_questions(task_card("mmvp").data, str(tmp_path))
    small.write(tmp_path / "mmvp" / "Questions.csv", "Index,Question,Options,Correct Answer\n" + lines)
    assert len(read_questions(task_card("mmvp").data, str(tmp_path)).questions) == 2


def test_published_lists_that_contradict_themselves(tmp_path):
    pets = tmp_path / "pets"
    small.write(pets / "annotations" / "test.txt", "Abyssinian_1 1 1 1\nBengal_1 2 1 2\nBengal_2 1 1 1\n")
    with pytest.raises(UsageError, match="test.txt: line 3: class 1 is Bengal here and Abyssinian in an earlier line"):
        read_classification(DataSpec(layout="pets", root=str(pets), split="test"), "")
    small.write(pets / "annotations" / "test.txt", "Abyssinian_1 \u00b2 1 1\n")
    with pytest.raises(UsageError, match="test.txt: line 1: expected `IMAGE CLASS-ID"):
        read_classification(DataSpec(layout="pets", root=str(pets), split="test"), "")
    places = tmp_path / "places"
    small.write(places / "places365_val.txt", "a.jpg 1\nb.jpg 2\n")
    small.write(places / "categories_places365.txt", "/a/airfield 0\n/b/bar 2\n/c/cave 3\n")
    with pytest.raises(UsageError, match="its numbers are not 0 to 2, each once"):
        read_classification(DataSpec(layout="places365", root=str(places), split="val"), "")
    cub = tmp_path / "cub"
    for name, content in {
        "images": "1 a/1.jpg\n2 b/2.jpg\n",
        "image_class_labels": "1 1\n2 2\n",
        "train_test_split": "1 1\n2 2\n",
        "classes": "1 001.a\n2 002.b\n",
    }.items():
        small.write(cub / f"{name}.txt", content)
    with pytest.raises(UsageError, match="train_test_split.txt: holds another value than 0 and 1"):
        read_classification(DataSpec(layout="cub", root=str(cub), split="train"), "")
    small.write(cub / "image_class_labels.txt", "1 1\n2 2\n2 1\n")
    with pytest.raises(UsageError, match="image_class_labels.txt: does not number each image of images.txt once"):
        read_classification(DataSpec(layout="cub", root=str(cub), split="train"), "")


def test_scienceqas_splits_and_problems_are_of_one_release(tmp_path):
    problem = {"question": "?", "choices": ["a", "b"], "answer": 0, "image": "image.png"}
    small.write(tmp_path / "s" / "problems.json", json.dumps({"1": problem}))
    small.write(tmp_path / "s" / "pid_splits.json", json.dumps({"test": ["1", "2"]}))
    small.write(tmp_path / "s" / "images" / "test" / "1" / "image.png", small.image_bytes(0))
    with pytest.raises(UsageError, match=r'lacks 1 problems that pid_splits.json lists, first "2"'):
        read_questions(DataSpec(layout="scienceqa", directory="s", split="test"), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (None, None, "data_batch_2: not a batch of CIFAR's Python version"),
        ("data_batch_2", {"data": np.zeros((2, 3072), np.uint8)}, "data_batch_2: holds no 'labels'"),
        (
            "data_batch_2",
            {"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]},
            r"data_batch_2: holds uint8 data of shape \(2, 3071\) for 2 labels",
        ),
        ("batches.meta", {"num_vis": 1}, "batches.meta: holds no 'label_names'"),
    ],
)
def test_batches_of_cifar_that_lack_something(name, content, words, tmp_path):
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    files = {f"data_batch_{k}": batch for k in range(1, 6)} | {"batches.meta": {"label_names": ["a", "b"]}}
    for file, value in files.items():
        (tmp_path / file).write_bytes(pickle.dumps(content if file == name else value, 2))
    if name is None:
        (tmp_path / "data_batch_2").unlink()
    with pytest.raises(UsageError, match=words):
        read_classification(DataSpec(layout="cifar10", root=str(tmp_path), split="train"), "")


def test_a_missing_binary_batch_of_cifar_is_told(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(UsageError, match="data_batch_2.bin: cannot be read"):
        read_classification(DataSpec(layout="cifar10", root=str(tmp_path), split="train"), "")


# ---- fields and columns


def test_an_s_in_brackets_is_no_option():
    q = mmvp_question("1", "How many?", "(a) One person(s)(b) Two (b)ig (x)", "(b)", "1.jpg", "f")
    assert q.meta["choices"] == ["One person(s)", "Two (b)ig (x)"] and q.answer == "B"
    with pytest.raises(UsageError, match="options"):
        mmvp_question("\u00b2", "?", "(a) One (b) Two", "(b)", "1.jpg", "f")


@pytest.mark.parametrize(
    ("layout", "cells", "words"),
    [
        (
            "realworldqa",
            {"question": "Which?", "answer": None},
            "row 3: field `answer`: expected text that is not blank, found null",
        ),
        ("realworldqa", {"question": None, "answer": "A"}, "row 3: field `question`"),
        ("ai2d", {"question": "Which?", "options": ["a", None], "answer": "0"}, "row 3: field `options`"),
        ("mmvp", {"Question": None, "Options": "(a) a (b) b", "Correct Answer": "(a)"}, "row 3: field `Question`"),
        ("blink", {"question": "Which?", "choices": ["a", None], "answer": "(A)"}, "row 3: expected question, choices"),
        (
            "mmbench",
            {"index": 1, "question": "?", "A": "a", "B": None, "C": "c", "answer": "A"},
            "row 3: expected index, question, options",
        ),
    ],
)
def test_cells_that_hold_nothing_are_not_read_as_text(layout, cells, words):
    with pytest.raises(UsageError, match=words):
        HUB_ROWS[layout](3, cells, "repo")


def test_a_level_is_a_column_of_its_own(tmp_path):
    features = datasets.Features({
        "img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b", "c"]),
        "coarse_label": datasets.ClassLabel(names=["x", "y"]),
    })  # fmt: skip
    rows = [{"img": {"bytes": small.image_bytes(k), "path": None}, "fine_label": k, "coarse_label": k % 2} for k in range(3)]
    repo = small.repository(tmp_path / "repo", {"default": ("test", datasets.Dataset.from_list(rows, features=features))})
    spec = set_card("cifar100").data.model_copy(update={"hub": HubSource(repo=str(repo), split="test", label="fine_label")})
    assert read_classification(spec, "hub").classes == ("a", "b", "c")
    assert read_classification(spec.model_copy(update={"level": "coarse"}), "hub").classes == ("x", "y")
    with pytest.raises(UsageError, match="holds no class-label column of level"):
        read_classification(spec.model_copy(update={"level": "coarsest"}), "hub")


def test_masks_of_tables_are_read_as_those_of_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, lossy = io.BytesIO(), io.BytesIO()
    mask = Image.open(io.BytesIO(small.mask_bytes(0)))
    mask.save(turned, "PNG", exif=exif)
    mask.save(lossy, "JPEG", exif=exif)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    for content, words in ((turned, r"row 0: says by its EXIF orientation \(6\)"), (lossy, "row 0: a JPEG mask")):
        cells = [{"image": {"bytes": small.image_bytes(0), "path": None}, "mask": {"bytes": content.getvalue(), "path": None}}]
        folder = tmp_path / str(len(content.getvalue()))
        repo = small.repository(folder, {"default": ("test", datasets.Dataset.from_list(cells, features=features))})
        spec = DataSpec(layout="segmentation", classes=["a", "b", "c", "d"], hub=HubSource(repo=str(repo), split="test"))
        with pytest.raises(LevlError, match=words):
            read_segmentation(spec, "hub").mask("00000000")


def test_sixteen_bits_in_which_zero_is_white_are_refused(tmp_path):
    pixels = Image.fromarray((np.arange(12).reshape(3, 4) * 5000).astype(np.uint16))
    pixels.save(tmp_path / "a.tif", tiffinfo={262: 0})
    with pytest.raises(LevlError, match="a.tif: a 16-bit TIFF in which 0 is white"):
        open_rgb(tmp_path / "a.tif")
    pixels.save(tmp_path / "b.tif")
    assert open_rgb(tmp_path / "b.tif").getpixel((3, 0)) == (58, 58, 58)


def test_a_sample_of_two_images_counts_as_broken(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("1.jpg", b"a"),
            ("1.png", b"b"),
            ("1.txt", b"x"),
            ("2.jpg", b"a"),
            ("2.seg.png", b"b"),
            ("2.txt", b"x"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [s.problem for s in read_tar(str(tmp_path / "a.tar"), ("txt",)) if s is not None] == [TWO_IMAGES, ""]


# ---- predictions


def test_a_reference_beside_a_prediction_is_not_taken_for_it(tmp_path):
    file = small.write(tmp_path / "p.jsonl", '{"question_id": 1, "answer": "cat", "text": "dog"}\n')
    with pytest.raises(UsageError, match=r"p.jsonl: entry 1: `answer` and `text` differ.*name what was predicted `prediction`"):
        read_predictions(file)
    small.write(
        file, '{"question_id": 1, "answer": "cat", "text": "dog", "prediction": "cow"}\n{"id": 2, "answer": "a", "text": "a"}\n'
    )
    assert read_predictions(file) == {"1": "cow", "2": "a"}


def imported(tmp_path, task, source, **settings):
    said = tuple(f"{task}.data.{k}={v}" for k, v in settings.items())
    return import_predictions(source, task, "theirs", ImportOptions(data=str(tmp_path), settings=said, out=tmp_path / "out"))


def test_a_number_that_is_another_class_name_is_refused(tmp_path):
    for k, name in enumerate("12"):
        small.write(tmp_path / "classification" / "test" / name / "0.png", small.image_bytes(k))
    file = small.write(tmp_path / "p.jsonl", '{"id": "1/0.png", "label": 1}\n{"id": "2/0.png", "label": 0}\n')
    with pytest.raises(UsageError, match=r"1/0.png: 1 stands for 2 classes, '1' \(number 0\), '2' \(number 1\)"):
        imported(tmp_path, "classify", file, root=tmp_path / "classification", split="test")
    small.write(file, '{"id": "1/0.png", "label": "1"}\n{"id": "2/0.png", "label": "2"}\n')
    assert imported(tmp_path, "classify", file, root=tmp_path / "classification", split="test").metrics["top1"].value == 1.0


def test_class_255_of_many_is_a_class(tmp_path):
    truth = np.full((10, 12), 255, np.uint16)
    truth[0] = 1
    small.write(tmp_path / "i" / "a.png", small.image_bytes(0))
    for folder in ("m", "p"):
        (tmp_path / folder).mkdir()
        Image.fromarray(truth).save(tmp_path / folder / "a.png")
    classes = small.write(tmp_path / "c.txt", "\n".join(f"c{k}" for k in range(300)))
    record = imported(
        tmp_path,
        "segmentation",
        tmp_path / "p",
        images=tmp_path / "i",
        annotations=tmp_path / "m",
        classes=classes,
        ignore_index=65535,
    )
    assert record.metrics["mean_iou"].value == 1.0


# ---- orders and names


def test_an_order_by_letters_that_is_none_by_numbers_is_refused(tmp_path):
    for k in range(11):
        small.write(tmp_path / "i" / f"img{k}.png", small.image_bytes(k))
    file = small.write(tmp_path / "l.txt", "".join(f"{k % 2}\n" for k in range(11)))
    spec = DataSpec(layout="labels", images=str(tmp_path / "i"), annotations=str(file))
    with pytest.raises(
        UsageError,
        match="img2.png comes before img10.png by its number, behind it by its letters.*give lines `IMAGE LABEL` in l.txt",
    ):
        read_classification(spec, "")
    (tmp_path / "i" / "img10.png").rename(tmp_path / "i" / "x10.png")
    assert len(read_classification(spec, "").images) == 11
    for k in (8, 9, 10):
        small.write(tmp_path / "JPEGImages" / "480p" / "v" / f"{k}.png", small.image_bytes(k))
        small.write(tmp_path / "Annotations" / "480p" / "v" / f"{k}.png", small.mask_bytes(k))
    small.write(tmp_path / "ImageSets" / "2017" / "val.txt", "v\n")
    with pytest.raises(UsageError, match="8 comes before 10 by its number.*write the frames' numbers with equally many digits"):
        read_videos(DataSpec(layout="davis", root=str(tmp_path), split="val"), "")


def test_one_image_under_two_names_is_refused(tmp_path):
    small.write(tmp_path / "i" / "a.png", small.image_bytes(0))
    file = small.write(tmp_path / "l.txt", "a.png 0\n./a.png 1\n")
    with pytest.raises(UsageError, match="l.txt: a.png and ./a.png are one image"):
        read_classification(DataSpec(layout="labels", images=str(tmp_path / "i"), annotations=str(file)), "")


def test_names_of_some_classes_are_refused(tmp_path):
    for k, name in enumerate(("n01440764", "n01443537")):
        small.write(tmp_path / "val" / name / "0.png", small.image_bytes(k))
    spec = DataSpec(layout="imagenet", root=str(tmp_path), split="val")
    small.write(tmp_path / "synset_words.txt", "n01440764 tench, Tinca tinca\nn00000001 x y\n")
    with pytest.raises(UsageError, match="synset_words.txt: has no name for 1 of the 2 classes, first n01443537"):
        read_classification(spec, "")
    small.write(tmp_path / "synset_words.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert read_classification(spec, "").names == ("tench, Tinca tinca", "goldfish")


def test_shards_are_named_once_and_counted_upwards(tmp_path):
    for k in range(2):
        small.write(tmp_path / f"{k}.tar", b"")
    assert len(shards(f"{tmp_path}/{{0..1}}.tar")) == 2
    with pytest.raises(UsageError, match="names .*0.tar twice"):
        shards(f"{tmp_path}/{{0,*}}.tar")
    with pytest.raises(UsageError, match=r"\{1..0\} counts down to nothing; write \{0..1\}"):
        shards(f"{tmp_path}/{{1..0}}.tar")
