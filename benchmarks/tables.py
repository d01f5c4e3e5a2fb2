"""What tables cost over the number of records: CPU seconds and peak memory of `leaderboard`, `report` and `compare`, a process each.

    python benchmarks/tables.py [--records 125,500,2000] [--samples 3000] [--tasks 5] [--seeds 5] [--folder DIR] [--json FILE]

Records are drawn and written by the code that runs write theirs with: backbones x tasks x seeds, of which one backbone is the random
baseline that gains are over; each with a shipped card, a loss curve and as many samples, of a question with its answers or of an image.
"first" is the first table of a folder that nothing has been kept of besides what writing a record leaves; "again" every later one.
"rebuilt" is a first one of a folder whose derived files were deleted, or were never there: samples are parsed once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = ("gqa", "pope", "vqav2", "knn", "linear", "zeroshot", "textvqa", "attentive", "mme", "linear-path")
SPLITS = ("random", "popular", "adversarial")


def samples_of(task: str, engine: str, scores, images: int):
    """One sample a score: three questions an image, or an image each."""
    from levl_eval.records import Sample

    each = len(scores) // images
    for k, score in enumerate(scores):
        answer = "yes" if score else "no"
        if engine == "vqa":
            meta = {"question": f"Is there a red ball number {k % 97} left of the box?"}
            meta |= {"split": SPLITS[k % 3]} if task == "pope" else {}
            name, image = f"{k:07d}", f"COCO_val2014_{k // each:012d}"
        else:
            meta, name, image = {}, f"test/n{k % 40:08d}/{k:06d}.jpg", f"test/n{k % 40:08d}/{k:06d}.jpg"
        yield Sample(id=name, image_id=image, prediction=answer, target="yes", score=float(score), meta=meta)


def write(out: Path, records: int, samples: int, tasks: int, seeds: int) -> float:
    """Write the records; CPU seconds it took."""
    import numpy as np

    from levl_eval.cards import protocol_of
    from levl_eval.cards.registry import task_card
    from levl_eval.metrics.statistics import mean_estimate
    from levl_eval.records import DataIdentity, JobIdentity, Record, fill_identity, write_record

    start = time.process_time()
    backbones = records // (tasks * seeds)
    preprocess = {
        "size": 224,
        "resize": "shortest",
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    for b in range(backbones):
        name = f"encoder-{b:03d}" if b else "random-base"
        weights = name.encode().hex().ljust(64, "0")
        for task in TASKS[:tasks]:
            card = task_card(task)
            level = np.random.default_rng(7).random(samples)  # items differ in how hard they are, alike for all
            for seed in range(seeds):
                rng = np.random.default_rng([b, len(task), ord(task[0]), seed])
                scores = (rng.random(samples) < 0.2 + 0.6 * level * (b + 1) / backbones).astype(float)
                images = samples // 3 if card.engine == "vqa" else samples
                data = DataIdentity("ab" * 32, ("cd" * 32,), "", {"test": ["ef" * 32]})
                who = {"name": name, "weights": weights, "code": {"timm": "1.0"}, "preprocess": preprocess, "text": {}}
                identity = JobIdentity(
                    who, task, card.engine, {"engine": 1}, protocol_of(card), data, seed, "cpu", {}, {"encoder": "float32"},
                )  # fmt: skip
                clusters = np.arange(samples) // 3 if card.engine == "vqa" else None
                main = mean_estimate(scores, clusters)
                metric = "accuracy" if card.engine == "vqa" else "top1_k20" if task == "knn" else "top1"
                fields = {
                    "backbone": {**who, "uri": f"timm:{name}", "weights_sha256": weights,
                                 "info": {"baseline": not b, "architecture": {"dim": 768}}},
                    "task": task, "engine": card.engine, "main_metric": metric, "protocol": {}, "protocol_hash": "", "seed": seed,
                    "data": {"source": "hub", "counts": {"images": images, "classes": 40}, "split": "val"},
                    "metrics": {metric: main, **{f"{k}": main for k in ("floor_majority", "mean_per_class", "yes_ratio")}},
                    "notes": {"train_loss": [round(3 / (k + 1), 4) for k in range(100)], "converged": True},
                    "card": card.model_dump(mode="json"),
                    "environment": {"date": "2026-11-30T04:00:00+00:00", "command": ["levl-eval", "run"], "packages": {"torch": "2.13.0"}},
                    "seconds": {"features": 10.0, "head": 3.0},
                }  # fmt: skip
                fields["backbone"].pop("weights")
                record = Record.model_validate(fields)
                fill_identity(record, identity)
                write_record(out, record, samples_of(task, card.engine, scores, images))
    return time.process_time() - start


def measured(words: list[str]) -> tuple[float, float]:
    """CPU seconds and peak resident MB of `levl-eval WORDS`, in a process of its own. Raises SystemExit where it fails."""
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen([sys.executable, "-m", "levl_eval.cli", *words], stdout=subprocess.DEVNULL, stderr=told) as process,
    ):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        if process.returncode:
            raise SystemExit(f"levl-eval {' '.join(words)}: {told.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="125,500,2000", help="numbers of records, multiples of tasks x seeds")
    parser.add_argument("--samples", type=int, default=3000, help="of a record; a multiple of 3")
    parser.add_argument("--tasks", type=int, default=5, help=f"of {len(TASKS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rebuilt", action="store_true", help="also the first table after derived files were deleted")
    parser.add_argument("--folder", type=Path, help="write the records here and leave them")
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    root = o.folder or Path(tempfile.mkdtemp())
    figures = []
    try:
        for records in map(int, o.records.split(",")):
            out = root / str(records)
            spent = 0.0 if (out / "records").is_dir() else write(out, records, o.samples, o.tasks, o.seeds)
            table = ["leaderboard", str(out), "--format", "csv"]
            commands = {
                "leaderboard, first": table, "leaderboard, again": table, "report, first": ["report", str(out), "--no-images"],
                "report, again": ["report", str(out), "--no-images"],
                "compare, first": ["compare", "encoder-001", "random-base", "--in", str(out)],
                "compare, again": ["compare", "encoder-001", "random-base", "--in", str(out)],
            }  # fmt: skip
            print(f"{records} records of {o.samples} samples: written in {spent:.0f} s of CPU", flush=True)
            for name, words in commands.items():
                seconds, memory = measured(words)
                figures.append(
                    {"records": records, "samples": o.samples, "what": name, "cpu_seconds": seconds, "peak_mb": memory}
                )
                print(f"  {name:20} {seconds:7.2f} s  {memory:6.0f} MB", flush=True)
            if o.rebuilt:
                shutil.rmtree(out / "derived", ignore_errors=True)
                seconds, memory = measured(table)
                figures.append(
                    {
                        "records": records,
                        "samples": o.samples,
                        "what": "leaderboard, rebuilt",
                        "cpu_seconds": seconds,
                        "peak_mb": memory,
                    }
                )
                print(f"  {'leaderboard, rebuilt':20} {seconds:7.2f} s  {memory:6.0f} MB", flush=True)
            print(f"  report.html {(out / 'report.html').stat().st_size / 1e6:.1f} MB", flush=True)
    finally:
        if not o.folder:
            shutil.rmtree(root)
    if o.json:
        o.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
