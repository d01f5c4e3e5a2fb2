"""A run directory as a run leaves it, made of drawn answers: four backbones, five tasks, three seeds of the probe, one failure."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.records import Record, Sample, write_record
from levl_eval.records.schema import checksum_of

SKILL = {"good": 0.75, "fair": 0.6, "fair-twin": 0.6, "random": 0.4}


def record(name: str, task: str, metric: str, metrics: dict[str, Estimate], seed: int = 0, **changes) -> Record:
    fields = {
        "backbone": {
            "name": name,
            "uri": f"py:{name}",
            "weights_sha256": name.encode().hex().ljust(64, "0"),
            "preprocess": {"size": 64, "resize": "squash", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
            "info": {"baseline": name == "random"},
        },
        "task": task, "engine": "vqa" if task in ("gqa", "pope") else task, "main_metric": metric,
        "protocol": {"name": task, "prompt": {"template": "Q", "max_new_tokens": 8}},
        "protocol_hash": f"{task}".encode().hex().ljust(64, "0"),
        "data": {"fingerprint": f"{task}-data".encode().hex(), "counts": {"images": 40}, "source": "scenes"},
        "seed": seed, "metrics": metrics,
        "notes": {"connector_loss": [2.0, 1.2, 0.9, 0.8]} if task == "gqa" else {"probe_loss": [3.0, 1.0]} if task == "linear" else {},
        "environment": {"python": "3.11", "packages": {"torch": "2"}, "git": {"revision": "ab" * 20, "dirty": False}},
    }  # fmt: skip
    return Record.model_validate({**fields, **changes})


def edit_record(path: Path, change) -> None:
    """Change a record's file by hand and sign it anew: as another version of a run would have written it."""
    content = json.loads(path.read_text())
    change(content)
    content["checksum"] = checksum_of(content)
    path.write_text(json.dumps(content))


def tie_samples(out: Path, key: str) -> None:
    """Let a record say that its samples are those which lie beside it now."""
    raw = (out / "samples" / f"{key}.jsonl").read_bytes()
    told = {"rows": raw.count(b"\n"), "sha256": hashlib.sha256(raw).hexdigest()}
    edit_record(out / "records" / f"{key}.json", lambda content: content.update(samples=told))


def questions(rng, skill, images=40, each=6, splits=("",)):
    out = []
    level = rng.random(images)
    for split in splits:
        for i in range(images):
            for k in range(each):
                right = float(rng.random() < np.clip(skill + 0.4 * (level[i] - 0.5), 0, 1))
                meta = {"question": f"What <b> is & number {k}?", **({"split": split} if split else {})}
                out.append(
                    Sample(
                        id=f"{split}{i}-{k}",
                        image_id=f"img{i}",
                        prediction="yes" if right else "no",
                        target="yes",
                        score=right,
                        meta=meta,
                    )
                )
    return out


def segments(rng, skill, images=40, classes=5):
    counts = np.zeros((images, classes, 3), np.int64)
    size = rng.integers(100, 400, (images, classes))
    right = (size * np.clip(rng.normal(skill, 0.1, size.shape), 0, 1)).astype(int)
    counts[..., 0], counts[..., 1], counts[..., 2] = right, size, right + np.roll(size - right, 1, 1)
    samples = [
        Sample(
            id=f"img{i}", image_id=f"img{i}", score=0.5, meta={"counts": {str(c): counts[i, c].tolist() for c in range(classes)}}
        )
        for i in range(images)
    ]
    return samples, bootstrap_statistic(counts, lambda s: statistics_from_counts(s)["mean_iou"])


def fill(
    out: Path, names=tuple(SKILL), tasks=("gqa", "pope", "ade20k", "linear", "zeroshot"), seeds=(0, 1, 2), **changes
) -> Path:
    for b, name in enumerate(names):
        skill = SKILL.get(name, 0.6)
        for task in tasks:
            for seed in seeds if task == "linear" else (0,):
                rng = np.random.default_rng([b, len(task), ord(task[0]), seed])
                if task == "ade20k":
                    samples, e = segments(rng, skill)
                    write_record(out, record(name, task, "mean_iou", {"mean_iou": e}, **changes), samples)
                    continue
                if task == "zeroshot" and name == "random":
                    failed = record(name, task, "top1", {}, status="failed", reason="no text encoder", **changes)
                    write_record(out, failed)
                    continue
                samples = questions(rng, skill, each=1 if task in ("linear", "zeroshot") else 6,
                                    splits=("random", "popular") if task == "pope" else ("",))  # fmt: skip
                scores = np.array([s.score for s in samples])
                e = mean_estimate(scores, np.array([s.image_id for s in samples]))
                metric = "accuracy" if task in ("gqa", "pope") else "top1"
                more = {}
                if task == "gqa":
                    more = {
                        "floor_text_only": Estimate(value=0.33, low=0.3, high=0.36),
                        "gain_over_text_only": Estimate(value=e.value - 0.33),
                    }
                write_record(out, record(name, task, metric, {metric: e, **more}, seed, **changes), samples)
    return out


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("run"))
