"""Predictions of other systems are scored as ours are, and compared by the same paired tests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import levl_eval
from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.core.errors import ProtocolMismatch, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_classification, read_questions, read_segmentation
from levl_eval.records import read_samples
from levl_eval.runner.importing import ImportOptions, import_predictions

QUIET = Progress(quiet=True)


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_our_own_predictions_come_back_with_our_numbers(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    run = {"data": str(world), "out": tmp_path / "run", "progress": QUIET, "seeds": [0]}
    options = ImportOptions(data=str(world), out=tmp_path / "run")
    ours = levl_eval.evaluate(["random-nano"], ["knn"], settings=["knn.k=[5]", "knn.main_metric=top1_k5"], **run)[0]
    rows = [{"id": s.image_id, "prediction": s.prediction} for s in read_samples(ours.home, ours)]
    theirs = import_predictions(lines(tmp_path / "p.jsonl", rows), "knn", "again", options, QUIET)
    a, b = ours.metrics["top1_k5"], theirs.metrics["top1"]
    assert (a.value, a.low, a.high) == (b.value, b.low, b.high)
    assert theirs.backbone["info"] == {"external": True} and theirs.data["fingerprint"] == ours.data["fingerprint"]
    with pytest.raises(ProtocolMismatch, match="external"):
        levl_eval.compare(ours, theirs)
    assert levl_eval.compare(ours, theirs, allow_mismatch=True).difference.value == 0


def test_two_systems_are_compared_by_the_paired_test(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_questions(task_card("pope").data, str(world))
    good = [{"question_id": q.question_id, "answer": q.answer} for q in test.questions]
    # The second as lmms-eval logs it, with every second answer wrong.
    turned = {"yes": "No.", "no": "Yes."}
    bad = [
        {"doc": {"question_id": q.question_id}, "filtered_resps": [q.answer if k % 2 else turned[q.answer]]} for k,
        q in enumerate(test.questions)
    ]  # fmt: skip
    for name, rows in (("good", good), ("bad", bad)):
        words = [
            "import",
            str(lines(tmp_path / f"{name}.jsonl", rows)),
            "--task",
            "pope",
            "--name",
            name,
            "--data",
            str(world),
            "--quiet",
        ]
        assert main([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "good on pope, accuracy 100" in said and "bad on pope, accuracy 50.0" in said
    assert main(["compare", "good", "bad", "--in", str(tmp_path / "run")]) == 0
    assert "good (external) is better than bad (external) by 50.0 points" in capsys.readouterr().out.replace("\n", " ")
    assert main(["leaderboard", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    record = next((tmp_path / "run" / "records").glob("pope--good*"))
    assert main(["rerun", str(record)]) == 2 and "import them again" in capsys.readouterr().err


def test_masks(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_segmentation(task_card("ade20k").data, str(world))
    perfect, empty = tmp_path / "perfect", tmp_path / "empty"
    for folder in (perfect, empty):
        folder.mkdir()
    for name in test.images.ids:
        mask = test.mask(name)
        truth = np.where(mask == test.ignore_index, 255, mask).astype(np.uint8)
        stem = name.rsplit(".", 1)[0].rsplit("/", 1)[-1]
        Image.fromarray(truth).save(perfect / f"{stem}.png")
        Image.fromarray(np.full_like(truth, 255)).save(empty / f"{stem}.png")
    options = ImportOptions(data=str(world), out=tmp_path / "run")
    values = [import_predictions(f, "ade20k", f.name, options, QUIET).metrics["mean_iou"].value for f in (perfect, empty)]
    assert values == [1.0, 0.0]
    first = next(empty.iterdir())
    with Image.open(first) as image:
        Image.new("I", image.size, -1).save(first.with_suffix(".tif"))
    first.unlink()
    with pytest.raises(UsageError, match=r"\.tif: holds -1, which is none of the \d+ classes"):
        import_predictions(empty, "ade20k", "e", options, QUIET)
    Image.new("L", (3, 2)).save(next(perfect.iterdir()))
    with pytest.raises(UsageError, match="is 3 x 2, the mask of"):
        import_predictions(perfect, "ade20k", "p", options, QUIET)


@pytest.mark.parametrize("task", ["ade20k-incontext", "ade20k-text", "ade20k-mmseg"])
def test_masks_for_every_kind_of_segmentation(world, tmp_path, monkeypatch, task):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_segmentation(task_card(task).data, str(world))
    options = ImportOptions(data=str(world), out=tmp_path / "run")
    write_masks(tmp_path / "m", test, lambda mask: np.where(mask == test.ignore_index, 255, mask))
    record = import_predictions(tmp_path / "m", task, "right", options, QUIET)
    assert record.metrics["mean_iou"].value == 1.0 and record.data["fingerprint"] == fingerprint_of(test)


def test_masks_where_the_background_is_no_class(world, tmp_path, monkeypatch):
    """Class numbers are those of the classes that are scored; the set's identity is that of the whole set, as in a run."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_segmentation(task_card("ade20k-text").data, str(world))
    out = test.classes[2]
    settings = ("ade20k-text.background=void", f"ade20k-text.background_class={out}")
    options = ImportOptions(data=str(world), out=tmp_path / "run", settings=settings)

    def without(mask):
        return np.where((mask == test.ignore_index) | (mask == 2), 255, np.where(mask > 2, mask - 1, mask))

    write_masks(tmp_path / "m", test, without)
    record = import_predictions(tmp_path / "m", "ade20k-text", "right", options, QUIET)
    assert record.metrics["mean_iou"].value == 1.0 and record.data["counts"]["classes"] == len(test.classes) - 1
    assert record.data["fingerprint"] == fingerprint_of(test) and out not in record.notes["iou_by_class"]


