"""A number belongs to its inputs: FAULTS' first table through `evaluate` and the command line, each with another input that must show."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval import UsageError, evaluate
from levl_eval.cards import BackboneCard, PreprocessOverride
from levl_eval.cards.registry import backbone_card, language_models, names, task_card
from levl_eval.cli import main
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_questions
from levl_eval.engines.contract import TOGETHER, Outcome, versions_of
from levl_eval.engines.convergence import HELD_OUT_VERSION, RULE_VERSION
from levl_eval.records import Estimate, JobIdentity, identity_of, read_record, read_records, write_record
from levl_eval.records.check import check_run
from levl_eval.records.identity import DataIdentity
from levl_eval.records.schema import checksum_of
from levl_eval.runner.backbones import BackboneHandle
from levl_eval.runner.datasets import DataFacts
from levl_eval.runner.plan import Job, precision_of, resolved_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "records-1"
QUIET = Progress(quiet=True)


def paint(folder: Path, labels: str = "abc", seed: int = 0, count: int = 6) -> Path:
    """Class folders train and test of three colours, ``count`` images each; ``labels`` names the colours' classes in order."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for k, label in enumerate(labels):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (8, 8, 3))
                pixels[..., k] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{k}{i}.png")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of `classify` with a few epochs on class folders."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))

    def go(train: Path, test: Path, backbone="random:nano", out="out", **options):
        settings = [
            f"classify.train.root={train}",
            f"classify.data.root={test}",
            "classify.epochs=20",
            *options.pop("settings", ()),
        ]
        names = backbone if isinstance(backbone, list) else [backbone]
        more = {"data": str(tmp_path), "seeds": (0,), "device": "cpu", "progress": QUIET, **options}
        return evaluate(names, ["classify"], settings=settings, out=tmp_path / out, **more)

    return go


def values(records) -> list[float]:
    return [round(r.metrics["top1"].value, 6) for r in records]


def test_another_training_set_is_another_record(run, tmp_path):
    a, b = paint(tmp_path / "a"), paint(tmp_path / "b", "bca")
    first, second = run(a / "train", a / "test"), run(b / "train", a / "test")
    assert first[0].key != second[0].key and values(first) != values(second)
    assert len(read_records(tmp_path / "out")) == 2
    assert first[0].data["fingerprint"] == second[0].data["fingerprint"] and first[0].train != second[0].train
    assert values(run(a / "train", a / "test")) == values(first)  # and the first is still there


def test_labels_changed_in_place_are_seen(run, tmp_path):
    a = paint(tmp_path / "a")
    first = run(a / "train", a / "test")
    for old, new in (("a", "x"), ("b", "a"), ("c", "b"), ("x", "c")):
        (a / "test" / old).rename(a / "test" / new)
    assert values(run(a / "train", a / "test")) != values(first)
    assert len(read_records(tmp_path / "out")) == 2


