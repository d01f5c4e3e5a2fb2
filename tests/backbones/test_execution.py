"""Encoders compiled and with channels last: the same features but for the last bits, under keys and identities of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import levl_eval
from levl_eval.backbones import execution, load_backbone
from levl_eval.backbones.common import hash_weights
from levl_eval.backbones.deferred import DeferredBackbone, Known
from levl_eval.backbones.execution import EAGER, Execution, check_execution
from levl_eval.backbones.twin import random_twin
from levl_eval.backbones.values import ValueBackbone
from levl_eval.cards.registry import backbone_card, task_card
from levl_eval.cli import main
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.runner.backbones import BackboneHandle
from levl_eval.runner.plan import precision_of

BOTH = Execution(compiled=True, channels_last=True)


def deferred(backbone, how):
    return DeferredBackbone(Known.of(backbone), lambda: backbone, "float32", how)


@pytest.fixture(scope="module")
def nano():
    return load_backbone("random:nano")


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without its code generator, which takes many seconds: what is called through it."""
    monkeypatch.setattr(execution, "COMPILER", "eager")
    calls, compiled = [], torch.compile

    def noted(function, **options):
        calls.append(function.__name__)
        return compiled(function, **options)

    monkeypatch.setattr(torch, "compile", noted)
    return calls


def test_every_execution_has_keys_and_an_identity_of_its_own(nano):
    ways = [*(Execution(c, last) for c in (False, True) for last in (False, True)), Execution(True, False, True)]
    keys = [str(deferred(nano, w).encoder_parts()) for w in ways]
    assert len(set(keys)) == 5 and keys[0] == str(deferred(nano, EAGER).encoder_parts()) == str(nano.encoder_parts())
    card = task_card("linear")
    stated = [precision_of(card, "cpu", "float32", w)["encoder"] for w in ways]
    assert stated[:4] == ["float32", "float32, channels last", "float32, compiled", "float32, compiled, channels last"]
    assert stated[4] == "float32, compiled, CUDA graphs"
    assert precision_of(card, "cpu", "bf16", BOTH)["encoder"] == "bfloat16, compiled, channels last"
    for within_steps in ("ade20k-mmseg", "nyuv2-dinov3"):  # engines that run the encoder themselves, plain and in float32
        assert precision_of(task_card(within_steps), "cpu", "bf16", BOTH) == {"encoder": "float32"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [Execution(True), Execution(False, True), BOTH, Execution(True, False, True)])
def test_features_are_the_plain_ones_but_for_the_last_bits(how, nano, images, traced):
    with torch.inference_mode():
        plain, layers = nano.encode(images), nano.encode_layers(images, [-1, 0])
        other = deferred(nano, how)
        for wanted, found in ((plain, other.encode(images)), (layers, other.encode_layers(images, [-1, 0]))):
            torch.testing.assert_close(found.pooled, wanted.pooled, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.patches, wanted.patches, rtol=1e-4, atol=1e-5)
            assert found.grid == wanted.grid
        other.encode(images)
    assert traced == (["encode", "encode_layers"] if how.compiled else [])  # each once


def test_channels_last_is_the_layout_of_weights_and_pixels_and_is_taken_back(nano, images):
    before = nano.weights_sha256
    seen = []
    conv = nano.model.patch_embed.proj
    hook = conv.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    with torch.inference_mode():
        deferred(nano, Execution(False, True)).encode(images)
        assert seen == [True] and conv.weight.is_contiguous(memory_format=torch.channels_last)
        deferred(nano, EAGER).encode(images)
    hook.remove()
    assert conv.weight.is_contiguous() and not seen[1]
    execution.lay_out(nano, True)
    assert hash_weights(nano) == before
    execution.lay_out(nano, False)


def test_an_engine_that_runs_the_encoder_itself_has_it_plain(tmp_path):
    handle = BackboneHandle(backbone_card("random-nano"), tmp_path, FingerprintCache(tmp_path / "known"), execution=BOTH)
    assert handle.at_hand() is handle.at_hand() and handle.at_hand().execution == BOTH
    execution.lay_out(handle.load(), True)
    assert handle.plain().model.patch_embed.proj.weight.is_contiguous() and handle.plain() is handle.loaded


def test_twins_are_executed_alike_and_masked_blocks_are_not_compiled(nano):
    assert random_twin(deferred(nano, BOTH)).execution == BOTH
    assert ValueBackbone(deferred(nano, Execution(True, True, True))).execution == Execution(False, True)


@pytest.mark.parametrize("words, told", [(["--compile"], "this run is on cpu; leave it out"), ([], "add --compile")])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_cuda_graphs_are_refused_in_one_line_where_there_are_none(words, told, dry, tmp_path, capsys):
    given = [
        "run",
        "--backbone",
        "random-nano",
        "--tasks",
        "knn",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
        "--cuda-graphs",
    ]
    assert main([*given, *words, *dry]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("levl-eval: --cuda-graphs: ") and told in stderr and len(stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "records").exists()
    assert check_execution(Execution(True, False, True), "cuda").words == "compiled, CUDA graphs"


def test_what_cannot_be_compiled_is_one_line(nano, images, monkeypatch):
    monkeypatch.setattr(execution, "COMPILER", "no such compiler")
    with pytest.raises(LevlError, match="leave out --compile") as e, torch.inference_mode():
        deferred(nano, Execution(True)).encode(images)
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_run_states_its_execution_and_shares_no_features_with_another(tmp_path, traced):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for c, level in (("dark", 0), ("light", 120)):
            folder = tmp_path / "data" / "classification" / part / c
            folder.mkdir(parents=True)
            for k in range(4):
                Image.fromarray((rng.integers(0, 120, (64, 64, 3)) + level).astype(np.uint8)).save(folder / f"{k}.png")

    def run(**how):
        (r,) = levl_eval.evaluate(["random-nano"], ["knn"], data=str(tmp_path / "data"), out=tmp_path / "out", cache=tmp_path / "cache",
                                  device="cpu", progress=Progress(quiet=True), **how)  # fmt: skip
        assert r.status == "done", r.reason
        return r

    plain, other = run(), run(compile=True, channels_last=True)
    assert plain.precision["encoder"] == "float32" and other.precision["encoder"] == "float32, compiled, channels last"
    assert plain.key != other.key and other.cache["feature_hits"] == 0 and plain.comparison_hash != other.comparison_hash
    assert other.call["compile"] is other.call["channels_last"] is True and "encode" in traced
    assert other.metrics["top1_k20"].value == plain.metrics["top1_k20"].value


@pytest.mark.slow
def test_the_compilers_own_code_gives_the_same_features(nano, images):
    """inductor's, where a C++ compiler is at hand."""
    other = deferred(nano, Execution(True))
    with torch.inference_mode():
        try:
            found = other.encode(images)
        except LevlError as e:
            pytest.skip(str(e))
        torch.testing.assert_close(found.patches, nano.encode(images).patches, rtol=1e-3, atol=1e-4)
