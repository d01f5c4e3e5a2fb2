"""Another system's predictions are told from what was measured here, wherever a number of them stands."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from levl_eval.records import Sample, write_record
from levl_eval.report.results import Results
from tests.report.conftest import fill
from tests.report.conftest import record as drawn


def external(name: str, task: str, weights: str, **changes):
    from levl_eval.metrics.statistics import mean_estimate

    backbone = {
        "name": name,
        "uri": "external:p.jsonl",
        "weights_sha256": weights.ljust(64, "0"),
        "preprocess": {},
        "info": {"external": True},
    }
    more = {"protocol": {"external": True, "name": task}, "protocol_hash": "e" * 64, "backbone": backbone, **changes}
    return drawn(name, task, "top1", {"top1": mean_estimate([1.0, 0.0, 1.0])}, **more)


SAMPLES = [Sample(id=str(k), image_id=str(k), score=float(k != 1)) for k in range(3)]


@pytest.fixture
def mixed(tmp_path):
    """One name measured here and imported, the imported one with a file of its own for each of two tasks."""
    out = fill(tmp_path / "run", names=("good",), tasks=("linear",), seeds=(0,))
    for task, weights in (("linear", "aa"), ("zeroshot", "bb")):
        write_record(out, external("good", task, weights), SAMPLES)
    return out


@pytest.mark.parametrize("form", ["csv", "md", "tex", "html", "json", None])
def test_every_format_tells_an_imported_row(mixed, form, capsys):
    assert main(["leaderboard", str(mixed), *(["--format", form] if form else [])]) == 0
    assert "good (external)" in capsys.readouterr().out


def test_a_system_has_one_column_over_its_tasks_and_is_no_column_of_ours(mixed):
    results = Results.read([mixed])
    assert results.backbones == ["good", "good (external)"]
    assert sum("good (external)" in row.cells for row in results.rows) == 2
    assert any("predictions of other systems" in line for line in results.notes())


def test_two_files_of_predictions_for_one_task_are_two_columns(mixed):
    write_record(mixed, external("good", "linear", "cc"), SAMPLES)
    names = Results.read([mixed]).backbones  # each of its files, then: nobody says which goes with which
    assert names == ["good", *(f"good (external)@{w}000000" for w in ("aa", "cc", "bb"))]


def test_a_measured_backbone_whose_name_looks_like_a_mark_is_no_imported_one(mixed):
    backbone = {**external("x", "linear", "dd").backbone, "name": "good (external)", "info": {}}
    write_record(mixed, external("good (external)", "linear", "dd", backbone=backbone), SAMPLES)
    results = Results.read([mixed])
    assert len(results.backbones) == 3 and len(set(results.backbones)) == 3


def test_compare_takes_a_system_with_a_file_a_task(mixed, capsys):
    for task, weights in (("linear", "ee"), ("zeroshot", "ff")):
        write_record(mixed, external("other", task, weights), SAMPLES)
    folder = mixed.parent / "others"
    for task, weights in (("linear", "aa"), ("zeroshot", "bb")):
        write_record(folder, external("good", task, weights), SAMPLES)
    assert main(["compare", f"{folder}:good", f"{mixed}:other"]) == 0
    assert "good (external)" in capsys.readouterr().out
    assert main(["compare", f"{mixed}:good", f"{mixed}:other"]) == 2  # ours or theirs?
    assert "different weights" in capsys.readouterr().err


def test_what_is_published_of_them_says_that_they_were_not_measured_here(mixed, tmp_path, capsys):
    assert main(["publish", str(mixed), "--out", str(tmp_path / "p")]) == 0
    page = (tmp_path / "p" / "models" / "good-external" / "README.md").read_text()
    assert "Predictions of another system" in page and "Measured frozen" not in page and "weights aa" not in page
    files = [p for p in (tmp_path / "p" / "every_eval_ever").rglob("*.json") if "good-external" in str(p)]
    assert len(files) == 2 and all("predictions_sha256" in p.read_text() and "weights_sha256" not in p.read_text() for p in files)


def test_publish_takes_a_name_as_the_run_has_it(tmp_path):
    out = tmp_path / "run"
    write_record(out, external("zoo", "linear", "aa"), SAMPLES)
    assert main(["publish", str(out), "--out", str(tmp_path / "p"), "--backbone", "zoo"]) == 0


def test_a_gain_over_fewer_seeds_than_its_values_is_told(tmp_path):
    out = fill(tmp_path / "run", names=("good",), tasks=("linear",), seeds=(0, 1, 2))
    fill(out, names=("random",), tasks=("linear",), seeds=(1, 2))
    told = [line for line in Results.read([out]).notes() if "which both have" in line]
    assert told == ["linear: the gain of good over random is of seeds 1, 2, which both have; each value is of all its own"]
    whole = fill(tmp_path / "whole", names=("good", "random"), tasks=("linear",), seeds=(0, 1))
    assert not Results.read([whole]).notes()


def test_a_mark_says_that_a_row_was_imported_and_not_what_an_import_has_none_of(mixed):
    def marks() -> list[str]:
        return [row.mark for row in Results.read([mixed]).rows if row.task == "linear"]

    assert marks() == ["", "(imported)"]
    fill(mixed, names=("good",), tasks=("linear",), seeds=(0,), limit=2, protocol={"lr": 0.5}, protocol_hash="f" * 64)
    of_ours = [m for m in marks() if m != "(imported)"]
    assert len(of_ours) == 2 and not any("external" in m or "scored by" in m for m in of_ours)
    write_record(mixed, external("other", "linear", "cc", data={"fingerprint": "of fewer", "counts": {"images": 3}}), SAMPLES)
    assert sorted(m[: len("(imported, data.test=")] for m in marks() if m not in of_ours) == ["(imported, data.test="] * 2
