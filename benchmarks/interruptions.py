"""Runs that are killed, and runs whose disk is full: is everything written readable, and does the end equal an undisturbed run?

    python benchmarks/interruptions.py [--kills 25] [--seed 0] [--at-once 1] [--backbone B,...] [--tasks T,...] [--work DIR]
    python benchmarks/interruptions.py --full-disk DIR        DIR: an empty folder on a small file system, for example
                                                              mount -t tmpfs -o size=64m none DIR

A tiny generated world; four backbones, six tasks. Each run is a process of its own (forked after the imports), ended by signal 9
at a random moment, and started again with the same words until it ends by itself; then a fresh one begins, until there were
--kills of them. After every kill all records, samples, features, chunks, connectors, states, journals and tables are read. The
leaderboard at the end must have the bytes of the undisturbed run's (it holds no times). On a full disk a run must end with code
1 and tell it in one line; given room bit by bit it must go on and end with those bytes too. Exit code 0: all of that held.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import forked  # beside this file

TINY = {
    "gqa/train": 24, "gqa/testdev": 12, "vqav2/train2014": 16, "vqav2/val2014": 12, "pope/val2014": 24, "ade20k/training": 24,
    "ade20k/validation": 12, "classification/train": 96, "classification/test": 48, "imagenet9/train": 18, "imagenet9/val": 18,
}  # fmt: skip
BACKBONES = "levljepa-nano,clip-nano,siglip-nano,random-nano"
TASKS = "gqa,vqav2,pope,ade20k,linear,zeroshot"


def words(world: Path, out: Path, backbones: str, tasks: str) -> list[str]:
    """The command of a run; small heads, so that every stage is short and kills meet all of them."""
    settings = [
        f"{t}.{k}" for t in ("gqa", "vqav2", "pope") for k in ("recipe=scenes", "recipe.epochs=2", "recipe.max_questions=80")
    ]
    settings += ["ade20k.epochs=5", "linear.epochs=20", "linear.seeds=2"]
    chosen = [w for s in settings if s.split(".")[0] in tasks.split(",") for w in ("--set", s)]
    return [
        "run", "--backbone", backbones, "--tasks", tasks, "--data", str(world), "--out", str(out), "--batch-size", "4", "--quiet",
        "--device", "cpu", *chosen,
    ]  # fmt: skip


def start(arguments: list[str], cache: Path, output: Path) -> int:
    """Run `levl-eval` in a forked process; its id. Its output goes to the file ``output``."""

    def levl_eval() -> forked.Main:
        from levl_eval.cli import main

        return main

    return forked.start(levl_eval, arguments, cache, output)


def wait(pid: int, seconds: float | None = None) -> int | None:
    """Exit code of a process, or None where it was killed after ``seconds``."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def unreadable(out: Path, cache: Path) -> list[str]:
    """Whatever was written and cannot be read, one line each. Names that begin with a dot are temporary files, never read."""
    import numpy as np
    import torch
    from safetensors import safe_open

    from levl_eval.features.store import FeatureStore
    from levl_eval.records import read_record, read_samples

    def safetensors(path: Path) -> None:
        with safe_open(path, framework="pt") as f:
            for key in f.keys():
                f.get_tensor(key)

    def arrays(path: Path) -> None:
        if path.suffix == ".npz":
            with np.load(path) as stored:
                assert {"pooled", "patches", "grid"} <= {k for k in stored if stored[k] is not None}
        else:
            np.load(path)

    def record(path: Path) -> None:
        found = read_record(path)
        if found.status == "done":
            assert list(read_samples(out, found)), "no samples"

    def lines(path: Path) -> None:  # a journal's last line may be torn: it is cut off when the journal is read
        whole = path.read_bytes()
        for line in whole[: whole.rfind(b"\n") + 1].splitlines():
            json.loads(line)

    def page(path: Path) -> None:
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), "cut short"

    def table(path: Path) -> None:
        rows = [line.count(",") >= 5 for line in path.read_text().splitlines()]
        assert rows and all(rows), "cut short"

    checks = [
        (out, "records/*.json", record), (out, "leaderboard.csv", table), (out, "report.html", page),
        (cache, "connectors/*.safetensors", safetensors), (cache, "connectors/*.state.pt", lambda p: torch.load(p, weights_only=True)),
        (cache, "answers/*.jsonl", lines), (cache, "floors/*.json", lambda p: json.loads(p.read_text())),
        (cache, "content/*.npy", arrays), (cache, "features/parts/*/*/*.npz", arrays),
        (cache, "features/parts/*/plan.json", lambda p: json.loads(p.read_text())),
    ]  # fmt: skip
    wrong = FeatureStore(cache / "features").verify()
    for root, pattern, check in checks:
        for path in sorted(root.glob(pattern)):
            if path.name.startswith("."):
                continue
            try:
                check(path)
            except Exception as e:
                wrong.append(f"{path}: {type(e).__name__}: {e}")
    return wrong


