"""The feature store: hits, keys, damage, bad images, two writers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Features
from levl_eval.data.images import image_set
from levl_eval.errors import LevlError
from levl_eval.features import FeatureStore


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "i").mkdir()
    for k in range(7):
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(tmp_path / "i" / f"{k}.png")
    return image_set([f"{k}.png" for k in range(7)], lambda n: tmp_path / "i" / n, str(tmp_path), "")


@pytest.fixture(scope="module")
def nano():
    return load_backbone("random:nano")


def test_features_are_the_encoders_and_are_made_once(tmp_path, images, nano, monkeypatch):
    store = FeatureStore(tmp_path / "s")
    a = store.get(nano, images, batch_size=3)
    assert not a.hit and a.patches.shape == (7, 64, 192) and a.row["3.png"] == 3
    with torch.no_grad():
        direct = nano.encode(torch.stack([nano.preprocess(images.open(i)) for i in images.ids]))
    assert np.allclose(a.patches, direct.patches.numpy(), atol=2e-2, rtol=1e-2)
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    b = FeatureStore(tmp_path / "s").get(nano, images)
    assert b.hit and np.array_equal(a.pooled, b.pooled)
    assert len(store.ls()) == 1 and store.verify() == [] and store.clear() == 1 and store.ls() == []


def test_another_image_preprocessing_or_weight_is_another_key(tmp_path, images, nano):
    base = FeatureStore.key(nano, images, nano.preprocess)
    assert FeatureStore.key(nano, images, replace(nano.preprocess, mean=(0.0, 0.0, 0.0))) != base
    assert FeatureStore.key(load_backbone("random:nano?seed=3"), images, nano.preprocess) != base
    assert FeatureStore.key(nano, replace(images, fingerprint="x"), nano.preprocess) != base


@pytest.mark.parametrize("damage", ["flip", "cut", "meta"])
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path, images, nano, damage):
    a = FeatureStore(tmp_path / "s").get(nano, images)
    good = np.array(a.patches)
    folder = next(FeatureStore(tmp_path / "s").entries())
    file = folder / ("meta.json" if damage == "meta" else "patches.npy")
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[5000] ^= 1
    else:
        del raw[len(raw) // 2 :]
    file.write_bytes(raw)
    again = FeatureStore(tmp_path / "s").get(nano, images)
    assert not again.hit and np.array_equal(again.patches, good)
    assert FeatureStore(tmp_path / "s").verify() == []


def test_a_corrupt_image_is_named_and_nothing_half_done_stays(tmp_path, images, nano):
    (tmp_path / "i" / "4.png").write_bytes(b"junk")
    with pytest.raises(LevlError, match=r"4\.png: cannot be decoded"):
        FeatureStore(tmp_path / "s").get(nano, images)
    assert [p for p in (tmp_path / "s").rglob("*") if p.is_file() and p.parent.name != "locks"] == []


def test_features_beyond_half_precision_are_kept_in_single(tmp_path, images, nano, monkeypatch):
    encode = type(nano).encode
    monkeypatch.setattr(nano, "encode", lambda x: Features(*(t * 1e6 for t in encode(nano, x)[:2]), (8, 8)))
    assert FeatureStore(tmp_path / "s").get(nano, images).patches.dtype == np.float32
    monkeypatch.setattr(nano, "encode", lambda x: Features(*(t * float("nan") for t in encode(nano, x)[:2]), (8, 8)))
    with pytest.raises(LevlError, match="not finite"):
        FeatureStore(tmp_path / "t").get(nano, images)


def test_two_writers_of_one_entry(tmp_path, images, nano):
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: FeatureStore(tmp_path / "s").get(nano, images), range(2))
    assert np.array_equal(a.patches, b.patches) and FeatureStore(tmp_path / "s").verify() == []
