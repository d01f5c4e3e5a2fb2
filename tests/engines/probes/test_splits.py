"""Which images train, choose and test: published validation lists, few-shot draws, class folders that differ, further backgrounds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.engines.probes import backgrounds, common, linear, path


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(path)


@pytest.fixture
def planes(tmp_path):
    """FGVC-Aircraft's layout: three variants with 4 images in train, 2 in val and 3 in test each; returns --data DIR."""
    root = tmp_path / "data" / "aircraft" / "fgvc-aircraft-2013b" / "data"
    variants, lists, number = ("707-320", "A300B4", "An-12"), {"train": [], "val": [], "test": []}, 0
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for variant in variants:
            for _ in range(count):
                noise(root / "images" / f"{number:07d}.jpg", number)
                lists[split].append(f"{number:07d} {variant}\n")
                number += 1
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    (root / "variants.txt").write_text("".join(v + "\n" for v in variants))
    for split, lines in lists.items():
        (root / f"images_variant_{split}.txt").write_text("".join(lines))
    return tmp_path / "data"


def test_aircrafts_own_validation_list_chooses_and_is_not_trained_on(context, planes):
    nano = load_backbone("random:nano")
    seen = {}

    def counts(card):
        parts = common.load_parts(context(card, nano, planes), choices=True)
        seen["parts"] = parts
        names = [set(np.array(p.data.images.ids)[p.rows]) for p in (parts.train, parts.validation)]
        return names, parts.cache["feature_misses"]

    few = {"c_values": "3"}
    (train, validation), misses = counts(task_card("linear-path@aircraft", few))
    listed = {s: {f"{i:07d}.jpg" for i in r} for s, r in {"train": range(12), "val": range(12, 18)}.items()}
    assert train == listed["train"] and validation == listed["val"]  # trainval without val: the published train list
    assert misses == 2  # trainval and test; val's features are trainval's
    assert seen["parts"].data["counts"] == {"images": 9, "classes": 3, "train_images": 12, "validation_images": 6}
    assert seen["parts"].notes["validation_images_listed_in_training"] == 6 and "leakage" not in seen["parts"].notes
    (train, validation), misses = counts(task_card("linear-path@aircraft", {**few, "train.split": "train"}))
    assert train == listed["train"] and validation == listed["val"] and misses == 2  # train and val apart; test is there already
    (train, validation), _ = counts(task_card("linear-path@aircraft", {**few, "validation": "{share: 0.5}"}))
    assert len(train) == len(validation) == 9 and train | validation == listed["train"] | listed["val"]
    out = linear.run(context(task_card("aircraft", {"epochs": "1"}), nano, planes))
    assert out.data["counts"]["train_images"] == 18 and "validation_images" not in out.data["counts"]  # nothing is chosen
    best = linear.run(context(task_card("aircraft", {"epochs": "1", "keep": "best"}), nano, planes))
    assert best.data["counts"]["train_images"] == 12 and best.data["counts"]["validation_images"] == 6


def test_data_check_reads_the_validation_list_too(planes):
    def findings():
        return {(f.set, f.level): f.message for f in check(planes)}

    assert findings()["aircraft/val", "note"] == "6 images, 3 classes, 2 to 2 each; published 3,333"
    root = next(planes.glob("aircraft/*/data"))
    listing, test = root / "images_variant_val.txt", (root / "images_variant_test.txt").read_text()
    listing.write_text(listing.read_text() + test.splitlines()[0] + "\n")
    assert findings()["aircraft", "error"].startswith("leakage: 1 test images are validation images too, first 0000018")
    listing.unlink()
    assert "images_variant_val.txt" in findings()["aircraft", "error"]


def test_a_validation_list_that_is_missing_leaks_or_is_all_of_training(context, planes):
    nano = load_backbone("random:nano")
    root = next(planes.glob("aircraft/*/data"))
    card = task_card("linear-path@aircraft", {"c_values": "3", "train.split": "train"})
    listing, test = root / "images_variant_val.txt", (root / "images_variant_test.txt").read_text()
    own = listing.read_text()
    listing.write_text(own + test.splitlines()[0] + "\n")
    out = path.run(context(card, nano, planes))
    assert out.notes["leakage_into_validation"]["test_images_in_validation"] == 1
    assert out.metrics["top1_unleaked"].n == 8 and "leakage" not in out.notes
    listing.write_text((root / "images_variant_train.txt").read_text())
    with pytest.raises(LevlError, match="every training image is a validation image too"):
        path.run(context(card, nano, planes))
    listing.unlink()
    with pytest.raises(UsageError, match=r"images_variant_val\.txt: cannot be read.*validation=\{share: 0\.1\}"):
        path.run(context(card, nano, planes))
    notes = {}
    assert common.own_validation(context(card, nano, "hub"), notes) is None and "carved" in notes["validation"]


