"""`--launcher`: what was asked of Slurm, states of copies, submitit's local executor, and folders and locks that are not shared."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest

from levl_eval.cli import main
from levl_eval.cli.app import build_parser
from levl_eval.cli.launching import OF_THE_LAUNCH, copy_words
from levl_eval.cli.pretrain import main as pretrain
from levl_eval.core.errors import UsageError
from levl_eval.core.files import locked
from levl_eval.models.checkpoints import read
from levl_eval.runner import launch as launching
from levl_eval.runner import shared_folders, watching
from levl_eval.runner.copies import Copy, read_squeue
from levl_eval.runner.launch import Launch, new_folder
from levl_eval.runner.shared_folders import BEAT, check_locks, check_shared, holding, leave_tokens
from levl_eval.runner.slurm_options import parse_slurm
from levl_eval.runner.watching import endings, in_words, last_line


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("partitoin=gpu", r"no key 'partitoin' \(did you mean partition"), ("time=soon", "--slurm time=soon: expected minutes"),
        ("gpus=two", "gpus=two: expected a whole number from 0 to 64"), ("gpus=65", "from 0 to 64"), ("mem=lots", "a size such as 32G"),
        ("time=0", "expected minutes"), ("partition=", "expected a text"), ("gpu", "expected key=value"), ("gpus=1,gpus=2", "given twice"),
        ("account=a\nb", "expected a text"), ("nodes=2", "no key 'nodes'"), ("array_parallelism=0", "from 1 to"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_one_line(words, wrong):
    with pytest.raises(UsageError, match=wrong) as e:
        parse_slurm([words])
    assert "\n" not in str(e.value).replace("a\nb", "")


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("4:00:00", 240), ("1-12", 2160), ("1-02:30", 1590), ("30:30", 31), ("0:30", 1)]
)
def test_times_are_slurms(text, minutes):
    assert parse_slurm([f"time={text}"]).minutes == minutes


def test_values_with_commas_and_what_becomes_of_them():
    options = parse_slurm(["partition=gpu,nodelist=n[1,3-4],m2,gpus=1", "time=60,mem=32g,reservation=r"])
    asked = options.parameters()
    assert asked["nodelist"] == "n[1,3-4],m2" and asked["gpus_per_node"] == 1 and asked["mem"] == "32G" and asked["time"] == 60
    assert (
        asked["additional_parameters"] == {"requeue": True, "signal": "TERM@90", "reservation": "r"} and options.device == "cuda"
    )
    assert parse_slurm(["gres=gpu:a100:1"]).device == "cuda" and parse_slurm(["gpus=0"]).device == "cpu"


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--jobs", "2"], "--jobs: goes with --launcher"), (["--launcher", "slurm", "--slurm", "gpus=1"], "no time limit"),
        (["--launcher", "local", "--slurm", "gpus=1"], "--slurm: goes with --launcher slurm"),
        (["--launcher", "local", "--jobs", "0"], "--jobs 0"),
        (["--launcher", "local", "--workers", "2"], "--workers: a copy is one process"), (["--launcher", "local"], "--out DIR"),
        (["--launcher", "slurm", "--slurm", "time=9,gpus=4"], "a copy uses one GPU; gpus=1 and --jobs 4"),
        (["--launcher", "slurm", "--slurm", "time=9", "--device", "cuda", "--out", "o"], "asks for no GPU"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_told(words, wrong, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "has_slurm", lambda: True)
    assert main(["run", "--backbone", "random-nano", "--tasks", "linear", *words]) == 2
    stderr = capsys.readouterr().err
    assert wrong in stderr and len(stderr.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_without_slurm_it_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        main(["run", "--backbone", "random-nano", "--tasks", "linear", "--out", "o", "--launcher", "slurm", "--slurm", "time=5"])
        == 2
    )
    assert "no `sbatch` here" in capsys.readouterr().err


def test_copies_get_every_option_that_moves_a_record(tmp_path):
    """A new option of `run` is either handed on or named as the launch's own."""
    given = {
        "backbone": "b", "tasks": "t", "data": "d", "llm": "l", "seeds": "3,4", "limit": "5", "skip_broken": "0.5%", "settings": "t.x=1",
        "grid": "t.y=1,2", "reference": "r", "batch_size": "7", "trust": None, "out": "o", "device": "cpu",
        "precision": "bf16", "store_limit": "3GB", "floors": "random-twin", "compile": None, "channels_last": None, "cuda_graphs": None,
    }  # fmt: skip
    parser = build_parser()
    run = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices["run"]
    actions = {a.dest: a for a in run._actions if a.dest != "help"}
    assert {*given, *OF_THE_LAUNCH} == set(actions)
    words = ["run"]
    for name, value in given.items():
        words += [actions[name].option_strings[0], *([] if value is None else [value])]
    args = parser.parse_args(words)
    copy = parser.parse_args(copy_words(args, tmp_path, "cuda"))
    assert {n: getattr(copy, n) for n in given if n not in ("out", "device")} == {
        n: getattr(args, n) for n in given if n not in ("out", "device")
    }
    assert copy.out == str(tmp_path) and copy.device == "cuda" and copy.launcher is None


