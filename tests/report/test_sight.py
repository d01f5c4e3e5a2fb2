"""Shares of sight in tables: which ceiling a row has, what is refused, and where the shares stand."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import PIL
import pytest

from levl_eval.cards.registry import task_card
from levl_eval.core.progress import Progress
from levl_eval.metrics.statistics import mean_estimate, paired_difference
from levl_eval.records import Sample, write_record
from levl_eval.report import current, sight, wide
from levl_eval.report.results import Results
from levl_eval.report.sight import Ceiling, ceiling_of, share_of_sight
from levl_eval.report.tables import all_notes, lines, rows, to_csv
from levl_eval.runner.evaluate import evaluate
from levl_eval.scenes.export import COUNTS, make_scenes
from levl_eval.tools import ceilings

from tests.report.conftest import record  # isort: skip


def write(out, name, skill, oracle=None, floor=0.25):
    """A record of 200 images, right where a drawn difficulty is below ``skill``;
    the floor is right where another one is below ``floor``."""
    hard, blind = np.random.default_rng(0).random((2, 200))
    scores, floors = (hard < skill).astype(float), (blind < floor).astype(float)
    info = {"baseline": name == "random"} | ({"oracle": oracle} if oracle else {})
    metrics = {
        "top1": mean_estimate(scores), "floor_majority": mean_estimate(floors), "gain_over_majority": paired_difference(scores, floors),
    }  # fmt: skip
    r = record(name, "linear", "top1", metrics)
    r.backbone["info"] = info
    write_record(out, r, [Sample(id=str(i), image_id=str(i), prediction="a", target="a", score=s) for i, s in enumerate(scores)])


ALL = {"kind": "attributes", "keep": 1.0, "noise": 0.0}


@pytest.fixture
def run(tmp_path):
    write(tmp_path, "good", 0.5)
    write(tmp_path, "random", 0.25)
    return tmp_path


def test_the_oracle_that_tells_all_is_the_ceiling_and_the_richer_one(run):
    assert share_of_sight(Results.read([run]), Results.read([run]).rows[0], "good") is None
    write(run, "oracle:attributes?keep=0.5", 0.6, {**ALL, "keep": 0.5})
    partly = Results.read([run])
    assert ceiling_of(partly, partly.rows[0]) is None
    write(run, "oracle:classes", 0.8, {**ALL, "kind": "classes"})
    poorer = Results.read([run])
    assert ceiling_of(poorer, poorer.rows[0]).name == "oracle:classes"
    write(run, "oracle:attributes", 1.0, ALL)
    results = Results.read([run])
    row = results.rows[0]
    assert ceiling_of(results, row).name == "oracle:attributes"
    share, floor = share_of_sight(results, row, "good"), row.cells["good"].records[0].metrics["floor_majority"].value
    good, best = (row.cells[n].records[0].metrics["top1"].value for n in ("good", "oracle:attributes"))
    assert share.value == pytest.approx((good - floor) / (best - floor)) and 0 < share.low < share.value < share.high < 1
    assert all(share_of_sight(results, row, n) is None for n in row.cells if n.startswith("oracle"))


def test_floors_of_another_metric_are_none(tmp_path):
    """``--set pope.main_metric=f1``: the record's floor and the chance of its card are of the accuracy."""
    right, blind = np.random.default_rng(0).random((2, 200)) < 0.5
    for name, info in (("good", {}), ("oracle:attributes", {"oracle": ALL})):
        accuracy = {"accuracy": mean_estimate(right.astype(float)), "floor_text_only": mean_estimate(blind.astype(float))}
        accuracy["gain_over_text_only"] = paired_difference(right.astype(float), blind.astype(float))
        for main in ("accuracy", "f1"):
            r = record(name, "pope", main, {**accuracy, "f1": mean_estimate(np.ones(200))})
            r.backbone["info"], r.protocol_hash = info, main
            r.engine = "vqa"
            write_record(tmp_path / main, r, [])
    by_main = {main: Results.read([tmp_path / main]) for main in ("accuracy", "f1")}
    assert [sum("text-only floor" in n for n in all_notes(r)) for r in by_main.values()] == [1, 0]
    assert (
        ceiling_of(by_main["accuracy"], by_main["accuracy"].rows[0]) and ceiling_of(by_main["f1"], by_main["f1"].rows[0]) is None
    )
    assert task_card("pope").chance == 0.5 and task_card("pope", {"main_metric": "f1"}).chance is None
    assert task_card("pope", {"main_metric": "f1", "chance": "0.4"}).chance == 0.4


def test_a_ceiling_is_looked_for_once_a_row(run, monkeypatch):
    """Asked for by every record, it would cost the square of a row's columns."""
    for k in range(6):
        write(run, f"other{k}", 0.3 + 0.05 * k)
    asked = []
    monkeypatch.setattr(sight, "oracle_of", lambda record: asked.append(record.key) or "")
    results = Results.read([run])
    rows(results)
    assert len(asked) == len(results.rows[0].cells) == 8


@pytest.mark.parametrize("best", ["scene", "attributes"])
def test_of_several_oracles_the_one_that_scores_best_is_the_ceiling(run, best):
    """Told where a patch lies, the scenes' language model answers 98 % of gqa, without it 88 %; the head of ade20k reads 52 and 55."""
    for kind in ("attributes", "scene"):
        write(run, f"oracle:{kind}", 1.0 if kind == best else 0.9, {**ALL, "kind": kind})
    results = Results.read([run])
    assert sight.ceiling_of(results, results.rows[0]).name == f"oracle:{best}"


