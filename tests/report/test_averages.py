"""Averages over groups of tasks: by hand, and never over unequal sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from levl_eval.cards import parse_card
from levl_eval.cards.registry import suite_card
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import write_record
from levl_eval.report.averages import Group, average_lines, averages, groups_of
from levl_eval.report.results import Results
from levl_eval.report.tables import all_notes
from levl_eval.report.wide import tables
from tests.report.conftest import record

DENSE = Group("dense", "s", (("ade20k", None), ("voc", None)))


def put(out: Path, name: str, task: str, value: float, stderr: float | None = 0.03, metric: str = "mean_iou", **changes) -> None:
    low, high = (None, None) if stderr is None else (value - 0.1, value + 0.1)
    estimate = Estimate(value=value, stderr=stderr, low=low, high=high, n=40)
    write_record(out, record(name, task, metric, {metric: estimate}, **changes))


def test_the_mean_and_its_error_by_hand(tmp_path):
    put(tmp_path, "a", "ade20k", 0.2, 0.03)
    put(tmp_path, "a", "voc", 0.6, 0.04)
    (average,) = averages(Results.read([tmp_path]), [DENSE])
    e = average.values["a"]
    assert e.value == pytest.approx(0.4) and e.n == 80
    assert e.stderr == pytest.approx(0.025)  # half the root of 0.03^2 + 0.04^2
    assert (e.low, e.high) == (pytest.approx(0.4 - 1.96 * 0.025, abs=2e-3), pytest.approx(0.4 + 1.96 * 0.025, abs=2e-3))


def test_a_perfect_average_is_not_certain(tmp_path):
    for task in ("ade20k", "voc"):
        put(tmp_path, "a", task, 1.0, 0.0)
    (average,) = averages(Results.read([tmp_path]), [DENSE])
    e = average.values["a"]
    assert e.value == 1.0 == e.high and e.low is not None and 0.88 < e.low < 0.93  # Wilson's of 40 images


def test_tasks_on_one_test_set_err_together(tmp_path):
    for task, stderr in (("ade20k", 0.03), ("voc", 0.04)):
        put(tmp_path, "a", task, 0.5, stderr, data={"fingerprint": "one", "counts": {"images": 40}, "source": "scenes"})
    (average,) = averages(Results.read([tmp_path]), [DENSE])
    assert average.values["a"].stderr == pytest.approx(0.035)


def test_a_backbone_that_lacks_a_task_has_no_average(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, name, "ade20k", 0.2)
    put(tmp_path, "a", "voc", 0.6)
    write_record(tmp_path, record("c", "ade20k", "mean_iou", {}, status="failed", reason="no"))
    put(tmp_path, "c", "voc", 0.6)
    (average,) = averages(Results.read([tmp_path]), [DENSE])
    assert list(average.values) == ["a"]
    assert average.left == {"b": "voc was not run", "c": "ade20k failed"}
    lines = average_lines([average])
    assert lines[0].startswith("average dense of s (ade20k, voc): a 40.0 [") and "b" not in lines[0].split(":")[1].split()
    assert "no average dense of s for b: voc was not run" in lines


def test_no_average_where_a_task_has_several_rows_or_no_share(tmp_path):
    put(tmp_path, "a", "ade20k", 0.2)
    put(tmp_path, "a", "voc", 0.6)
    put(tmp_path, "a", "voc", 0.7, protocol_hash="f" * 64, identity_hash="e" * 64)
    assert averages(Results.read([tmp_path]), [DENSE]) == []
    other = tmp_path / "other"
    put(other, "a", "ade20k", 0.2)
    put(other, "a", "nyuv2", 0.4, metric="rmse")
    assert averages(Results.read([other]), [Group("x", "s", (("ade20k", None), ("nyuv2", None)))]) == []


def test_scenes_and_published_data_are_not_mixed(tmp_path):
    put(tmp_path, "a", "ade20k", 0.2)
    put(tmp_path, "a", "voc", 0.6, data={"fingerprint": "x", "counts": {"images": 40}, "source": "hub"})
    assert averages(Results.read([tmp_path]), [DENSE]) == []


def test_a_named_metric_is_averaged_instead_of_the_main_one(tmp_path):
    put(tmp_path, "a", "gqa", 0.5, metric="accuracy")
    both = {"accuracy": Estimate(value=0.9, n=10), "perception": Estimate(value=0.7, n=10)}
    write_record(tmp_path, record("a", "mme", "accuracy", both))
    (average,) = averages(Results.read([tmp_path]), [Group("general", "s", (("mme", "perception"), ("gqa", None)))])
    assert average.values["a"].value == pytest.approx(0.6) and average.values["a"].low is None


def test_groups_of_suites_come_once():
    card = {"kind": "suite", "tasks": ["gqa", "pope"], "groups": {"VLM": ["gqa", "pope"]}}
    first, second = (parse_card({**card, "name": name}, name) for name in ("one", "two"))
    assert [g.suite for g in groups_of([first, second])] == ["one"]
    paper = groups_of([suite_card("levljepa-paper")])
    assert [g.name for g in paper] == ["global", "zero-shot", "dense", "VLM"]  # that of the scenes is the same


def test_tables_show_the_averages_that_are_whole(tmp_path):
    for task, value in (("ade20k", 0.2), ("coco-stuff", 0.4)):
        put(tmp_path, "a", task, value)
    put(tmp_path, "b", "ade20k", 0.3)
    results = Results.read([tmp_path])
    wide = tables(results)[-1]
    assert wide.heads == ["average", "tasks", "a"] and wide.rows[0][0] == "dense of levljepa-paper"
    assert wide.rows[0][2][0].number == pytest.approx(30.0)
    assert "no average dense of levljepa-paper for b: coco-stuff was not run" in all_notes(results)
