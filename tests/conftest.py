"""Shared fixtures: a tiny generated world in the published layouts, a tiny checkpoint, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

TINY = {
    "gqa/train": 24, "gqa/testdev": 12, "vqav2/train2014": 16, "vqav2/val2014": 12, "pope/val2014": 24, "ade20k/training": 24,
    "ade20k/validation": 12, "classification/train": 96, "classification/test": 48, "imagenet9/train": 18, "imagenet9/val": 18,
}  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """The generated world with a few images a set, at 64 px."""
    from levl_eval.core.progress import Progress
    from levl_eval.scenes.export import make_scenes

    out = tmp_path_factory.mktemp("scenes")
    make_scenes(out, size=64, counts=TINY, progress=Progress(quiet=True))
    return out


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A few steps of each objective on a small pool: objective -> ckpt.pt."""
    from levl_eval.core.progress import Progress
    from levl_eval.models.config import parse_config
    from levl_eval.pretrain.loop import Trainer

    root = tmp_path_factory.mktemp("pretrain")
    out = {}
    for objective in ("levljepa", "clip", "siglip"):
        words = [
            f"objective={objective}", f"out={root / objective}", "steps=3", "batch_size=16", "scenes_pool=64", "captions_per_image=2",
            "sigreg_slices=32", "vision.depth=1", "text.depth=1", "vocab_size=400", "precision=fp32", "log_every=1",
        ]  # fmt: skip
        Trainer(parse_config(words), Progress(quiet=True), root / "cache").run()
        out[objective] = root / objective / "ckpt.pt"
    return out


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED
