"""Stored features under a run: damage that is met while a head reads, jobs that need no encoder, tokens that are streamed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import levl_eval
from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import backbone_card
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.engines.contract import ENGINES
from levl_eval.engines.reads import OF_READOUT, arrays_of
from levl_eval.features.entries import entries
from levl_eval.runner.backbones import BackboneHandle


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes that brightness tells apart, in class folders."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for c, level in (("dark", 0), ("light", 120)):
            (folder / "classification" / part / c).mkdir(parents=True)
            for k in range(count):
                pixels = (rng.integers(0, 120, (64, 64, 3)) + level).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "classification" / part / c / f"{k}.png")
    return folder


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(data, out, cache, tasks=("linear",), **more):
    progress = Lines()
    options = {
        "seeds": [0],
        "device": "cpu",
        "settings": [f"{t}.epochs=2" for t in tasks if t in ("linear", "attentive")],
        **more,
    }
    if "attentive" in tasks:
        options["settings"] = [*options["settings"], "attentive.heads=3"]
    records = levl_eval.evaluate(["random-nano"], tasks, data=str(data), out=out, cache=cache, progress=progress, **options)
    assert [r.status for r in records] == ["done"] * len(tasks), [r.reason for r in records]
    return records, progress.lines


def arrays(cache):
    return sorted(f.name for e in entries(cache / "features") for f in e.glob("*.npy"))


def test_a_job_that_meets_damage_says_so_and_begins_anew(data, tmp_path):
    (first,), _ = run(data, tmp_path / "a", tmp_path / "cache")
    for entry in entries(tmp_path / "cache" / "features"):
        raw = bytearray((entry / "pooled.npy").read_bytes())
        raw[-5] ^= 64
        (entry / "pooled.npy").write_bytes(raw)
    (second,), lines = run(data, tmp_path / "b", tmp_path / "cache")
    assert first.metrics == second.metrics and sum("are damaged (checksum); computed again" in line for line in lines) == 2


def test_a_warm_job_builds_no_encoder_and_gives_the_same_numbers(data, tmp_path, monkeypatch):
    (cold,), _ = run(data, tmp_path / "a", tmp_path / "cache", ["linear"])
    monkeypatch.setattr(BackboneHandle, "load", lambda self: pytest.fail("the encoder was built"))
    (warm,), _ = run(data, tmp_path / "b", tmp_path / "cache", ["linear"])
    (other,), _ = run(data, tmp_path / "c", tmp_path / "cache", ["knn"])
    assert warm.metrics == cold.metrics and warm.key == cold.key
    assert warm.cache == other.cache == {"feature_hits": 2, "feature_misses": 0}


@pytest.mark.parametrize("uri", ["random:nano", "clip-nano", "random:resnet10t"])
def test_what_stands_in_for_a_backbone_answers_as_the_backbone_does(tmp_path, uri):
    known = FingerprintCache(tmp_path / "fingerprints")
    _ = BackboneHandle(backbone_card(uri), tmp_path, known).facts
    handle = BackboneHandle(backbone_card(uri), tmp_path, known)
    deferred, whole = handle.at_hand(), load_backbone(uri)
    assert handle.loaded is None
    for name in ("dim", "patch_dim", "grid", "depth", "class_token", "has_text", "weights_sha256", "preprocess", "device"):
        assert getattr(deferred, name) == getattr(whole, name), name
    assert deferred.encoder_parts() == whole.encoder_parts() and deferred.text_parts() == whole.text_parts()
    assert list(deferred.readouts) == list(whole.readouts) and handle.loaded is None
    x = torch.randn(2, 3, whole.preprocess.size, whole.preprocess.size)
    with torch.inference_mode():
        assert torch.equal(deferred.encode(x).pooled, whole.encode(x).pooled) and deferred.whole() is handle.loaded
        if whole.has_text:
            assert torch.equal(deferred.encode_text(["a cat"]), whole.encode_text(["a cat"]))


def test_one_pass_makes_what_the_jobs_of_a_run_read_together(data, tmp_path, monkeypatch):
    from levl_eval.backbones.timm import TimmBackbone

    seen, encode = [], TimmBackbone.encode
    monkeypatch.setattr(TimmBackbone, "encode", lambda self, x: seen.append(len(x)) or encode(self, x))
    run(data, tmp_path / "a", tmp_path / "cache", ["linear", "attentive"])
    assert sum(n for n in seen if n > 1) == 24 + 12 and len(arrays(tmp_path / "cache")) == 6
    run(data, tmp_path / "b", tmp_path / "other", ["linear"])
    assert arrays(tmp_path / "other") == ["pooled.npy"] * 2


def test_what_a_finished_job_reads_is_not_made_again(data, tmp_path):
    run(data, tmp_path / "a", tmp_path / "cache", ["attentive"])
    run(data, tmp_path / "a", tmp_path / "other", ["linear", "attentive"])  # the second is there already
    assert arrays(tmp_path / "other") == ["pooled.npy"] * 2


def test_features_are_computed_in_the_precision_of_their_key_whoever_asks(data, tmp_path, monkeypatch):
    """torch's own default on a GPU convolves in TF32: an export that did would give its features to runs in float32."""
    import contextlib

    from levl_eval.features import request
    from levl_eval.runner.exporting import ExportOptions, export_features

    seen = []

    @contextlib.contextmanager
    def noted(precision, device):
        seen.append((precision, device.type))
        yield

    monkeypatch.setattr(request, "encoding_in", noted)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    options = ExportOptions(task="linear", data=str(data), device="cpu")
    export_features("random-nano", tmp_path / "f.parquet", options, Progress(quiet=True))
    assert seen and set(seen) == {("float32", "cpu")}


def test_on_a_gpu_float32_turns_tf32_off_and_what_was_set_comes_back(monkeypatch):
    from levl_eval.core.precision import encoding_in

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    for precision, inside in (("float32", False), ("tf32", True)):
        with encoding_in(precision, torch.device("cuda")):
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (inside, inside)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, True)


def test_streamed_tokens_give_the_same_table_and_are_counted(data, tmp_path):
    (stored,), _ = run(data, tmp_path / "a", tmp_path / "cache", ["attentive"])
    (streamed,), lines = run(data, tmp_path / "b", tmp_path / "other", ["attentive"], store_limit=1000)
    assert arrays(tmp_path / "other") == [] and streamed.cache["features_streamed"] == 2
    assert any("they are streamed" in line for line in lines) and "features_streamed" not in stored.cache
    assert streamed.key == stored.key
    assert abs(streamed.metrics["top1"].value - stored.metrics["top1"].value) < 0.1  # batches round otherwise
    with pytest.raises(UsageError, match="store_limit"):
        run(data, tmp_path / "c", tmp_path / "cache", store_limit=-1)


def test_the_dtype_of_tokens_is_protocol(data, tmp_path):
    (half,), _ = run(data, tmp_path / "a", tmp_path / "cache", ["attentive"])
    (single,), _ = run(
        data, tmp_path / "a", tmp_path / "cache", ["attentive"],
        settings=["attentive.epochs=2", "attentive.heads=3", "attentive.token_dtype=float32"],
    )  # fmt: skip
    assert half.protocol_hash != single.protocol_hash
    stored = {
        np.load(e / "patches.npy", mmap_mode="r").dtype.name
        for e in entries(tmp_path / "cache" / "features")
        if (e / "patches.npy").exists()
    }
    assert stored == {"float16", "float32"}


def test_precision_is_part_of_who_a_row_is(data, tmp_path):
    (single,), _ = run(data, tmp_path / "a", tmp_path / "cache")
    (half,), _ = run(data, tmp_path / "a", tmp_path / "cache", precision="bf16")
    assert single.key != half.key and half.cache["feature_misses"] == 2
    assert (single.precision["encoder"], half.precision["encoder"]) == ("float32", "bfloat16")
    stored = [np.load(e / "pooled.npy") for e in entries(tmp_path / "cache" / "features")]
    train = [a for a in stored if len(a) == 24]
    assert 0 < np.abs(train[0] - train[1]).max() < 0.1 and train[0].dtype == train[1].dtype == np.float32
    with pytest.raises(UsageError, match="tf32: is a format of NVIDIA GPUs, and this run is on cpu"):
        run(data, tmp_path / "b", tmp_path / "cache", precision="tf32")
    with pytest.raises(UsageError, match="expected one of float32, tf32, bf16"):
        run(data, tmp_path / "b", tmp_path / "cache", precision="half")


def test_a_random_twin_encodes_in_the_precision_of_its_backbone(tmp_path):
    from levl_eval.backbones.twin import random_twin

    known = FingerprintCache(tmp_path / "fingerprints")
    half = BackboneHandle(backbone_card("random-nano"), tmp_path, known, precision="bf16").at_hand()
    twin = random_twin(half)
    assert twin.encoder_parts()["precision"] == "bf16" and twin.weights_sha256 != half.weights_sha256
    assert "precision" not in random_twin(load_backbone("random-nano")).encoder_parts()


def test_every_engine_says_what_it_reads():
    from levl_eval.cards.registry import names, task_card

    none = {"mmseg", "depth-recipe"}
    for name in names("tasks"):
        card = task_card(name)
        assert bool(arrays_of(card)) == (card.engine not in none), name
    assert set(OF_READOUT) == {"pooled", "cls", "mean-patch", "pooled+mean-patch"} and none <= set(ENGINES)
