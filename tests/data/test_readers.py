"""Readers: published layouts, real files, and everything that can be wrong with them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_classification, read_questions, read_segmentation
from tests.data.small_sets import image_bytes, repository, table_of, write

SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on


def spec(layout: str, **more) -> DataSpec:
    return DataSpec(layout=layout, **{"directory": layout, **more})  # type: ignore[arg-type]


def image(path: Path, size=(8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def test_generated_world_through_the_published_layouts(world):
    gqa = read_questions(spec("gqa", split="testdev_balanced"), str(world))
    assert gqa.questions[0].meta["types"]["structural"] and len(gqa.images) == 12
    assert gqa.images.open(gqa.images.ids[0]).size == (64, 64)
    vqa = read_questions(spec("vqav2", split="val2014"), str(world))
    assert all(len(q.answers) == 10 for q in vqa.questions) and len(vqa.questions) == 96
    pope = read_questions(spec("pope"), str(world))
    assert {q.meta["split"] for q in pope.questions} == {"random", "popular", "adversarial"} and "own files" in pope.version
    ade = read_segmentation(spec("ade20k", split="validation", reduce_zero_label=True), str(world))
    mask = ade.mask(ade.images.ids[0])
    assert len(ade.classes) == 32 and ade.classes[0] == "sky" and mask.shape == (64, 64) and mask.max() < 32
    folders = read_classification(DataSpec(layout="imagefolder", directory="classification", split="test"), str(world))
    assert len(folders.classes) == 24 and len(folders.labels) == 48


def test_limit_takes_the_first_images_with_all_their_questions(world):
    full = read_questions(spec("gqa", split="testdev_balanced"), str(world))
    part = read_questions(spec("gqa", split="testdev_balanced"), str(world), limit=3)
    assert part.images.ids == full.images.ids[:3] and part.fingerprint != full.fingerprint
    assert [q for q in full.questions if q.image_id in part.images.ids] == list(part.questions)
    folders = read_classification(DataSpec(layout="imagefolder", directory="classification", split="test"), str(world), limit=24)
    assert sorted(folders.labels) == list(range(24))


def test_real_pope_files_are_recognised_and_say_where_images_go(shared, tmp_path):
    (tmp_path / "pope").symlink_to(shared / "pope")
    with pytest.raises(UsageError, match=r"500 of 500 images are missing, first .*val2014.*cocodataset") as e:
        read_questions(spec("pope"), str(tmp_path))
    assert "\n" not in str(e.value)
    folder = tmp_path / "images"
    names = {json.loads(line)["image"] for line in (shared / "pope" / "coco_pope_random.json").read_text().splitlines() if line}
    for n in names:
        image(folder / n)
    found = read_questions(spec("pope", images=str(folder)), str(tmp_path))
    assert len(found.questions) == 9000 and found.version == "official, 3 x 3,000"


def test_real_gqa_questions_without_images_say_what_is_missing(shared, tmp_path):
    with tarfile.open(shared / "gqa" / "testdev_balanced_questions.tar.gz") as t:
        t.extractall(tmp_path / "gqa" / "questions", **SAFELY)
    file = next((tmp_path / "gqa").rglob("*testdev_balanced_questions.json"))
    with pytest.raises(UsageError, match=r"398 of 398 images are missing, first .*\.jpg; put GQA's images into .*images") as e:
        read_questions(spec("gqa", split="testdev_balanced", questions=str(file)), str(tmp_path))
    assert "\n" not in str(e.value)


def test_real_coco_masks_with_sparse_ids(shared):
    root = shared / "coco128"
    split = next(p.name for p in sorted((root / "masks").iterdir()) if p.is_dir())
    s = DataSpec(
        layout="segmentation",
        images=str(root / "images" / split),
        annotations=str(root / "masks" / split),
        classes=str(root / "mask_classes.json"),
    )
    found = read_segmentation(s, "")
    assert len(found.images) == 100 and len(found.classes) > 80
    labels = np.unique(np.concatenate([found.mask(i).ravel() for i in found.images.ids[:20]]))
    assert labels.max() == 255 and len(labels) > 10


def test_missing_things_are_named_with_their_place(tmp_path):
    for layout, words in (
        ("gqa", "testdev_balanced_questions.json"),
        ("vqav2", "v2_OpenEnded"),
        ("pope", "coco_pope_random.json"),
    ):
        (tmp_path / layout).mkdir()
        with pytest.raises(UsageError, match=words) as e:
            read_questions(spec(layout), str(tmp_path))
        assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match="ADEChallengeData2016"):
        read_segmentation(spec("ade20k"), str(tmp_path))
    with pytest.raises(UsageError, match="no such folder"):
        read_classification(DataSpec(layout="imagefolder", directory="classification", split="train"), str(tmp_path))


def test_empty_and_broken_question_files(tmp_path):
    file = tmp_path / "q.jsonl"
    for text, words in [
        ("", "holds no questions"),
        ("{bad\n", "line 1 is not valid JSON"),
        ('{"image": "a.png"}\n', "field `question`"),
        ('{"image": "a.png", "question": "x?", "answer": " "}\n', "neither `answer` nor `answers`"),
        ('{"image": "a.png", "question": "x?", "answer": "y"}\n', "1 of 1 images are missing"),
        ('{"image": "a.png", "question": "x?", "answer": "y", "question_id": 1}\n' * 2, "occurs twice"),
    ]:
        file.write_text(text)
        with pytest.raises(UsageError, match=words) as e:
            read_questions(DataSpec(layout="vqa", questions=str(file)), str(tmp_path))
        assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


def test_a_users_questions(tmp_path):
    image(tmp_path / "a.png")
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"image": "a.png", "question": "What?", "answers": ["red", "red", "blue"]}\n'
        '{"image": "a.png", "question": "How?", "answer": "so"}\n'
    )
    found = read_questions(DataSpec(layout="vqa", questions=str(file)), "")
    assert [q.answer for q in found.questions] == ["red", "so"] and found.questions[0].answers == ("red", "red", "blue")
    before = found.images.fingerprint
    image(tmp_path / "a.png", (9, 9))
    assert read_questions(DataSpec(layout="vqa", questions=str(file)), "").images.fingerprint != before


def test_corrupt_image_is_named_when_opened(world, tmp_path):
    image(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:40])
    (tmp_path / "q.jsonl").write_text('{"image": "a.png", "question": "What?", "answer": "x"}\n')
    found = read_questions(DataSpec(layout="vqa", questions=str(tmp_path / "q.jsonl")), "")
    with pytest.raises(LevlError, match=r"a\.png: cannot be decoded"):
        found.images.open("a.png")


@pytest.fixture
def masks(tmp_path):
    def make(mask: Image.Image, size=(8, 6), **more) -> DataSpec:
        image(tmp_path / "images" / "a.png", size)
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / "a.png")
        fields = {"classes": ["x", "y", "z"], **more}
        return DataSpec(layout="segmentation", images=str(tmp_path / "images"), annotations=str(tmp_path / "masks"), **fields)

    return make


def test_mask_kinds(masks):
    values = np.arange(48).reshape(6, 8) % 3
    palette = Image.fromarray(values.astype(np.uint8))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for image in (Image.fromarray(values.astype(np.uint8)), palette, Image.fromarray(values.astype(np.uint16))):
        assert (read_segmentation(masks(image), "").mask("a.png") == values).all(), image.mode
    with pytest.raises(LevlError, match=r"a\.png: a RGB mask"):
        read_segmentation(masks(Image.new("RGB", (8, 6))), "").mask("a.png")
    with pytest.raises(LevlError, match=r"a\.png: label 7 is beyond the 3 classes"):
        read_segmentation(masks(Image.fromarray(np.full((6, 8), 7, np.uint8))), "").mask("a.png")
    zero = read_segmentation(masks(Image.fromarray(values.astype(np.uint8)), reduce_zero_label=True), "").mask("a.png")
    assert (zero == np.where(values == 0, 255, values - 1)).all()


def test_missing_pairs_and_class_lists(masks, tmp_path):
    s = masks(Image.new("L", (8, 6)))
    with pytest.raises(UsageError, match="`classes` is not set"):
        read_segmentation(s.model_copy(update={"classes": None}), "")
    Image.new("L", (8, 6)).save(tmp_path / "masks" / "orphan.png")
    with pytest.raises(UsageError, match="1 masks have no image, first orphan"):
        read_segmentation(s, "")


def test_check_reports_shared_images_duplicates_and_missing_ones(world, tmp_path):
    import shutil

    shutil.copytree(world, tmp_path / "w")
    root = tmp_path / "w"
    (next((root / "gqa" / "images").glob("stestdev*.jpg"))).unlink()
    file = root / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json"
    raw = json.loads(file.read_text())
    raw["questions"].append(raw["questions"][0])
    file.write_text(json.dumps(raw))
    mask = next((root / "ade20k").rglob("annotations/validation/*.png"))
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(mask)
    errors = {f.set: f.message for f in check(root) if f.level == "error"}
    assert "images are missing" in errors["gqa/testdev_balanced"]
    assert "occurs twice" in errors["vqav2/val2014"]
    assert "label 200" in errors["ade20k/validation"] and mask.name in errors["ade20k/validation"]
    assert "pope" not in errors


def test_hub_layout_from_a_local_directory(tmp_path, monkeypatch):
    """The published POPE schema as a parquet repository, read through `datasets` without a network."""
    import datasets

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = {
        "id": ["0", "1"], "question_id": ["1", "2"], "question": ["Is there a dog in the image?"] * 2, "answer": ["yes", "no"],
        "image_source": ["COCO_1", "COCO_2"], "category": ["random", "random"],
        "image": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (10, 200)],
    }  # fmt: skip
    features = datasets.Features({**{k: datasets.Value("string") for k in rows if k != "image"}, "image": datasets.Image()})
    repo = tmp_path / "POPE"
    (repo / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(repo / "data" / "test-00000-of-00001.parquet")
    found = read_questions(spec("pope", hub=HubSource(repo=str(repo), split="test")), "hub")
    assert [q.answer for q in found.questions] == ["yes", "no"]
    assert found.images.open("COCO_2").getpixel((0, 0)) == (200, 0, 0)


def test_a_local_repository_is_read_again_where_its_files_are_others(tmp_path, monkeypatch):
    """`datasets` keeps the tables of all local repositories of one name and one list of configurations in one place."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    seen = []
    for place, red in (("a", 10), ("b", 90), ("a", 200)):
        repo = tmp_path / place / "POPE"
        repo.mkdir(parents=True, exist_ok=True)
        row = {
            "id": "0",
            "question": "Is there a dog in the image?",
            "answer": "yes",
            "image_source": "COCO_1",
            "category": "random",
        }
        datasets.Dataset.from_list([{**row, "image": Image.new("RGB", (8, 8), (red, 0, 0))}]).to_parquet(repo / "test-0.parquet")
        (repo / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: test-*}\n---\n"
        )
        found = read_questions(spec("pope", hub=HubSource(repo=str(repo), split="test")), "hub")
        seen.append((found.images.open("COCO_1").getpixel((0, 0))[0], found.images.fingerprint))
    assert [red for red, _ in seen] == [10, 90, 200]
    assert len({mark for _, mark in seen}) == 3


