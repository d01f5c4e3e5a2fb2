"""`--launcher slurm` on a real Slurm: an array that loses a copy and a node,
one that is found again and cancelled, a pretraining over two nodes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from levl_eval.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
PATIENCE = 300  # seconds; a crowded machine starts a copy in a minute


def _words(world, out, *more):
    return ["run", "--backbone", "random-nano", "--tasks", "linear,ade20k", "--data", str(world), "--out", str(out), *more]


def _start(words, env, **more):
    return subprocess.Popen([sys.executable, "-m", "levl_eval.cli", *words], env=env, text=True, **more)


def _ask(env, *words):
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout


def _until(condition, what):
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def _launch(out):
    return _until(lambda: [json.loads(f.read_text()) for f in (out / "slurm").glob("*/launch.json")], "a launch")[0]


@pytest.fixture
def whole(slurm):
    """Nodes as they were, whatever a test did to them."""
    yield
    for node in ("one", "two"):
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], env=slurm, check=False, capture_output=True)


def test_an_array_gives_one_process_table_though_a_copy_is_cancelled_and_a_node_drained(
    slurm, whole, world, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "alone"))
    assert main([*_words(world, tmp_path / "one"), "--quiet"]) == 0
    capsys.readouterr()
    out, env = tmp_path / "out", {**slurm, "LEVL_CACHE": str(tmp_path / "cache")}
    words = _words(world, out, "--launcher", "slurm", "--jobs", "4", "--slurm", "time=20,cpus=1,array_parallelism=2")
    with _start(words, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        job = _launch(out)["jobs"][0]
        (folder,) = (f for f in (out / "slurm").iterdir() if f.is_dir())
        _until(
            lambda: (folder / "copy-000.log").exists() and "random-nano on" in (folder / "copy-000.log").read_text(),
            "work of copy 0",
        )
        _ask(env, "scancel", f"{job}_0")
        _ask(env, "scontrol", "update", "nodename=two", "state=drain", "reason=test")
        stdout, stderr = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, stderr
    assert "1 cancelled, 3 completed" in stderr and "4 of 4 jobs done" in stderr
    assert "linear, top1" in stdout
    assert (out / "leaderboard.csv").read_bytes() == (tmp_path / "one" / "leaderboard.csv").read_bytes()
    logs = [f.read_text() for f in sorted(folder.glob("copy-*.log"))]
    assert len(logs) == 4 and all("Traceback" not in log for log in logs)
    assert _ask(env, "sinfo", "-h", "-n", "two", "-o", "%T").strip().startswith("drain")
    pickles = b"".join(f.read_bytes() for f in (folder / "submitit").glob("*submitted.pkl"))
    # words alone: the command's name, and no object of ours
    assert b"submitit" in pickles and not re.search(rb"levl_eval\.(?!cli)", pickles)
    # The same command again: all is there, and nothing goes to the queue.
    again = subprocess.run(
        [sys.executable, "-m", "levl_eval.cli", *words], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert again.returncode == 0 and "nothing is submitted" in again.stderr and again.stdout == stdout
    assert len(list((out / "slurm").glob("*/launch.json"))) == 1


def test_a_waiting_array_is_found_again_and_ctrl_c_without_a_terminal_cancels_nothing(slurm, whole, world, tmp_path):
    out, env = tmp_path / "out", {**slurm, "LEVL_CACHE": str(tmp_path / "cache")}
    for node in ("one", "two"):  # nothing starts: what is tried here needs no copy to run
        _ask(env, "scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    words = _words(world, out, "--launcher", "slurm", "--jobs", "2", "--slurm", "time=5")
    run = [sys.executable, "-m", "levl_eval.cli", *words]
    first = subprocess.run([*run, "--detach"], env=env, capture_output=True, text=True, timeout=PATIENCE)
    job = _launch(out)["jobs"][0]
    assert first.returncode == 0 and f"`scancel {job}` ends it" in first.stdout
    with _start(words, env, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as again:
        _until(lambda: f"Slurm job {job}: 2 pending" in again.stderr.readline(), "the waiting")
        again.send_signal(signal.SIGINT)
        rest = again.communicate(timeout=PATIENCE)[1]
    assert again.returncode == 130 and f"`scancel {job}` ends it" in rest and "Traceback" not in rest
    assert (
        len(_ask(env, "squeue", "-h", "-r", "-j", job).splitlines()) == 2
        and len(list((out / "slurm").glob("*/launch.json"))) == 1
    )
    assert _on_a_terminal(run, env, b"n\n") == 130
    assert len(_ask(env, "squeue", "-h", "-r", "-j", job).splitlines()) == 2
    assert _on_a_terminal(run, env, b"y\n") == 130
    assert _ask(env, "squeue", "-h", "-r", "-j", job).splitlines() == []


def _on_a_terminal(words, env, answer):
    """The exit code of a command whose waiting is ended by the terminal's Ctrl-C, and its question answered."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, env)
    seen, sent = b"", False
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        seen += part
        if not sent and b"pending" in seen:
            os.write(terminal, b"\x03")
            sent = True
        if b"[y/N]" in seen and answer:
            os.write(terminal, answer)
            answer = b""
    os.close(terminal)
    assert b"[y/N]" in seen, seen
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_sbatch_refuses_is_one_line_and_leaves_nothing(slurm, world, tmp_path):
    out, env = tmp_path / "out", {**slurm, "LEVL_CACHE": str(tmp_path / "cache")}
    words = _words(world, out, "--launcher", "slurm", "--slurm", "time=5,partition=gpu")
    done = subprocess.run(
        [sys.executable, "-m", "levl_eval.cli", *words], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (
        done.returncode == 2
        and "sbatch refuses" in done.stderr
        and "partition" in done.stderr.splitlines()[-1]
        and "Traceback" not in done.stderr
    )
    assert not list((out / "slurm").glob("*/")) and not list((tmp_path / "cache" / "launches").iterdir())


def test_a_pretraining_over_two_nodes_is_one_run(slurm, whole, tmp_path):
    out, env = tmp_path / "out", {**slurm, "LEVL_CACHE": str(tmp_path / "cache")}
    words = [
        f"out={out}", "steps=3", "batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1",
        "text.depth=1", "vocab_size=400", "precision=fp32", "log_every=1", "device=cpu", "model=nano",
    ]  # fmt: skip
    command = [sys.executable, "-m", "levl_eval.cli.pretrain", "--launcher", "slurm", "--slurm", "nodes=2,time=20,cpus=1", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr + "".join(f.read_text() for f in out.glob("slurm/*/copy-*.log"))
    assert "ckpt.pt: step 3" in done.stdout
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert sorted(f.name for f in out.glob("slurm/*/copy-*.log")) == ["copy-000.log", "copy-001.log"]