def kills(args: argparse.Namespace, world: Path, work: Path, board: bytes, seconds: float) -> bool:
    """The killed runs; True where everything held."""
    rng, killed, ended, good = random.Random(args.seed), 0, 0, True
    while killed < args.kills:
        out, cache = work / f"out{ended}", work / f"cache{ended}"
        code: int | None = None
        here = 0
        while code is None:
            # Later kills of a run come later, so that it gets to its end; after the last one it is left alone.
            pause = rng.uniform(0, seconds / 4 * (1 + here / 4)) if killed < args.kills else None
            began = time.monotonic()
            pids = [
                start(words(world, out, args.backbone, args.tasks), cache, work / f"said{k}.txt") for k in range(args.at_once)
            ]
            codes = []
            for k, pid in enumerate(pids):
                later = None if pause is None else pause * (1 + k) - (time.monotonic() - began)
                codes.append(wait(pid, later))
            code = None if None in codes else max(c for c in codes if c is not None)
            wrong = unreadable(out, cache)
            if code is None:
                killed, here = killed + codes.count(None), here + 1
                records = len(list((out / "records").glob("*.json")))
                print(f"kill {killed} after {pause:5.1f} s: {records} records, {len(wrong)} files unreadable", flush=True)
            for line in wrong:
                print(f"  UNREADABLE {line}")
                good = False
        same = (out / "leaderboard.csv").exists() and (out / "leaderboard.csv").read_bytes() == board
        print(
            f"run {ended + 1} ended with code {code}; leaderboard.csv {'has the same bytes' if same else 'DIFFERS'}", flush=True
        )
        if not same:
            print((work / "said0.txt").read_text()[-2000:])
        good &= same and not list((cache / "features" / "parts").glob("*"))
        ended += 1
        shutil.rmtree(cache)
    print(f"{killed} kills, {ended} runs brought to their end: {'all' if good else 'NOT all'} as it should be")
    return good


def full_disk(args: argparse.Namespace, world: Path, work: Path, board: bytes) -> bool:
    """Runs on a file system without room, which is then given bit by bit; True where everything held."""
    place = Path(args.full_disk)
    free = shutil.disk_usage(place).free
    if free > 1 << 30:
        sys.exit(f"{place}: {free / 1e6:,.0f} MB free; give a folder on a small file system, it is going to be filled")
    ballast, out, cache = place / "ballast", place / "out", place / "cache"
    step, good, told = 1 << 18, True, 0
    with open(ballast, "wb") as f:
        f.write(b"\0" * max(0, free - (1 << 16)))
    code = 1
    while True:
        code = wait(start(words(world, out, args.backbone, args.tasks), cache, work / "said.txt")) or 0
        said = (work / "said.txt").read_text()
        if out.joinpath("leaderboard.csv").exists() and (out / "leaderboard.csv").read_bytes() == board:
            break
        lines = [x for x in said.splitlines() if "disk full" in x or "cannot be written" in x or "No space" in x]
        clear = code in (1, 2) and "Traceback" not in said and bool(lines)
        wrong = unreadable(out, cache)
        room = shutil.disk_usage(place).free
        print(
            f"{ballast.stat().st_size / 1e6:6.1f} MB of ballast: code {code}, "
            f"{room / 1e3:,.0f} kB free, {len(wrong)} unreadable; {lines[:1]}"
        )
        good &= clear and not wrong
        if not clear:
            print(said[-2000:])
        told += 1
        if ballast.stat().st_size == 0:
            print(said[-2000:])
            return False
        os.truncate(ballast, max(0, ballast.stat().st_size - step))
        step = step * 5 // 4
    print(
        f"{told} runs met a full disk; the last ended with code {code} and the same bytes: {'all' if good else 'NOT all'} as it should be"
    )
    return good


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--kills", type=int, default=25)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--backbone", default=BACKBONES)
    p.add_argument("--tasks", default=TASKS)
    p.add_argument("--at-once", type=int, default=1, metavar="N", help="runs that write to one directory and one cache at once")
    p.add_argument("--full-disk", metavar="DIR")
    p.add_argument("--work", metavar="DIR", help="where the runs go (default: a temporary folder, removed at the end)")
    args = p.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    import torch
    import transformers  # noqa: F401  (before the forks, so that they start at once)

    from levl_eval.core.progress import Progress
    from levl_eval.engines.vlm import training
    from levl_eval.scenes.export import make_scenes

    torch.set_num_threads(1)
    training.SAVE_EVERY = 0.2  # seconds between a connector's states: kills meet them too
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        world = work / "world"
        make_scenes(world, size=64, counts=TINY, progress=Progress(quiet=True))
        began = time.monotonic()
        code = wait(start(words(world, work / "whole", args.backbone, args.tasks), work / "whole-cache", work / "said.txt"))
        seconds = time.monotonic() - began
        board = (work / "whole" / "leaderboard.csv").read_bytes()
        print(f"undisturbed run: code {code}, {seconds:.1f} s, {len(board.splitlines()) - 1} rows", flush=True)
        good = full_disk(args, world, work, board) if args.full_disk else kills(args, world, work, board, seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
