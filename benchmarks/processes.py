"""One run shared by 1 to 64 processes: is every record there, whole and made once, and what does each process more cost?

    python benchmarks/processes.py [--processes 1,2,4,8,16,32,64] [--jobs 64] [--kill] [--work DIR]

A tiny generated world, one backbone, `--jobs` seeds of a linear probe; `--processes` processes start at once on one `--out` and one cache,
as the copies of `--launcher slurm` do (ranks in the environment, nothing but files between them). They are forked after the imports, so
that 64 of them share the libraries' memory. Each number of processes has an empty folder and cache. --kill: a quarter of them is ended by
signal 9 on the way. Printed: seconds, CPU seconds, the largest sum of the processes' own memory (Pss, libraries once), records,
those computed twice. Exit code 0: as many whole records as jobs, each computed once (or again where its process was killed), and
the table's bytes equal to those of the first number of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import forked  # beside this file
from interruptions import TINY


def words(world: Path, out: Path, jobs: int) -> list[str]:
    """The command that all of them run."""
    seeds = ",".join(map(str, range(jobs)))
    return ["run", "--backbone", "random-nano", "--tasks", "linear", "--data", str(world),
            "--out", str(out), "--device", "cpu", "--seeds", seeds, "--set", "linear.epochs=20"]  # fmt: skip


def memory(pids: list[int]) -> float:
    """Their own part of memory together, in MiB: pages that several share are counted once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # has ended
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) if "Pss:" in text else 0
    return total / 1024


def share(count: int, arguments: list[str], cache: Path, logs: Path, kill: bool) -> tuple[float, float, float]:
    """(seconds, CPU seconds, MiB) of ``count`` processes that run the command at once."""

    def levl_eval() -> forked.Main:
        from levl_eval.cli import main

        return main

    logs.mkdir()
    before, began, rng = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), random.Random(0)
    pids = []
    for rank in range(count):
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count))
        pids.append(forked.start(levl_eval, arguments, cache, logs / f"{rank}.txt"))
    doomed = {pid: began + rng.uniform(2, 2 + count / 2) for pid in pids[1:][: count // 4]} if kill else {}
    left, largest, looked = set(pids), 0.0, 0.0
    while left:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                left.discard(pid)
            elif time.monotonic() > doomed.get(pid, float("inf")):
                os.kill(pid, signal.SIGKILL)
                doomed.pop(pid)
        if time.monotonic() - looked > 2:
            looked, largest = time.monotonic(), max(largest, memory(list(left)))
        time.sleep(0.05)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu, largest


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4,8,16,32,64")
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from levl_eval.cli import main as levl_eval
    from levl_eval.core.progress import Progress
    from levl_eval.records.check import check_run
    from levl_eval.scenes.export import make_scenes

    work = args.work or Path(tempfile.mkdtemp(prefix="levl-processes-"))
    world = work / "world"
    make_scenes(world, size=64, counts=TINY, progress=Progress(quiet=True))
    os.environ["LEVL_CACHE"] = str(work / "warm")
    # imports, before the forks: what these share is there once
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        levl_eval([*words(world, work / "warm" / "out", 1), "--quiet"])
    print(f"{'processes':>9} {'seconds':>8} {'CPU s':>7} {'MiB':>7} {'records':>8} {'whole':>6} {'twice':>6}  table", flush=True)
    board, good = b"", True
    for count in map(int, args.processes.split(",")):
        folder = work / f"{count}"
        folder.mkdir()
        seconds, cpu, mib = share(count, words(world, folder / "out", args.jobs), folder / "cache", folder / "logs", args.kill)
        records = check_run(folder / "out")
        whole = sum(r.state == "whole" for r in records)
        begun = [
            line for log in (folder / "logs").iterdir() for line in log.read_text().splitlines() if re.match(r"\[\d+/\d+\]", line)
        ]
        computed = sum("already there" not in line for line in begun)
        table = (folder / "out" / "leaderboard.csv").read_bytes() if (folder / "out" / "leaderboard.csv").exists() else b""
        board = board or table
        same = table == board and bool(table)
        twice = computed - whole
        good &= whole == len(records) == args.jobs and (twice == 0 or (args.kill and twice > 0)) and same
        print(
            f"{count:9} {seconds:8.1f} {cpu:7.1f} {mib:7.0f} {len(records):8} {whole:6} {twice:6}  {'equal' if same else 'DIFFERS'}",
            flush=True,
        )
    print("all as it should be" if good else f"NOT all as it should be: see {work}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
