"""Shared fixtures: a tiny generated world in the published layouts, a tiny checkpoint, and the folder of real data."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: whoever is started would ignore Ctrl-C too
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)

CPU = pytest.StashKey[list[float]]()  # of a test: CPU seconds of this process when it began, and when its call did
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

TINY = {
    "gqa/train": 24, "gqa/testdev": 12, "vqav2/train2014": 16, "vqav2/val2014": 12, "pope/val2014": 24, "ade20k/training": 24,
    "ade20k/validation": 12, "classification/train": 96, "classification/test": 48, "imagenet9/train": 18, "imagenet9/val": 18,
    "spair71k/test": 24, "davis/val": 24, "roxford5k/jpg": 24,
    "sugarcrepe/val2017": 14, "winoground/test": 14, "aro/test": 60, "mmvp_vlm/test": 15, "cv_bench/test": 14,
    "chartqa/test": 12, "docvqa/val": 12, "infovqa/val": 12, "ocrbench/test": 12, "tallyqa/test": 16, "vsr/test": 16, "refcoco/testA": 16,
    "nyuv2/train": 24, "nyuv2/test": 12, "sunrgbd/test": 12, "kitti/train": 24, "kitti/test": 12,
    "nyuv2_normals/train": 24, "nyuv2_normals/test": 12, "mmvp/test": 12, "realworldqa/test": 12, "seed_bench/test": 12, "ai2d/test": 12,
    "navi/wild_set": 24, "reading/train": 20,
    **{f"blink/{task}": 12 for task in ("Counting", "Relative_Depth", "Spatial_Relation", "Object_Localization")},
    **{f"classification_shifts/{kind}": 24 for kind in ("texture", "colour", "noise", "style")},
}  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--cpu", metavar="FILE", help="append each test's CPU seconds, children's included, to FILE (set-up, call, test)"
    )


def pytest_collection_modifyitems(config, items):
    """Only where -m names them: the hour-long sweep, and tests that need a GPU."""
    out = [n for n in ("sweep", "gpu") if n not in config.getoption("markexpr")]
    left = [i for i in items if any(i.get_closest_marker(n) for n in out)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if i not in set(left)]


def _cpu() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.stash[CPU] = [_cpu()]
    random.seed(0)  # the same draws whichever tests ran before in this worker
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        return (yield)
    finally:
        if file := item.config.getoption("--cpu"):
            start, called = item.stash[CPU][0], item.stash[CPU][-1]
            with open(file, "a", encoding="utf-8") as out:
                print(f"{called - start:.2f} {_cpu() - called:.2f} {item.nodeid}", file=out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    item.stash[CPU].append(_cpu())
    return (yield)


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
