"""Which records count when a run begins again: whole ones of an equal identity, and none of inputs that changed meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from levl_eval import UsageError, evaluate
from levl_eval.cards.registry import language_models, task_card
from levl_eval.cli import main
from levl_eval.core.distributed import LOST
from levl_eval.core.progress import Progress
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_questions
from levl_eval.engines.contract import Outcome
from levl_eval.records import Estimate, JobIdentity, identity_of, read_record, read_records
from levl_eval.records.check import check_run
from levl_eval.records.identity import DataIdentity
from levl_eval.records.schema import checksum_of
from levl_eval.runner.datasets import DataFacts
from levl_eval.runner.plan import Job
from tests.runner.conftest import QUIET, paint, values

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "records-1"


@pytest.mark.slow
def test_a_record_is_taken_only_whole(run, tmp_path):
    a = paint(tmp_path / "a")
    (record,) = run(a / "train", a / "test")
    samples, path = tmp_path / "out" / "samples" / f"{record.key}.jsonl", tmp_path / "out" / "records" / f"{record.key}.json"
    whole, text = samples.read_bytes(), path.read_text()

    def again():
        before = path.stat().st_mtime_ns
        found = run(a / "train", a / "test")
        assert found[0].status == "done" and found[0].metrics == record.metrics
        assert samples.read_bytes() == whole
        return path.stat().st_mtime_ns != before

    assert not again()
    for damaged in (b"\n".join(whole.splitlines()[:4]) + b"\n", b"", whole.replace(b"a", b"b", 1)):
        samples.write_bytes(damaged)
        assert [f.state for f in check_run(tmp_path / "out")] == ["damaged"]
        assert again()
    digit = next(c for c in text[text.index('"value"') :] if c.isdigit())
    at = text.index(digit, text.index('"value"'))
    path.write_text(text[:at] + str((int(digit) + 1) % 10) + text[at + 1 :])
    assert main(["check", str(tmp_path / "out")]) == 1
    assert again()
    path.write_text(text.replace("levl-eval/record/2", "levl-eval/record/99"))
    with pytest.raises(UsageError, match="record/99"):
        read_record(path)
    assert again() and main(["check", str(tmp_path / "out")]) == 0


def test_a_record_of_another_identity_under_this_name_is_not_taken(run, tmp_path):
    a = paint(tmp_path / "a")
    (record,) = run(a / "train", a / "test")
    path = tmp_path / "out" / "records" / f"{record.key}.json"
    content = json.loads(path.read_text())
    content["card_protocol"]["epochs"] = 21  # an edit with a checksum that fits
    content["metrics"]["top1"]["value"] = 0.123
    path.write_text(json.dumps({**content, "checksum": checksum_of(content)}))
    assert values(run(a / "train", a / "test")) == values([record])


def test_records_of_schema_1_stay_readable_and_are_never_taken_for_done():
    found = read_records(GOLDEN)
    assert [r.task for r in found] == ["linear", "pope"] and all(r.metrics and not r.identity_hash for r in found)
    assert {f.state for f in check_run(GOLDEN)} == {"old"}
    with pytest.raises(UsageError, match="before records held their identity"):
        identity_of(found[0])
    assert found[0].comparison["data"]["train"] and found[0].comparison_hash


def test_a_failed_job_gives_way_to_its_success(run, tmp_path):
    a = paint(tmp_path / "a")
    shutil.move(a / "test", tmp_path / "away")
    (failed,) = run(a / "train", a / "test")
    assert failed.status == "failed" and "no such folder" in failed.reason
    shutil.move(tmp_path / "away", a / "test")
    (done,) = run(a / "train", a / "test")
    assert done.status == "done" and [r.status for r in read_records(tmp_path / "out")] == ["done"]


def test_data_that_change_while_a_run_goes_on_are_told(run, tmp_path, monkeypatch):
    from levl_eval.runner import runner

    a = paint(tmp_path / "a")
    engine = runner.engine

    def meanwhile(name):
        def call(context):
            paint(tmp_path / "a", seed=5)
            return engine(name)(context)

        return call

    monkeypatch.setattr(runner, "engine", meanwhile)
    (record,) = run(a / "train", a / "test")
    assert record.status == "failed" and "changed while the run went on" in record.reason


@pytest.mark.parametrize("changed", ["", "chat_template.jinja", "model.safetensors"])
def test_a_language_model_that_changes_while_a_run_goes_on_is_told(world, tmp_path, monkeypatch, changed):
    """Between the plan, which hashes its files, and the job that loads them hours may pass."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lm"
    shutil.copytree(language_models()["scenes-lm"], folder)

    def answered(context):
        if changed:
            with open(folder / changed, "ab") as f:
                f.write(b" ")
        test = read_questions(context.card.data, context.data, context.limit)
        return Outcome({"accuracy": Estimate(value=0.5)}, [], {"fingerprint": fingerprint_of(test)})

    monkeypatch.setattr("levl_eval.runner.runner.engine", lambda name: answered)
    (record,) = evaluate(
        ["random:nano"],
        ["gqa"],
        data=str(world),
        llm=str(folder),
        out=tmp_path / "out",
        device="cpu",
        seeds=[0],
        progress=Progress(quiet=True),
    )
    assert (record.status, "its files changed while the run went on" in record.reason) == (
        ("failed", True) if changed else ("done", False)
    )