def test_places365_of_two_hub_copies_has_the_same_classes(monkeypatch):
    import datasets

    image = Image.new("RGB", (8, 8))

    def table(source, config):
        names = ["/a/abbey", "/c/church/indoor"] if source.repo == "one" else ["abbey", "church/indoor"]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        return HubTable(datasets.Dataset.from_dict({"image": [image, image], "label": [1, 0]}, features=features))

    monkeypatch.setattr("levl_eval.data.hub.load_split", table)
    one, two = (
        read_classification(DataSpec(layout="places365", split="x", hub=HubSource(repo=r, split="train")), "hub")
        for r in ("one", "two")
    )
    assert one.classes == two.classes == ("abbey", "church/indoor") and one.labels.tolist() == [1, 0]
    assert one.names == ("abbey", "church indoor")


def test_cub_and_tiny_imagenet_are_the_same_set_from_files_and_hub(tmp_path):
    """Tables as the hub's repositories have them: an image, a class label by the release's names, and what else they hold."""
    import datasets

    birds, ids = ["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["n01443537", "n01629819"]
    for repo, names, split, more in (("birds", birds, "test", {"bbox": [[1.0, 2, 3, 4]] * 2}), ("tiny", ids, "valid", {})):
        rows = [{"image": image_bytes(i, "JPEG"), "label": 1 - i} for i in range(2)]
        table = table_of(rows, ("image",), label=datasets.ClassLabel(names=names))
        for column, values in more.items():
            table = table.add_column(column, values)
        repository(tmp_path / repo, {"default": (split, table)})
    top = tmp_path / "CUB_200_2011"
    for i in range(2):
        write(top / "images" / birds[1 - i] / f"{i}.jpg", image_bytes(i, "JPEG"))
        write(tmp_path / "tiny-imagenet-200" / "val" / "images" / f"val_{i}.JPEG", image_bytes(i, "JPEG"))
    write(top / "images.txt", "".join(f"{i + 1} {birds[1 - i]}/{i}.jpg\n" for i in range(2)))
    write(top / "classes.txt", "".join(f"{k} {name}\n" for k, name in enumerate(birds, 1)))
    write(top / "image_class_labels.txt", "1 2\n2 1\n")
    write(top / "train_test_split.txt", "1 0\n2 0\n")
    write(tmp_path / "tiny-imagenet-200" / "wnids.txt", "\n".join(ids))
    write(
        tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt",
        "".join(f"val_{i}.JPEG\t{ids[1 - i]}\t0\n" for i in range(2)),
    )
    for name, repo in (("cub", "birds"), ("tiny-imagenet", "tiny")):
        card = task_card(f"linear@{name}").data
        assert card.hub is not None
        here = card.model_copy(update={"hub": card.hub.model_copy(update={"repo": str(tmp_path / repo), "pinned": None})})
        hub, files = read_classification(here, "hub"), read_classification(card, str(tmp_path))
        assert hub.classes == files.classes and hub.labels.tolist() == files.labels.tolist() == [1, 0]
        assert hub.names == files.names and fingerprint_of(hub) == fingerprint_of(files)
    assert read_classification(task_card("linear@cub").data, str(tmp_path)).names == (
        "Black footed Albatross",
        "Laysan Albatross",
    )


def test_unreachable_hub_is_one_line(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="hub") as e:
        read_questions(spec("pope", hub=HubSource(repo="lmms-lab/POPE", split="test")), "hub")
    assert "\n" not in str(e.value)


def test_readers_are_found_in_the_registry_and_cover_every_layout():
    from typing import get_args

    from levl_eval.core.registry import Registry
    from levl_eval.data import readers

    tables = [t for t in vars(readers).values() if isinstance(t, Registry)]  # of every kind of set
    known = [name for t in tables for name in t]
    assert sorted(known) == sorted(get_args(DataSpec.model_fields["layout"].annotation))
    assert all(callable(t.load(name)) and t.origin(name) == "shipped" for t in tables for name in t)
    with pytest.raises(UsageError, match=r"unknown layout of questions 'gqaa' .did you mean gqa"):
        readers.QUESTIONS.find("gqaa")
