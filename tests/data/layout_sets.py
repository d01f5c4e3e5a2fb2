"""The smallest whole set of every layout, as it is published: what is written below a folder, and the fields that name it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.data.choices import ARO_FILES, SUGARCREPE
from levl_eval.data.wordnet import imagenet_wnids
from tests.data import small_sets as small
from tests.data import (
    test_depth_lists,
    test_fine_grained,
    test_navi,
    test_normals,
    test_pairs,
    test_referring,
    test_revisited,
    test_videos,
)

Fields = dict[str, Any]
HERE = {"directory": "set"}  # below --data DIR


def image(path: Path, seed: int = 0) -> Path:
    return small.write(path, small.image_bytes(seed, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"))


def images(folder: Path, *names: str) -> None:
    for k, name in enumerate(names):
        image(folder / name, k)


def masks(folder: Path, *names: str) -> None:
    for k, name in enumerate(names):
        small.write(folder / name, small.mask_bytes(k))


def lines(path: Path, *rows: Any) -> Path:
    return small.write(path, "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))


def asked(root: Path, file: str, content: Any, *names: str, **fields: str) -> Fields:
    """A question file and the images it is about."""
    small.write(root / file, content if isinstance(content, str) else json.dumps(content))
    images(root, *names)
    return {**HERE, **fields}


def moved(make: Callable[[Path], Path], name: str, **fields: Any) -> Callable[[Path], Fields]:
    """A set of small_sets, which writes it into a folder of its own name."""

    def build(root: Path) -> Fields:
        make(root.parent)
        (root.parent / name).rename(root)
        return {**HERE, **fields}

    return build


def made(make: Callable[[Path], Any], **fields: Any) -> Callable[[Path], Fields]:
    """A set that another test writes."""

    def build(root: Path) -> Fields:
        make(root)
        return {**HERE, **fields}

    return build


def scienceqa(root: Path) -> Fields:
    small.write(root / "pid_splits.json", '{"test": ["1"]}')
    problem = {"image": "image.png", "question": "Is it?", "choices": ["a", "b"], "answer": 0}
    return asked(root, "problems.json", {"1": problem}, "test/1/image.png", split="test")


def mmbench(root: Path) -> Fields:
    encoded = base64.b64encode(small.image_bytes(0)).decode()
    lines(root / "mmbench_dev_en.tsv", "index\tquestion\thint\tA\tB\tC\tD\tanswer\timage", f"1\tw\t\tx\ty\t\t\tA\t{encoded}")
    return {**HERE, "split": "dev_en"}


def own_questions(root: Path) -> Fields:
    file = lines(root / "q.jsonl", {"image": "a.png", "question": "?", "answer": "x"})
    images(root, "a.png")
    return {"questions": str(file)}


def chartqa(root: Path) -> Fields:
    small.write(root / "test/test_augmented.json", "[]")
    row = {"imgname": "a.png", "query": "Is it?", "label": "yes"}
    return asked(root, "test/test_human.json", [row], "test/png/a.png", split="test")


def refcoco(root: Path) -> Fields:
    for name, seed in test_referring.SEED.items():
        small.write(root / "train2014" / name, small.image_bytes(seed))
    return asked(root, "finetune_refcoco_testA.json", test_referring.mdetr(), split="testA", level="refcoco")


def classes(*names: str, split: str = "val") -> Callable[[Path], Fields]:
    """Class folders."""

    def build(root: Path) -> Fields:
        for k, name in enumerate(names):
            image(root / split / name / "1.JPEG", k)
        return {**HERE, **({"split": split} if split else {})}

    return build


def labels(root: Path) -> Fields:
    images(root, "a.png", "b.png")
    return {"images": str(root), "annotations": str(lines(root / "t.txt", "a.png 0", "b.png 1"))}


def places365(root: Path) -> Fields:
    lines(root / "categories_places365.txt", "/a/abbey 0", "/b/bar 1")
    lines(root / "places365_val.txt", "1.jpg 0", "2.jpg 1")
    images(root / "val_256", "1.jpg", "2.jpg")
    return {**HERE, "split": "val"}


def aircraft(root: Path) -> Fields:
    lines(root / "images_family_val.txt", "1 Airbus", "2 Boeing")
    images(root / "images", "1.jpg", "2.jpg")
    return {**HERE, "split": "val", "level": "family"}


def pets(root: Path) -> Fields:
    lines(root / "annotations/test.txt", "Abyssinian_1 1 1 1", "beagle_1 2 2 1")
    images(root / "images", "Abyssinian_1.jpg", "beagle_1.jpg")
    return {**HERE, "split": "test"}


def sun397(root: Path) -> Fields:
    lines(root / "Partitions/Testing_01.txt", "/a/abbey/1.jpg", "/b/bar/2.jpg")
    images(root, "a/abbey/1.jpg", "b/bar/2.jpg")
    return {**HERE, "split": "Testing_01"}


def tiny_imagenet(root: Path) -> Fields:
    lines(root / "wnids.txt", "n1", "n2")
    lines(root / "val/val_annotations.txt", "1.JPEG\tn1\t0", "2.JPEG\tn2\t0")
    images(root / "val/images", "1.JPEG", "2.JPEG")
    return {**HERE, "split": "val"}


def objectnet(root: Path) -> Fields:
    small.write(root / "mappings/folder_to_objectnet_label.json", '{"chair": "Chair", "mug": "Mug"}')
    small.write(root / "mappings/objectnet_to_imagenet_1k.json", '{"Chair": "a chair", "Mug": "a mug"}')
    small.write(root / "mappings/pytorch_to_imagenet_2012_id.json", '{"0": 0, "1": 1}')
    lines(root / "mappings/imagenet_to_label_2012_v2", "a chair", "a mug")
    images(root / "images", "chair/1.png", "mug/1.png")
    return dict(HERE)


def cifar(root: Path, hundred: bool) -> Fields:
    root.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for level in ("fine", "coarse"):
        lines(root / f"{level}_label_names.txt", f"{level} a", f"{level} b")
    lines(root / "batches.meta.txt", "a", "b")
    head = np.array([[1, 0], [0, 1]] if hundred else [[0], [1]], np.uint8)
    np.hstack([head, pixels]).tofile(root / ("test.bin" if hundred else "test_batch.bin"))
    return {**HERE, "split": "test", **({"level": "coarse"} if hundred else {})}


def stl10(root: Path) -> Fields:
    root.mkdir(parents=True)
    np.random.default_rng(0).integers(0, 256, (2, 3 * 96 * 96), np.uint8).tofile(root / "test_X.bin")
    np.array([1, 2], np.uint8).tofile(root / "test_y.bin")
    lines(root / "class_names.txt", "a", "b")
    return {**HERE, "split": "test"}


def stuff(root: Path) -> Fields:
    """Masks of training ids, which are the classes themselves."""
    images(root / "images/val2017", "1.jpg", "2.jpg")
    masks(root / "annotations/val2017", "1_labelTrainIds.png", "2_labelTrainIds.png")
    return {**HERE, "split": "val2017"}


def pascal(year: str, listed: str, folder: str) -> Callable[[Path], Fields]:
    def build(root: Path) -> Fields:
        base = root / year
        lines(base / "ImageSets" / listed / "val.txt", "1", "2")
        images(base / "JPEGImages", "1.jpg", "2.jpg")
        masks(base / folder, "1.png", "2.png")
        return {**HERE, "split": "val"}

    return build


def cityscapes(root: Path) -> Fields:
    images(root / "leftImg8bit/val/a", "1_leftImg8bit.png")
    masks(root / "gtFine/val/a", "1_gtFine_labelTrainIds.png")
    return {**HERE, "split": "val"}


def own_masks(root: Path) -> Fields:
    images(root / "i", "1.png", "2.png")
    masks(root / "m", "1.png", "2.png")
    return {"images": str(root / "i"), "annotations": str(root / "m"), "classes": ["a", "b", "c", "d"]}


def karpathy(root: Path) -> Fields:
    rows = [{"filename": f"{k}.jpg", "split": "test", "sentences": [{"raw": f"the {k}"}]} for k in (0, 1)]
    return asked(root, "dataset_set.json", {"images": rows, "dataset": "x"}, "0.jpg", "1.jpg", split="test")


def captions(root: Path) -> Fields:
    images(root, "0.jpg", "1.jpg", "2.jpg")
    file = lines(root / "c.csv", "image,caption,split", "0.jpg,one,val", "1.jpg,two,val", "2.jpg,three,train")
    return {"annotations": str(file), "split": "val"}


def nyuv2(root: Path) -> Fields:
    images(root / "test/a", "rgb_1.png", "rgb_2.png")
    for k in (1, 2):
        Image.fromarray(np.full((10, 12), 1000 * k, np.uint16)).save(root / f"test/a/sync_depth_{k}.png")
    return {**HERE, "split": "test"}


def sunrgbd(root: Path) -> Fields:
    image(root / "SUNRGBD/a.jpg")
    Image.fromarray(np.full((10, 12), 8000, np.uint16)).save(root / "SUNRGBD/b.png")
    lines(root / "SUNRGBD_val_splits.txt", "SUNRGBD/a.jpg SUNRGBD/b.png")
    return {**HERE, "split": "test"}


def own_depth(root: Path) -> Fields:
    image(root / "i/1.png")
    (root / "m").mkdir()
    Image.fromarray(np.full((10, 12), 1000, np.uint16)).save(root / "m/1.png")
    return {"images": str(root / "i"), "annotations": str(root / "m")}


def own_normals(root: Path) -> Fields:
    image(root / "i/1.png")
    (root / "m").mkdir()
    Image.fromarray(test_normals.stored((10, 12))).save(root / "m/1.png")
    return {"images": str(root / "i"), "annotations": str(root / "m")}


def sugarcrepe(root: Path) -> Fields:
    for k, kind in enumerate(SUGARCREPE):
        row = {"filename": "a.jpg", "caption": f"a {k}", "negative_caption": "b"}
        small.write(root / f"data/{kind}.json", json.dumps({"0": row}))
    images(root / "val2017", "a.jpg")
    return {**HERE, "split": next(iter(SUGARCREPE))}


def own_choices(root: Path) -> Fields:
    images(root, "a.png")
    return {"annotations": str(lines(root / "c.jsonl", {"images": ["a.png"], "captions": ["a", "b"]}))}


def mmvp_vlm(root: Path) -> Fields:
    lines(root / "Questions.csv", "Question ID,Type,Statement", "1,a,b", "2,a,c")
    images(root / "MLLM_VLM Images/a", "1.jpg", "2.jpg")
    return dict(HERE)


_CV = {
    "idx": 0,
    "type": "2D",
    "task": "Count",
    "question": "w",
    "choices": ["1", "2"],
    "answer": "(A)",
    "source": "x",
    "filename": "a.jpg",
}
_MCQ = {"image": "a.png", "question": "w", "options": ["x", "y"], "answer": "A"}
_SEED = {
    "question_id": 1,
    "data_id": "a.jpg",
    "data_type": "image",
    "question": "w",
    "answer": "A",
    **{f"choice_{c}": c for c in "abcd"},
}
_TURNS = [{"from": "human", "value": "w"}, {"from": "gpt", "value": "x"}]
_VIZWIZ = {"image": "a.jpg", "question": "w", "answers": [{"answer": "x"}] * 10}
_TEXTVQA = {"question_id": 1, "image_id": "a", "question": "w", "answers": ["x"] * 10}
_OCR = {"dataset_name": "svt", "image_path": "a.png", "question": "Is it?", "answers": "yes", "type": "x"}
_DOC = {"questionId": 1, "question": "Is it?", "image": "documents/a.png", "answers": ["yes"]}
_INFO = {"questionId": 1, "question": "Is it?", "image_local_name": "a.jpeg", "answers": ["yes"]}
_TALLY = {"question_id": 1, "image": "VG_100K/1.jpg", "question": "How many?", "answer": 2}
_VSR = {"image": "1.jpg", "image_link": "http://x/val2017/1.jpg", "caption": "It is on it.", "label": 1, "relation": "on"}
_AI2D = {"questions": {"w": {"answerTexts": ["x", "y"], "correctAnswer": 0, "questionId": "1"}}}
_WINO = {"id": 0, "image_0": "x", "image_1": "y", "caption_0": "a", "caption_1": "b"}
_ORDER = {"image": "a.jpg", "caption_options": ["a", "b"]}
SETS: dict[str, Callable[[Path], Fields]] = {
    "gqa": moved(small.gqa_files, "gqa", split="testdev_balanced"), "vqav2": moved(small.vqav2_files, "vqav2", split="val2014"),
    "pope": moved(small.pope_files, "pope", level="coco", split="random"), "vqa": own_questions,
    "llava": lambda r: asked(r, "train.json", [{"id": "1", "image": "a.png", "conversations": _TURNS}], "images/a.png", split="train"),
    "textvqa": lambda r: asked(r, "TextVQA_0.5.1_val.json", {"data": [_TEXTVQA]}, "train_images/a.jpg", split="val"),
    "vizwiz": lambda r: asked(r, "Annotations/val.json", [_VIZWIZ], "val/a.jpg", split="val"), "scienceqa": scienceqa,
    "mme": lambda r: asked(r, "color/1.txt", "Is it?\tYes", "color/1.jpg"),
    "mmvp": lambda r: asked(r, "Questions.csv", "Index,Question,Options,Correct Answer\n1,w,(a) x (b) y,(a)", "MMVP Images/1.jpg"),
    "cv-bench": lambda r: asked(r, "test_2d.jsonl", _CV, "a.jpg", split="2D"),
    "seedbench": lambda r: asked(r, "SEED-Bench.json", {"questions": [_SEED]}, "SEED-Bench-image/a.jpg"), "mmbench": mmbench,
    "ai2d": lambda r: asked(r, "questions/1.png.json", _AI2D, "images/1.png"),
    "mcq": lambda r: asked(r, "questions.jsonl", _MCQ, "a.png"), "blink": lambda r: asked(r, "questions.jsonl", _MCQ, "a.png"),
    "realworldqa": lambda r: asked(r, "annotations.jsonl", {"image": "a.jpg", "question": "w", "answer": "x"}, "images/a.jpg"),
    "chartqa": chartqa, "docvqa": lambda r: asked(r, "val_v1.0_withQT.json", {"data": [_DOC]}, "documents/a.png", split="val"),
    "infovqa": lambda r: asked(r, "infographicsVQA_val_v1.0_withQT.json", {"data": [_INFO]}, "images/a.jpeg", split="val"),
    "ocrbench": lambda r: asked(r, "OCRBench.json", [_OCR], "OCRBench_Images/a.png"),
    "tallyqa": lambda r: asked(r, "test.json", [_TALLY], "VG_100K/1.jpg", split="test"),
    "vsr": lambda r: asked(r, "splits/random/test.jsonl", _VSR, "images/1.jpg", split="test", level="random"),
    "refcoco": refcoco, "refcoco-places": refcoco, "imagefolder": classes("a", "b"),
    "labels": labels, "imagenet": classes("n01440764", "n01443537"),
    "places365": places365, "aircraft": aircraft, "pets": pets, "sun397": sun397, "tiny-imagenet": tiny_imagenet, "objectnet": objectnet,
    **dict.fromkeys(("imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch"), classes(*imagenet_wnids()[:2], split="")),
    "food101": made(test_fine_grained.food, split="test"), "dtd": made(test_fine_grained.dtd, split="test1"),
    "cub": made(test_fine_grained.cub, split="test"), "gtsrb": made(test_fine_grained.gtsrb, split="test"),
    "flowers102": made(test_fine_grained.flowers, split="test"), "stanford-cars": made(test_fine_grained.cars, split="test"),
    "cifar10": lambda r: cifar(r, False), "cifar100": lambda r: cifar(r, True), "stl10": stl10,
    "ade20k": moved(small.ade_files, "ade20k", split="validation", classes=[*small.CLASSES, "sea"]),
    "coco-stuff": stuff, "coco-stuff-27": stuff, "voc": pascal("VOC2012", "Segmentation", "SegmentationClass"),
    **dict.fromkeys(("pascal-context", "pascal-context-59"), pascal("VOC2010", "SegmentationContext", "SegmentationClassContext")),
    "cityscapes": cityscapes, "segmentation": own_masks, "karpathy": karpathy, "captions": captions, "nyuv2": nyuv2, "sunrgbd": sunrgbd,
    "kitti": made(lambda r: test_depth_lists.kitti(r, 2, size=(360, 1220)), split="test", level="kb"), "depth": own_depth,
    "nyuv2-normals": made(lambda r: test_normals.small(r / "test"), split="test"), "normals": own_normals,
    "spair71k": made(test_pairs.small, split="test"), "davis": made(test_videos.small, split="val"),
    "revisited": made(test_revisited.small), "navi": made(test_navi.small, split="wild_set"), "sugarcrepe": sugarcrepe,
    "mmvp-vlm": mmvp_vlm, "winoground": lambda r: asked(r, "examples.jsonl", _WINO, "images/x.png", "images/y.png"),
    "aro": lambda r: asked(r, ARO_FILES["order"], [_ORDER], "images/a.jpg", split="order"), "choices": own_choices,
}  # fmt: skip


def _tables() -> dict[str, Any]:
    """Layout -> (fields, table): of those that the hub has, one of each declaration and every one of masks."""
    import datasets

    rows = [{"image": small.image_bytes(k), "annotation": small.mask_bytes(k)} for k in range(2)]
    pairs = small.table_of(rows, ("image", "annotation"))
    named = {"classes": ["a", "b", "c", "d"]}
    seen = [{"image": small.image_bytes(k), "caption": f"the {k}", "split": "test"} for k in range(3)]
    kinds = small.table_of(
        [{"image": small.image_bytes(k), "label": k} for k in range(2)], label=datasets.ClassLabel(names=["a", "b"])
    )
    ordered = {"correct_caption": "a", **{f"hard_text_{k}": f"b{k}" for k in range(1, 5)}}
    asked = {"image": small.image_bytes(0), "Question": "w", "Options": "(a) x (b) y", "Correct Answer": "(a)"}
    return {
        "mmvp": ({}, small.table_of([asked])), "refcoco": ({"split": "testA", "level": "refcoco"}, test_referring.table()),
        "imagefolder": ({"split": "val"}, kinds),
        "captions": ({"split": "test"}, small.table_of([*seen, {**seen[0], "split": "train"}])),
        "aro": ({"split": "order"}, small.table_of([{"images": small.image_bytes(0), **ordered}], ("images",))),
        "sugarcrepe": ({}, small.table_of([{"images": small.image_bytes(0), "caption": "a", "negative_caption": "b"}], ("images",))),
        **{k: ({"split": "val"}, pairs) for k in ("voc", "coco-stuff", "coco-stuff-27")},
        **{k: ({"split": "val", **named}, pairs) for k in ("ade20k", "cityscapes", "pascal-context", "pascal-context-59")},
        "segmentation": (named, pairs),
    }  # fmt: skip


def repositories(folder: Path) -> dict[str, Fields]:
    """Layout -> fields of a set whose table lies in a local repository below ``folder``."""
    out: dict[str, Fields] = {}
    for layout, (fields, table) in _tables().items():
        small.repository(folder / layout, {"default": ("test", table)})
        out[layout] = {**fields, "hub": {"repo": str(folder / layout), "split": "test"}}
    small.pope_repository(folder / "pope")
    small.gqa_repository(folder / "gqa")
    parts = {"questions": "instructions", "images": "images", "split": "testdev"}
    return {
        **out, "pope": {"hub": {"repo": str(folder / "pope"), "split": "test"}},
        "gqa": {"split": "testdev_balanced", "hub": {"repo": str(folder / "gqa"), **parts}},
    }  # fmt: skip