def test_what_the_card_scores_of_given_predictions_is_part_of_the_record(world, tmp_path, monkeypatch):
    """One folder of masks is two results where a class is left out of one of them; one file of classes two by another main metric."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_segmentation(task_card("ade20k-text").data, str(world))
    write_masks(tmp_path / "m", test, np.zeros_like)

    def imported(source, task, *settings):
        options = ImportOptions(data=str(world), out=tmp_path / "run", settings=tuple(f"{task}.{s}" for s in settings))
        return import_predictions(source, task, "same", options, QUIET)

    whole = imported(tmp_path / "m", "ade20k-text", "background=none")
    texts = imported(tmp_path / "m", "ade20k-text", "background=none", "synonyms=all")  # moves no score of a given mask
    void = imported(tmp_path / "m", "ade20k-text", "background=void", f"background_class={test.classes[2]}")
    assert whole.metrics["mean_iou"].value != void.metrics["mean_iou"].value
    assert whole.key == texts.key != void.key and whole.comparison_hash != void.comparison_hash
    with pytest.raises(ProtocolMismatch, match="class left out"):
        levl_eval.compare(whole, void)

    images = read_classification(task_card("linear").data, str(world)).images
    source = lines(tmp_path / "p.jsonl", [{"id": i, "prediction": 0} for i in images.ids])
    first, mean = (imported(source, "linear", f"main_metric={m}") for m in ("top1", "mean_per_class"))
    assert first.key != mean.key and first.comparison_hash != mean.comparison_hash


def write_masks(folder, test, change):
    folder.mkdir()
    for name in test.images.ids:
        stem = name.rsplit(".", 1)[0].rsplit("/", 1)[-1]
        Image.fromarray(change(test.mask(name)).astype(np.uint8)).save(folder / f"{stem}.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "no prediction for 1 of"),
        (lambda rows: [*rows, {"id": "strange", "prediction": 0}], "1 predictions are for no image"),
        (lambda rows: [*rows, rows[0]], "entry 49: id .* stands twice"),
        (lambda rows: [{**rows[0], "prediction": "unicorn"}, *rows[1:]], "'unicorn' is none of"),
        (lambda rows: [{**rows[0], "prediction": 99}, *rows[1:]], "99 is none of"),
        (lambda rows: [{"id": rows[0]["id"]}, *rows[1:]], "entry 1: has no prediction"),
        (lambda rows: [{"prediction": 0}, *rows[1:]], "entry 1: has no id"), (lambda rows: ["x"], "entry 1: expected an object"),
        (lambda rows: [{**rows[0], "prediction": True}, *rows[1:]], "entry 1: has no prediction"),
        (lambda rows: [], "holds no predictions"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(world, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_classification(task_card("linear").data, str(world))
    rows = [{"id": i, "prediction": int(k)} for i, k in zip(test.images.ids, test.labels, strict=True)]
    options = ImportOptions(data=str(world), out=tmp_path / "run")
    assert import_predictions(lines(tmp_path / "r.jsonl", rows), "linear", "right", options, QUIET).metrics["top1"].value == 1.0
    with pytest.raises(UsageError, match=message):
        import_predictions(lines(tmp_path / "w.jsonl", change(rows)), "linear", "wrong", options, QUIET)
    assert len(list((tmp_path / "run" / "records").iterdir())) == 1


def test_another_file_is_another_record(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_classification(task_card("linear").data, str(world))
    options = ImportOptions(data=str(world), out=tmp_path / "run")
    keys = set()
    for k in (0, 1, 0):
        rows = [{"id": i, "prediction": k} for i in test.images.ids]
        keys.add(import_predictions(lines(tmp_path / "p.jsonl", rows), "linear", "same name", options, QUIET).key)
    assert len(keys) == 2


def test_masks_of_two_images_with_one_stem_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    test = read_segmentation(task_card("ade20k").data, str(world))
    images = replace(test.images, ids=("a/1.jpg", "b/1.jpg"))
    monkeypatch.setattr("levl_eval.runner.importing.read_segmentation", lambda *a: replace(test, images=images))
    (tmp_path / "masks").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "masks" / "1.png")
    with pytest.raises(UsageError, match=r"a/1\.jpg and b/1\.jpg are two images of one file stem"):
        import_predictions(tmp_path / "masks", "ade20k", "p", ImportOptions(data=str(world), out=tmp_path / "run"), QUIET)
