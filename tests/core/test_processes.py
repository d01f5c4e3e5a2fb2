"""Processes that torchrun starts on gloo: one is lost, two go on, and what they write is what one process writes."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from levl_eval.cli import main
from levl_eval.core import distributed as processes
from levl_eval.core.command import guard
from levl_eval.core.distributed import LOST
from levl_eval.core.files import locked
from levl_eval.records import read_records

TASKS = "gqa,textvqa,ade20k,linear"  # textvqa: not there, so it fails in both processes alike
QUICK = ["gqa.recipe=scenes", "gqa.recipe.epochs=2", "gqa.recipe.max_questions=60", "gqa.recipe.images_per_batch=7",
         "ade20k.epochs=2", "linear.epochs=3", "linear.seeds=2"]  # fmt: skip


def words(world, out):
    settings = [w for s in QUICK for w in ("--set", s)]
    # Batches of 5: 24, 12, 96 and 48 images are whole numbers of batches for one process and uneven shares for two.
    return ["run", "--backbone", "random:nano", "--tasks", TASKS, "--data", str(world), "--out", str(out),
            "--batch-size", "5", *settings]  # fmt: skip


def launch(arguments, cache, module="levl_eval.cli", **more):
    """Two processes of a module on gloo; ``more``: of their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    env = {**os.environ, "LEVL_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        [*command, "-m", module, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers(pid):
    """Process ids of a launcher's workers, by rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        env = dict(e.split("=", 1) for e in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in e)
        found[int(env.get("RANK", -1))] = int(child)
    return found


def results(out):
    """What a run has found, by key: without times, cache hits, and the places of files."""
    found = {}
    for r in read_records(out):
        value = json.loads(r.model_dump_json(include={"metrics", "data", "status", "reason", "protocol_hash"}))
        samples = out / "samples" / f"{r.key}.jsonl"
        found[r.key] = (value, samples.read_bytes() if samples.exists() else b"")
    return found


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the launcher's workers in /proc")
def test_a_lost_process_ends_the_run_and_two_others_end_it_as_one_would(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "other cache"))
    assert main([*words(world, tmp_path / "one"), "--quiet"]) == 1
    one = results(tmp_path / "one")

    [held] = [key for key in one if key.startswith("ade20k")]  # the run has no end while this test is at a job of its
    with locked(tmp_path / "two" / ".locks" / held):
        p = launch(words(world, tmp_path / "two"), tmp_path / "cache")
        deadline = time.monotonic() + 1500
        while not list((tmp_path / "two").glob("records/gqa*.json")) and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert p.poll() is None, p.communicate()[1][-3000:]
        os.kill(workers(p.pid)[1], signal.SIGKILL)
        _, err = p.communicate(timeout=1500)
    assert p.returncode != 0, err[-2000:]
    kept = results(tmp_path / "two")  # every record that is there is whole
    assert kept and len(kept) < 5
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "two" / "records").iterdir() if "gqa" in f.name}

    p = launch(words(world, tmp_path / "two"), tmp_path / "cache")
    out, err = p.communicate(timeout=1500)
    assert p.returncode == 1 and "levl_eval.cli FAILED" in err and "rank      : 0 (local_rank: 0)" in err, err[-3000:]
    assert out.count("report.html") == 1  # one process speaks
    assert all(f.stat().st_mtime_ns == t for f, t in stamps.items())

    two = results(tmp_path / "two")
    assert len(one) == 3 + 2 and one == two
    assert sum(v["status"] == "failed" for v, _ in two.values()) == 1
    boards = [list(csv.reader((tmp_path / n / "leaderboard.csv").open())) for n in ("one", "two")]
    assert boards[0] == boards[1]
    files = [
        sorted(f.relative_to(tmp_path / c).as_posix() for f in (tmp_path / c).rglob("*.npy")) for c in ("cache", "other cache")
    ]
    assert files[0] == files[1] and files[0]
    for f in files[0]:
        assert (tmp_path / "cache" / f).read_bytes() == (tmp_path / "other cache" / f).read_bytes()


@pytest.mark.distributed
def test_input_that_one_process_refuses_is_told_once_and_shortly(tmp_path):
    """The other told at length what its connection to it had met with, and called it a fault of the program."""
    (tmp_path / "bad.csv").write_text("image,caption\na.png,\n")
    p = launch(
        [f"data=csv:{tmp_path}/bad.csv", "model=nano", f"out={tmp_path}/out", "steps=2", "batch_size=4"],
        tmp_path / "cache",
        "levl_eval.pretrain.cli",
    )
    _, err = p.communicate(timeout=600)
    lines = [line for line in err.splitlines() if line.startswith("levl-pretrain")]
    assert [line for line in lines if "bad.csv: line 2: image or caption is empty" in line] == lines[:1] and p.returncode != 0, (
        err
    )
    assert "exitcode  : 2" in err
    assert all(f"of 2 ends, {LOST}" in line for line in lines[1:]), lines  # none where torchrun was faster
    assert "pair.cc" not in err


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:13710"), True),
        (torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp"), True),
        (torch.distributed.DistNetworkError("recvValue failed"), True),
        (RuntimeError("CUDA error"), False),
    ],
)
def test_an_error_of_the_connection_is_another_process_that_is_lost(error, lost, monkeypatch, capsys):
    def fails():
        raise error

    assert guard(fails, False, "levl-eval") == 1
    assert LOST not in capsys.readouterr().err  # alone there is no other one
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert guard(fails, False, "levl-eval") == 1
    err = capsys.readouterr().err
    assert (err == f"levl-eval: process 1 of 2 ends, {LOST}\n") is lost


def test_rank_and_launch_follow_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert processes.launched_rank() == (0, 1) and not processes.launched()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.launched_rank() == (1, 2) and not processes.launched()  # nobody to reach: pieces are shared, no steps
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert processes.launched()
    monkeypatch.setenv("RANK", "x")
    assert processes.launched_rank() == (0, 1)


def _worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
                      WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")  # fmt: skip
    from datetime import timedelta

    import torch

    group = processes.process_group()
    both = group.all_failed()
    sums = [torch.full((2, 2), float(rank + 1)), torch.tensor([10.0 * rank])]
    group.add(sums)
    found = {
        "both": both,
        "sums": [s.tolist() for s in sums],
        "agreed": group.from_main(rank),
        "gathered": group.gather([rank] * (rank + 1)),
        "each": processes.joined_group().each(10 * rank),
        "mean": group.mean(rank, 4.0),
        "part": group.part,
        "joined": processes.joined_group().part,
    }
    found["alone"] = group.all_failed(timedelta(seconds=2)) if rank == 0 else None  # the other goes on and never comes
    (folder / f"{rank}.json").write_text(json.dumps(found))
    while not (folder / "0.json").exists():
        time.sleep(0.05)
    os._exit(0)


@pytest.mark.distributed
def test_a_process_that_fails_alone_learns_so(tmp_path):
    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_worker, args=(port, tmp_path), nprocs=2, start_method="spawn")
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["both"] is True and found["alone"] is (False if rank == 0 else None)
        assert found["sums"] == [[[3.0, 3.0], [3.0, 3.0]], [10.0]] and found["agreed"] == 0 and found["gathered"] == [0, 1, 1]
        assert found["each"] == [0, 10] and found["mean"] == [0.5, 4.0] and found["part"] == found["joined"] == [rank, 2]
