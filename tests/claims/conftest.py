"""Run directories made of drawn answers, in today's schema, with known true differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.records import Estimate, Record, Sample, digest, write_record

METRIC = {"linear": "top1", "zeroshot": "top1", "ade20k": "mean_iou", "imagenet9": "mixed_rand"}


def record(name: str, task: str, metrics: dict[str, Estimate], seed: int = 0, **changes: Any) -> Record:
    protocol = changes.pop("protocol", {"name": task, "lr": 0.1})
    weights = [changes["weights"]] if "weights" in changes else []
    fields = {
        "backbone": {
            "name": name, "uri": f"py:{name}", "weights_sha256": changes.pop("weights", digest(name)), "code": {}, "text": {},
            "preprocess": {"size": 64}, "info": changes.pop("info", {}),
        },
        "task": task, "engine": {"gqa": "vqa", "pope": "vqa", "ade20k": "segmentation"}.get(task, task), "versions": {"engine": 1},
        "main_metric": METRIC.get(task, "accuracy"), "protocol": protocol, "protocol_hash": digest(protocol),
        "data": {"fingerprint": changes.pop("fingerprint", f"{task}-data"),
                 "train": [f"{task}-train"], "source": changes.pop("source", "scenes")},
        "seed": seed, "metrics": metrics, "notes": {"converged": True},
        "identity_hash": digest([name, task, seed, protocol, changes, *weights]),
    }  # fmt: skip
    return Record.model_validate({**fields, **changes})


def write(out: Path, name: str, task: str, scores: np.ndarray, seed: int = 0, **changes: Any) -> Record:
    """scores: [images, questions an image]."""
    metric = METRIC.get(task, "accuracy")
    samples = [
        Sample(id=f"{i}-{k}", image_id=f"img{i}", prediction="a", target="a", score=float(v))
        for i, row in enumerate(scores)
        for k, v in enumerate(row)
    ]
    more = changes.pop("metrics", {})
    estimate = mean_estimate(scores.reshape(-1), np.repeat(np.arange(len(scores)), scores.shape[1]))
    r = record(name, task, {metric: estimate, **more}, seed, **changes)
    write_record(out, r, samples)
    return r


def write_segments(out: Path, name: str, skill: float, draw: int, **changes: Any) -> Record:
    rng = np.random.default_rng([7, draw])
    size = rng.integers(100, 400, (60, 5))
    right = (size * np.clip(np.random.default_rng(3).normal(skill, 0.05, size.shape), 0, 1)).astype(int)
    counts = np.stack([right, size, right + np.roll(size - right, 1, 1)], -1)
    samples = [
        Sample(id=f"img{i}", image_id=f"img{i}", score=0.5, meta={"counts": {str(c): counts[i, c].tolist() for c in range(5)}})
        for i in range(60)
    ]
    e = bootstrap_statistic(counts, lambda s: statistics_from_counts(s)["mean_iou"])
    r = record(name, "ade20k", {"mean_iou": e}, **changes)
    write_record(out, r, samples)
    return r


def answers(skill: float, images: int = 200, each: int = 4, draw: int = 0, own: int = 0) -> np.ndarray:
    """0/1 answers. draw: of what is common to all backbones (how hard an image is); own: of the backbone's luck."""
    hard = np.random.default_rng([1, draw]).normal(0, 0.15, (images, 1))
    u = np.random.default_rng([2, draw]).random((images, each))
    luck = np.random.default_rng([3, own]).normal(0, 0.05, (images, each))
    return (u + luck + hard < skill).astype(float)


Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(levljepa=0.7, clip=0.6, ...) -> a directory with gqa and linear of each, by skill."""

    def make(
        folder: str = "run", tasks: tuple[str, ...] = ("gqa", "linear"), seeds: tuple[int, ...] = (0,), **skills: float
    ) -> Path:
        for n, (name, skill) in enumerate(skills.items()):
            for t, task in enumerate(tasks):
                for seed in seeds:
                    write(tmp_path / folder, name, task, answers(skill, draw=t, own=100 * n + 10 * t + seed), seed)
        return tmp_path / folder

    return make