def test_states_of_an_array_of_one_job_and_of_what_is_forgotten():
    text = "7_0|RUNNING|n1|None\n7_2|PENDING||Resources\n7_1|CANCELLED by 0|n1|None\n"
    assert read_squeue(text.replace(" by 0", ""), 4) == [
        Copy("RUNNING", "n1"),
        Copy("CANCELLED", "n1"),
        Copy("PENDING", "", "Resources"),
        Copy("ENDED"),
    ]
    assert [c.live for c in read_squeue(text, 4)] == [True, True, True, False]
    assert read_squeue("7|COMPLETED|n1|None\n", 1) == [Copy("COMPLETED", "n1")]


def test_what_became_of_copies_is_told(tmp_path):
    launch = Launch(tmp_path, "slurm", [], ["7"], 3)
    states = [Copy("COMPLETED"), Copy("NODE_FAIL", "n1"), Copy("PENDING", "", "Resources")]
    assert "do the nodes see this folder?" in endings(launch, states)[0]
    launch.log(1).write_text("begun\n\x1b[31mlast\n\n")
    assert last_line(launch.log(1)) == r"\x1b[31mlast"
    assert endings(launch, states)[0] == r"copies 1: NODE_FAIL: \x1b[31mlast"
    assert in_words(launch, states, None) == "Slurm job 7: 1 completed, 1 node_fail, 1 pending (Resources)"


def _launch_folder(tmp_path, waits=False):
    cache = tmp_path / "cache"
    folder = new_folder(tmp_path / "out", ["run"])
    leave_tokens(folder, cache, waits)
    return folder, cache


def test_a_folder_or_cache_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folders, "VISIBLE", 0)
    folder, cache = _launch_folder(tmp_path)
    check_shared(folder, cache)
    with pytest.raises(UsageError, match="put --out on a file system that both share"):
        check_shared(tmp_path / "elsewhere", cache)
    with pytest.raises(UsageError, match="this is not the cache of .*; set LEVL_CACHE to a folder that both share"):
        check_shared(folder, tmp_path / "own")


def test_a_lock_that_does_not_hold_between_machines_is_refused(tmp_path, monkeypatch):
    """As on Lustre with localflock: this process's lock on `held` keeps nobody out, and yet it beats."""
    folder, cache = _launch_folder(tmp_path, waits=True)
    with holding(folder) as beat:
        check_shared(folder, cache)  # held: refused to us as to any other
    leave_tokens(folder, cache, True)
    monkeypatch.setattr(shared_folders.time, "sleep", lambda _: (folder / "beat").write_text(str(beat.count + 1)))
    with pytest.raises(UsageError, match="could take a lock that .* holds, so locks do not hold between them; mount Lustre"):
        check_shared(folder, cache)


def test_a_submitting_process_that_was_killed_stops_no_copy(tmp_path, monkeypatch):
    folder, cache = _launch_folder(tmp_path, waits=True)
    times = iter(range(0, 10_000, BEAT))
    monkeypatch.setattr(shared_folders.time, "monotonic", lambda: float(next(times)))
    monkeypatch.setattr(shared_folders.time, "sleep", lambda _: None)
    check_shared(folder, cache)


