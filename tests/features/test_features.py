"""The feature store: hits, keys, damage, bad images, interruption, full disk, two writers."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Features
from levl_eval.core.errors import DamagedFeatures, LevlError
from levl_eval.core.progress import Progress
from levl_eval.data.images import image_set
from levl_eval.features.extraction import Extraction
from levl_eval.features.request import Reading
from levl_eval.features.store import FeatureStore
from levl_eval.features.stored import VERIFIED, Blocks, StoredArray, StreamedArray
from levl_eval.runner import caches


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
    assert b.hit and np.array_equal(a.pooled, b.pooled) and a.pooled.dtype == np.float32
    np.testing.assert_array_equal(a.pooled, direct.pooled.numpy())  # to the bit: half precision moved zero-shot accuracies
    assert len(store.ls()) == 3 and store.verify() == [] and store.clear() == 3 and store.ls() == []


def files(store):
    """The arrays' files by their names."""
    return {f.name: f for folder in store.entries() for f in folder.glob("*.npy")}


def bits(features):
    return np.asarray(features.patches).tobytes(), np.asarray(features.pooled).tobytes()


def test_a_job_stores_what_it_reads(tmp_path, images, nano, monkeypatch):
    store = FeatureStore(tmp_path / "s")
    pooled = store.get(nano, images, ("pooled",))
    assert set(files(store)) == {"pooled.npy"} and files(store)["pooled.npy"].stat().st_size < 7 * 192 * 4 + 200
    with pytest.raises(KeyError, match="patches"):
        _ = pooled.patches
    mean = store.get(nano, images, ("pooled", "mean"))
    assert set(files(store)) == {"pooled.npy", "mean.npy"} and not mean.hit
    tokens = store.get(nano, images, ("patches",))
    assert set(files(store)) == {"pooled.npy", "mean.npy", "patches.npy"}
    np.testing.assert_allclose(mean.mean, np.asarray(tokens.patches, np.float32).mean(1), atol=1e-3)
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    assert store.get(nano, images, ("pooled", "mean", "patches")).hit
    with pytest.raises(pytest.fail.Exception):
        store.get(nano, images, ("patches",), Reading(tokens="float32"))  # another entry


def test_what_is_read_later_is_made_in_the_same_pass(tmp_path, images, nano, monkeypatch):
    store = FeatureStore(tmp_path / "s")
    store.get(nano, images, ("pooled",), also=("patches",))
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    assert store.get(nano, images, ("patches",)).hit


def test_tokens_beyond_the_limit_are_streamed_with_the_same_values(tmp_path, images, nano):
    whole = FeatureStore(tmp_path / "w").get(nano, images, batch_size=7)
    lines = []
    progress = Progress(quiet=True)
    progress.say = lines.append
    store = FeatureStore(tmp_path / "s", limit=20_000)
    got = store.get(nano, images, progress=progress, batch_size=7)
    assert got.streamed and set(files(store)) == {"pooled.npy"} and "streamed" in lines[0] and "images take" in lines[0]
    assert isinstance(got.patches, StreamedArray) and got.patches.shape == whole.patches.shape and got.grid == whole.grid
    order = np.array([5, 1, 1, 6])
    for index in (order, 3, slice(2, 6), -1, (order, np.array([0, 7, 9, 63])), (slice(0, 2), slice(0, 8))):
        np.testing.assert_allclose(
            np.asarray(got.patches[index], np.float32), np.asarray(whole.patches[index], np.float32), atol=2e-3
        )
    assert np.array_equal(got.pooled, whole.pooled)
    assert not FeatureStore(tmp_path / "t", limit=10**7).get(nano, images).streamed


def test_a_disk_without_room_for_tokens_streams_them_and_without_room_for_pooled_features_says_so(
    tmp_path, images, nano, monkeypatch
):
    monkeypatch.setattr("levl_eval.features.store.FeatureStore.free", lambda self: 50_000)
    assert FeatureStore(tmp_path / "s").get(nano, images).streamed
    monkeypatch.setattr("levl_eval.features.store.FeatureStore.free", lambda self: 100)
    with pytest.raises(LevlError, match="free some, or set LEVL_CACHE"):
        FeatureStore(tmp_path / "t").get(nano, images, ("pooled",))


def _stored(tmp_path, rows=40, block=16):
    """[rows, 3, 2] in blocks."""
    values = np.arange(rows * 6, dtype=np.float32).reshape(rows, 3, 2)
    np.save(tmp_path / "a.npy", values)
    sums = tuple(hashlib.sha256(values[i : i + block].tobytes()).hexdigest() for i in range(0, rows, block))
    return values, Blocks(block, sums)


