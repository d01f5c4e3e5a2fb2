"""What an identity is made of moves its hash, part by part; no part can be left out unseen."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from levl_eval.records.check import damage_of_samples
from levl_eval.records.identity import DataIdentity, JobIdentity, cache_key
from levl_eval.records.record import Sample, read_record, write_record
from tests.records.test_records import make

BASE = JobIdentity(
    backbone={"name": "b", "weights": "w", "code": {}, "preprocess": {}, "text": {}}, task="linear", engine="linear",
    versions={"engine": 1}, protocol={"lr": 1}, data=DataIdentity("d", ("t",), "v", {"test": ["o"]}), seed=0, device="cpu",
    resolved={}, precision={"encoder": "float32"}, language_model=None, limit=None,
)  # fmt: skip
OTHER = {
    "backbone": {**BASE.backbone, "weights": "x"}, "task": "knn@pets", "engine": "knn", "versions": {"engine": 2},
    "protocol": {"lr": 2}, "data": replace(BASE.data, test="e"), "seed": 1, "device": "cuda", "resolved": {"score_size": 9},
    "precision": {"encoder": "bfloat16"}, "language_model": {"weights": "z"}, "limit": 5,
}  # fmt: skip


@pytest.mark.parametrize("part", [f.name for f in fields(JobIdentity)])
def test_each_part_moves_the_hash(part):
    assert replace(BASE, **{part: OTHER[part]}).hash != BASE.hash


@pytest.mark.parametrize("other", [{"train": ("u",)}, {"train": ("t", "t")}, {"validation": ""}, {"order": {"test": ["p"]}}])
def test_each_part_of_the_data_moves_the_hash(other):
    assert replace(BASE, data=replace(BASE.data, **other)).hash != BASE.hash


def test_kind_version_and_every_input_move_a_key():
    keys = [
        cache_key("a", 1, x=1),
        cache_key("b", 1, x=1),
        cache_key("a", 2, x=1),
        cache_key("a", 1, x=2),
        cache_key("a", 1, y=1),
    ]
    assert len(set(keys)) == 5


def test_samples_of_another_content_are_damaged(tmp_path):
    path = write_record(tmp_path, make(), [Sample(id="1", image_id="i", score=1.0), Sample(id="2", image_id="i", score=0.0)])
    record = read_record(path)
    assert damage_of_samples(record) == ""
    file = tmp_path / "samples" / f"{record.key}.jsonl"
    file.write_text(file.read_text().replace("0.0", "1.0"))
    assert "checksum" in damage_of_samples(record)
    file.unlink()
    assert "missing" in damage_of_samples(record)
