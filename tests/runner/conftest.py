"""What tests of runs share: class folders, a run of `classify` on them, a backbone as jobs know it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval import evaluate
from levl_eval.cards.registry import backbone_card
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.runner.backbones import BackboneHandle

QUIET = Progress(quiet=True)


def paint(folder: Path, labels: str = "abc", seed: int = 0, count: int = 6) -> Path:
    """Class folders train and test of three colours, ``count`` images each; ``labels`` names the colours' classes in order."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for k, label in enumerate(labels):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (8, 8, 3))
                pixels[..., k] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{k}{i}.png")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of `classify` with a few epochs on class folders."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))

    def go(train: Path, test: Path, backbone="random:nano", out="out", **options):
        settings = [
            f"classify.train.root={train}",
            f"classify.data.root={test}",
            "classify.epochs=20",
            *options.pop("settings", ()),
        ]
        names = backbone if isinstance(backbone, list) else [backbone]
        more = {"data": str(tmp_path), "seeds": (0,), "device": "cpu", "progress": QUIET, **options}
        return evaluate(names, ["classify"], settings=settings, out=tmp_path / out, **more)

    return go


def values(records) -> list[float]:
    return [round(r.metrics["top1"].value, 6) for r in records]


def facts_of(name="random:nano", tmp=None) -> BackboneHandle:
    return BackboneHandle(
        backbone_card(name), tmp / "cache", FingerprintCache(tmp / "cache" / "fingerprints", say=lambda text: None)
    )


@pytest.fixture(scope="module")
def handle(tmp_path_factory) -> BackboneHandle:
    found = facts_of("random:nano", tmp_path_factory.mktemp("facts"))
    _ = found.facts
    return found
