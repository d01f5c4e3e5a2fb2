"""Distribution shifts: the class map by hand, a perfect and a blind encoder, files of each layout, zero-shot names, the scenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.data.check import check
from levl_eval.data.readers import read_classification
from levl_eval.data.wordnet import class_columns, imagenet_wnids
from levl_eval.engines.probes import shift
from levl_eval.engines.probes.texts import spoken_names
from levl_eval.scenes.shifts import KINDS, shifted_pixels


class Knows(Backbone):
    """Tells an image's class by its bytes; blind: the same of every image."""

    def __init__(self, *sets, blind: bool = False) -> None:
        super().__init__()
        self.name = self.uri = "knows"
        self.preprocess = Preprocess(64, "squash", None, "bilinear", (0.0,) * 3, (1.0,) * 3)
        self.of = {}
        names = list(dict.fromkeys(c for s in sets for c in s.classes))
        for s in sets:
            for i, y in zip(s.images.ids, s.labels, strict=True):
                self.of[np.asarray(self.preprocess(s.images.open(i))).tobytes()] = names.index(s.classes[y])
        self.dim = self.patch_dim = len(names) + 1
        self.grid, self.blind, self.weights_sha256 = (1, 1), blind, str(int(blind)) * 64

    def encode(self, images: torch.Tensor) -> Features:
        pooled = torch.zeros(len(images), self.dim)
        for k, image in enumerate(images):
            pooled[k, -1 if self.blind else self.of[image.numpy().tobytes()]] = 1.0
        return Features(pooled, pooled[:, None], self.grid)


