"""The instrument answers to what it is shown: more information never scores lower, and none scores as no sight does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import task_card
from levl_eval.core.progress import Progress
from levl_eval.engines.contract import Context, Outcome, RunCache, engine
from levl_eval.features.store import FeatureStore
from levl_eval.metrics.segmentation import statistics_from_counts
from levl_eval.metrics.statistics import bootstrap_statistic, paired_difference
from levl_eval.scenes.export import make_scenes

KEEP = (0, 0.25, 0.5, 0.75, 1)
COUNTS = {
    "gqa/train": 140, "gqa/testdev": 40, "vqav2/train2014": 12, "vqav2/val2014": 12, "pope/val2014": 50, "ade20k/training": 60,
    "ade20k/validation": 40, "classification/train": 240, "classification/test": 120, "imagenet9/train": 12, "imagenet9/val": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dose")
    make_scenes(out / "world", size=64, counts=COUNTS, progress=Progress(quiet=True))
    return out


@pytest.fixture(scope="module")
def shared() -> RunCache:
    return RunCache()


def measure(place: Path, shared: RunCache, task: str, backbone: str, settings: dict[str, str]) -> Outcome:
    loaded = load_backbone(backbone)
    loaded.open_data(str(place / "world"))
    context = Context(
        task_card(task, settings), loaded, str(place / "world"), 0, FeatureStore(place / "features"), place, torch.device("cpu"),
        progress=Progress(quiet=True), kept=shared,
    )  # fmt: skip
    found = engine(context.card.engine)(context)
    found.samples = list(found.samples)
    return found


def gain(task: str, more: Outcome, less: Outcome):
    """Estimate of what the first scores more, paired by image."""
    if task == "ade20k":
        sides = [np.zeros((len(o.samples), 32, 3)) for o in (more, less)]
        for side, o in zip(sides, (more, less), strict=True):
            for k, s in enumerate(o.samples):
                for c, counts in s.meta["counts"].items():
                    side[k, int(c)] = counts

        def difference(sums):
            return statistics_from_counts(sums[..., 0, :, :])["mean_iou"] - statistics_from_counts(sums[..., 1, :, :])["mean_iou"]

        return bootstrap_statistic(np.stack(sides, 1), difference)
    a, b = (np.array([s.score for s in o.samples], float) for o in (more, less))
    return paired_difference(a, b, np.array([s.image_id for s in more.samples]))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["linear", "ade20k"])
def test_more_information_never_scores_lower(place, shared, task):
    found = [measure(place, shared, task, f"oracle:attributes?keep={k}", {}) for k in KEEP]
    steps = [gain(task, b, a) for a, b in pairwise(found)]
    assert all(s.high >= 0 for s in steps), [(s.value, s.low, s.high) for s in steps]
    assert gain(task, found[-1], found[0]).low > 0


def test_without_information_a_head_finds_the_floor(place, shared):
    blind = measure(place, shared, "ade20k", "oracle:attributes?keep=0", {})
    flat = measure(place, shared, "linear", "oracle:attributes?keep=0", {})
    assert flat.metrics["top1"].value <= flat.metrics["floor_majority"].high
    assert blind.metrics["mean_iou"].value < blind.metrics["floor_majority_map"].value  # a linear head knows no places