def test_few_shot_takes_each_number_of_shots_or_what_a_class_has(context, tmp_path, monkeypatch):
    sizes = {"a": 30, "b": 30, "few": 7, "one": 1}
    for k, (name, count) in enumerate(sizes.items()):
        for i in range(count):
            noise(tmp_path / "d" / "train" / name / f"{i}.png", 100 * k + i)
        noise(tmp_path / "d" / "test" / name / "t.png", 100 * k + 99)
    fitted, solve = [], path.solve_path

    def watched(parts, classes, *args, **kwargs):
        (x, y), = parts  # fmt: skip
        fitted.append((tuple(np.bincount(y, minlength=classes)), x.rows.tobytes()))
        return solve(parts, classes, *args, **kwargs)

    monkeypatch.setattr(path, "solve_path", watched)
    where = {
        "train.root": str(tmp_path / "d" / "train"),
        "data.root": str(tmp_path / "d" / "test"),
        "train.split": "''",
        "data.split": "''",
    }
    card = task_card("few-shot", {**where, "draws": "3", "c_values": "2"})
    assert card.shots == [1, 2, 4, 8, 16]  # the card's own
    out = path.run(context(card, load_backbone("random:nano")))
    # 30 images leave 27 for training and 7 leave 6; the class of one image keeps it.
    assert [c for c, _ in fitted] == [(s, s, min(s, 6), 1) for s in card.shots for _ in range(3)]
    for k, shots in enumerate(card.shots):
        drawn = {rows for _, rows in fitted[3 * k : 3 * k + 3]}
        told = out.notes["draws"][str(shots)]
        assert len(drawn) == 3 and len(told["top1"]) == len(told["C"]) == 3
        assert out.metrics[f"top1_{shots}shot"].value == pytest.approx(np.mean(told["top1"]), abs=1e-5)
        assert told["standard_deviation"] == pytest.approx(np.std(told["top1"], ddof=1), abs=1e-5)
    assert out.metrics["top1_16shot"].value == pytest.approx(np.mean([s.score for s in out.samples]))
    assert out.notes["classes_of_one_image"] == ["one"]


@pytest.fixture
def renamed(world, tmp_path):
    """The tiny world with one test class under another name."""
    shutil.copytree(world / "classification", tmp_path / "w" / "classification")
    first = min((tmp_path / "w" / "classification" / "test").iterdir())
    first.rename(first.with_name("unheard"))
    return tmp_path / "w", first.name


@pytest.mark.parametrize("task", ["linear", "linear-path", "knn", "attentive", "few-shot"])
def test_class_folders_that_differ_are_refused_by_every_head(task, context, renamed):
    from levl_eval.engines.contract import engine

    data, gone = renamed
    card = task_card(task)
    with pytest.raises(LevlError, match=f"{task}: class folders of training and test differ, first '{gone}'"):
        engine(card.engine)(context(card, load_backbone("random:nano"), data))


def test_class_folders_that_differ_are_a_failed_record_of_one_line(renamed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    data, gone = renamed
    words = ["run", "--backbone", "random:nano", "--tasks", "knn", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "Traceback" not in "".join(capsys.readouterr())
    record = json.loads(next((tmp_path / "out" / "records").glob("*.json")).read_text())
    assert (
        record["status"] == "failed"
        and "class folders of training and test differ" in record["reason"]
        and gone in record["reason"]
    )


def test_further_backgrounds_are_measured_where_they_are_present(context, world, tmp_path):
    nano = load_backbone("random:nano")
    shutil.copytree(world / "imagenet9", tmp_path / "b" / "imagenet9")
    base = tmp_path / "b" / "imagenet9"
    for source in sorted((base / "original" / "val").rglob("*.jpg")):
        group = source.parent.name
        for name, file in (("only_fg", f"fg_{source.stem}.jpg"), ("mixed_next", f"fg_{source.stem}_bg_other.jpg")):
            (base / name / "val" / group).mkdir(parents=True, exist_ok=True)
            if name == "only_fg" or file != "fg_000000_bg_other.jpg":
                shutil.copy(source, base / name / "val" / group / file)
    out = backgrounds.run(context(task_card("imagenet9", {"epochs": "3"}), nano, tmp_path / "b"))
    m = out.metrics
    assert out.notes["variants"] == ["original", "mixed_same", "mixed_rand", "mixed_next", "only_fg"]
    assert {"only_fg", "drop_only_fg", "mixed_next", "drop_mixed_next"} <= set(m) and "no_fg" not in m
    # only_fg shows the very images of original here, so every foreground's difference is zero.
    assert m["drop_only_fg"].method.startswith("paired") and m["drop_only_fg"].value == 0 and m["drop_only_fg"].stderr == 0
    assert m["only_fg"].value == m["original"].value
    assert m["drop_mixed_next"].method.startswith("two samples")  # foregrounds are missing in it
    assert m["drop_mixed_next"].value == pytest.approx(m["original"].value - m["mixed_next"].value)
    shutil.rmtree(min((base / "only_fg" / "val").iterdir()))
    with pytest.raises(LevlError, match="class folders of training and only_fg differ, first"):
        backgrounds.run(context(task_card("imagenet9", {"epochs": "1"}), nano, tmp_path / "b"))
