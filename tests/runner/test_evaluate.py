"""The run: resume, failures, overrides, bad input, exit codes. The engine is a small real one that measures mean brightness."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import atomic_path
from levl_eval.core.progress import Progress
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_classification
from levl_eval.engines import contract as engines
from levl_eval.engines.contract import Context, Outcome
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample
from levl_eval.records.schema import checksum_of
from levl_eval.report.tables import COLUMNS, write_leaderboard
from levl_eval.runner.evaluate import evaluate
from levl_eval.runner.grid import parse_grid
from levl_eval.runner.plan import resolve_tasks, split_overrides

CALLS: list[str] = []


def brightness(ctx: Context) -> Outcome:
    """Score 1 where the image's mean is above the card's learning rate (any number of the card would do)."""
    CALLS.append(ctx.card.name)
    if ctx.card.epochs == 13:
        raise LevlError("the moon is full; wait")
    if ctx.card.epochs == 14:
        raise ZeroDivisionError("a bug")
    found = read_classification(ctx.card.data, ctx.data, ctx.limit)
    files = sorted(Path(found.images.source, i) for i in found.images.ids)
    about = {"fingerprint": fingerprint_of(found), "counts": {"images": len(files)}}
    scores = [float(np.asarray(Image.open(f)).mean() / 255 > ctx.card.lr) for f in files]
    samples = [Sample(id=f.name, image_id=f.name, score=s) for f, s in zip(files, scores, strict=True)]
    nothing = mean_estimate(np.zeros(0))
    if ctx.card.epochs in (15, 16):  # what is said of no item at all has no value
        metrics = (
            {"top1": nothing} if ctx.card.epochs == 16 else {"top1": mean_estimate(np.array(scores)), "top1_unleaked": nothing}
        )
        return Outcome(metrics, samples, about)
    return Outcome({"top1": mean_estimate(np.array(scores))}, samples, about)


@pytest.fixture
def world(tmp_path, monkeypatch):
    CALLS.clear()
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(engines.ENGINES, "linear", f"{__name__}:brightness")
    draw(tmp_path / "data" / "classification", 12)
    return tmp_path


def draw(folder, count, seed=0):
    """Class folders train and test of two classes with ``count`` images in all of test."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for i in range(count):
            place = folder / split / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), rng.integers(0, 255), np.uint8)).save(place / f"{i}.png")


def write(path, value):
    """A record's JSON with a checksum that fits, as another version of the program might have written it."""
    path.write_text(json.dumps({**value, "checksum": checksum_of(value)}))


def go(world, tasks=("linear",), backbones=("random:nano",), **options):
    options = {"data": str(world / "data"), "out": world / "out", "seeds": (0,), "progress": Progress(quiet=True), **options}
    return evaluate(list(backbones), list(tasks), **options)


def test_second_run_computes_only_what_is_missing_and_the_csv_is_stable(world):
    first = go(world)
    csv = write_leaderboard(world / "out").read_bytes()
    assert first[0].status == "done" and len(CALLS) == 1
    again = go(world, seeds=(0, 1))
    assert len(CALLS) == 2 and again[0] == first[0] and again[1].seed == 1
    (world / "out" / "records" / f"{again[1].key}.json").unlink()
    assert write_leaderboard(world / "out").read_bytes() == csv
    assert csv.decode().splitlines()[0] == ",".join(COLUMNS)


def test_without_seeds_the_cards_own_number_is_run(world):
    assert [r.seed for r in go(world, seeds=None)] == [0, 1, 2]
    assert len({r.protocol_hash for r in go(world, seeds=None, settings=["linear.seeds=2"])}) == 1 and len(CALLS) == 3


def test_unreadable_record_and_missing_samples_are_computed_again(world):
    record = go(world)[0]
    path = world / "out" / "records" / f"{record.key}.json"
    path.write_text("{")
    assert go(world)[0].status == "done" and len(CALLS) == 2
    (world / "out" / "samples" / f"{record.key}.jsonl").unlink()
    assert go(world)[0].status == "done" and len(CALLS) == 3