def test_a_record_without_its_floors_is_not_whole(world, tmp_path, monkeypatch):
    from levl_eval.data.images import fingerprint_of
    from levl_eval.data.readers import read_questions
    from levl_eval.engines import contract as engines
    from levl_eval.metrics.statistics import mean_estimate

    calls = []

    def answered(context):
        calls.append(context.card.name)
        found = read_questions(context.card.data, context.data, context.limit)
        metrics = {"accuracy": mean_estimate(np.ones(4)), "floor_text_only": mean_estimate(np.zeros(4))}
        kept = metrics if len(calls) > 1 else {"accuracy": metrics["accuracy"]}
        return engines.Outcome(kept, [], {"fingerprint": fingerprint_of(found), "counts": {}})

    monkeypatch.setattr(f"{__name__}.answered", answered, raising=False)
    monkeypatch.setitem(engines.ENGINES, "vqa", f"{__name__}:answered")
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    options = {"data": str(world), "seeds": (0,), "out": tmp_path / "out", "device": "cpu", "progress": QUIET}
    settings = ["pope.recipe.max_questions=10"]
    for expected in (1, 2, 2):
        (record,) = evaluate(["random:nano"], ["pope"], settings=settings, **options)
        assert record.status == "done" and len(calls) == expected


def test_a_job_that_failed_in_one_process_alone_ends_the_run(handle, tmp_path, monkeypatch):
    """The others are in steps that wait for it; no record says that the job failed, so that the next run does it."""
    from types import SimpleNamespace

    from levl_eval.core.errors import LevlError
    from levl_eval.runner import runner

    class Other:
        size, main = 2, True

        def all_failed(self):
            return alike

    def fail(context):
        raise error

    monkeypatch.setattr(runner, "process_group", Other)
    monkeypatch.setattr(runner, "engine", lambda name: fail)
    card = task_card("linear")
    from levl_eval.cards import protocol_of

    identity = JobIdentity(
        backbone=handle.parts(), task="linear", engine="linear", versions={}, protocol=protocol_of(card), data=DataIdentity("d"),
        seed=0, device="cpu", resolved={}, precision={},
    )  # fmt: skip
    config = SimpleNamespace(
        out=tmp_path / "out",
        data="scenes",
        debug=False,
        device="cpu",
        cache_folder=tmp_path,
        limit=None,
        llm="",
        batch_size=1,
        store_limit=None,
    )
    plan = SimpleNamespace(
        config=config, jobs=[Job(handle, card, 0, identity, DataFacts(DataIdentity("d")))], backbones=[handle], data=""
    )
    alike, error = False, MemoryError("out of memory")
    with pytest.raises(LevlError, match=r"failed alone \(out of memory\); the run ends, what is done is kept"):
        runner.Runner(plan, QUIET, {}).compute(0)
    assert not list((tmp_path / "out").rglob("*.json"))
    alike = True
    assert runner.Runner(plan, QUIET, {}).compute(0).status == "failed" and list((tmp_path / "out").rglob("*.json"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(LevlError) as e:  # the other one has failed, not this one
        runner.Runner(plan, QUIET, {}).compute(0)
    assert str(e.value) == f"process 1 of 2 ends, {LOST}"
