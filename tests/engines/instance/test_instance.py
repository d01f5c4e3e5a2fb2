"""Instance retrieval: read-outs and ranking by hand, perfect and blind vectors, the engine on the scenes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from levl_eval.core.progress import Progress
from levl_eval.data.types import InstanceQuery
from levl_eval.engines.instance.task import order_of, pooled_by, scored, wanted
from levl_eval.metrics.catalogue import metric
from levl_eval.records import read_samples
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.runner.evaluate import evaluate
from tests.data.test_revisited import annotation, small

QUIET = Progress(quiet=True)


class Features:
    pooled = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    mean = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)
    patches = np.array([[[1.0, -5.0], [2.0, 3.0]], [[0.0, 1.0], [0.0, 1.0]]], np.float16)


def test_read_outs_are_vectors_of_length_one():
    np.testing.assert_allclose(pooled_by(Features(), "pooled", 3)[0], [0.6, 0.8], rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(pooled_by(Features(), "mean-patch", 3)[1], [0.5**0.5] * 2, rtol=1e-6)  # type: ignore[arg-type]
    gem = np.array([((1**3 + 2**3) / 2) ** (1 / 3), (3**3 / 2) ** (1 / 3)])  # what is below 0 counts as nothing
    np.testing.assert_allclose(pooled_by(Features(), "gem", 3.0)[0], gem / np.linalg.norm(gem), rtol=1e-4)  # type: ignore[arg-type]


def test_levels_say_what_is_right_and_what_does_not_count():
    query = InstanceQuery("q", ("e",), ("h",), ("j",))
    assert wanted(query, "medium") == (("e", "h"), ("j",)) and wanted(query, "hard") == (("h",), ("j", "e"))


def test_a_perfect_and_a_blind_encoder():
    database = torch.eye(40)
    order = order_of(database[7] + 0.01 * database[3], database)
    assert order[:2].tolist() == [7, 3]
    assert scored(order, np.array([7, 3]), np.zeros(0, np.int64)).ap == 1
    # All the same: a random order, whatever is listed first.
    aps = [
        scored(order_of(torch.ones(3), torch.ones(200, 3), seed), np.arange(10), np.zeros(0, np.int64)).ap for seed in range(60)
    ]
    chance = [scored(np.random.default_rng(k).permutation(200), np.arange(10), np.zeros(0, np.int64)).ap for k in range(60)]
    assert np.mean(aps) == pytest.approx(np.mean(chance), abs=0.02) and np.mean(aps) < 0.15


@pytest.mark.slow
def test_the_engine_on_the_scenes(world, tmp_path):
    run = {"data": str(world), "out": tmp_path / "o", "cache": tmp_path / "c", "progress": QUIET, "device": "cpu"}
    records = evaluate(["random:nano", "oracle:attributes", "oracle:classes?keep=0"], ["roxford5k"], **run)
    assert [r.status for r in records] == ["done"] * 3, [r.reason for r in records]
    some, oracle, blind = (r.metrics["map_medium"].value for r in records)
    found = records[1].metrics
    assert oracle > some > blind and oracle > 0.8 and records[1].data["counts"] == {"images": 24, "queries": 4, "database": 20}
    assert found["map_hard"].value <= oracle and {"map_medium/gem", "mp10_hard", "floor_chance"} <= found.keys()
    assert [m for m in found if metric(m).better == "unknown"] == []
    samples = list(read_samples(tmp_path / "o", records[1]))
    assert len(samples) == 4 and np.mean([s.score for s in samples]) == pytest.approx(oracle)
    page = build(Results.read([tmp_path / "o"]))
    assert len(re.findall("data:image/png;base64,", page)) == 4 and "random:nano: the first images of each query" in page
    [hard] = evaluate(
        ["random:nano"], ["roxford5k"], settings=["roxford5k.main_metric=map_hard", "roxford5k.readouts=[gem]"], **run
    )
    assert hard.status == "done" and np.mean([s.score for s in read_samples(tmp_path / "o", hard)]) == pytest.approx(
        hard.metrics["map_hard"].value
    )
    assert hard.metrics["map_hard"].value == pytest.approx(records[0].metrics["map_hard/gem"].value)


def test_a_level_that_no_query_has_is_refused(tmp_path):
    value = annotation(hard=[])
    value["gnd"][1] |= {"hard": [], "easy": [4]}
    small(tmp_path / "roxford5k", value)
    [record] = evaluate(
        ["random:nano"], ["roxford5k"], settings=["roxford5k.main_metric=map_hard"], data=str(tmp_path), out=tmp_path / "o",
        cache=tmp_path / "c", progress=QUIET, device="cpu",
    )  # fmt: skip
    assert (
        record.status == "failed"
        and "no query has an image to find that map_hard counts" in record.reason
        and "\n" not in record.reason
    )