def test_other_data_or_protocol_is_not_mistaken_for_done(world):
    go(world)
    go(world, settings=["linear.lr=0.9"])
    assert len(CALLS) == 2
    draw(world / "other" / "classification", 2, seed=1)
    assert go(world, data=str(world / "other"))[0].metrics["top1"].n == 2
    assert len(list((world / "out" / "records").iterdir())) == 3  # and nothing was overwritten


def test_a_metric_without_a_value_is_named_and_the_record_stays_readable(world, capsys):
    (r,) = go(world, settings=["linear.epochs=15"])
    (again,) = go(world, settings=["linear.epochs=15"])
    assert r.metrics.keys() == {"top1"} and r.notes["undefined"] == ["top1_unleaked"] and again == r and len(CALLS) == 1
    (lost,) = go(world, settings=["linear.epochs=16"])
    assert lost.status == "failed" and "top1 is not defined on this test set" in lost.reason
    assert main(["leaderboard", str(world / "out"), "--format", "csv"]) == 0
    assert "not defined" in capsys.readouterr().out


@pytest.mark.parametrize("epochs, reason", [(13, "the moon is full; wait"), (14, "ZeroDivisionError: a bug")])
def test_a_failing_task_is_recorded_and_the_rest_goes_on(world, epochs, reason):
    records = go(
        world,
        tasks=("linear", "classify"),
        settings=[
            f"linear.epochs={epochs}",
            *(f"classify.{k}.root={world}/data/classification/{v}" for k, v in (("train", "train"), ("data", "test"))),
        ],
    )
    assert [r.status for r in records] == ["failed", "done"]
    assert not records[0].metrics
    # of the code that failed, where it is none of ours
    place = f" ({__file__}, line " if reason.startswith("ZeroDivision") else ""
    assert records[0].reason.partition(" (")[0] == reason and place in records[0].reason
    rows = write_leaderboard(world / "out").read_text().splitlines()
    assert any("failed" in r and reason in r for r in rows)
    go(world)  # a failed one is tried again
    assert CALLS.count("linear") == 2


def test_bad_input_is_told_before_anything_runs(world):
    for options, words in [
        ({"data": str(world / "nowhere")}, "no such directory"),
        ({"settings": ["linear.epochs"]}, "task.field=value"),
        ({"settings": ["lineer.epochs=1"]}, "not among --tasks"),
        ({"limit": 0}, "at least 1"),
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"backbones": ("random:nano", "random:nano")}, "two of them are named"),
        ({"tasks": ()}, "--tasks"),
        ({"backbones": ()}, "--backbone"),
        ({"out": world / "data" / "classification" / "test" / "a" / "0.png"}, "cannot be written"),
    ]:
        with pytest.raises(UsageError, match=words) as e:
            go(world, **options)
        assert "\n" not in str(e.value)
    assert CALLS == []


def test_split_overrides_keeps_dots_and_equal_signs_of_values():
    assert split_overrides(["a.b.c=x=1"], ["a"]) == {"a": {"b.c": "x=1"}}


def test_a_field_has_one_value_whatever_order_and_spelling_it_is_set_in():
    """What is set inside a mapping stays where the mapping is set behind it; two values of one field are refused."""
    inside, mapping = "pope.prompt.max_new_tokens=5", "pope.prompt={max_new_tokens: 3, template: '{question}'}"
    cards = [resolve_tasks(["pope"], words, "scenes")["pope"] for words in ([inside, mapping], [mapping, inside])]
    assert [c.prompt.max_new_tokens for c in cards] == [5, 5] and cards[0] == cards[1]
    grid = resolve_tasks(
        ["pope"], [inside], "scenes", grid=["pope.prompt={max_new_tokens: 3},{max_new_tokens: 3, template: 'Q {question}'}"]
    )
    assert [c.prompt.max_new_tokens for c in grid.values()] == [5, 5] and len({c.prompt.template for c in grid.values()}) == 2
    assert split_overrides(["a.b=1", "a.b=1"], ["a"]) == {"a": {"b": "1"}}
    for words in (["a.b=1", "a.b=2"], ["a.b.0=1", "a.b.00=2"]):
        with pytest.raises(UsageError, match="is also set to 1; give it once"):
            split_overrides(words, ["a"])


