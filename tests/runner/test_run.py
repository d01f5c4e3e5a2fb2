"""The main job whole: `levl-eval run` from checkpoint to leaderboard on a tiny world, with the embedded language model."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from levl_eval.cli import main
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.records import read_records, read_samples
from levl_eval.runner.plan import RunConfig, make_plan

TASKS = "gqa,vqav2,pope,ade20k,linear,zeroshot"
QUICK = [f"{t}.{k}" for t in ("gqa", "vqav2", "pope") for k in ("recipe=scenes", "recipe.epochs=1", "recipe.max_questions=60")]
QUICK += ["ade20k.epochs=2", "linear.epochs=3"]


def words(world, out, backbones, tasks=TASKS, *more):
    settings = [w for s in QUICK if s.split(".")[0] in tasks.split(",") for w in ("--set", s)]
    return [
        "run",
        "--backbone",
        backbones,
        "--tasks",
        tasks,
        "--data",
        str(world),
        "--out",
        str(out),
        "--quiet",
        "--seeds",
        "0",
        *settings,
        *more,
    ]


@pytest.fixture(scope="module")
def first(world, checkpoints, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    patch = pytest.MonkeyPatch()
    patch.setenv("LEVL_CACHE", str(root / "cache"))
    code = main(words(world, root / "a", f"{checkpoints['levljepa']},random:nano"))
    yield root, code
    patch.undo()


@pytest.mark.slow
def test_every_task_gives_a_record_but_zero_shot_of_a_blind_reader(first):
    root, code = first
    records = read_records(root / "a")
    assert code == 1 and len(records) == 12  # random:nano has no text encoder: one failed record, the rest is there
    failed = [r for r in records if r.status != "done"]
    assert [(r.task, r.backbone["name"]) for r in failed] == [("zeroshot", "random:nano")] and "no text encoder" in failed[
        0
    ].reason
    for r in records:
        if r.status == "done":
            e = r.metrics[r.main_metric]
            assert 0 <= e.low <= e.value <= e.high <= 1 and e.n > 0
            samples = list(read_samples(root / "a", r))
            assert samples and all(s.status == "ok" for s in samples)


def test_main_metrics_follow_from_the_samples(first):
    root, _ = first
    for r in read_records(root / "a"):
        if r.status == "done" and r.task in ("gqa", "vqav2", "linear", "zeroshot"):
            scores = [s.score for s in read_samples(root / "a", r)]
            assert r.metrics[r.main_metric].value == pytest.approx(sum(scores) / len(scores))


def test_one_connector_for_the_three_and_features_are_made_once(first):
    root, _ = first
    records = {(r.task, r.backbone["name"]): r for r in read_records(root / "a")}
    own = [k[1] for k in records if k[0] == "gqa"]
    for name in own:
        three = [records[t, name] for t in ("gqa", "vqav2", "pope")]
        assert len({r.notes["connector"] for r in three}) == 1
        assert [r.cache["connector_hits"] for r in three] == [0, 1, 1]
        assert three[1].cache["feature_misses"] == 1 and three[1].cache["feature_hits"] == 2
        assert "floor_text_only" in three[0].metrics
    assert records["gqa", own[0]].notes["connector"] != records["gqa", own[1]].notes["connector"]
    assert records["zeroshot", "levljepa"].cache["feature_hits"] == 1  # the linear probe has made them


def test_the_leaderboard_is_tidy_and_gains_are_paired(first):
    root, _ = first
    rows = list(csv.DictReader(io.StringIO((root / "a" / "leaderboard.csv").read_text())))
    main_rows = [r for r in rows if r["main"] == "1"]
    assert len(main_rows) == 12
    gains = {(r["task"], r["backbone"]): r["gain"] for r in main_rows}
    assert all(gains[t, "levljepa"] != "" for t in ("gqa", "vqav2", "pope", "ade20k", "linear"))
    assert all(gains[t, "random:nano"] == "" for t in ("gqa", "linear"))
    values = {(r["task"], r["backbone"]): float(r["value"]) for r in main_rows if r["value"]}
    for t in ("gqa", "pope", "ade20k", "linear"):
        assert float(gains[t, "levljepa"]) == pytest.approx(values[t, "levljepa"] - values[t, "random:nano"], abs=2e-3)
    assert "seconds" not in rows[0]


@pytest.mark.slow
def test_again_it_computes_nothing_and_elsewhere_it_gives_the_same_bytes(first, world, checkpoints, capsys, monkeypatch):
    root, _ = first
    board = (root / "a" / "leaderboard.csv").read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in (root / "a" / "records").iterdir()}
    main(words(world, root / "a", f"{checkpoints['levljepa']},random:nano"))
    changed = [p.name for p, t in stamps.items() if p.stat().st_mtime_ns != t]
    assert changed == [p.name for p in stamps if "zeroshot--random" in p.name]  # only what failed is tried again
    assert (root / "a" / "leaderboard.csv").read_bytes() == board
    monkeypatch.setenv("LEVL_CACHE", str(root / "fresh"))
    main(words(world, root / "b", f"{checkpoints['levljepa']},random:nano"))
    assert (root / "b" / "leaderboard.csv").read_bytes() == board
    assert main(["leaderboard", str(root / "a"), "--format", "csv"]) == 0
    assert capsys.readouterr().out.encode().endswith(board)


def test_samples_say_what_was_asked_and_answered(first):
    root, _ = first
    r = next(r for r in read_records(root / "a") if r.task == "pope" and r.status == "done")
    s = next(read_samples(root / "a", r))
    assert s.meta["question"].startswith("Is there a") and s.meta["split"] == "random" and s.target in ("yes", "no")
    assert r.data["version"].startswith("own files") and r.environment["packages"]["torch"]


@pytest.mark.slow
def test_a_bad_image_or_mask_fails_its_task_alone(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "w"
    shutil.copytree(world, broken)
    image = next((broken / "classification" / "test").rglob("*.jpg"))
    image.write_bytes(b"junk")
    mask = next((broken / "ade20k").rglob("annotations/validation/*.png"))
    mask.write_bytes(b"junk")
    assert main(words(broken, tmp_path / "o", "random:nano", "linear,ade20k")) == 1
    out = capsys.readouterr().out
    assert image.name in out and mask.name in out
    assert len(json.loads((next((tmp_path / "o" / "records").glob("linear*"))).read_text())["reason"].splitlines()) == 1


def test_what_a_suite_leaves_out_of_a_backbone_has_no_job_and_is_said(tmp_path, capsys):
    """The demo's random weights: on what needs no connector alone; on all of it where the tasks are named."""

    def jobs(*tasks: str) -> set[tuple[str, str]]:
        config = RunConfig(
            backbones=["levljepa-nano", "random-nano"], tasks=tasks, data=str(tmp_path / "nothing"), out=tmp_path / "out",
            cache=tmp_path / "cache", seeds=[0], device="cpu",
        )  # fmt: skip
        return {(job.backbone.name, job.card.name) for job in make_plan(config, Progress()).jobs}

    (tmp_path / "nothing").mkdir()
    with on_stderr():
        demo = jobs("suite:demo")
    assert "random-nano: gqa, vqav2, pope left out by the suite; name the tasks to run them" in capsys.readouterr().err
    asked = {"gqa", "vqav2", "pope"}
    assert {t for b, t in demo if b == "random-nano"} == {"ade20k", "linear"}
    assert {t for b, t in demo if b == "levljepa-nano"} == {*asked, "ade20k", "linear", "zeroshot"}
    assert {t for b, t in jobs("suite:demo", "pope") if b == "random-nano"} == {"ade20k", "linear", "pope"}
