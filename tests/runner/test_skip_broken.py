"""--skip-broken: broken images, missing files and questions that do not fit become failed rows, up to a bound; the default refuses."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from levl_eval.cards.skip import SkipBound
from levl_eval.cli import main
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.readers import read_captions, read_classification, read_questions, read_segmentation
from levl_eval.data.set_identity import of_set
from levl_eval.records import identity_of, read_samples
from levl_eval.runner.evaluate import evaluate
from tests.data import small_sets as small
from tests.engines.vlm.models import make

FAST = ["recipe=scenes", "recipe.steps=2", "recipe.images_per_batch=4", "recipe.max_questions=40", "prompt.max_new_tokens=3"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llm"), context=512)


@pytest.fixture
def data(world, tmp_path):
    """A copy of the world, to break."""
    out = tmp_path / "data"
    shutil.copytree(world, out, ignore=shutil.ignore_patterns("ade20k", "imagenet9"))
    return out


class Heard(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def break_gqa(data):
    file = next((data / "gqa").glob("**/testdev_balanced_questions.json"))
    rows = json.loads(file.read_text())
    images = list(dict.fromkeys(q["imageId"] for q in rows.values()))
    folder = data / "gqa" / "images"
    whole = (folder / f"{images[0]}.jpg").read_bytes()
    (folder / f"{images[0]}.jpg").write_bytes(whole[: -len(whole) // 4])
    (folder / f"{images[1]}.jpg").unlink()
    broken = [k for k, q in rows.items() if q["imageId"] in images[:2]]
    return file, rows, broken, images


@pytest.mark.slow
def test_broken_images_and_long_questions_are_failed_rows(data, llm, tmp_path):
    file, rows, broken, images = break_gqa(data)
    long = next(k for k, q in rows.items() if q["imageId"] == images[2])
    rows[long]["question"] = "what is it " * 300
    file.write_text(json.dumps(rows))

    def go(bound, out="out", progress=None):
        (record,) = evaluate(
            ["random:nano"], ["gqa"], data=str(data), llm=llm.name, settings=[f"gqa.{s}" for s in FAST], out=tmp_path / out,
            cache=tmp_path / "cache", progress=progress or Progress(quiet=True), skip_broken=bound,
        )  # fmt: skip
        return record

    refused = go(None)
    assert refused.status == "failed" and "1 of 12 images are missing" in refused.reason
    small_bound = go(1)
    assert small_bound.status == "failed"
    assert "2 of 12 images cannot be used, more than --skip-broken 1 allows: " in small_bound.reason
    assert (
        f"{images[0]} (cannot be decoded (it is cut off))" in small_bound.reason
        and f"{images[1]} (no such image)" in small_bound.reason
    )
    heard = Heard()
    record = go("20%", progress=heard)
    assert record.status == "done", record.reason
    samples = {s.id: s for s in read_samples(record.home, record)}
    failed = {k for k, s in samples.items() if s.status != "ok"}
    assert failed == {*broken, long} and len(samples) == len(rows)
    assert all(samples[k].score == 0 and samples[k].status.startswith("failed: ") for k in failed)
    assert "positions of 512" in samples[long].status
    assert record.metrics["accuracy"].n == len(rows)  # they count, as wrong answers
    assert record.metrics["accuracy"].value == pytest.approx(sum(s.score for s in samples.values()) / len(rows))
    assert record.data["failed_rows"] == len(failed) and record.data["too_long"] == {"questions": 1, "of": len(rows)}
    assert any("2 of 12 images cannot be used and are skipped" in x for x in heard.lines)
    assert any(f"1 of {len(rows)} questions do not fit its context of 512 and fail" in x for x in heard.lines)
    assert sum("max_new_tokens" in x for x in heard.lines) == 1 and "end at max_new_tokens (3)" in record.notes["cut_answers"]
    assert record.notes["answering"]["cut"] > 0 and str(len(failed)) in record.notes["failed_rows"]
    assert identity_of(record).hash == record.identity_hash
    again = go("20%")
    assert again == record  # nothing is computed again

    # repaired: another set, another record
    (data / "gqa" / "images" / f"{images[1]}.jpg").write_bytes(small.image_bytes(1, "JPEG"))
    one = go("20%")
    assert one.data["fingerprint"] != record.data["fingerprint"] and one.data["failed_rows"] < record.data["failed_rows"]


def test_a_long_question_is_named_and_a_record_with_one_is_not_taken_where_none_is_allowed(data, llm, tmp_path):
    file = next((data / "gqa").glob("**/testdev_balanced_questions.json"))
    rows = json.loads(file.read_text())
    long = list(rows)[5]
    rows[long]["question"] = "what is it " * 300
    file.write_text(json.dumps(rows))

    def go(**more):
        (record,) = evaluate(
            ["random:nano"], ["gqa"], data=str(data), llm=llm.name, settings=[f"gqa.{s}" for s in FAST], out=tmp_path / "out",
            cache=tmp_path / "cache", progress=Progress(quiet=True), **more,
        )  # fmt: skip
        return record

    refused = go()
    assert refused.status == "failed" and str(file) in refused.reason
    assert f"question {long} needs " in refused.reason and "exceed its context of 512" in refused.reason
    taken = go(skip_broken=1)
    assert taken.status == "done" and taken.data["too_long"]["questions"] == 1
    refused = go()
    assert refused.status == "failed" and f"question {long} needs " in refused.reason


@pytest.mark.slow
def test_without_anything_broken_the_option_changes_nothing(data, tmp_path):
    plain, allowed = (
        evaluate(
            ["random:nano"], ["linear"], data=str(data), seeds=[0], out=tmp_path / str(n), cache=tmp_path / "cache",
            settings=["linear.epochs=1"], progress=Progress(quiet=True), skip_broken=bound,
        )[0]
        for n, bound in enumerate((None, "1%"))
    )  # fmt: skip
    assert plain.identity_hash == allowed.identity_hash and plain.metrics == allowed.metrics


def test_a_probe_leaves_broken_images_out_of_its_metrics(data, tmp_path, capsys):
    folder = data / "classification" / "test"
    first = sorted(folder.glob("*/*"))[0]
    first.write_bytes(b"no image")
    words = [
        "run",
        "--backbone",
        "random:nano",
        "--tasks",
        "linear",
        "--set",
        "linear.epochs=1",
        "--data",
        str(data),
        "--seeds",
        "0",
    ]
    assert main([*words, "--out", str(tmp_path / "a"), "--quiet"]) == 1
    assert main([*words, "--out", str(tmp_path / "b"), "--skip-broken", "1"]) == 0
    told = capsys.readouterr()
    assert "1 of 48 images cannot be used and are skipped" in told.err
    from levl_eval.records import read_records

    (record,) = read_records(tmp_path / "b")
    assert record.metrics["top1"].n == 47 and record.data["failed_rows"] == 1
    (failed,) = [s for s in read_samples(record.home, record) if s.status != "ok"]
    assert failed.score is None and failed.id == f"{first.parent.name}/{first.name}"
    assert main([*words, "--out", str(tmp_path / "c"), "--skip-broken", "half", "--quiet"]) == 2
    assert "expected a whole number such as 3, or a percentage" in capsys.readouterr().err


def test_each_kind_of_set_leaves_out_what_is_broken(tmp_path):
    root = small.ade_files(tmp_path)
    base = root / "ade20k" / "ADEChallengeData2016"
    (base / "annotations" / "validation" / "v1.png").write_bytes(b"no mask")
    (base / "images" / "validation" / "v2.jpg").unlink()
    found = read_segmentation(small.ade_spec(skip_broken="2"), str(root))
    assert found.images.ids == ("v0.jpg", "v3.jpg") and set(found.images.skipped) == {"v1.jpg", "v2.jpg"}
    for k, name in enumerate("ac"):
        small.write(tmp_path / "images" / f"{name}.png", small.image_bytes(k))
    lines = small.write(tmp_path / "images" / "captions.csv", "image,caption\na.png,one\nb.png,two\nc.png,three\n")
    captions = read_captions(small.DataSpec(layout="captions", annotations=str(lines), skip_broken="50%"), "")
    assert (
        captions.images.ids == ("a.png", "c.png") and captions.captions == ("one", "three") and captions.owner.tolist() == [0, 1]
    )
    small.class_files(tmp_path)
    for k in range(small.N):
        (tmp_path / "classification" / "test" / "cat" / f"{k}.png").write_bytes(b"x")
    spec = small.class_spec().model_copy(update={"skip_broken": "4"})
    assert set(read_classification(spec, str(tmp_path)).labels.tolist()) == {1}


def test_pipes_folders_and_dead_links_are_skipped_too(tmp_path):
    folder = small.class_files(tmp_path) / "classification" / "test" / "cat"
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to("nowhere")
    spec = small.class_spec().model_copy(update={"skip_broken": "3"})
    known = FingerprintCache(tmp_path / "cache")
    first = of_set(known, "classification", spec, str(tmp_path))
    assert set(first.skipped) == {"cat/pipe.png", "cat/folder.png", "cat/link.png"}
    assert of_set(known, "classification", spec, str(tmp_path)) == first


@pytest.mark.parametrize(("value", "text"), [(3, "3"), ("0.5%", "0.5%"), (" 2 ", "2")])
def test_the_field_of_a_card(value, text):
    assert small.DataSpec(layout="gqa", skip_broken=value).skip_broken == text
    for wrong in (True, 1.5, -1, "x"):
        with pytest.raises(ValueError, match="expected a whole number such as 3"):
            small.DataSpec(layout="gqa", skip_broken=wrong)


def test_a_repaired_file_is_noticed(tmp_path):
    root = small.pope_files(tmp_path)
    image = root / "pope" / "val2014" / "COCO_val2014_000000000000.jpg"
    good = image.read_bytes()
    image.write_bytes(good[:100])
    spec = small.DataSpec(layout="pope", directory="pope", skip_broken="1")
    known = FingerprintCache(tmp_path / "cache")
    first = of_set(known, "questions", spec, str(root))
    assert set(first.skipped) == {image.name} and len(read_questions(spec, str(root)).failed) == 6
    image.write_bytes(good)
    second = of_set(known, "questions", spec, str(root))
    assert not second.skipped and second.fingerprint != first.fingerprint
    assert second.fingerprint == of_set(known, "questions", spec.model_copy(update={"skip_broken": None}), str(root)).fingerprint


def test_hub_tables_leave_broken_rows_out(tmp_path):
    rows = [{"question_id": str(i), "image_id": i, "question": f"What is {i}?", "answers": [{"answer": "a", "answer_id": 1}],
             "multiple_choice_answer": "a", "image": small.image_bytes(i) if i else b"no image"} for i in range(3)]  # fmt: skip
    repo = small.repository(tmp_path / "repo", {"default": ("validation", small.table_of(rows))})
    spec = small.DataSpec(layout="vqav2", hub=small.HubSource(repo=str(repo), split="validation"), skip_broken="1")
    found = read_questions(spec, "hub")
    assert len(found.questions) == 2 and [q.question_id for q in found.failed] == ["0"]


@pytest.mark.parametrize(
    ("text", "broken", "total", "allowed"),
    [("0", 0, 5, True), ("0", 1, 5, False), ("2", 2, 9, True), ("2", 3, 9, False), ("10%", 1, 10, True), ("10%", 2, 10, False)],
)
def test_bounds(text, broken, total, allowed):
    assert SkipBound.parse(text).allows(broken, total) is allowed


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "many", "%", "1e3"])
def test_bounds_that_are_refused(text):
    with pytest.raises(ValueError, match="expected a whole number such as 3"):
        SkipBound.parse(text)