def test_a_word_that_stands_for_two_tasks_is_no_task(tmp_path):
    """A card's file that is called as a shipped task, or as another folder's: which one `--set` means is not known."""
    tasks = ["linear", str(tmp_path / "linear.yaml")]
    with pytest.raises(UsageError, match=r"--set .*'linear' may be linear or .*linear.yaml"):
        split_overrides(["linear.lr=0.5"], tasks)
    with pytest.raises(UsageError, match=r"--grid .*'linear' may be linear or .*linear.yaml"):
        parse_grid(["linear.lr=0.5,1"], tasks)


def test_cli_exit_codes_and_one_line(world, capsys):
    base = ["run", "--backbone", "random:nano", "--data", str(world / "data"), "--out", str(world / "out"), "--quiet"]
    assert main([*base, "--tasks", "linear"]) == 0
    assert "top1" in capsys.readouterr().out
    assert main([*base, "--tasks", "linear", "--set", "linear.epochs=13"]) == 1
    assert "the moon is full" in capsys.readouterr().out
    for wrong in (
        [*base, "--tasks", "lineal"],
        [*base],
        ["runn"],
        [*base, "--tasks", "linear", "--seeds", "x"],
        ["list", "task"],
        [*base, "--tasks", "linear,segmentation"],  # whose masks no --set names
        [*base, "--tasks", "linear,segmentation", "--dry-run"],
    ):
        assert main(wrong) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "Traceback" not in err
        assert ("segmentation: layout segmentation needs `train.images`" in err) == ("linear,segmentation" in wrong)


def test_dry_run_shows_the_protocol_and_runs_nothing(world, capsys):
    assert main(["run", "--backbone", "random:nano", "--tasks", "linear,gqa", "--dry-run", "--set", "linear.lr=0.25"]) == 0
    out = capsys.readouterr().out
    assert "lr: 0.25" in out and "# gqa: protocol" in out
    assert CALLS == [] and not (world / "out").exists()


