"""A number belongs to its inputs: FAULTS' first table through `evaluate` and the command line, each with another input that must show."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from levl_eval import evaluate
from levl_eval.cards import BackboneCard, PreprocessOverride
from levl_eval.cards.registry import names, task_card
from levl_eval.engines.contract import TOGETHER, versions_of
from levl_eval.engines.convergence import HELD_OUT_VERSION, RULE_VERSION
from levl_eval.records import Estimate, JobIdentity, identity_of, read_record, read_records, write_record
from levl_eval.records.identity import DataIdentity
from levl_eval.runner.backbones import BackboneHandle
from levl_eval.runner.datasets import DataFacts
from levl_eval.runner.plan import Job, precision_of, resolved_of
from tests.runner.conftest import QUIET, facts_of, paint, values


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