def _flip(file, row, keep_times=False):
    before = file.stat()
    with open(file, "r+b") as f:
        f.seek(-(40 - row) * 24, 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    if keep_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


INDEXES = [0, -1, 39, slice(3, 20), slice(None, None, 7), np.array([17, 2, 2, -3]), np.arange(40) % 5 == 0, [1, 30], ...,
           (np.array([4, 35]), np.array([0, 2])), (slice(0, 30), 1)]  # fmt: skip


def test_rows_are_those_of_the_file_and_are_verified_once(tmp_path, monkeypatch):
    values, blocks = _stored(tmp_path)
    np.asarray(StoredArray(tmp_path / "a.npy", blocks))
    assert not (tmp_path / VERIFIED).exists()  # a change within the same tick would not show
    time.sleep(0.1)
    array = StoredArray(tmp_path / "a.npy", blocks)
    for index in INDEXES:
        np.testing.assert_array_equal(array[index], values[index])
    np.testing.assert_array_equal(array.taken_apart()[[5, 7]], values.reshape(-1, 2)[[5, 7]])
    again = StoredArray(tmp_path / "a.npy", blocks)
    monkeypatch.setattr("levl_eval.features.stored.hashlib.sha256", lambda b: pytest.fail("hashed again"))
    assert np.array_equal(again, values)


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_flipped_bit_is_noticed_where_it_is_read_and_only_there(tmp_path, keep_times):
    values, blocks = _stored(tmp_path)
    time.sleep(0.1)
    np.asarray(StoredArray(tmp_path / "a.npy", blocks))  # all verified, and remembered
    assert (tmp_path / VERIFIED).exists()
    _flip(tmp_path / "a.npy", 20, keep_times)
    gone = []
    array = StoredArray(tmp_path / "a.npy", blocks, lambda: gone.append(1))
    np.testing.assert_array_equal(array[:16], values[:16])
    np.testing.assert_array_equal(array[[33, 39]], values[[33, 39]])
    with pytest.raises(DamagedFeatures, match="rows 16 to 31 are damaged"):
        array[np.array([3, 17])]
    with pytest.raises(DamagedFeatures):
        array.taken_apart()[17 * 3]
    assert gone and StoredArray(tmp_path / "a.npy", blocks).damaged().startswith("rows 16")


def test_another_image_preprocessing_or_weight_is_another_key(tmp_path, images, nano):
    base = FeatureStore.key(nano, images, nano.preprocess)
    assert FeatureStore.key(nano, images, replace(nano.preprocess, mean=(0.0, 0.0, 0.0))) != base
    assert FeatureStore.key(load_backbone("random:nano?seed=3"), images, nano.preprocess) != base
    assert FeatureStore.key(nano, replace(images, fingerprint="x"), nano.preprocess) != base


@pytest.mark.parametrize("damage", ["flip", "cut", "meta"])
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path, images, nano, damage):
    a = FeatureStore(tmp_path / "s").get(nano, images)
    good = np.array(a.patches)
    file = files(FeatureStore(tmp_path / "s"))["patches.npy"]
    file = file.parent / "meta.json" if damage == "meta" else file
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[5000] ^= 1
    else:
        del raw[len(raw) // 2 :]
    file.write_bytes(raw)
    store = FeatureStore(tmp_path / "s")
    again = store.get(nano, images)
    if damage == "flip":  # only who reads it sees that
        with pytest.raises(DamagedFeatures, match="damaged"):
            np.asarray(again.patches)
        again = store.get(nano, images)
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


def test_what_an_interrupt_leaves_of_finished_work_is_no_unfinished_work(tmp_path, images, nano, monkeypatch):
    store, remove = FeatureStore(tmp_path / "s"), shutil.rmtree

    def interrupted(path, *args, **options):
        if os.path.isfile(os.path.join(path, "plan.json")):
            raise KeyboardInterrupt
        remove(path, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", interrupted)
        store.get(nano, images, batch_size=2)
    assert store.get(nano, images, batch_size=2).hit
    assert {row["whole"] for row in store.table()} == {True}
    (tmp_path / "s").rename(tmp_path / "features")
    assert {e.whole for e in caches.listed(tmp_path, ["features"])} == {True}
    caches.prune(tmp_path, 10**9)
    assert not list((tmp_path / "features" / "parts").iterdir())


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
    assert bits(found) == bits(good)
    assert files(store)["patches.npy"].read_bytes() == np.lib.format.magic(1, 0) + _rest(np.asarray(good.patches))


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
    assert bits(found) == bits(good)


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
    assert bits(store.get(nano, images, batch_size=2)) == bits(good) and store.verify() == []


def test_a_value_beyond_half_precision_in_a_later_chunk(tmp_path, images, nano, monkeypatch):
    encode, batches = nano.encode, []

    def growing(x):
        batches.append(len(x))
        pooled, patches, grid = encode(x)
        return Features(pooled, patches * (1e6 if len(batches) > 2 else 1), grid)

    monkeypatch.setattr(nano, "encode", growing)
    found = FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    assert found.patches.dtype == np.float32 and len(batches) == 3 + 4
    assert chunks(FeatureStore(tmp_path / "s")) == []


def test_a_full_disk_is_one_line_and_the_run_after_it_goes_on(tmp_path, images, nano, monkeypatch):
    good = FeatureStore(tmp_path / "w").get(nano, images, batch_size=2)
    size = files(FeatureStore(tmp_path / "w"))["patches.npy"].stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))  # chunks fit, the joined file does not
    try:
        with pytest.raises(LevlError, match="disk full; free space and run the same command again") as e:
            FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value) and list(FeatureStore(tmp_path / "s").entries()) == []
    monkeypatch.setattr(nano, "encode", lambda x: pytest.fail("the encoder ran again"))
    assert bits(FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)) == bits(good)


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