def test_help_and_list_import_neither_torch_nor_transformers():
    code = (
        "import sys; from levl_eval.cli import main\n"
        "for words in (['list','tasks'], ['list','backbones'], ['show','gqa'], ['--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "bad = {'torch','transformers','timm','pandas','datasets','torchvision'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([sys.executable, "-m", "levl_eval.cli", "list", "tasks", "--json"], capture_output=True, text=True)
    assert {"gqa", "pope", "ade20k"} <= {row["name"] for row in json.loads(listed.stdout)}


def test_a_record_is_run_again_from_itself(world, capsys):
    record = go(world, settings=["linear.lr=0.4"], limit=7, seeds=(2,))[0]
    path = world / "out" / "records" / f"{record.key}.json"
    assert record.card["lr"] == 0.4 and record.call["llm"] == "scenes-lm" and record.environment["command"]
    assert record.environment["device"] == "cpu" and record.environment["device_name"] and record.environment["cores"] >= 1
    assert main(["rerun", str(path), "--quiet"]) == 0
    assert "the same numbers" in capsys.readouterr().out and len(CALLS) == 2
    # the earlier rerun is not taken for this one
    assert main(["rerun", str(path), "--quiet"]) == 0 and len(CALLS) == 3 and capsys.readouterr().out
    (again,) = (world / "out" / "rerun" / "records").iterdir()
    assert again.name == path.name  # the same identity
    value = json.loads(path.read_text())
    value["metrics"]["top1"]["value"] = 0.123
    path.write_text(json.dumps(value))
    assert main(["rerun", str(path), "--quiet"]) == 2 and "checksum" in capsys.readouterr().err  # an edited record is none
    write(path, value)
    assert main(["rerun", str(path), "--quiet", "--json", "--out", str(world / "third")]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["changes"][0].startswith("top1 0.123000 then") and told["computed"] is True
    calls = len(CALLS)
    assert main(["rerun", str(path), "--quiet", "--out", str(world / "third")]) == 1 and len(CALLS) == calls
    assert "nothing was computed again" in capsys.readouterr().out
    write(path, {**value, "status": "failed", "reason": "the disk was full", "metrics": {}})
    assert main(["rerun", str(path), "--quiet"]) == 1 and "failed then: the disk was full" in capsys.readouterr().out
    value["card"] = {}
    write(path, value)
    for words in (["rerun", str(path)], ["rerun", str(world / "nothing.json")]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_an_earlier_rerun_on_other_data_is_not_taken_for_this_one(world, capsys):
    record = go(world)[0]
    other = go(world, limit=7)[0]
    draw(world / "moved" / "classification", 12, seed=1)
    path, short = (world / "out" / "records" / f"{r.key}.json" for r in (record, other))
    assert main(["rerun", str(short), "--quiet"]) == 0
    for calls in (4, 5):
        assert main(["rerun", str(path), "--quiet", "--data", str(world / "moved")]) == 1
        assert len(CALLS) == calls and "data.test" in capsys.readouterr().out
    assert len(list((world / "out" / "rerun" / "records").iterdir())) == 2  # that of the other record stays


def test_a_relative_data_folder_is_that_of_the_run_wherever_the_record_is_run_again(world, capsys, monkeypatch):
    monkeypatch.chdir(world)
    words = ["run", "--backbone", "random:nano", "--tasks", "linear", "--data", "data", "--seeds", "0", "--limit", "7"]
    assert main([*words, "--out", "relative", "--quiet"]) == 0
    (path,) = (world / "relative" / "records").iterdir()
    (world / "elsewhere").mkdir()
    monkeypatch.chdir(world / "elsewhere")
    assert main(["rerun", str(path), "--quiet"]) == 0
    assert "the same numbers" in capsys.readouterr().out


def test_two_runs_at_once_in_one_directory_share_the_work(world, monkeypatch):
    """Each piece is computed once, by either; both runs end with all records."""
    import threading

    import levl_eval.backbones.loader

    # Random weights come from the process's generator, which threads share: both runs get the ones loaded before.
    load = levl_eval.backbones.loader.load_backbone
    kept = {name: load(name) for name in ("random:nano", "random:nano?seed=1")}

    def loaded(uri, card=None):
        return kept[uri]

    monkeypatch.setattr(levl_eval.backbones.loader, "load_backbone", loaded)
    options = {"tasks": ("linear",), "backbones": ("random:nano", "random:nano?seed=1"), "seeds": (0, 1, 2)}
    ends: dict[int, list] = {}
    runs = [threading.Thread(target=lambda i=i: ends.update({i: go(world, **options)})) for i in range(2)]
    for t in runs:
        t.start()
    for t in runs:
        t.join()
    assert len(CALLS) == 6 and len(ends[0]) == 6
    assert [r.key for r in ends[0]] == [r.key for r in ends[1]] and all(r.status == "done" for r in ends[0] + ends[1])


def test_processes_start_at_different_pieces_and_give_the_order_of_one(world, monkeypatch):
    options = {"tasks": ("linear",), "backbones": ("random:nano",), "seeds": (0, 1, 2)}
    one = [r.seed for r in go(world, **options)]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [r.seed for r in go(world, out=world / "second", **options)] == one == [0, 1, 2]


@pytest.mark.slow
def test_json_of_every_command_is_json_alone(world, capsys):
    def read(*words, code=0):
        assert main(list(words)) == code
        return json.loads(capsys.readouterr().out)

    data, out = str(world / "data"), str(world / "out")
    base = [
        "run",
        "--backbone",
        "random:nano",
        "--tasks",
        "linear",
        "--data",
        data,
        "--out",
        out,
        "--seeds",
        "0",
        "--quiet",
        "--json",
    ]
    (plan,) = read(*base, "--dry-run", "--set", "linear.lr=0.25")
    assert plan["task"] == "linear" and plan["card"]["lr"] == plan["protocol"]["lr"] == 0.25
    found = read(*base)
    (record,) = found["records"]
    assert record["status"] == "done" and record["metric"] == "top1" and record["low"] <= record["value"] <= record["high"]
    assert Path(record["record"]).is_file() and Path(found["report"]).is_file() and Path(found["leaderboard"]).is_file()
    failed = read(*base, "--set", "linear.epochs=13", code=1)["records"][0]
    assert failed["status"] == "failed" and failed["reason"] == "the moon is full; wait" and "value" not in failed
    assert read("show", "linear", "--json")["engine"] == "linear" and read("show", "random-nano", "--json")["baseline"] is True
    assert read("report", out, "--json", "--no-images")["bytes"] > 1000
    # the engine here stores no features
    assert {r["kind"] for r in read("cache", "ls", "--json")} == {"backbones", "fingerprints"}
    assert read("cache", "verify", "--json")["broken"] == []
    assert read("cache", "clear", "--json")["removed"] == 2 and read("cache", "ls", "--json") == []
    made = read("data", "make", "scenes", "--out", str(world / "made"), "--size", "64", "--scale", "0.001", "--json")
    assert made["size"] == 64 and Path(made["out"], "scenes.json").is_file()


def test_a_failure_names_its_seed_where_there_are_several(world, capsys):
    words = ["run", "--backbone", "random:nano", "--tasks", "linear", "--data", str(world / "data"), "--out", str(world / "out")]
    assert main([*words, "--set", "linear.epochs=13", "--seeds", "0,1"]) == 1
    err = capsys.readouterr().err
    assert all(f"  failed (seed {seed}): the moon is full; wait" in err for seed in (0, 1)), err
    assert main([*words, "--set", "linear.epochs=13", "--seeds", "0"]) == 1
    assert "  failed: the moon is full; wait" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_in_one_line_and_the_next_run_goes_on(world, capsys):
    """No file may grow beyond a kilobyte, so neither the samples nor a failed record can be written."""
    words = ["run", "--backbone", "random:nano", "--tasks", "linear", "--data", str(world / "data"), "--out", str(world / "out")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        code = main([*words, "--seeds", "0", "--quiet"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert code == 1 and err.count("\n") == 1 and "disk full; free space and run the same command again" in err
    left = [p for p in (world / "out").rglob("*") if p.is_file() and p.parent.name != ".locks"]
    assert left == []  # nothing half written, no temporary file
    assert main([*words, "--seeds", "0", "--quiet"]) == 0


@pytest.mark.parametrize("library", ["torch", "safetensors", "numpy"])
def test_a_full_disk_is_told_alike_whichever_library_writes(tmp_path, library):
    import torch
    from safetensors.torch import save_file

    def write(path):
        if library == "numpy":
            with open(path, "wb") as f:
                np.save(f, np.zeros(10_000))
        else:
            (torch.save if library == "torch" else save_file)({"a": torch.zeros(10_000)}, path)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(LevlError, match="disk full"), atomic_path(tmp_path / "x") as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_just_failed_is_not_tried_by_each(world, monkeypatch):
    def meanwhile(ctx):
        if ctx.seed == 0 and len(CALLS) == 0:
            CALLS.append("first")
            # as another process would
            assert [r.status for r in go(world, seeds=(1,), settings=["linear.epochs=13"])] == ["failed"]
        return brightness(ctx)

    monkeypatch.setattr(f"{__name__}.meanwhile", meanwhile, raising=False)
    monkeypatch.setitem(engines.ENGINES, "linear", f"{__name__}:meanwhile")
    records = go(world, seeds=(0, 1), settings=["linear.epochs=13"])
    assert [r.status for r in records] == ["failed", "failed"] and CALLS == ["first", "linear", "linear"]
    go(world, seeds=(1,), settings=["linear.epochs=13"])  # the next run does try again
    assert len(CALLS) == 4


def test_missing_sets_are_not_asked_for_in_the_programs_own_cache(world, tmp_path, monkeypatch):
    monkeypatch.setattr("levl_eval.runner.plan.resolve_data", lambda data, cache, progress: str(world))
    (record,) = evaluate(
        ["random:nano"], ["imagenet"], seeds=[0], out=tmp_path / "out", cache=tmp_path / "cache", progress=Progress(quiet=True)
    )
    assert record.status == "failed" and str(world) not in record.reason
    assert record.reason.startswith("DIR/imagenet: no such folder") and "--data DIR names the folder" in record.reason
