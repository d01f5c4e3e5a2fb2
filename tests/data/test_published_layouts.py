"""Published files in the names and folders they come in: POPE's other sources and releases, GQA-OOD, Tiny-ImageNet, CamVid's masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import set_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data import published
from levl_eval.data.fingerprints import questions_digest
from levl_eval.data.pope import of_popes_form, pope_questions, pope_version
from levl_eval.data.readers import read_classification, read_questions, read_segmentation
from levl_eval.data.types import Question
from tests.data import small_sets as small

SPLITS = ("random", "popular", "adversarial")


def pope_rows(split, image="{}", images=2):
    words = ["dog", "cup", "car", *(f"{split} {k}" for k in "abc")]
    texts = [f"Is there {'an' if w[0] in 'aeiou' else 'a'} {w} in the image?" for w in words]
    return [
        {"question_id": 6 * i + k, "image": image.format(i), "text": text, "label": "yes" if k < 3 else "no"}
        for i in range(images) for k, text in enumerate(texts)
    ]  # fmt: skip


def pope_folder(root, source, name, image):
    for split in SPLITS:
        small.write(root / name.format(source=source, split=split), "\n".join(map(json.dumps, pope_rows(split, image))))
    return root


@pytest.mark.parametrize(
    ("source", "name", "image"),
    [
        ("aokvqa", "{source}_pope_seem_{split}.json", "COCO_val2014_{:012d}.jpg"),
        ("gqa", "output/seem/{source}/{source}_pope_seem_{split}.json", "{}.jpg"),
        ("gqa", "{source}/{source}_pope_{split}.json", "{}.jpg"),
        ("coco", "output/coco/coco_pope_{split}.json", "COCO_val2014_{:012d}.jpg"),
    ],
)
def test_popes_files_of_every_source(source, name, image, tmp_path):
    pope_folder(tmp_path / "pope", source, name, image)
    folder = tmp_path / ("gqa/images" if source == "gqa" else "coco/val2014")
    for i in range(2):
        small.write(folder / image.format(i), small.image_bytes(i, "JPEG"))
    found = read_questions(DataSpec(layout="pope", directory="pope"), str(tmp_path))
    assert len(found.questions) == 36 and len(found.images) == 2
    if source != "coco":
        assert (
            found.version
            == f"{published_name(source)}, random 12, popular 12, adversarial 12: of POPE's form, not verified by content"
        )
    one = read_questions(DataSpec(layout="pope", directory="pope", split="popular", level=source), str(tmp_path))
    assert {q.meta["split"] for q in one.questions} == {"popular"} and len(one.questions) == 12


def published_name(source):
    return {"aokvqa": "A-OKVQA", "gqa": "GQA"}[source]


def test_whose_questions_are_meant_is_asked_where_it_is_open(tmp_path):
    pope_folder(tmp_path, "gqa", "{source}_pope_{split}.json", "{}.jpg")
    pope_folder(tmp_path, "aokvqa", "{source}_pope_{split}.json", "{}.jpg")
    with pytest.raises(UsageError, match="holds POPE's files of aokvqa and gqa; say which by the data's field `level`"):
        pope_questions(tmp_path)
    assert len(pope_questions(tmp_path, level="gqa")) == 36
    with pytest.raises(UsageError, match="`level`: expected coco, aokvqa, gqa, found 'vg'"):
        pope_questions(tmp_path, level="vg")
    with pytest.raises(UsageError, match="`split`: expected random, popular, adversarial, or none"):
        pope_questions(tmp_path, "test")


def test_one_of_popes_files_may_be_named_itself(tmp_path):
    file = pope_folder(tmp_path, "coco", "{source}_pope_{split}.json", "{}.png") / "coco_pope_popular.json"
    for i in range(2):
        small.write(tmp_path / "i" / f"{i}.png", small.image_bytes(i))
    spec = DataSpec(layout="pope", questions=str(file), images=str(tmp_path / "i"))
    assert {q.meta["split"] for q in read_questions(spec, "").questions} == {"popular"}
    file.rename(tmp_path / "mine.json")
    with pytest.raises(UsageError, match="is none of POPE's file names"):
        read_questions(spec.model_copy(update={"questions": str(tmp_path / "mine.json")}), "")


def test_popes_form():
    asked = [
        Question(f"{s}/{r['question_id']}", r["image"], r["text"], r["label"], (), {"split": s})
        for s in SPLITS
        for r in pope_rows(s)
    ]
    assert of_popes_form(asked)
    assert not of_popes_form(asked[:-1])
    assert not of_popes_form([*asked[:-1], Question("x", asked[-1].image_id, "What?", "no", (), {"split": "adversarial"})])
    assert pope_version(asked, "aokvqa").startswith("A-OKVQA, ") and pope_version(asked).startswith("own files, ")


def test_the_older_release_is_known_by_its_questions(monkeypatch):
    """2,910 random questions beside the official popular and adversarial ones (here: stand-ins, whose digests are put in)."""
    asked = {s: [Question(f"{s}/{r['question_id']}", r["image"], r["text"], r["label"], (), {"split": s}) for r in pope_rows(s, images=500)]
             for s in SPLITS}  # fmt: skip
    monkeypatch.setattr(published, "POPE", {questions_digest(asked[s]): s for s in ("popular", "adversarial")})
    older = [*asked["random"][:2910], *asked["popular"], *asked["adversarial"]]
    assert pope_version(older) == "older release, 2,910 random, 3,000 popular, 3,000 adversarial"
    first = older[0]
    other = Question(first.question_id, first.image_id, "Is there a whale in the image?", "yes", (), {"split": "random"})
    assert "own files" in pope_version([other, *older[1:]])  # an object that the others do not know to be there
    assert "own files" in pope_version(
        [*older[:-1], Question("x", "0", "Is there a whale in the image?", "no", (), {"split": "adversarial"})]
    )


@pytest.mark.parametrize("name", ["ood_testdev_tail.json", "data/ood_testdev_tail.json", "testdev_ood_tail.json"])
def test_gqa_ood(name, tmp_path):
    root = small.gqa_files(tmp_path)
    rows = {r["id"]: {k: v for k, v in r.items() if k != "id"} for r in small.gqa_rows()[:3]}
    small.write(root / "gqa" / name, json.dumps(rows))
    found = read_questions(DataSpec(layout="gqa", directory="gqa", split="testdev_ood_tail"), str(root))
    assert len(found.questions) == 3 and found.split == "testdev_ood_tail"
    with pytest.raises(UsageError, match=r"ood_testdev_head\.json.*github\.com/gqa-ood/GQA-OOD"):
        read_questions(DataSpec(layout="gqa", directory="gqa", split="testdev_ood_head"), str(root))


def tiny(root):
    for k, name in enumerate(("n02", "n01")):
        for i in range(2):
            small.write(root / "train" / name / "images" / f"{name}_{i}.JPEG", small.image_bytes(10 * k + i, "JPEG"))
        small.write(root / "train" / name / f"{name}_boxes.txt", "x")
        small.write(root / "val" / "images" / f"val_{k}.JPEG", small.image_bytes(50 + k, "JPEG"))
    small.write(root / "wnids.txt", "n02\nn01\n")
    small.write(root / "words.txt", "n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tno class\n")
    small.write(root / "val" / "val_annotations.txt", "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t52\t55\t57\t59\n")
    return root


def test_tiny_imagenet_as_its_archive_unpacks(tmp_path):
    root = tiny(tmp_path / "tiny-imagenet-200")
    card = set_card("tiny-imagenet")
    train, val = read_classification(card.train, str(tmp_path)), read_classification(card.data, str(tmp_path))
    assert train.classes == val.classes == ("n01", "n02") and val.names == ("goldfish, Carassius auratus", "bullfrog")
    assert train.labels.tolist() == [0, 0, 1, 1] and dict(zip(val.images.ids, val.labels.tolist(), strict=True)) == {
        "val_0.JPEG": 1,
        "val_1.JPEG": 0,
    }
    for layout in ("imagefolder", "imagenet"):  # by whatever card it is named
        again = read_classification(DataSpec(layout=layout, root=str(root), split="val"), "")
        assert again.labels.tolist() == val.labels.tolist()
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\t0\t1\t1\n")
    with pytest.raises(UsageError, match="line 1: expected IMAGE, a tab and an id of wnids"):
        read_classification(card.data, str(tmp_path))
    with pytest.raises(UsageError, match="expected train or val, found 'test'"):
        read_classification(card.data.model_copy(update={"split": "test"}), str(tmp_path))


def test_camvids_names_of_masks(tmp_path):
    for k in range(2):
        small.write(tmp_path / "images" / f"0001TP_{k}.png", small.image_bytes(k))
        small.write(tmp_path / "labels" / f"0001TP_{k}_L.png", small.mask_bytes(k))
    spec = DataSpec(
        layout="segmentation", images=str(tmp_path / "images"), annotations=str(tmp_path / "labels"), classes=["a", "b", "c", "d"]
    )
    assert read_segmentation(spec, "").images.ids == ("0001TP_0.png", "0001TP_1.png")
    small.write(tmp_path / "labels" / "0001TP_9.png", small.mask_bytes(9))  # two conventions at once: nothing is guessed
    with pytest.raises(UsageError, match="no mask has the name of an image"):
        read_segmentation(spec, "")


def test_no_message_names_the_programs_own_cache(tmp_path):
    world = tmp_path / "cache" / "scenes" / "seed0-v3-abc"
    small.write(world / "scenes.json", "{}")
    file = small.write(
        tmp_path / "mine" / "questions.json", json.dumps({"1": {"imageId": "a", "question": "Is it?", "answer": "yes"}})
    )
    spec = DataSpec(layout="gqa", directory="gqa", questions=str(file))
    with pytest.raises(
        UsageError, match="1 of 1 images are missing, first a; set the data's field `images` to the folder of GQA's images"
    ) as e:
        read_questions(spec, str(world))
    assert str(world) not in str(e.value)
    data = tmp_path / "data"
    with pytest.raises(
        UsageError, match=f"first {data}/gqa/images/a.jpg; put GQA's images into {data}/gqa/images, or set the data's field"
    ):
        read_questions(spec, str(data))


def test_the_record_of_data_that_cannot_be_read_names_them_and_not_the_scenes(tmp_path):
    from levl_eval.cards.registry import task_card
    from levl_eval.runner.datasets import test_source as named

    card = task_card("gqa", {"data.questions": str(tmp_path / "q.json")}, default_recipe="scenes")
    assert named(card, str(tmp_path)) == {"test_source": str(tmp_path / "q.json")}
    assert named(task_card("gqa", {}, default_recipe="scenes"), str(tmp_path)) == {}


def test_the_variants_of_imagenet9_lie_below_data_unless_the_card_names_their_place(world, tmp_path):
    from levl_eval.cards.registry import task_card
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.runner.datasets import data_facts

    known = FingerprintCache(tmp_path / "known")
    assert "test_source" not in data_facts(task_card("imagenet9"), str(world), None, known).notes
    root = world / "imagenet9"
    own = task_card("imagenet9", {"data.root": str(root), "train.root": str(root)})
    assert str(root) in data_facts(own, "scenes", None, known).notes["test_source"]


# ---- CamVid's masks as it publishes them: colours, and the file that names them

COLOURS = "64 128 64\tAnimal\n128 0 0\t\tBuilding\n0 0 0\t\tVoid\n64 192 0\tWall\n"


def camvid(root, pixels, lines=COLOURS, mode="RGB"):
    small.write(root / "i" / "0016E5_1.png", small.image_bytes(0))
    (root / "m").mkdir()
    image = Image.fromarray(np.array(pixels, np.uint8))
    {"RGB": image, "P": image.quantize(8), "L": image.convert("L")}[mode].save(root / "m" / "0016E5_1_L.png")
    file = small.write(root / "label_colors.txt", lines)
    return DataSpec(layout="segmentation", images=str(root / "i"), annotations=str(root / "m"), classes=str(file))


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_camvids_colours_by_its_own_table(mode, tmp_path):
    spec = camvid(tmp_path, [[[64, 128, 64], [64, 192, 0]], [[0, 0, 0], [128, 0, 0]]], mode=mode)
    found = read_segmentation(spec, "")
    assert found.classes == ("Animal", "Building", "Wall") and found.mask("0016E5_1.png").tolist() == [[0, 2], [255, 1]]
    again = read_segmentation(spec.model_copy(update={"classes": ["Animal", "Building", "Wall"]}), "")
    if mode == "RGB":
        with pytest.raises(LevlError, match="a RGB mask.*as CamVid's label_colors.txt"):
            again.mask("0016E5_1.png")
    assert found.label_map != again.label_map


@pytest.mark.parametrize(
    ("pixels", "lines", "mode", "words"),
    [
        ([[[64, 128, 65], [64, 192, 0]]], COLOURS, "RGB", r"colour \(64, 128, 65\) of 1 pixels is none of the 4 of the colour table"),
        ([[[0, 0, 0], [64, 192, 0]]], COLOURS, "L", "a L mask, but `classes` is a table of colours"),
        ([[[0, 0, 0]]], COLOURS + "0 0 0 Car\n", "RGB", "line 5: colour .0, 0, 0. is that of .*Void"),
        ([[[0, 0, 0]]], COLOURS + "256 0 0 Car\n", "RGB", "line 5: colour .256, 0, 0. has a value above 255"),
        ([[[0, 0, 0]]], COLOURS + "1 0 0 Wall\n", "RGB", "id 4: the name 'Wall' is that of another class"),
    ],
)  # fmt: skip
def test_colours_that_do_not_fit_are_refused(pixels, lines, mode, words, tmp_path):
    spec = camvid(tmp_path, pixels, lines, mode)
    with pytest.raises(LevlError, match=words):
        read_segmentation(spec, "").mask("0016E5_1.png")


def test_all_void_colours_are_told(tmp_path):
    with pytest.raises(UsageError, match="no pixel of the 1 masks belongs to a class"):
        read_segmentation(camvid(tmp_path, [[[0, 0, 0]]]), "")