@pytest.mark.parametrize("engine, kinds, ceiling", [("linear", ("scene", "classes"), "classes"),
                                                    ("depth", ("geometry", "classes"), "geometry")])  # fmt: skip
def test_of_errors_the_least_is_best_and_an_oracle_of_what_is_asked_goes_first(tmp_path, engine, kinds, ceiling):
    for kind, error in zip(kinds, (0.5, 0.4), strict=True):
        errors, floors = np.full(200, error), np.linspace(0.9, 1.1, 200)
        metrics = {
            "rmse": mean_estimate(errors), "floor_mean_map": mean_estimate(floors), "gain_over_mean_map": paired_difference(errors, floors),
        }  # fmt: skip
        r = record(f"oracle:{kind}", "nyuv2", "rmse", metrics)
        r.engine, r.backbone["info"] = engine, {"oracle": {**ALL, "kind": kind}}
        write_record(tmp_path, r, [Sample(id=str(i), image_id=str(i), score=s) for i, s in enumerate(errors.tolist())])
    results = Results.read([tmp_path])
    assert ceiling_of(results, results.rows[0]).name == f"oracle:{ceiling}"


def test_shares_stand_in_every_table(run):
    write(run, "oracle:attributes", 1.0, ALL)
    results = Results.read([run])
    shown = f"{100 * share_of_sight(results, results.rows[0], 'good').value:.1f} ["
    assert any("share of sight" in line for line, _ in lines(results)) and any(shown in line for line, _ in lines(results))
    for page in (wide.markdown(results), wide.html_page(results)):
        assert shown.removesuffix(" [") in page and "Share of sight" in page
    cells = {r["backbone"]: r for r in csv.DictReader(io.StringIO(to_csv(rows(results)))) if r["main"] == "1"}
    assert f"{float(cells['good']['sight']):.1f} [" == shown and cells["good"]["ceiling"] == "100.0000"
    assert cells["oracle:attributes"]["sight"] == ""
    (line,) = wide.wide_rows(results)
    assert f"{line['good.sight']:.1f} [" == shown
    (line,) = wide.as_json(results)
    assert line["cells"]["good"]["sight"]["value"] == pytest.approx(float(cells["good"]["sight"]) / 100, abs=1e-4)


def test_a_shipped_ceiling_holds_for_its_own_comparison_alone(run, monkeypatch):
    write(run, "oracle:attributes", 1.0, ALL)
    with_column = Results.read([run])
    ceiling = ceiling_of(with_column, with_column.rows[0])
    expected = share_of_sight(with_column, with_column.rows[0], "good")
    alone = Ceiling(ceiling.name, ceiling.value, ceiling.room)
    for path in run.rglob("*oracle*"):
        path.unlink()
    for comparison, there in ((with_column.rows[0].key[1], True), ("d" * 64, False)):
        monkeypatch.setattr(sight, "shipped", lambda c=comparison: {("linear", c): alone})
        results = Results.read([run])
        share = share_of_sight(results, results.rows[0], "good")
        assert (share is not None) == there == any("ceiling 100.0" in n for n in all_notes(results))
        if share is not None:
            assert share.value == expected.value and share.high - share.low >= expected.high - expected.low


def test_tables_are_made_anew_where_the_ceilings_that_ship_have_changed(tmp_path, monkeypatch, capsys):
    package, made = tmp_path / "package", []
    monkeypatch.setattr(current, "PACKAGE", package)
    folders = ("report", "metrics", "records", "cards", "assets", "core")
    for name in folders:
        (package / name).mkdir(parents=True)
        (package / name / "file").write_text("1")

    def tables():
        current.show_and_write(tmp_path, [], {}, lambda stream: made.append(stream.write("a table\n")), list)

    tables()
    tables()
    assert len(made) == 1
    for number, name in enumerate(folders):
        (package / name / "file").write_text("another")
        tables()
        assert len(made) == number + 2, name
    assert capsys.readouterr().out == "a table\n" * (2 + len(folders))


@pytest.mark.slow
def test_a_ceiling_that_ships_comes_out_again(tmp_path):
    """The probe's: the classification sets at the sizes of the default world, and nothing else of it."""
    counts = {part: n for part, n in COUNTS.items() if part.startswith("classification/")}
    make_scenes(tmp_path / "world", counts=counts, progress=Progress(quiet=True))
    records = evaluate(["oracle:attributes"], ["linear"], data=str(tmp_path / "world"), out=tmp_path / "run", cache=tmp_path / "cache",
                       device="cpu", progress=Progress(quiet=True))  # fmt: skip
    assert [r.status for r in records] == ["done"] * 3
    (made,) = ceilings.entries(tmp_path / "run")
    (ships,) = [e for e in json.loads(sight.SHIPPED.read_text())["ceilings"] if e["task"] == "linear"]
    assert {k: made[k] for k in ("value", "room", "metric", "backbone")} == {
        k: ships[k] for k in ("value", "room", "metric", "backbone")
    }
    if json.loads(sight.SHIPPED.read_text())["pillow"] == PIL.__version__:  # whose JPEG bytes the fingerprints are of
        assert made["comparison_hash"] == ships["comparison_hash"]


def test_what_ships_is_whole():
    """Each has a value, what of it lies above the floor, and the command that made it."""
    if not sight.SHIPPED.is_file():
        pytest.fail("assets/ceilings.json is missing")
    content = json.loads(sight.SHIPPED.read_text())
    assert content["command"].startswith("python -m levl_eval.tools.ceilings ")
    for ceiling in sight.shipped().values():
        assert 0 < ceiling.room.low < ceiling.room.value <= ceiling.value.value and ceiling.name in (
            "oracle:scene",
            "oracle:attributes",
        )
