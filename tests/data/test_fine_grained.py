"""Fine-grained sets in their published layouts, made by the test, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards.registry import set_card, task_card
from levl_eval.core.errors import UsageError
from levl_eval.data.readers import read_classification

SETS = ("food101", "dtd", "cub", "gtsrb", "flowers102", "stanford-cars", "eurosat", "country211", "caltech101", "inat2021")


def picture(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def food(root: Path) -> None:
    for split, number in (("train", 1), ("test", 2)):
        write(root / "food-101" / "meta" / f"{split}.txt", f"apple_pie/{number}\nsteak/{number}\n")
        for name in ("apple_pie", "steak"):
            picture(root / "food-101" / "images" / name / f"{number}.jpg", number)


def dtd(root: Path) -> None:
    for split, number in (("train1", 1), ("val1", 3), ("test1", 2)):
        write(root / "dtd" / "labels" / f"{split}.txt", "".join(f"{c}/{c}_{number}.jpg\n" for c in ("banded", "woven")))
        for name in ("banded", "woven"):
            picture(root / "dtd" / "images" / name / f"{name}_{number}.jpg", number)


def cub(root: Path) -> None:
    top = root / "CUB_200_2011"
    images = ["001.Black_footed_Albatross/a.jpg", "002.Laysan_Albatross/b.jpg"] * 2
    images = [f"{Path(i).parent}/{k}.jpg" for k, i in enumerate(images)]
    for i in images:
        picture(top / "images" / i)
    write(top / "images.txt", "".join(f"{k} {i}\n" for k, i in enumerate(images, 1)))
    write(top / "image_class_labels.txt", "1 1\n2 2\n3 1\n4 2\n")
    write(top / "train_test_split.txt", "1 1\n2 1\n3 0\n4 0\n")
    write(top / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")


def gtsrb(root: Path) -> None:
    top = root / "gtsrb"
    for k in range(43):
        picture(top / "GTSRB" / "Training" / f"{k:05d}" / "00000_00000.ppm", k)
    picture(top / "GTSRB" / "Final_Test" / "Images" / "00000.ppm")
    picture(top / "GTSRB" / "Final_Test" / "Images" / "00001.ppm", 9)
    write(top / "GT-final_test.csv", "Filename;Width;ClassId\n00000.ppm;8;16\n00001.ppm;8;1\n")


def flowers(root: Path) -> None:
    io = pytest.importorskip("scipy.io")
    top = root / "flowers-102"
    for k in range(1, 7):
        picture(top / "jpg" / f"image_{k:05d}.jpg", k)
    io.savemat(top / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    io.savemat(top / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 2, 1]]})


def cars(root: Path) -> None:
    io = pytest.importorskip("scipy.io")
    top = root / "stanford_cars"
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    (top / "devkit").mkdir(parents=True)
    io.savemat(top / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Acura RL"], object)})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([(3, 1, "00001.jpg"), (3, 2, "00002.jpg")], dtype=kind)
        io.savemat(top / file, {"annotations": rows})
        for k in (1, 2):
            picture(top / f"cars_{split}" / f"0000{k}.jpg", k)


WRITERS = {"food101": food, "dtd": dtd, "cub": cub, "gtsrb": gtsrb, "flowers102": flowers, "stanford-cars": cars}
NAMES = {
    "food101": ("apple pie", "steak"), "dtd": ("banded", "woven"), "cub": ("Black footed Albatross", "Laysan Albatross"),
    "flowers102": ("1", "2"), "stanford-cars": ("AM General", "Acura RL"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_set_goes_under_every_head(name):
    card = set_card(name)
    assert card.source and card.train is not None and card.train.layout == card.data.layout
    for head in ("linear", "knn", "zeroshot", "few-shot"):
        assert task_card(f"{head}@{name}").data == card.data


@pytest.mark.parametrize("name", list(WRITERS))
def test_the_published_layout(name, tmp_path):
    card = set_card(name)
    WRITERS[name](tmp_path / card.data.directory)
    assert card.train is not None
    train, test = (read_classification(s, str(tmp_path)) for s in (card.train, card.data))
    assert (train.classes == test.classes and not set(train.images.ids) & set(test.images.ids)) or name in ("stanford-cars",)
    if name == "gtsrb":
        assert test.labels.tolist() == [16, 1] and len(train.images) == 43
        return
    assert (train.names or train.classes) == NAMES[name]
    assert test.labels.tolist() == ([1, 0] if name == "flowers102" else [0, 1])
    if not isinstance(card.validation, type(card.train)):
        return
    assert read_classification(card.validation, str(tmp_path)).classes == train.classes


@pytest.mark.parametrize("name", list(WRITERS))
def test_class_folders_in_place_of_the_lists(name, tmp_path):
    card = set_card(name)
    for split in ("train", "test"):
        for c in ("a", "b"):
            picture(tmp_path / card.data.directory / split / c / "0.png")
    spec = card.data.model_copy(update={"split": "test"})
    assert read_classification(spec, str(tmp_path)).classes == ("a", "b")
    with pytest.raises(UsageError, match="unpack"):
        read_classification(spec.model_copy(update={"split": "gone"}), str(tmp_path))


def test_lists_that_do_not_fit(tmp_path):
    cub(tmp_path / "cub")
    spec = set_card("cub").data
    write(tmp_path / "cub" / "CUB_200_2011" / "image_class_labels.txt", "1 1\n2 2\n3 1\n4 9\n")
    with pytest.raises(UsageError, match="image 4: class 9 is beyond the 2 of classes.txt"):
        read_classification(spec, str(tmp_path))
    food(tmp_path / "food101")
    write(tmp_path / "food101" / "food-101" / "meta" / "test.txt", "apple_pie\n")
    with pytest.raises(UsageError, match="line 1: expected CLASS/IMAGE"):
        read_classification(set_card("food101").data, str(tmp_path))
    gtsrb(tmp_path / "gtsrb")
    write(tmp_path / "gtsrb" / "gtsrb" / "GT-final_test.csv", "Filename,ClassId\n")
    with pytest.raises(UsageError, match="separated by semicolons"):
        read_classification(set_card("gtsrb").data, str(tmp_path))
    flowers(tmp_path / "flowers102")
    (tmp_path / "flowers102" / "flowers-102" / "setid.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(UsageError, match="cannot be read as a MATLAB file"):
        read_classification(set_card("flowers102").data, str(tmp_path))
