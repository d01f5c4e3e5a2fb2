"""Fused blocks are what autocast computes, to bfloat16's rounding, and touch nothing else."""

import copy

import pytest
import torch

from levl_eval.models import bf16
from levl_eval.models.checkpoints import completed
from levl_eval.models.config import PretrainConfig, parse_config
from levl_eval.models.towers import build_model, fuse_blocks, plain_attention

SMALL = ["vision.width=64", "vision.heads=2", "vision.depth=2", "text.width=48",
         "text.heads=2", "text.depth=2", "image_size=32", "head_width=64"]  # fmt: skip


def _models(*words):
    config = parse_config([*SMALL, "max_length=20", *words])
    torch.manual_seed(0)
    plain = build_model(config, 300).train()
    for p in plain.parameters():  # gains and biases that a mistake in them would show
        p.data += 0.05 * torch.randn_like(p)
    fused = copy.deepcopy(plain)
    plain_attention(fused)
    fuse_blocks(fused)
    return plain, fused


def _batch():
    generator = torch.Generator().manual_seed(1)
    last = torch.randint(2, 20, (16,), generator=generator)
    return torch.randn(16, 3, 32, 32, generator=generator), torch.randint(0, 300, (16, 20), generator=generator), last


def _run(model, autocast=True):
    """Encoders' outputs and all of their gradients, as float32."""
    generator = torch.Generator().manual_seed(2)
    pixels, ids, last = _batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v, t = model.vision.encoder(pixels).float(), model.text_states(ids, last).float()
    out = {"v": v.detach(), "t": t.detach()}
    (v * torch.randn(v.shape, generator=generator)).sum().backward(retain_graph=True)
    (t * torch.randn(t.shape, generator=generator)).sum().backward()
    for side in (model.vision, model.text):
        out |= {f"{side is model.text}.{n}": p.grad.clone() for n, p in side.encoder.named_parameters()}
    model.zero_grad()
    return out


def _off(a, b):
    return float((a - b).norm() / b.norm())


def test_values_and_every_gradient_are_as_near_to_float32s_as_autocasts():
    plain, fused = _models()
    plain_attention(plain)
    exact, cast, ours = _run(plain, autocast=False), _run(plain), _run(fused)
    assert set(ours) == set(exact)
    for name, wanted in exact.items():
        if wanted.norm() > 1e-3:  # the bias of keys moves no score
            assert _off(ours[name], wanted) < 1.6 * _off(cast[name], wanted) + 1e-3, name
    keys = exact["False.blocks.0.attn.qkv.bias"][64:128].norm()
    assert keys < 1e-3 and ours["False.blocks.0.attn.qkv.bias"][64:128].norm() < 0.05


def test_float32_evaluation_and_pad77_keep_their_bits():
    plain, fused = _models()
    plain_attention(plain)
    exact, ours = _run(plain, autocast=False), _run(fused, autocast=False)
    assert all(torch.equal(ours[n], exact[n]) for n in exact)
    pixels, ids, last = _batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = (m.eval()(pixels, ids, last) for m in (plain, fused))
    assert all(torch.equal(a[k], b[k]) for k in a)
    plain, fused = _models("text_readout=pad77")
    plain_attention(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain.text_states(ids, last), fused.text_states(ids, last))


def test_groups_of_texts_are_as_many_as_pay_and_change_nothing_else(monkeypatch):
    _, fused = _models()
    _, ids, last = _batch()
    seen = []
    original = bf16.last_states
    monkeypatch.setattr(bf16, "last_states", lambda e, i, at: seen.append(tuple(i.shape)) or original(e, i, at))
    with torch.autocast("cpu", torch.bfloat16):
        one = fused.text_states(ids, last)
        monkeypatch.setattr("levl_eval.models.towers._GROUP", 0)
        many = fused.text_states(ids, last)
    assert seen[0] == (16, int(last.max()) + 1) and len(seen) > 3 and sum(s[0] for s in seen) == 32
    assert _off(many, one) < 0.02
    single = [original(fused.text.encoder, ids[i : i + 1, : last[i] + 1], last[i : i + 1]) for i in range(4)]
    assert _off(torch.cat(single), one[:4]) < 0.02


def test_runs_of_earlier_versions_keep_separate_blocks():
    old = PretrainConfig().model_dump(mode="json")
    del old["bf16_blocks"]
    assert completed({"config": old})["config"]["bf16_blocks"] == "separate"
    assert PretrainConfig().bf16_blocks == "fused"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "fused"),
    [((), True), (("bf16_blocks=separate",), False), (("precision=fp32",), False)],
)
def test_a_run_in_bf16_on_a_cpu_trains_with_them(tmp_path, words, fused):
    from levl_eval.pretrain.loop import Trainer

    config = parse_config(
        [*SMALL, "precision=bf16", "batch_size=8", "steps=1", "scenes_pool=16", "sigreg_slices=16", "diagnose_images=8", "device=cpu",
         f"out={tmp_path}/a", *words]
    )  # fmt: skip
    assert Trainer(config, cache=tmp_path / "cache").model.fused is fused