def test_locks_are_tried_before_anything_is_submitted(tmp_path, monkeypatch):
    check_locks(tmp_path)
    assert not list((tmp_path / ".locks").iterdir())
    monkeypatch.setattr(shared_folders, "local_only", lambda folder: f"{folder}: mounted so")
    with pytest.raises(UsageError, match="mounted so"):
        check_locks(tmp_path)


def test_the_same_command_at_work_is_found_and_no_other(tmp_path, monkeypatch):
    folder = new_folder(tmp_path, ["run", "a"])
    launch = Launch(folder, "slurm", ["run", "a"], ["7"], 1)
    (folder / "launch.json").write_text(json.dumps({"launcher": "slurm", "words": ["run", "a"], "jobs": ["7"], "count": 1}))
    (new_folder(tmp_path, ["run", "a"]) / "launch.json").write_text("{")  # a submission that was killed
    state = Copy("PENDING")
    monkeypatch.setattr(Launch, "states", lambda self: [state])
    assert launching.running(tmp_path, ["run", "a"]) == launch and launching.running(tmp_path, ["run", "b"]) is None
    state = Copy("TIMEOUT")
    assert launching.running(tmp_path, ["run", "a"]) is None


@pytest.mark.slow
@pytest.mark.distributed
def test_local_copies_give_one_table_and_end_when_they_are_cancelled(world, tmp_path):
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "levl_eval.cli", "run", "--backbone", "random-nano", "--tasks", "linear", "--data", str(world)]
    alone = subprocess.run(
        [*words, "--out", str(tmp_path / "one"), "--quiet"], env=env, capture_output=True, text=True, timeout=300
    )
    run = [*words, "--out", str(tmp_path / "out"), "--launcher", "local", "--jobs", "2"]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)
    assert alone.returncode == done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == (tmp_path / "one" / "leaderboard.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_local_copies_run_on_when_detached_and_end_when_cancelled(world, tmp_path):
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = ["run", "--backbone", "random-nano", "--tasks", "linear", "--data", str(world), "--set", "linear.epochs=100000"]
    more = ["--out", str(tmp_path / "out"), "--launcher", "local", "--jobs", "2", "--detach"]
    # Its output goes into a pipe, which must not stay open as long as the copies live.
    run = subprocess.run(
        [sys.executable, "-m", "levl_eval.cli", *words, *more], env=env, capture_output=True, text=True, timeout=120
    )
    (path,) = (tmp_path / "out" / "slurm").glob("*/launch.json")
    launch = Launch(path.parent, **json.loads(path.read_text()))
    try:
        assert run.returncode == 0 and "2 processes of this machine go on" in run.stdout
        assert (
            launching.running(tmp_path / "out", launch.words) == launch and [c.state for c in launch.states()] == ["RUNNING"] * 2
        )
    finally:
        launch.queue.cancel(launch.jobs)
    assert [c.state for c in launch.states()] == ["ENDED"] * 2
    table = subprocess.run(["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "out") not in table


def test_a_lock_is_free_again_when_its_holder_ends(tmp_path):
    with locked(tmp_path / "a") as ours, locked(tmp_path / "b", wait=False) as other:
        assert ours and other
        with locked(tmp_path / "a", wait=False) as again:
            assert not again
    with locked(tmp_path / "a", wait=False) as again:
        assert again


def test_a_pretraining_that_ended_names_the_step_of_its_checkpoint_whatever_a_log_ends_with(
    checkpoints, tmp_path, monkeypatch, capsys
):
    launch = Launch(tmp_path / "slurm" / "one", "slurm", [], ["7"], 1)
    launch.folder.mkdir(parents=True)
    launch.log(0).write_text("step 3\nWarning: a process group was not destroyed\n")
    shutil.copyfile(checkpoints["clip"], tmp_path / "ckpt.pt")
    monkeypatch.setattr(launching, "check_launcher", lambda name: None)
    monkeypatch.setattr(launching, "running", lambda out, words: launch)
    monkeypatch.setattr(watching, "wait", lambda *args, **more: [Copy("COMPLETED")])
    assert pretrain(["--launcher", "slurm", "--slurm", "nodes=2,time=20", f"out={tmp_path}"]) == 0
    step = read(tmp_path / "ckpt.pt")["step"]
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'ckpt.pt'}: step {step}; evaluate it with `levl-eval run")
