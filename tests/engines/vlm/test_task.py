"""The vqa engine on the tiny world with a tiny random model: metrics, floors, resume after a kill, the server's upload file."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from levl_eval.cards import BackboneCard
from levl_eval.core.progress import Progress
from levl_eval.engines.vlm import answers as answering
from levl_eval.engines.vlm import recipe as recipes
from levl_eval.engines.vlm import task as tasks
from levl_eval.records import read_samples
from levl_eval.runner.evaluate import evaluate
from tests.engines.vlm.models import make

FAST = ["recipe=scenes", "recipe.steps=2", "recipe.images_per_batch=4", "recipe.max_questions=40", "prompt.max_new_tokens=3"]


def go(world, llm, out, cache, task, *settings, backbone="random:nano", **more):
    words = [f"{task}.{s}" for s in (*FAST, *settings)]
    (record,) = evaluate(
        [backbone],
        [task],
        data=str(world),
        llm=llm.name,
        settings=words,
        out=out,
        cache=cache,
        progress=Progress(quiet=True),
        **more,
    )
    return record


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llm"), context=512)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_pope_with_every_floor(world, llm, cache, tmp_path):
    floors = "floors=[text-only, blank-image, shuffled-images, random-vit]"
    record = go(world, llm, tmp_path, cache, "pope", floors, "likelihood=['yes', 'no']")
    assert record.status == "done", record.reason
    for split in ("random", "popular", "adversarial"):
        for metric in ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed"):
            assert f"{metric}_{split}" in record.metrics and f"{metric}_pooled" in record.metrics
        assert 0 <= record.metrics[f"likelihood_ap_{split}"].value <= 1
    for floor in ("text_only", "blank_image", "shuffled_images", "random_vit"):
        gain, there = record.metrics[f"gain_over_{floor}"], record.metrics[f"floor_{floor}"]
        assert gain.value == pytest.approx(record.metrics["accuracy"].value - there.value, abs=1e-9)
        assert gain.low <= gain.value <= gain.high
    assert record.metrics["likelihood_calibration_error"].low is not None
    assert not list((cache / "answers").glob("*"))  # a finished row leaves no journal
    again = go(world, llm, tmp_path, cache, "pope", floors, "likelihood=['yes', 'no']")
    assert again == record


@pytest.mark.slow
def test_killed_while_answering_only_the_rest_is_asked(world, llm, cache, tmp_path, monkeypatch):
    whole = go(world, llm, tmp_path / "a", cache, "gqa")
    assert whole.status == "done", whole.reason
    original, said = answering.answer_all, 0

    def dies(*args):
        nonlocal said
        for entry in original(*args):
            said += 1
            if said == 4:
                raise KeyboardInterrupt
            yield entry

    monkeypatch.setattr(answering, "answer_all", dies)
    with pytest.raises(KeyboardInterrupt):
        go(world, llm, tmp_path / "b", cache, "gqa")
    (journal,) = (cache / "answers").glob("*.jsonl")
    with open(journal, "ab") as f:
        f.write(b'[["torn')
    monkeypatch.setattr(answering, "answer_all", original)
    resumed = go(world, llm, tmp_path / "b", cache, "gqa")
    assert resumed.notes["answering"]["resumed"] > 0 and resumed.notes["answering"]["questions"] > 0
    assert resumed.metrics == whole.metrics
    assert [s for s in read_samples(tmp_path / "a", whole)] == [s for s in read_samples(tmp_path / "b", resumed)]


def test_a_split_without_public_answers_gives_the_servers_file(world, llm, cache, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "vqav2", data / "vqav2")
    shutil.copytree(world / "gqa", data / "gqa")
    root = data / "vqav2"
    raw = json.loads((root / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    (root / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(json.dumps(raw))
    (root / "test2015").mkdir()
    for image in (root / "val2014").glob("*.jpg"):
        shutil.copy(image, root / "test2015" / image.name.replace("val2014", "test2015"))
    record = go(data, llm, tmp_path / "out", cache, "vqav2-testdev")
    assert record.status == "done", record.reason
    (file,) = (tmp_path / "out" / "uploads" / record.key).iterdir()
    rows = json.loads(file.read_text())
    assert [r["question_id"] for r in rows] == [q["question_id"] for q in raw["questions"]]
    assert all(set(r) == {"question_id", "answer"} and isinstance(r["answer"], str) for r in rows)
    assert file.name == "v2_OpenEnded_mscoco_test-dev2015_levl-eval_results.json"
    failed = go(data, llm, tmp_path / "out", cache, "vqav2", "data.split=test-dev2015")
    assert failed.status == "failed" and "no public answers" in failed.reason


@pytest.mark.slow
def test_a_run_reads_each_question_set_and_the_language_model_once(world, llm, cache, tmp_path, monkeypatch):
    read, loaded = [], []
    reader, loader = recipes.read_questions, tasks.load_language_model
    monkeypatch.setattr(recipes, "read_questions", lambda spec, *a: read.append(spec.model_dump_json()) or reader(spec, *a))
    monkeypatch.setattr(tasks, "load_language_model", lambda *a: loaded.append(a) or loader(*a))
    words = [f"{task}.{s}" for task in ("gqa", "pope") for s in FAST]
    records = evaluate(
        ["random:nano", BackboneCard(name="other", uri="random:nano?seed=5")], ["gqa", "pope"], data=str(world), llm=llm.name,
        settings=words, out=tmp_path, cache=cache, progress=Progress(quiet=True),
    )  # fmt: skip
    assert [r.status for r in records] == ["done"] * 4, [r.reason for r in records]
    assert len(read) == len(set(read)) == 4 and len(loaded) == 1  # two to train on, two to test
    alone = go(world, llm, tmp_path / "alone", tmp_path / "cache", "pope", backbone="random:nano?seed=5")
    same = [r for r in records if r.task == "pope" and r.backbone["name"] == "other"]
    assert same[0].metrics == alone.metrics


@pytest.mark.slow
def test_in_bfloat16_the_flip_rate_is_recorded(world, llm, cache, tmp_path, monkeypatch):
    """Counted on a sample of the questions, asked alone: of a batch with other answers every one is a flip."""
    record = go(world, llm, tmp_path / "a", cache, "gqa", "llm_dtype=bf16", "floors=[]")
    assert record.status == "done", record.reason
    found = record.notes["flip_rate"]
    assert found["dtype"] == record.notes["answering"]["dtype"] == "bfloat16"
    assert found["of"] >= 48 and 0 <= found["flips"] <= found["of"]
    original = answering.answer_alone
    monkeypatch.setattr(answering, "answer_alone", lambda *a: original(*a) + " (alone)")
    other = go(world, llm, tmp_path / "b", cache, "gqa", "llm_dtype=bf16", "floors=[]")
    assert other.notes["flip_rate"]["flips"] == other.notes["flip_rate"]["of"] == found["of"] and other.metrics == record.metrics
    plain = go(world, llm, tmp_path / "c", cache, "gqa", "floors=[]")
    assert "flip_rate" not in plain.notes and plain.protocol_hash != record.protocol_hash


@pytest.mark.slow
def test_what_is_wrong_with_one_task_is_one_line_and_the_other_is_done(world, llm, cache, tmp_path):
    """Every bad input of a question task by the run itself: the record says what and what to do; nothing of the rest is lost."""
    data = tmp_path / "data"
    shutil.copytree(world, data, ignore=shutil.ignore_patterns("ade20k", "classification", "imagenet9"))

    def run(*settings, both=False):
        set_anew = {s.partition("=")[0] for s in settings}
        fast = [f"{t}.{s}" for t in ("gqa", "pope") for s in FAST if t == "pope" or s.partition("=")[0] not in set_anew]
        words = fast + [f"gqa.{s}" for s in settings]
        records = evaluate(
            ["random:nano"], ["gqa", "pope"], data=str(data), llm=llm.name, settings=words, out=tmp_path / "out", cache=cache,
            progress=Progress(quiet=True),
        )  # fmt: skip
        if both:  # the connector is shared, and so is what is wrong with its training questions
            assert records[1].status == "failed", records[1].reason
        else:
            assert records[1].status == "done" and records[1].metrics["accuracy"].n, records[1].reason
        reason = re.sub(r"/\S+/", "", records[0].reason)  # folders are as long as they are
        assert records[0].status == "failed" and "\n" not in reason and len(reason) < 400
        return records[0].reason

    assert "has no chat template; set `prompt.chat=false`" in run("prompt.chat=true")
    assert "joins the end of the prompt" in run("prompt.template='{image}{question} '")
    assert "expected one {image}" in run("prompt.template='{question}'")
    assert "exceed its context of 512; use fewer image tokens" in run("prompt.max_new_tokens=500")
    assert "one of its 4 blocks" in run("recipe.connector.layer=9")
    (train,) = (data / "gqa").glob("**/train_balanced_questions.json")
    rows = json.loads(train.read_text())
    train.write_text(json.dumps({k: {**q, "answer": " "} for k, q in rows.items()}))
    assert re.search(r"recipe scenes: question \S+ \(image \S+\): an answer is empty", run("floors=[]", both=True))
    train.write_text(json.dumps(rows))
    gone = next((data / "gqa" / "images").glob("stestdev*.jpg"))
    gone.write_bytes(b"no image")
    assert f"{gone}: cannot be decoded" in run("floors=[]")
    gone.unlink()
    assert re.search(rf"1 of 12 images are missing, first {re.escape(str(gone))}; put GQA's images into", run("floors=[]"))
