"""The feature store: hits, keys, damage, bad images, interruption, full disk, two writers."""

from __future__ import annotations

import io
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Features
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.data.images import image_set
from levl_eval.features.extraction import Extraction
from levl_eval.features.store import FeatureStore


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


def test_a_corrupt_image_is_named_and_what_was_done_before_it_stays(tmp_path, images, nano):
    whole = (tmp_path / "i" / "4.png").read_bytes()
    (tmp_path / "i" / "4.png").write_bytes(b"junk")
    store = FeatureStore(tmp_path / "s")
    with pytest.raises(LevlError, match=r"4\.png: cannot be decoded"):
        store.get(nano, images, batch_size=2)
    assert list(store.entries()) == [] and chunks(store) == ["000000.npz", "000001.npz"]
    assert "unfinished" in store.ls()[0][-1] and store.table()[0]["whole"] is False
    (tmp_path / "i" / "4.png").write_bytes(whole)
    assert store.get(nano, images, batch_size=2).patches.shape[0] == 7 and chunks(store) == []
    assert not list((tmp_path / "s" / "parts").iterdir())


def chunks(store):
    return sorted(p.name for p in (store.folder / "parts").rglob("*.npz"))


class Killed(BaseException):
    """Ends a process where it stands; `benchmarks/interruptions.py` does it with signal 9."""


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_killed_extraction_goes_on_from_its_last_chunk_with_the_same_bits(tmp_path, images, nano, monkeypatch, batches):
    good = FeatureStore(tmp_path / "w").get(nano, images, batch_size=2)
    encode, seen, again = nano.encode, [], []

    def dying(x):
        if len(seen) == batches:
            raise Killed
        seen.append(len(x))
        return encode(x)

    monkeypatch.setattr(nano, "encode", dying)
    with pytest.raises(Killed):
        FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    monkeypatch.setattr(nano, "encode", lambda x: again.append(len(x)) or encode(x))
    store = FeatureStore(tmp_path / "s")
    found = store.get(nano, images, batch_size=2)
    assert sum(again) == 7 - sum(seen) and store.verify() == [] and not found.hit
    assert found.patches.tobytes() == good.patches.tobytes() and found.pooled.tobytes() == good.pooled.tobytes()
    assert (next(store.entries()) / "patches.npy").read_bytes() == np.lib.format.magic(1, 0) + _rest(good.patches)


def _rest(array):
    """What numpy itself writes after the magic of a version 1 file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()[8:]


def test_killed_while_chunks_are_joined(tmp_path, images, nano, monkeypatch):
    good = FeatureStore(tmp_path / "w").get(nano, images, batch_size=2)
    read = Extraction.read_chunk

    def dying(self, chunk):
        if chunk == 2:
            raise Killed
        return read(self, chunk)

    monkeypatch.setattr(Extraction, "read_chunk", dying)
    store = FeatureStore(tmp_path / "s")
    with pytest.raises(Killed):
        store.get(nano, images, batch_size=2)
    assert chunks(store) == ["000002.npz", "000003.npz"] and list(store.entries()) == []
    monkeypatch.setattr(Extraction, "read_chunk", read)
    with open(next((store.folder / "parts").rglob("pooled.npy")), "ab") as f:
        f.write(b"torn")  # of the chunk that was being appended
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    found = FeatureStore(tmp_path / "s").get(nano, images, batch_size=3, progress=Progress(quiet=True))
    assert found.patches.tobytes() == good.patches.tobytes() and found.pooled.tobytes() == good.pooled.tobytes()


def test_a_damaged_chunk_is_made_again(tmp_path, images, nano, monkeypatch):
    good = FeatureStore(tmp_path / "w").get(nano, images, batch_size=2)
    encode, seen = nano.encode, []

    def dying(x):
        seen.append(len(x))
        if len(seen) == 4:
            raise Killed
        return encode(x)

    monkeypatch.setattr(nano, "encode", dying)
    store = FeatureStore(tmp_path / "s")
    with pytest.raises(Killed):
        store.get(nano, images, batch_size=2)
    file = next((store.folder / "parts").rglob("000001.npz"))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.write_bytes(raw)
    monkeypatch.setattr(nano, "encode", encode)
    assert store.get(nano, images, batch_size=2).patches.tobytes() == good.patches.tobytes() and store.verify() == []


def test_a_value_beyond_half_precision_in_a_later_chunk(tmp_path, images, nano, monkeypatch):
    encode, batches = nano.encode, []

    def growing(x):
        batches.append(len(x))
        pooled, patches, grid = encode(x)
        return Features(pooled * (1e6 if len(batches) > 2 else 1), patches, grid)

    monkeypatch.setattr(nano, "encode", growing)
    found = FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    assert found.pooled.dtype == found.patches.dtype == np.float32 and len(batches) == 3 + 4
    assert chunks(FeatureStore(tmp_path / "s")) == []


def test_a_full_disk_is_one_line_and_the_run_after_it_goes_on(tmp_path, images, nano, monkeypatch):
    good = FeatureStore(tmp_path / "w").get(nano, images, batch_size=2)
    size = (next(FeatureStore(tmp_path / "w").entries()) / "patches.npy").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))  # chunks fit, the joined file does not
    try:
        with pytest.raises(LevlError, match="disk full; free space and run the same command again") as e:
            FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value) and list(FeatureStore(tmp_path / "s").entries()) == []
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    assert FeatureStore(tmp_path / "s").get(nano, images, batch_size=2).patches.tobytes() == good.patches.tobytes()


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
