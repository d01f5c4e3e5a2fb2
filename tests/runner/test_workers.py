"""`--workers`: a second process takes its part, the table is that of one, and none outlives the process that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from levl_eval.cli import main
from levl_eval.cli import run as cli
from levl_eval.core.device import GPU_SHARE, memory_share
from levl_eval.core.distributed import cores
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.runner.runner import Runner
from levl_eval.runner.workers import USABLE, default_workers, workers

CARD = "kind: backbone\nname: {name}\nuri: random:nano?seed={seed}\n"


def _words(world, tmp_path, out, *more):
    for seed, name in enumerate(("one", "two")):
        (tmp_path / f"{name}.yaml").write_text(CARD.format(name=name, seed=seed))
    cards = f"{tmp_path / 'one.yaml'},{tmp_path / 'two.yaml'}"
    return [
        "run", "--backbone", cards, "--tasks", "linear,ade20k", "--data", str(world), "--out", str(out), "--set", "linear.seeds=1", *more,
    ]  # fmt: skip


def _children(pid) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.distributed
def test_two_workers_share_the_pieces_and_give_one_table(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "levl_eval.cli"]
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, *_words(world, tmp_path, tmp_path / "both", "--workers", "2", "--json")],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in json.loads(done.stdout)["records"]] == ["done"] * 4
    assert "two on" in done.stderr and "already there" in done.stderr  # the other process did some
    # A record names the command its user gave, not the one that began the worker.
    ends = {json.loads(f.read_text())["environment"]["command"][-1] for f in (tmp_path / "both" / "records").iterdir()}
    assert ends == {"--json"}
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "alone"))
    assert main([*_words(world, tmp_path, tmp_path / "one"), "--quiet"]) == 0
    capsys.readouterr()
    assert (tmp_path / "both" / "leaderboard.csv").read_bytes() == (tmp_path / "one" / "leaderboard.csv").read_bytes()


def test_no_worker_leaves_its_connectors_to_the_end(tmp_path, monkeypatch):
    """Each begins at its share of the plan, in the plan's order: the job with a connector stands before those that need none."""
    jobs = [SimpleNamespace(card=SimpleNamespace(engine=engine)) for engine in ("vqa", "linear", "knn")] * 2
    orders = []
    for rank in (0, 1):
        monkeypatch.setattr("levl_eval.runner.runner.launched_rank", lambda rank=rank: (rank, 2))
        runner = Runner(SimpleNamespace(config=SimpleNamespace(out=tmp_path), jobs=jobs), Progress(quiet=True), {})
        taken: list[int] = []
        monkeypatch.setattr(runner, "_alone", lambda n, wait, r=runner, t=taken: t.append(n) or r.records.update({n: n}) or True)
        assert runner.work() == [0, 1, 2, 3, 4, 5]
        orders.append(taken)
    assert orders == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2]]


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_worker_ends_with_the_process_that_started_it(world, tmp_path):
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = _words(world, tmp_path, tmp_path / "out", "--workers", "2", "--quiet", "--set", "ade20k.epochs=100000")
    first = subprocess.Popen([sys.executable, "-m", "levl_eval.cli", *words], env=env)
    limit = time.monotonic() + 60
    while not (found := _children(first.pid)) and time.monotonic() < limit:
        time.sleep(0.1)
    (child,) = found
    first.send_signal(signal.SIGKILL)
    first.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < limit:
        time.sleep(0.2)
    assert not Path(f"/proc/{child}").exists()


def test_a_wrong_number_is_told(monkeypatch):
    with pytest.raises(UsageError, match="--workers 0: at least 1"), workers(0, []):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a launcher has started"), workers(2, []):
        pass
    with workers(1, []):
        assert os.environ["WORLD_SIZE"] == "2"


def test_the_demo_takes_a_process_a_core_and_no_more_of_them_under_a_launcher(monkeypatch):
    counts = []
    monkeypatch.setattr(cli, "shared_run", lambda count, args: counts.append(count) or 0)
    assert main(["demo"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["demo"]) == 0
    assert counts == [min(cores(), 4), 1]


@pytest.fixture
def two_gpus(monkeypatch):
    """As on a machine with two: what is seen of them is CUDA_VISIBLE_DEVICES, and torch is not asked."""
    monkeypatch.setattr("levl_eval.core.device.cpu_build", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    started = []

    class Process:
        def __init__(self, words, env, **streams):
            started.append(env)

        def terminate(self):
            pass

        wait = terminate

    monkeypatch.setattr("levl_eval.runner.workers.subprocess.Popen", Process)
    return started


def test_each_worker_has_a_gpu_or_a_share_of_one(two_gpus, monkeypatch):
    assert default_workers("auto") == default_workers("cuda") == 2 and default_workers("cuda:1") == default_workers("cpu") == 1
    with workers(3, ["run"]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a" and memory_share() == pytest.approx(USABLE / 2)
        assert default_workers("auto") == 1  # a process that has its part starts no others
    assert [env["CUDA_VISIBLE_DEVICES"] for env in two_gpus] == ["GPU-b", "GPU-a"]
    assert GPU_SHARE not in two_gpus[0] and float(two_gpus[1][GPU_SHARE]) == pytest.approx(USABLE / 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b" and memory_share() is None
    with workers(2, ["run"], "cpu"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    monkeypatch.setenv(GPU_SHARE, "2")
    with pytest.raises(UsageError, match="LEVL_GPU_SHARE=2: expected a share"):
        memory_share()


def test_run_takes_a_process_a_gpu_unless_told_otherwise(two_gpus, monkeypatch):
    counts = []
    monkeypatch.setattr(cli, "shared_run", lambda count, args: counts.append(count) or 0)
    for more in ([], ["--device", "cpu"], ["--device", "cuda:0"]):
        assert main(["run", "--backbone", "random-nano", "--tasks", "linear", *more]) == 0
    assert counts == [2, 1, 1]
