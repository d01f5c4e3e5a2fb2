"""Readers of the published layouts, on small files written here in those layouts, and what they say of wrong ones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import set_card, set_names, task_card
from levl_eval.core.errors import UsageError
from levl_eval.data.check import check
from levl_eval.data.entries import spread_over_classes
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_classification


def image(path, value=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


def read(layout, root, split="", **more):
    return read_classification(DataSpec(layout=layout, root=str(root), split=split, **more), "")


def test_aircraft_levels_and_official_splits(tmp_path):
    root = tmp_path / "fgvc-aircraft-2013b" / "data"
    for n in ("0056978", "1025794", "2034567"):
        image(root / "images" / f"{n}.jpg")
    (root / "variants.txt").write_text("707-320\nA300B4\nAn-12\n")
    (root / "images_variant_test.txt").write_text("1025794 A300B4\n0056978 707-320\n2034567 An-12\n")
    (root / "images_family_test.txt").write_text("1025794 Airbus A300\n0056978 Boeing 707\n2034567 An-12\n")
    found = read("aircraft", tmp_path, "test")
    assert found.classes == ("707-320", "A300B4", "An-12") and found.labels.tolist() == [1, 0, 2]
    assert found.images.ids[0] == "1025794.jpg"
    assert "Boeing 707" in read("aircraft", tmp_path, "test", level="family").classes  # names hold spaces
    with pytest.raises(UsageError, match=r"field `level`.*manufacturer"):
        read("aircraft", tmp_path, "test", level="maker")
    (root / "images_variant_val.txt").write_text("9999999 An-12\n")
    with pytest.raises(UsageError, match=r"1 of 1 images are missing, first .*9999999\.jpg"):
        read("aircraft", tmp_path, "val")


def test_pets(tmp_path):
    for n in ("Abyssinian_100", "american_bulldog_3"):
        image(tmp_path / "images" / f"{n}.jpg")
    listing = tmp_path / "annotations" / "test.txt"
    listing.parent.mkdir()
    listing.write_text("#Image CLASS-ID SPECIES BREED ID\namerican_bulldog_3 2 2 1\nAbyssinian_100 1 1 1\n")
    found = read("pets", tmp_path, "test")
    assert found.classes == ("Abyssinian", "american_bulldog") and found.labels.tolist() == [1, 0]
    listing.write_text("Abyssinian_100\n")
    with pytest.raises(UsageError, match="line 1: expected `IMAGE CLASS-ID"):
        read("pets", tmp_path, "test")


def test_sun397_partition(tmp_path):
    for f in ("a/abbey/sun_a.jpg", "b/bakery/shop/sun_b.jpg"):
        image(tmp_path / "SUN397" / f)
    part = tmp_path / "SUN397" / "Partitions"
    part.mkdir()
    (part / "ClassName.txt").write_text("/a/abbey\n/b/bakery/shop\n")
    (part / "Testing_01.txt").write_text("/b/bakery/shop/sun_b.jpg\n/a/abbey/sun_a.jpg\n")
    found = read("sun397", tmp_path, "Testing_01")
    assert found.classes == ("abbey", "bakery/shop") and found.labels.tolist() == [1, 0] and found.names[1] == "bakery shop"


def test_places365_lists_and_class_folders(tmp_path):
    for f in ("val_256/Places365_val_00000001.jpg", "val_256/Places365_val_00000002.jpg"):
        image(tmp_path / f)
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/a/apartment_building/outdoor 1\n")
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n")
    found = read("places365", tmp_path, "val")
    assert found.labels.tolist() == [1, 0] and found.names == ("airfield", "apartment building outdoor")
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg 365\n")
    with pytest.raises(UsageError, match="line 1: label '365' is none of the 2 classes"):
        read("places365", tmp_path, "val")
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/a/apartment_building/outdoor\n")
    with pytest.raises(UsageError, match=r"categories_places365\.txt: line 2: expected"):
        read("places365", tmp_path, "val")
    easy = tmp_path / "easy" / "places365_standard" / "val"
    for c in ("airfield", "alley"):
        image(easy / c / "1.jpg")
    assert read("places365", tmp_path / "easy", "val").classes == ("airfield", "alley")


def test_imagenet_folders_with_said_names(tmp_path):
    for c in ("n01440764", "n01443537"):
        image(tmp_path / "val" / c / "x.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01443537 goldfish, Carassius auratus\nn01440764 tench, Tinca tinca\n")
    found = read("imagenet", tmp_path, "val")
    assert found.classes == ("n01440764", "n01443537") and found.names == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    with pytest.raises(UsageError, match="holds no class folders"):
        read("imagenet", tmp_path, "train")
    flat = tmp_path / "kaggle"
    for i in (1, 2):
        image(flat / "ILSVRC" / "Data" / "CLS-LOC" / "val" / f"v{i}.JPEG")
    (flat / "LOC_synset_mapping.txt").write_text("n01 tench\nn02 goldfish\nn03 shark\n")
    (flat / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv2,n01 85 1 499 272\nv1,n03 1 2 3 4\n")
    found = read("imagenet", flat, "val")
    assert found.images.ids == ("v1.JPEG", "v2.JPEG") and found.labels.tolist() == [2, 0] and found.names[1] == "goldfish"


def planes(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def test_cifar_binary_and_python_versions_agree(tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.array([3, 0, 1, 2], np.uint8)
    binary, python = tmp_path / "b" / "cifar-10-batches-bin", tmp_path / "p" / "cifar-10-batches-py"
    binary.mkdir(parents=True)
    python.mkdir(parents=True)
    (binary / "test_batch.bin").write_bytes(np.concatenate([labels[:, None], planes(pixels)], 1).tobytes())
    (binary / "batches.meta.txt").write_text("airplane\nautomobile\nbird\ncat\n\n")
    names = [b"airplane", b"automobile", b"bird", b"cat"]
    batch = {b"data": planes(pixels), b"labels": labels.tolist()}
    (python / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    (python / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    one, two = read("cifar10", tmp_path / "b", "test"), read("cifar10", tmp_path / "p", "test")
    assert one.classes == two.classes == ("airplane", "automobile", "bird", "cat") and one.labels.tolist() == [3, 0, 1, 2]
    assert (np.asarray(one.images.open("000002")) == pixels[2]).all() and one.images.fingerprint == two.images.fingerprint
    (python / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros(0), b"labels": pytest.approx}, protocol=2))
    with pytest.raises(UsageError, match="which is no image data"):  # refused, never run
        read("cifar10", tmp_path / "p", "test")
    (binary / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(UsageError, match="3 bytes are not a whole number"):
        read("cifar10", tmp_path / "b", "test")


def test_cifar100_levels(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    head = np.array([[1, 2], [0, 1]], np.uint8)  # coarse, fine
    (tmp_path / "test.bin").write_bytes(np.concatenate([head, planes(pixels)], 1).tobytes())
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\nbee\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\ninsects\n")
    assert read("cifar100", tmp_path, "test").labels.tolist() == [2, 1]
    assert read("cifar100", tmp_path, "test", level="coarse").labels.tolist() == [1, 0]


def test_stl10_columns_and_a_label_file_of_the_wrong_length(tmp_path):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (3, 96, 96, 3), np.uint8)
    (tmp_path / "test_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
    (tmp_path / "test_y.bin").write_bytes(bytes([2, 1, 2]))
    (tmp_path / "class_names.txt").write_text("airplane\nbird\n")
    found = read("stl10", tmp_path, "test")
    assert found.labels.tolist() == [1, 0, 1] and (np.asarray(found.images.open("000001")) == pixels[1]).all()
    (tmp_path / "test_y.bin").write_bytes(bytes([2, 1]))
    with pytest.raises(UsageError, match="2 labels for 3 images"):
        read("stl10", tmp_path, "test")
    (tmp_path / "test_y.bin").write_bytes(bytes([2, 1, 3]))
    with pytest.raises(UsageError, match="labels from 0 to 2 for 2 classes"):
        read("stl10", tmp_path, "test")


def test_label_files(tmp_path):
    for i, f in enumerate(("a.png", "b.png", "sub/c.png")):
        image(tmp_path / "images" / f, i)
    marks = tmp_path / "labels.txt"
    spec = DataSpec(layout="labels", images=str(tmp_path / "images"), annotations=str(marks))
    marks.write_text("1\n0\n1\n")
    assert read_classification(spec, "").labels.tolist() == [1, 0, 1]
    marks.write_text("sub/c.png dog\na.png cat\n")
    found = read_classification(spec, "")
    assert found.images.ids == ("sub/c.png", "a.png") and found.classes == ("cat", "dog")
    for text, message in {
        "1\n0\n": "2 labels for the 3 images", "a.png 1\n0\n": "line 2 has 1 columns", "a.png 1\na.png 0\n": "a.png is listed twice",
        "gone.png 1\na.png 0\n": "1 of 2 images are missing",
    }.items():  # fmt: skip
        marks.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_classification(spec, "")


def test_limit_takes_from_all_classes_in_turn():
    assert spread_over_classes([0, 0, 0, 1, 1, 2], 4) == [0, 1, 3, 5] and spread_over_classes([1, 0], None) == [0, 1]


def test_a_head_takes_a_sets_fields_and_its_own_card_wins(tmp_path):
    card = task_card("knn@pets", {"k": "[5]"})
    assert card.name == "knn@pets" and card.train.layout == "pets" and card.chance and card.k == [5]
    assert task_card("zeroshot@aircraft").templates == ["a photo of a {}, a type of aircraft."]
    assert task_card("pets").engine == "linear" and task_card("pets").data.split == "test"
    own = tmp_path / "mine.yaml"
    own.write_text("kind: task\nname: mine\nengine: linear\nmain_metric: top1\nset: pets\nchance: 0.5\n")
    assert task_card(str(own)).chance == 0.5 and task_card(str(own)).train.layout == "pets"
    with pytest.raises(UsageError, match=r"unknown set 'pet'.*pets"):
        task_card("linear@pet")
    with pytest.raises(UsageError, match="no head for classification sets"):
        task_card("gqa@pets")


def test_data_check_counts_sets_and_reports_leakage(tmp_path):
    for split, values in (("train", (1, 2)), ("test", (3, 2))):
        for c in ("cat", "dog"):
            for v in values:
                image(tmp_path / "cifar10" / split / c / f"{split}{v}.png", v + 50 * (c == "dog"))
    found = {(f.level, f.set): f.message for f in check(tmp_path)}
    assert found["note", "cifar10/test"].endswith("published 10,000") and "2 to 2 each" in found["note", "cifar10/train"]
    assert found["error", "cifar10"] == "leakage: 2 test images are training images too, first cat/test2.png is cat/train2.png"


# Columns of the hub copies the cards name, beside the image and the label.
HUB = {
    "aircraft": {"family": "names", "manufacturer": "names"}, "cifar10": {}, "cifar100": {"coarse_label": "names"}, "imagenet": {},
    "pets": {"image_id": "text", "label_cat_dog": "names"}, "places365": {}, "stl10": {}, "sun397": {}, "food101": {},
    "eurosat": {"image_id": "text"}, "stanford-cars": {}, "cub": {}, "tiny-imagenet": {},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n in set_names() if set_card(n).data.hub is not None))
def test_every_sets_hub_copy_is_read_by_every_head(name, monkeypatch, context):
    import datasets

    from levl_eval.backbones import load_backbone
    from levl_eval.data import hub
    from levl_eval.engines.probes import common

    card, asked = set_card(name), []
    label, image = {"cifar100": "fine_label"}.get(name, "label"), "img" if name.startswith("cifar") else "image"

    def table(source, config):
        asked.append((source.repo, source.split))
        test = len(asked) % 2 == 0  # training is read first
        made = [Image.fromarray(np.random.default_rng([i, test]).integers(0, 256, (8, 8, 3), np.uint8)) for i in range(8)]
        names = datasets.ClassLabel(names=["a_b", "c", "d", "e"])
        kinds = {image: datasets.Image(), label: names}
        rows = {image: made, label: [0, 1, 2, 3, 0, 1, 2, 3]}
        for column, kind in HUB[name].items():
            kinds[column] = names if kind == "names" else datasets.Value("string")
            rows[column] = [3] * 8 if kind == "names" else ["x"] * 8
        return HubTable(datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)))

    monkeypatch.setattr(hub, "load_split", table)
    parts = common.load_parts(context(task_card(f"linear-path@{name}"), load_backbone("random:nano"), "hub"), choices=True)
    assert asked == [(s.hub.repo, s.hub.split) for s in (card.train, card.data)]
    assert parts.test.labels.tolist() == [0, 1, 2, 3] * 2 and len(parts.classes) == 4
    assert (len(parts.train), len(parts.validation)) == (4, 4)  # carved: no hub copy names a validation list
    assert ("validation" in parts.notes) == (name == "aircraft")