def picture(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_columns_by_name_and_joined():
    assert class_columns(["a", "b", "c"], ["c", "a+b"]) == [[2], [0, 1]]
    assert class_columns(["a+b", "c", "d"], ["a+b", "c+d"]) == [[0], [1, 2]]  # a name comes before what it could be cut into
    with pytest.raises(UsageError, match="class 'x' of the test set is none of the 2 classes trained on"):
        class_columns(["a", "b"], ["a+x"])


def test_projection_as_a_plain_loop_has_it():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(40, 7)).astype(np.float32))
    columns, labels = [[3], [0, 5], [6]], rng.integers(0, 3, 40)
    projected = shift.project(logits, columns)
    right, best = shift.right_among_all(logits, labels, columns)
    for i in range(40):
        row = logits[i].tolist()
        assert projected[i].tolist() == [row[3], max(row[0], row[5]), row[6]]
        assert best[i] == int(np.argmax(row)) and right[i] == float(np.argmax(row) in columns[labels[i]])
    assert torch.equal(shift.project(logits, [[2], [0]]), logits[:, [2, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_and_a_blind_encoder_on_the_scenes(kind, world, context):
    card = task_card(f"shift@scenes-{kind}", {"epochs": "60", "batch_size": "16"})
    sets = [read_classification(spec, str(world)) for spec in (card.train, card.data)]
    perfect = shift.run(context(card, Knows(*sets)))
    assert perfect.metrics["top1"].value == perfect.metrics["top1_all"].value == 1.0
    assert perfect.metrics["floor_chance"].value == pytest.approx(1 / 24)
    blind = shift.run(context(card, Knows(*sets, blind=True)))
    assert blind.metrics["top1"].value == pytest.approx(1 / 24)
    assert len(list(perfect.samples)) == 24


def test_some_of_the_classes_are_chosen_among_themselves(tmp_path, context):
    for k, name in enumerate(("a", "b", "c")):
        for i in range(4):
            picture(tmp_path / "train" / name / f"{i}.png", (k * 80, i * 20, 0))
    for name, k in (("a", 0), ("c", 2)):
        picture(tmp_path / "test" / name / "0.png", (k * 80, 200, 9))
    settings = {"data": f"{{layout: imagefolder, root: {tmp_path / 'test'}}}",
                "train": f"{{layout: imagefolder, root: {tmp_path / 'train'}}}", "epochs": "60"}  # fmt: skip
    card = task_card("shift", settings)
    train, test = (read_classification(s, str(tmp_path)) for s in (card.train, card.data))
    knows = Knows(train, test)
    # a looks like b
    knows.of = {k: 1 if v == 0 else v for k, v in knows.of.items() if v != 1} | {k: v for k, v in knows.of.items() if v == 1}
    out = shift.run(context(card, knows, data=tmp_path))
    assert out.metrics["top1_all"].value < 1.0 and out.data["counts"]["classes"] == 2
    rows = shift.run(context(card.model_copy(update={"main_metric": "top1_all"}), knows, data=tmp_path)).samples
    assert {r.prediction for r in rows} <= {"a", "b", "c"}


def test_the_probe_is_trained_once_for_all_test_sets(world, context, monkeypatch):
    trained = []
    real = shift.fit_by_card
    monkeypatch.setattr(shift, "fit_by_card", lambda *a: trained.append(1) or real(*a))
    cards = [task_card(f"shift@scenes-{k}", {"epochs": "2"}) for k in ("noise", "style")]
    sets = [read_classification(s, str(world)) for c in cards for s in (c.train, c.data)]
    first = context(cards[0], Knows(*sets))
    kept = shift.run(first).metrics["top1"].value
    second = context(cards[1], first.backbone)
    second.kept = first.kept
    shift.run(second)
    assert len(trained) == 1
    again = context(task_card("shift@scenes-noise", {"epochs": "3"}), first.backbone)
    again.kept = first.kept
    shift.run(again)
    assert len(trained) == 2 and 0 <= kept <= 1


@pytest.mark.parametrize(("layout", "top"), [("imagenet-a", ""), ("imagenet-r", "imagenet-r"), ("imagenet-sketch", "sketch")])
def test_folders_of_wordnet_ids(layout, top, tmp_path):
    root = tmp_path / "d" / top
    for name in ("n01440764", "n01443537"):
        picture(root / name / "x.JPEG", (9, 9, 9))
    (root / "README.txt").write_text("hello")
    spec = DataSpec(layout=layout, directory="d")
    data = read_classification(spec, str(tmp_path))
    assert data.classes == ("n01440764", "n01443537") and len(data.images) == 2
    picture(root / "n99999999" / "x.jpg", (9, 9, 9))
    with pytest.raises(UsageError, match="'n99999999' is no class of ImageNet's 1,000"):
        read_classification(spec, str(tmp_path))


def test_imagenet_v2s_folders_are_numbers(tmp_path):
    root = tmp_path / "imagenet_v2" / "imagenetv2-matched-frequency-format-val"
    for number in (10, 9, 100):
        picture(root / str(number) / "x.jpeg", (number, 0, 0))
    data = read_classification(DataSpec(layout="imagenet-v2", directory="imagenet_v2"), str(tmp_path))
    wnids = imagenet_wnids()
    assert data.classes == (wnids[9], wnids[10], wnids[100])
    assert [data.images.ids[k].split("/")[0] for k in np.argsort(data.labels)] == ["9", "10", "100"]


def objectnet(root):
    picture(root / "images" / "chair" / "1.png", (255, 0, 0), (20, 16))
    image = Image.new("RGB", (20, 16), (255, 0, 0))
    image.paste((0, 0, 255), (2, 2, 18, 14))
    image.save(root / "images" / "chair" / "1.png")
    picture(root / "images" / "banana" / "1.png", (0, 90, 0), (20, 16))
    picture(root / "images" / "zebra" / "1.png", (0, 90, 0), (20, 16))
    mappings = root / "mappings"
    mappings.mkdir()
    folders = {"chair": "Chair", "banana": "Banana", "zebra": "Zebra"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(
        json.dumps({"Chair": "barber chair; rocking chair, rocker", "Banana": "banana"})
    )
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({"423": 0, "765": 1, "954": 2}))
    (mappings / "imagenet_to_label_2012_v2").write_text("barber chair\nrocking chair, rocker\nbanana\n")


def test_objectnets_files(tmp_path):
    objectnet(tmp_path / "objectnet" / "objectnet-1.0")
    spec = DataSpec(layout="objectnet", directory="objectnet")
    data = read_classification(spec, str(tmp_path))
    wnids = imagenet_wnids()
    assert data.classes == (wnids[954], f"{wnids[423]}+{wnids[765]}") and data.names == ("banana", "chair")
    image = data.images.open("chair/1.png")
    assert image.size == (16, 12) and image.getpixel((0, 0)) == (0, 0, 255)  # without the red border
    assert data.images.left_out["classes that ImageNet has not"] == 1
    assert class_columns(wnids, data.classes) == [[954], [423, 765]]
    (tmp_path / "objectnet" / "objectnet-1.0" / "mappings" / "imagenet_to_label_2012_v2").write_text("barber chair\n")
    with pytest.raises(UsageError, match="'rocking chair, rocker' is not in the other mappings"):
        read_classification(spec, str(tmp_path))


@pytest.mark.slow
def test_names_of_some_of_imagenets_classes():
    pytest.importorskip("open_clip")
    wnids = imagenet_wnids()
    whole = spoken_names("openai", wnids, (), "t")
    assert spoken_names("openai", (wnids[0], wnids[999]), (), "t") == [whole[0], whole[999]]


def test_data_check_counts_a_shifted_set_without_its_training_set(tmp_path):
    for name in ("n01440764", "n01443537"):
        picture(tmp_path / "imagenet_a" / name / "x.jpg", (9, 9, 9))
        picture(tmp_path / "imagenet" / "train" / name / "x.jpg", (9, 9, 9))
    found = [(f.level, f.message) for f in check(tmp_path) if f.set.startswith("imagenet-a")]
    assert found == [("note", "2 images, 2 classes, 1 to 1 each; published 7,500")]


def test_shifted_pixels_keep_their_form():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(shifted_pixels(pixels, "texture", 0, 0), pixels)
    for kind in ("colour", "noise", "style"):
        out = shifted_pixels(pixels, kind, 3, 0)
        assert out.dtype == np.uint8 and out.shape == pixels.shape and not np.array_equal(out, pixels)
        assert np.array_equal(out, shifted_pixels(pixels, kind, 3, 0))