def test_pixels_of_equal_size_and_time_are_seen(run, tmp_path):
    a = paint(tmp_path / "a", count=3)
    for k, path in enumerate(sorted(a.rglob("*.png"))):
        Image.fromarray(np.full((8, 8, 3), 20 * (k % 9), np.uint8)).save(path.with_suffix(".bmp"))
        path.unlink()
    first = run(a / "train", a / "test")
    for path in (a / "test").rglob("*.bmp"):
        before = path.stat()
        with open(path, "r+b") as f:
            f.seek(60)
            f.write(bytes(random.Random(path.name).randbytes(before.st_size - 60)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    second = run(a / "train", a / "test")
    assert second[0].key != first[0].key and second[0].cache["feature_misses"] >= 1


def test_a_cards_preprocessing_is_part_of_who_is_measured(run, tmp_path):
    a = paint(tmp_path / "a")
    card = BackboneCard(name="mine", uri="random:nano", baseline=True)
    edited = card.model_copy(update={"preprocess": PreprocessOverride(mean=(0.9, 0.1, 0.5), std=(0.01, 2.0, 0.3))})
    first, second = run(a / "train", a / "test", card), run(a / "train", a / "test", edited)
    assert first[0].key != second[0].key and second[0].backbone["preprocess"]["mean"] == [0.9, 0.1, 0.5]
    assert len(read_records(tmp_path / "out")) == 2


def test_names_with_one_file_stem_are_two_records(run, tmp_path):
    a = paint(tmp_path / "a")
    cards = [BackboneCard(name=n, uri="random:nano", baseline=True) for n in ("m 1", "m-1")]
    found = run(a / "train", a / "test", cards)
    assert found[0].key != found[1].key and [r.backbone["name"] for r in read_records(tmp_path / "out")] == sorted(
        (r.backbone["name"] for r in read_records(tmp_path / "out")),
        key=lambda n: next(r.key for r in found if r.backbone["name"] == n),
    )


def test_a_relative_folder_is_what_lies_there(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    found = []
    for name, labels in (("one", "abc"), ("two", "cab")):
        paint(tmp_path / name / "data" / "classification", labels, seed=len(found))
        monkeypatch.chdir(tmp_path / name)
        settings = ["linear.epochs=5"]
        found += evaluate(
            ["random:nano"],
            ["linear"],
            data="data",
            settings=settings,
            seeds=(0,),
            out=tmp_path / "out",
            device="cpu",
            progress=QUIET,
        )
    assert found[0].key != found[1].key and len(read_records(tmp_path / "out")) == 2


def test_one_set_under_another_path_is_one_record(run, tmp_path):
    a = paint(tmp_path / "a")
    first = run(a / "train", a / "test")
    shutil.copytree(a, tmp_path / "elsewhere")
    again = run(tmp_path / "elsewhere" / "train", tmp_path / "elsewhere" / "test")
    assert again[0].key == first[0].key and len(read_records(tmp_path / "out")) == 1


PY = """
    import torch
    from levl_eval.backbones.base import Backbone, Features, Preprocess

    class Own(Backbone):
        def __init__(self, how):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.how, self.preprocess = torch.nn.Conv2d(3, 16, 2, 2), how, Preprocess(8, mean=(.5, .5, .5), std=(.5, .5, .5))

        def encode(self, images):
            t = self.conv(images).flatten(2).transpose(1, 2)
            p = {"mean": t.mean(1), "max": t.amax(1), "zeros": 0 * t.mean(1)}[self.how]
            return Features(p, t, (4, 4))

    def mean(): return Own("mean")
    def most(): return Own("max")
    def zeros(): return Own("zeros")
"""


def test_three_encoders_of_one_file_are_three_even_with_equal_weights(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_encoders.py").write_text(textwrap.dedent(PY))
    a = paint(tmp_path / "a")
    found = run(a / "train", a / "test", [f"py:own_encoders:{f}" for f in ("mean", "most", "zeros")])
    assert len({r.backbone["weights_sha256"] for r in found}) == 1 and len({r.key for r in found}) == 3
    assert found[2].metrics["top1"].value == pytest.approx(1 / 3) and found[0].metrics["top1"].value > 0.5
    (tmp_path / "own_encoders.py").write_text(textwrap.dedent(PY).replace("t.mean(1), ", "-0 * t.mean(1), "))
    sys.modules.pop("own_encoders")
    changed = run(a / "train", a / "test", "py:own_encoders:mean")
    assert changed[0].metrics["top1"].value == pytest.approx(1 / 3)


# ---- the identity itself


def facts_of(name="random:nano", tmp=None) -> BackboneHandle:
    return BackboneHandle(
        backbone_card(name), tmp / "cache", FingerprintCache(tmp / "cache" / "fingerprints", say=lambda text: None)
    )


@pytest.fixture(scope="module")
def handle(tmp_path_factory) -> BackboneHandle:
    found = facts_of("random:nano", tmp_path_factory.mktemp("facts"))
    _ = found.facts
    return found


@pytest.mark.parametrize("task", names("tasks"))
def test_the_identity_of_a_plan_is_that_of_its_record(task, handle, tmp_path):
    card = task_card(task)
    language = {"weights": "w", "tokenizer_and_settings": "t", "chat": False} if card.engine in TOGETHER else None
    data = DataIdentity("te", ("tr", "ts"), "va", {"test": ["o"], "train": [], "validation": []})
    from levl_eval.cards import protocol_of

    identity = JobIdentity(
        backbone=handle.parts(), task=card.name, engine=card.engine, versions=versions_of(card.engine), protocol=protocol_of(card),
        data=data, seed=3, device="cpu", resolved=resolved_of(card, handle.preprocess), precision=precision_of(card, "cpu"),
        language_model=language, limit=7,
    )  # fmt: skip
    job = Job(handle, card, 3, identity, DataFacts(data))
    record = job.record("scenes", {}, {})
    record.metrics = {card.main_metric: Estimate(value=0.5)}
    path = write_record(tmp_path, record, [])
    assert path.stem == job.key and identity.hash[:20] in path.stem
    assert identity_of(read_record(path)) == identity or identity_of(read_record(path)).hash == identity.hash
    assert identity_of(read_record(path)).parts() == json.loads(json.dumps(identity.parts()))


CHANGES = {
    "backbone": {"name": "b", "weights": "x", "code": {}, "preprocess": {}, "text": {}}, "task": "other", "engine": "knn",
    "versions": {"engine": 2}, "protocol": {"lr": 2}, "data": DataIdentity("other"), "seed": 1, "device": "cuda",
    "resolved": {"score_size": 9}, "precision": {"encoder": "bfloat16"}, "language_model": {"weights": "z"}, "limit": 5,
}  # fmt: skip


def test_every_part_of_an_identity_moves_its_hash(handle):
    from dataclasses import fields, replace

    base = JobIdentity(
        backbone=handle.parts(), task="linear", engine="linear", versions={"engine": 1}, protocol={"lr": 1}, data=DataIdentity("d"),
        seed=0, device="cpu", resolved={}, precision={"encoder": "float32"},
    )  # fmt: skip
    assert {f.name for f in fields(base)} == set(CHANGES)
    hashes = [replace(base, **{name: value}).hash for name, value in CHANGES.items()]
    assert len({base.hash, *hashes}) == len(CHANGES) + 1
    for part in ("name", "weights", "code", "preprocess", "text"):
        assert replace(base, backbone={**handle.parts(), part: "changed"}).hash != base.hash
    for change in (DataIdentity("d", ("t",)), DataIdentity("d", (), "v"), DataIdentity("d", order={"test": ["x"]})):
        assert replace(base, data=change).hash != base.hash
    assert replace(base, data=DataIdentity("e")).hash_without_data == base.hash_without_data


def test_a_backbone_is_remembered_by_its_files_and_built_only_when_needed(checkpoints, tmp_path):
    path = tmp_path / "copy.pt"
    shutil.copy(checkpoints["clip"], path)
    first = facts_of(str(path), tmp_path)
    parts = first.parts()
    assert first.loaded is not None
    second = facts_of(str(path), tmp_path)
    assert second.parts() == parts and second.loaded is None
    assert second.load().weights_sha256 == parts["weights"]
    shutil.copy(checkpoints["siglip"], path)
    assert facts_of(str(path), tmp_path).parts()["weights"] != parts["weights"]
    for damaged in ("{", "[]", '{"checksum": "x"}'):
        for kept in (tmp_path / "cache" / "backbones").iterdir():
            kept.write_text(damaged)
        shutil.copy(checkpoints["clip"], path)
        assert facts_of(str(path), tmp_path).parts() == parts


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_remembered(checkpoints, tmp_path, monkeypatch):
    """A training writes its next checkpoint between the hashing of the last one and its loading: the old bytes are not the new weights."""
    path = tmp_path / "ckpt.pt"
    shutil.copy(checkpoints["clip"], path)
    right = facts_of(str(path), tmp_path / "other").parts()["weights"]
    load = BackboneHandle.load

    def replaced(handle):
        shutil.copy(checkpoints["siglip"], path)
        return load(handle)

    monkeypatch.setattr(BackboneHandle, "load", replaced)
    assert facts_of(str(path), tmp_path).parts()["weights"] != right  # who was loaded
    monkeypatch.undo()
    shutil.copy(checkpoints["clip"], path)
    assert facts_of(str(path), tmp_path).parts()["weights"] == right


# ---- what is read back


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


def test_segmentation_is_scored_at_a_stated_size(handle):
    places = {f"{part}.{field}": "x" for part in ("train", "data") for field in ("images", "annotations")}
    card = task_card("segmentation", places)
    small, large = resolved_of(card, {"size": 64}), resolved_of(card, {"size": 224})
    assert small != large and small["score_size"] == 64  # so two backbones of these sizes never share a column unasked
    fixed = task_card("segmentation", places | {"score_size": "128"})
    assert (
        resolved_of(fixed, {"size": 64})
        == resolved_of(fixed, {"size": 224})
        == {"score_size": 128, "convergence_rule": RULE_VERSION}
    )


def test_how_long_a_head_is_trained_is_by_the_version_of_its_rule():
    assert resolved_of(task_card("nyuv2"), {"size": 64}) == {"held_out_rule": HELD_OUT_VERSION}
    assert resolved_of(task_card("nyuv2", {"until": "converged"}), {"size": 64}) == {"convergence_rule": RULE_VERSION}
    assert resolved_of(task_card("nyuv2", {"until": "epochs"}), {"size": 64}) == {}


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
        raise MemoryError("out of memory")

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
    alike = False
    with pytest.raises(LevlError, match=r"failed alone \(out of memory\); the run ends, what is done is kept"):
        runner.Runner(plan, QUIET, {}).compute(0)
    assert not list((tmp_path / "out").rglob("*.json"))
    alike = True
    assert runner.Runner(plan, QUIET, {}).compute(0).status == "failed" and list((tmp_path / "out").rglob("*.json"))


def test_own_questions_with_a_connector_trained_on_scenes_are_told_before_it_starts():
    from levl_eval.runner.datasets import mixed_sources

    own = {"data.questions": "mine.jsonl", "data.images": "images"}
    assert "trained on the synthetic scenes" in mixed_sources(task_card("pope", own, default_recipe="scenes"), "scenes")
    assert mixed_sources(task_card("pope", own), "somewhere") == ""
    assert mixed_sources(task_card("pope", default_recipe="scenes"), "scenes") == ""
    assert mixed_sources(task_card("classify", {"train.root": "a", "data.root": "b"}), "scenes") == ""


def test_the_source_of_a_test_set_with_a_place_of_its_own_is_that_place(run, tmp_path):
    from levl_eval.report.provenance import source_word

    a = paint(tmp_path / "a")
    (record,) = run(a / "train", a / "test")
    assert source_word(record) == str(a / "test")
