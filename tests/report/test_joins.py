"""What may stand in one row, one cell, one comparison; what a gain is over; what data a table says it is from."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from levl_eval import ProtocolMismatch, UsageError
from levl_eval.cli import main
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import DataIdentity, JobIdentity, Record, Sample, fill_identity, read_records, write_record
from levl_eval.report.compare import compare
from levl_eval.report.latex import with_intervals as latex
from levl_eval.report.results import Results
from levl_eval.report.wide import html_page, markdown

PRE = {"size": 64, "resize": "squash", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
NANO = {"dim": 192, "patch_dim": 192, "grid": [8, 8], "depth": 4}


def job(
    out, name, *, skill=0.6, seed=0, task="linear", weights=None, code=None, preprocess=None, device="cpu", train="aaaa", test="bbbb",
    validation="", limit=None, precision="float32", protocol=None, info=None, source="scenes", data=None, metric="top1", n=60,
    language_model=None, call=None,
) -> Record:  # fmt: skip
    """A finished record of schema 2, as a run writes it, with drawn scores."""
    weights = weights or name.encode().hex().ljust(64, "0")
    backbone = {
        "name": name,
        "weights": weights,
        "code": code or {"timm": "1"},
        "preprocess": {**PRE, **(preprocess or {})},
        "text": {},
    }
    identity = JobIdentity(
        backbone, task, task, {"engine": 1}, protocol or {"epochs": 10},
        DataIdentity(test, (train,) if train else (), validation, {"test": ["o"]}), seed, device,
        {"score_size": 64}, {"encoder": precision}, language_model, limit,
    )  # fmt: skip
    r = Record.model_validate(
        {
            "backbone": {
                "name": name, "uri": f"py:{name}", "weights_sha256": weights, "code": backbone["code"],
                "preprocess": backbone["preprocess"], "text": {}, "info": {"architecture": NANO, **(info or {})},
            },
            "task": task, "engine": task, "main_metric": metric, "protocol": {}, "protocol_hash": "", "seed": seed,
            "data": {"source": source, "counts": {"images": n, "classes": 10}, **(data or {})},
            "environment": {"date": "2026-11-30T04:00:00+00:00"}, "call": call or {},
        }
    )  # fmt: skip
    fill_identity(r, identity)
    scores = (np.random.default_rng([len(name), seed, int(100 * skill)]).random(n) < skill).astype(float)
    r.metrics = {metric: mean_estimate(scores)}
    write_record(out, r, [Sample(id=f"i{k}", image_id=f"i{k}", score=s) for k, s in enumerate(scores)])
    return r


RANDOM = {"baseline": True, "random_seed": 0}
CHANGES = [
    ({"train": "cccc"}, "data.train differs: aaaa against cccc"),
    ({"test": "dddd"}, "data.test differs: bbbb against dddd"),
    ({"validation": "eeee"}, "data.validation differs: none against eeee"),
    ({"precision": "bfloat16"}, "precision.encoder float32 against bfloat16"),
    ({"protocol": {"epochs": 5}}, "epochs 10 against 5"),
    ({"limit": 60}, "limit only in the second (60)"),
]


@pytest.mark.parametrize("change, told", CHANGES)
def test_other_inputs_are_refused_and_have_rows_of_their_own(tmp_path, capsys, change, told):
    """Once only the protocol and the test set were looked at: other training sets were "better by 9.3 points"."""
    a, b = job(tmp_path, "one", skill=0.9), job(tmp_path, "two", skill=0.2, **change)
    job(tmp_path, "zero", info=RANDOM, **change)
    with pytest.raises(ProtocolMismatch) as e:
        compare(a, b)
    assert told in str(e.value) and "\n" not in str(e.value)
    assert main(["compare", "one", "two", "--in", str(tmp_path)]) == 2 and told in capsys.readouterr().err
    results = Results.read([tmp_path])
    first, second = results.rows
    assert set(first.cells) | set(second.cells) == {"one", "two", "zero"} and not set(first.cells) & set(second.cells)
    by = {n: row for row in results.rows for n in row.cells}
    assert results.gain(by["one"], "one") is None and results.gain(by["two"], "two") is not None
    assert results.best(by["one"]) is None
    field = told.split()[0]
    assert all(row.mark.startswith("(") and field in row.mark for row in results.rows) and first.mark != second.mark
    assert first.mark in markdown(results) and second.mark in html_page(results)


def test_marks_say_the_values(tmp_path):
    job(tmp_path, "one"), job(tmp_path, "one", limit=60, protocol={"epochs": 5})
    assert {r.mark for r in Results.read([tmp_path]).rows} == {"(limit=none, epochs=10)", "(limit=60, epochs=5)"}


@pytest.mark.parametrize(
    "change, label",
    [
        ({"weights": "beef" * 16}, "m@beefbeef"),
        ({"preprocess": {"size": 96}}, "m (preprocess.size=96)"),
        ({"code": {"timm": "2"}}, "m (code.timm=2)"),
        ({"device": "cuda"}, "m (device=cuda)"),
    ],
)
def test_two_encoders_of_one_name_are_two_columns(tmp_path, capsys, change, label):
    """Once one cell, and with one seed the second record vanished from every difference."""
    job(tmp_path, "m", skill=0.9), job(tmp_path, "m", skill=0.2, **change)
    results = Results.read([tmp_path])
    (row,) = results.rows
    assert len(row.cells) == 2 and label in row.cells and all(len(c.records) == 1 for c in row.cells.values())
    a, b = read_records(tmp_path)
    c = compare(a, b)
    assert c.a != c.b and label in (c.a, c.b)
    assert main(["compare", "m", "m", "--in", str(tmp_path)]) == 2 and "encoders of" in capsys.readouterr().err
    with pytest.raises(UsageError, match="several records of one seed"):
        compare([a, b], [a, b])


def test_seeds_of_one_encoder_share_a_column_also_across_devices(tmp_path):
    job(tmp_path, "m", seed=0), job(tmp_path, "m", seed=1, device="cuda")
    assert [len(c.records) for c in Results.read([tmp_path]).rows[0].cells.values()] == [2]


def tables_of(out, capsys, *words):
    """Every format of the leaderboard, by name."""
    found = {}
    for kind in ("table", "csv", "md", "tex", "html", "json"):
        whole = ["--intervals"] if kind == "tex" else []
        assert main(["leaderboard", str(out), "--format", kind, *whole, *words]) == 0
        found[kind] = capsys.readouterr().out
    assert main(["leaderboard", str(out), "--format", "csv", "--wide", *words]) == 0
    return found | {"wide": capsys.readouterr().out}


def references_in(found):
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    return {r["backbone"]: (r["reference"], r["gain"]) for r in rows}


def test_with_two_baselines_each_format_names_one_and_the_same_reference(tmp_path, capsys):
    job(tmp_path, "b-random", skill=0.3, info={"baseline": True, "random_seed": 0})
    job(tmp_path, "a-random", skill=0.5, info={"baseline": True, "random_seed": 1})
    job(tmp_path, "m", skill=0.9)
    found = tables_of(tmp_path, capsys)
    per = references_in(found)
    assert per["m"][0] == "b-random" and per["a-random"] == per["b-random"] == ("", "")
    gain = float(per["m"][1])
    for kind in ("table", "md", "tex", "html", "json", "wide"):
        assert ("b-random" in found[kind] and f"{gain:.1f}" in found[kind]) or kind in ("json", "wide"), kind
    assert (
        "gain over b-random" in found["table"] and "Gain over b-random" in found["md"] and "Gain over b-random" in found["html"]
    )
    assert json.loads(found["json"])[0]["cells"]["m"]["reference"] == "b-random"
    assert "random-initialised" not in "".join(found.values())
    order = list(reversed(read_records(tmp_path)))
    for records in (order, order[::-1]):  # not the first of a run, nor of the alphabet
        results = Results(records)
        assert results.reference(results.rows[0], "m") == "b-random"


def test_a_backbones_own_twin_is_its_reference(tmp_path):
    big = {"dim": 768, "patch_dim": 768, "grid": [14, 14], "depth": 12}
    (
        job(tmp_path, "nano"),
        job(tmp_path, "large", info={"architecture": big}),
        job(tmp_path, "other", info={"architecture": {**big, "dim": 5}}),
    )
    job(tmp_path, "random-a", info={**RANDOM, "architecture": big}), job(tmp_path, "random-b", info=RANDOM)
    results = Results.read([tmp_path])
    (row,) = results.rows
    over = {n: results.reference(row, n) for n in row.cells}
    assert over == {"nano": "random-b", "large": "random-a", "other": None, "random-a": None, "random-b": None}
    assert "large over random-a" in results.gains_over(row) and " over random-a" in markdown(results)
    one = Results([r for r in results.records if r.backbone["name"] != "random-a"])
    assert one.reference(one.rows[0], "large") == "random-b"  # the only baseline of the row


def test_a_named_reference_is_used_or_refused(tmp_path, capsys):
    for name, skill, info in (("m", 0.9, {}), ("other", 0.4, {}), ("rnd", 0.2, RANDOM)):
        job(tmp_path, name, skill=skill, info=info)
    found = tables_of(tmp_path, capsys, "--reference", "other")
    assert references_in(found)["m"][0] == references_in(found)["rnd"][0] == "other" and references_in(found)["other"] == ("", "")
    assert "gain over other" in found["table"] and "Gain over other" in found["tex"]
    assert main(["report", str(tmp_path), "--no-images", "--reference", "other"]) == 0
    assert "gain over other in points" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert main(["leaderboard", str(tmp_path), "--reference", "othr"]) == 2
    err = capsys.readouterr().err
    assert "--reference othr: no such backbone" in err and "did you mean other?" in err and err.count("\n") == 1
    words = ["run", "--backbone", "random-nano", "--tasks", "knn", "--reference", "othr", "--out", str(tmp_path), "--quiet"]
    assert main(words) == 2 and "--reference othr" in capsys.readouterr().err  # before anything is computed


def test_without_a_baseline_there_is_no_gain(tmp_path, capsys):
    job(tmp_path, "m"), job(tmp_path, "o")
    assert all(v == ("", "") for v in references_in(tables_of(tmp_path, capsys)).values())


def test_every_format_says_what_data_it_is_from(tmp_path, capsys):
    job(tmp_path, "m", limit=60, n=60)
    published = {"published": "imagenet test split, 50,000 images of 1000 classes (by counts)", "split": "val"}
    job(tmp_path, "m", task="knn", source="hub", data=published)
    job(tmp_path, "m", task="pets", source="my/data")
    found = tables_of(tmp_path, capsys)
    for kind in ("table", "md", "tex", "html", "json"):
        text = " ".join(found[kind].split())
        assert "synthetic scenes; 60 test images; limit 60; 2026-11-30" in text, kind
        assert "imagenet test split, 50,000 images of 1000 classes (by counts) (published set) from the hub" in text, kind
        assert "directory my/data" in text and "no limit" in text, kind
    rows = {r["task"]: r for r in csv.DictReader(io.StringIO(found["csv"]))}
    assert [rows[t]["source"] for t in ("linear", "knn", "pets")] == ["scenes", "hub", "my/data"]
    one = rows["linear"]
    assert (one["images"], one["limit"], one["train_fingerprint"], one["date"], one["published_set"]) == (
        "60",
        "60",
        "aaaa",
        "2026-11-30",
        "",
    )
    assert len(one["identity_hash"]) == len(one["comparison_hash"]) == 64 and rows["knn"]["published_set"].startswith("imagenet")
    wide = {r["task"]: r for r in csv.DictReader(io.StringIO(found["wide"]))}
    assert (wide["linear"]["source"], wide["linear"]["images"], wide["linear"]["limit"]) == ("scenes", "60", "60")
    assert main(["report", str(tmp_path), "--no-images"]) == 0
    head = (tmp_path / "report.html").read_text().split("</header>")[0]
    assert "synthetic scenes; 60 test images; limit 60; 2026-11-30" in head


def test_chance_of_a_task_with_classes_is_the_catalogues(tmp_path, capsys):
    job(tmp_path, "m")
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert "linear: chance 10.0" in capsys.readouterr().out


def test_a_metric_nobody_knows_is_shown_raw_and_none_is_best(tmp_path, capsys):
    job(tmp_path, "a", skill=0.95, metric="oddness"), job(tmp_path, "b", skill=0.1, metric="oddness")
    results = Results.read([tmp_path])
    assert results.best(results.rows[0]) is None and "**" not in markdown(results)
    assert main(["leaderboard", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "metric oddness is not in the catalogue" in out and "0.9" in out and "95.0" not in out
    verdict = compare(*read_records(tmp_path)).verdict
    assert "a is above b by" in verdict and "which end of oddness is better is not known" in verdict


@pytest.mark.parametrize(
    "metric, best", [("rmse", "low"), ("calibration_error", "low"), ("top1", "high"), ("drop_mixed_rand", "low")]
)
def test_the_better_end_is_the_catalogues(tmp_path, metric, best):
    """Kills: lower is better ignored."""
    job(tmp_path, "high", skill=0.95, metric=metric), job(tmp_path, "low", skill=0.1, metric=metric)
    results = Results.read([tmp_path])
    assert results.best(results.rows[0]) == best
    assert compare(*read_records(tmp_path)).verdict.startswith(f"{best} is better than")
    assert "Lower is better" in latex(results) or best == "high"


def test_three_seeds_near_all_right_stay_below_a_hundred(tmp_path, capsys):
    for seed in range(3):
        r = job(tmp_path, "m", seed=seed, n=8)
        scores = np.ones(8)
        scores[0] = float(seed > 0)
        r.metrics = {"top1": mean_estimate(scores)}
        write_record(tmp_path, r, [Sample(id=f"i{k}", image_id=f"i{k}", score=s) for k, s in enumerate(scores)])
    results = Results.read([tmp_path])
    e = results.summary(results.rows[0], "m").estimate
    assert e.value == pytest.approx(23 / 24) and e.low < e.value < e.high <= 1.0 and "mean of 3 seeds: wilson" in e.method


def test_what_an_older_record_says_beyond_the_range_is_cut(tmp_path, capsys):
    r = job(tmp_path, "m")
    r.metrics["top1"] = r.metrics["top1"].model_copy(update={"high": 1.025})
    write_record(tmp_path, r, [Sample(id="a", image_id="a", score=1.0)])
    assert main(["leaderboard", str(tmp_path), "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["high"] == "100.0000" and "cut to [0, 1]" in row["method"]


def test_a_failed_record_goes_where_a_finished_one_of_the_same_work_is(tmp_path):
    r = job(tmp_path, "m")
    failed = Record.model_validate(
        {**r.model_dump(by_alias=True), "status": "failed", "reason": "disk full", "metrics": {}, "identity_hash": "f" * 64}
    )
    failed.data["fingerprint"] = ""
    write_record(tmp_path, failed)
    assert len(Results.read([tmp_path]).records) == 1


def test_schema_1_is_shown_beside_in_a_row_of_its_own(tmp_path):
    from tests.report.conftest import fill

    fill(tmp_path, ("old",), ("linear",), seeds=(0,))
    job(tmp_path, "new")
    assert [sorted(r.cells) for r in Results.read([tmp_path]).rows] == [["old"], ["new"]] or len(
        Results.read([tmp_path]).rows
    ) == 2
