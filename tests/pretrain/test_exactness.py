"""Objectives, gradient paths and read-outs in float64 against the formulas written plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from levl_eval.core.errors import UsageError
from levl_eval.models import tokenizer
from levl_eval.models.config import SIZES, parse_config
from levl_eval.models.towers import build_model
from levl_eval.pretrain import SIGReg, objectives
from levl_eval.pretrain.parallel import pairwise_sigmoid
from levl_eval.pretrain.schedule import learning_rate, optimizer_of


def _z(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def _moment(z):
    """A stand-in for SIGReg that can be written in one line."""
    return z.pow(4).mean()


def _model(*words):
    torch.manual_seed(0)
    c = parse_config(["vision.depth=1", "text.depth=1", "vision.width=24", "text.width=16", "embed_dim=12", "head_width=20",
                      "predictor_width=16", "predictor_depth=2", "image_size=16", "max_length=9", *words])  # fmt: skip
    return c, build_model(c, 50).double().train()


def _batch(rows=6):
    g = torch.Generator().manual_seed(1)
    pixels = torch.randn(rows, 3, 16, 16, generator=g, dtype=torch.float64)
    ids = torch.randint(1, 50, (rows, 9), generator=g)
    last = torch.tensor([8, 3, 5, 1, 8, 4])[:rows]
    ids[torch.arange(rows), last] = 0
    return pixels, ids, last


@pytest.mark.slow
def test_each_encoder_learns_from_prediction_only_through_its_own_branch():
    """Whole towers: the image encoder's gradient is that of its own predictor against a constant, and the text encoder's likewise."""
    c, model = _model("lambda_v=0.1", "lambda_t=0.2", "text_buckets=1")
    out = model(*_batch())
    loss, parts = objectives.loss_of(c, out, _moment)
    assert loss.dtype == torch.float64
    names = [n for n, _ in model.named_parameters()]
    got = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    again = model(*_batch())
    z_v, z_t = again["z_v"].detach(), again["z_t"].detach()
    plain = {
        "vision": 0.7 * 0.5 * ((again["p_v"] - z_t) ** 2).sum() / z_t.numel() + 0.1 * (again["z_v"] ** 4).mean(),
        "text": 0.7 * 0.5 * ((again["p_t"] - z_v) ** 2).sum() / z_v.numel() + 0.2 * (again["z_t"] ** 4).mean(),
    }
    for side, value in plain.items():
        tower = getattr(model, side)
        wanted = torch.autograd.grad(value, list(tower.parameters()), retain_graph=True)
        for (n, _), g in zip(tower.named_parameters(), wanted, strict=True):
            assert torch.allclose(got[f"{side}.{n}"], g, rtol=1e-9, atol=1e-12), (side, n)
        other = "text" if side == "vision" else "vision"  # and nothing of it reaches the other side
        reached = torch.autograd.grad(value, list(getattr(model, other).parameters()), allow_unused=True, retain_graph=True)
        assert all(g is None for g in reached)
    assert parts["cross"].item() == pytest.approx(0.5 * ((again["p_v"] - z_t) ** 2 + (again["p_t"] - z_v) ** 2).mean().item())


def test_levljepa_plus_is_the_published_formula():
    views, z_t = _z(6, 5, 4), _z(5, 4, seed=1)
    w = _z(4, 4, seed=2).detach()
    predict = lambda z: z @ w  # noqa: E731
    lv, lt, lm = 0.02, 0.03, 0.2
    loss, _ = objectives.levljepa_plus(views, z_t, 2, predict, predict, _moment, (lv, lt, lm))
    mean = (views[0] + views[1]) / 2
    cross = 0.5 * ((mean @ w - z_t.detach()) ** 2).mean() + 0.5 * ((z_t @ w - mean.detach()) ** 2).mean()
    multi = sum(((views[k] - mean) ** 2).mean() for k in range(6)) / 6
    plain = (1 - lv - lt - lm) * cross + lv * _moment(views) + lt * _moment(z_t) + lm * multi
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    for x in (views, z_t):
        assert torch.allclose(
            torch.autograd.grad(loss, x, retain_graph=True)[0], torch.autograd.grad(plain, x, retain_graph=True)[0]
        )
    # SIGReg on views is the mean of each view's statistic.
    a = F.normalize(_z(4, 30, seed=3).detach(), dim=0)
    s = SIGReg(30)
    assert s(views, a).item() == pytest.approx(np.mean([s(v, a).item() for v in views]), rel=1e-12)


def test_the_forward_pass_on_crops():
    c, model = _model("objective=levljepa_plus", "text_buckets=1", "local_views=2")
    g = torch.Generator().manual_seed(0)
    crops = [torch.randn(2, 6, 3, 16, 16, generator=g).double(), torch.randn(2, 6, 3, 8, 8, generator=g).double()]
    _, ids, last = _batch()
    out = model(crops, ids, last, c.global_views)
    assert out["views"].shape == (4, 6, 12) and torch.equal(out["z_v"], out["views"][:2].mean(0))
    # one BatchNorm over all views: the heads' statistics are those of the 24 rows together
    pooled = torch.cat([model.vision.encoder(x.flatten(0, 1)) for x in crops])
    assert torch.allclose(model.vision.pre_proj(pooled).view(4, 6, 12), out["views"])
    loss, parts = objectives.loss_of(c, out, _moment)
    assert {"cross", "sigreg_v", "sigreg_t", "multi"} <= set(parts) and torch.isfinite(loss)
    none = model([crops[0], crops[1][:0]], ids, last, 2)  # no local crops
    assert none["views"].shape == (2, 6, 12)


def test_the_first_form_of_levljepa_plus_predicts_from_every_view():
    c, model = _model("objective=levljepa_plus", "text_buckets=1", "local_views=2", "plus_predicts=views")
    g = torch.Generator().manual_seed(0)
    crops = [torch.randn(2, 6, 3, 16, 16, generator=g).double(), torch.randn(2, 6, 3, 8, 8, generator=g).double()]
    pixels, ids, last = _batch()
    out = model(crops, ids, last, c.global_views)
    assert out["p_v"].shape == out["views"].shape == (4, 6, 12) and out["p_t"].shape == (6, 12)
    _, parts = objectives.loss_of(c, out, _moment)
    wanted = [(out["p_v"][k] - out["z_t"]).square().mean() for k in range(4)]
    assert parts["cross"].item() == pytest.approx(
        0.5 * (sum(wanted) / 4 + (out["p_t"] - out["z_v"]).square().mean()).item(), rel=1e-12
    )
    assert model(pixels, ids, last)["p_v"].shape == (6, 12)  # one image a text: evaluation
    with pytest.raises(UsageError, match="plus_predicts=views is a form of objective=levljepa_plus"):
        parse_config(["plus_predicts=views", "objective=clip"])


def test_the_ablations_of_table_7():
    z_v, z_t = _z(5, 4), _z(5, 4, seed=1)
    loss, parts = objectives.direct(z_v, z_t, _moment, 0.0, 0.0)
    assert loss.item() == pytest.approx(((z_v - z_t) ** 2).mean().item()) and set(parts) == {"cross"}
    g_v, g_t = torch.autograd.grad(loss, (z_v, z_t))
    assert torch.allclose(g_v, -g_t) and torch.allclose(g_v, 2 * (z_v - z_t).detach() / 20)  # both sides learn
    loss, _ = objectives.direct(z_v, z_t, _moment, 0.1, 0.2)
    assert loss.item() == pytest.approx((0.7 * ((z_v - z_t) ** 2).mean() + 0.1 * _moment(z_v) + 0.2 * _moment(z_t)).item())
    _, model = _model("prediction=direct")
    assert model.vision.projector is None and set(model(*_batch())) == {"z_v", "z_t"}
    with pytest.raises(UsageError, match="ablation of objective=levljepa"):
        parse_config(["prediction=direct", "objective=clip"])
    with pytest.raises(UsageError, match="weight is 1 minus it"):
        parse_config(["lambda_v=0.6", "lambda_t=0.5"])


def test_cosine_alignment():
    z_v, z_t = _z(5, 4), _z(5, 4, seed=1)
    same = lambda z: z  # noqa: E731
    loss, _ = objectives.levljepa(z_v, z_t, same, same, _moment, 0.0, 0.0, "cosine")
    cos = (z_v * z_t).sum(1) / (z_v.norm(dim=1) * z_t.norm(dim=1))
    assert loss.item() == pytest.approx((2 - 2 * cos).mean().item(), rel=1e-12)


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_siglip_in_blocks_is_the_whole_matrix_with_its_gradients(block):
    v, t = (F.normalize(_z(3, 4, seed=s).detach(), dim=1).requires_grad_() for s in (0, 1))
    more = F.normalize(_z(4, 4, seed=2).detach(), dim=1).requires_grad_()
    scale, bias = torch.tensor(1.3, dtype=torch.float64, requires_grad=True), torch.tensor(-2.0).double().requires_grad_()
    texts = torch.cat([more, t])  # the positives of these rows begin at column 4, as in the second process of two
    got = pairwise_sigmoid(v, texts, scale, bias, 4, block)
    sign = -torch.ones(3, 7, dtype=torch.float64)
    sign[torch.arange(3), torch.arange(3) + 4] = 1
    plain = -F.logsigmoid(sign * (scale.exp() * v @ texts.T + bias)).sum() / 3
    assert got.item() == pytest.approx(plain.item(), rel=1e-12)
    inputs = (v, t, more, scale, bias)
    for a, b in zip(torch.autograd.grad(3 * got, inputs, retain_graph=True), torch.autograd.grad(3 * plain, inputs), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_clip_gradients_and_initial_scales():
    v, t = _z(6, 4), _z(6, 4, seed=1)
    log = torch.tensor(math.log(7.0), dtype=torch.float64, requires_grad=True)
    cos = (v / v.norm(dim=1, keepdim=True)) @ (t / t.norm(dim=1, keepdim=True)).T * log.exp()
    plain = -(cos.log_softmax(1).diag().mean() + cos.log_softmax(0).diag().mean()) / 2
    got = objectives.clip(v, t, log)
    assert got.item() == pytest.approx(plain.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(got, (v, t, log)), torch.autograd.grad(plain, (v, t, log)), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert _model("objective=clip")[1].logit_scale.exp().item() == pytest.approx(1 / 0.07)
    siglip = _model("objective=siglip")[1]
    assert siglip.logit_scale.exp().item() == pytest.approx(10) and siglip.logit_bias.item() == -10
    assert _model("objective=clip", "logit_scale_init=20")[1].logit_scale.exp().item() == pytest.approx(20)


def test_text_in_buckets_and_padded_are_the_same_readout():
    _, model = _model("text_buckets=3")
    rows = torch.arange(24) % 6
    _, ids, last = _batch()
    ids, last = ids[rows], last[rows]
    ids[:, 0] = torch.arange(24) + 1
    states = model.text.encoder(input_ids=ids, use_cache=False).last_hidden_state[torch.arange(24), last]
    assert model.text_states(ids, last).shape == states.shape
    assert torch.allclose(model.text_states(ids, last), states, rtol=1e-9, atol=1e-12)


def test_readouts_of_both_published_codes():
    tok = tokenizer.train(["a red cat sits on a mat", "two dogs run"] * 5, 300)
    eot, last = tokenizer.encode(tok, ["two dogs run", "a cat"], 8)
    pad, end = tokenizer.encode(tok, ["two dogs run", "a cat"], 8, "pad77")
    plain = [tok.encode(x).ids for x in ("two dogs run", "a cat")]
    for i, ids in enumerate(plain):
        assert eot[i].tolist() == [*ids, 0] + [0] * (eot.shape[1] - len(ids) - 1) and last[i] == len(ids)
        assert pad[i].tolist() == ids[:8] + [0] * (8 - len(ids)) and end[i] == len(ids) - 1
    long = " ".join(["dogs"] * 30)
    cut, at = tokenizer.encode(tok, [long], 8)
    assert cut.shape == (1, 8) and cut[0, 7] == 0 and at[0] == 7
    assert 0 not in tokenizer.encode(tok, [long], 8, "pad77")[0]  # cut, and no end-of-text token put behind


def test_schedules_of_both_published_codes():
    """PAPER 1.6: warm-up to a peak of 2e-4; equal from update 1,000 on; wsd by a cosine over the last 15 %."""
    may, july = (parse_config(["model=base", f"warmup_start_factor={s}"]) for s in (0, 0.01))
    assert [learning_rate(may, s) for s in (0, 1, 999)] == pytest.approx([0, 2e-7, 1.998e-4])
    assert [learning_rate(july, s) for s in (0, 1, 999)] == pytest.approx([2e-6, 2.198e-6, 1.99802e-4])
    assert parse_config(["model=base"]).warmup_start_factor == 0.01
    for s in (1000, 25_500, 49_999):
        plain = 2e-5 + 1.8e-4 * 0.5 * (1 + math.cos(math.pi * (s - 1000) / 49_000))
        assert learning_rate(may, s) == pytest.approx(plain, rel=1e-12) == learning_rate(july, s)
    nano = parse_config(["steps=1000", "warmup=100", "lr=0.01"])  # its own, and OpenCLIP's
    assert learning_rate(nano, 0) == pytest.approx(1e-4) and learning_rate(nano, 99) == pytest.approx(0.01)


@pytest.mark.parametrize("words, fall", [([], 150), (["wsd_decay_frac=0.4"], 400), (["wsd_decay_steps=70"], 70)])
def test_wsd_is_torchs_own_schedulers_one_after_another(words, fall):
    """July's composition of LinearLR, ConstantLR and CosineAnnealingLR."""
    from torch.optim import lr_scheduler as lr

    c = parse_config(["model=base", "steps=1000", "warmup=100", "lr=0.01", "schedule=wsd", *words])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    parts = [
        lr.LinearLR(optimizer, start_factor=0.01, total_iters=100),
        lr.ConstantLR(optimizer, factor=1.0, total_iters=900 - fall),
        lr.CosineAnnealingLR(optimizer, T_max=fall, eta_min=0.001),
    ]
    schedule = lr.SequentialLR(optimizer, parts, milestones=[100, 1000 - fall])
    for step in range(1000):
        assert learning_rate(c, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        schedule.step()
    linear = parse_config(["steps=1000", "warmup=100", "lr=0.01", "schedule=wsd", "wsd_decay=linear"])
    assert learning_rate(linear, 999) == pytest.approx(0.001) and learning_rate(linear, 924) == pytest.approx(0.0055)
    with pytest.raises(UsageError, match="are more than steps 100"):
        parse_config(["steps=100", "warmup=60", "schedule=wsd", "wsd_decay_steps=50"])


def test_weight_decay_is_over_every_parameter_as_published():
    _, model = _model("objective=siglip")
    groups = optimizer_of(model, parse_config(["model=base"])).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.01]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    decayed, plain = optimizer_of(model, parse_config([])).param_groups  # nano's own, and OpenCLIP's
    assert decayed["weight_decay"] == 0.01 and plain["weight_decay"] == 0
    names = {id(p): n for n, p in model.named_parameters()}
    assert {"logit_scale", "logit_bias", "vision.encoder.norm.weight", "vision.pre_proj.0.bias"} <= {
        names[id(p)] for p in plain["params"]
    }
    assert "vision.encoder.blocks.0.attn.qkv.weight" in {names[id(p)] for p in decayed["params"]}


def test_the_predictor_is_torchvisions_mlp_to_the_last_dropout():
    from torchvision.ops import MLP

    from levl_eval.models.towers import predictor

    for hidden in ([16] * 4, [10, 20], []):
        ours = predictor(12, hidden, 0.1)
        theirs = MLP(12, [*hidden, 12], norm_layer=torch.nn.BatchNorm1d, activation_layer=torch.nn.GELU, dropout=0.1)
        assert [type(m) for m in ours] == [type(m) for m in theirs]
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(500, 12)
        torch.manual_seed(3)
        one = ours(x)
        torch.manual_seed(3)
        assert torch.equal(one, theirs(x)) and 0.07 < (one == 0).float().mean() < 0.13
    assert (predictor(12, [16], 0.1, last_dropout=False)(x) != 0).all()


def test_heads_take_julys_shapes():
    words = ["pre_proj_hidden_dims=[20, 30]", "projector_hidden_dims=[16, 18, 14]"]
    _, model = _model(*words)
    assert [tuple(v.shape) for k, v in model.text.pre_proj.state_dict().items() if k.endswith("weight") and v.ndim == 2] == [
        (20, 16), (30, 20), (12, 30),
    ]  # fmt: skip
    assert {"0.weight", "1.running_var", "3.weight", "4.running_var", "6.weight"} <= set(model.text.pre_proj.state_dict())
    assert [m.out_features for m in model.vision.projector if isinstance(m, torch.nn.Linear)] == [16, 18, 14, 12]
    assert len(_model("pre_proj_depth=3")[1].vision.pre_proj) == 10 and len(_model("pre_proj_depth=0")[1].vision.pre_proj) == 1


def test_presets_are_whole_configurations():
    may, july, clip, siglip = (
        parse_config([f"preset={p}"]) for p in ("levljepa-may", "levljepa-july", "clip-openclip", "siglip")
    )
    assert (may.model, may.text_readout, may.augmentation, may.interpolation, may.warmup_start_factor) == (
        "base", "pad77", "none", "bilinear", 0.0,
    )  # fmt: skip
    assert (july.text_readout, july.augmentation, july.warmup_start_factor, july.batch_size) == ("eot", "standard", 0.01, 256)
    for c in (may, july):
        assert (c.tokenizer, c.positions, c.sigreg_scope, c.weight_decay_on, c.weight_decay, c.sigreg_slices) == (
            "gpt2", 1024, "local", "all", 0.01, 4096,
        )  # fmt: skip
    for c in (clip, siglip):
        assert (c.lr, c.betas, c.eps, c.weight_decay, c.weight_decay_on, c.warmup, c.clip, c.final_lr) == (
            5e-4, (0.9, 0.98), 1e-6, 0.2, "matrices", 10_000, None, 0.0,
        )  # fmt: skip
        assert (c.embed_dim, c.crop_scale, c.flip_prob) == (512, (0.9, 1.0), 0.0)
    assert parse_config(["preset=levljepa-july", "steps=7", "model=tiny"]).steps == 7
    with pytest.raises(UsageError, match="field `preset`"):
        parse_config(["preset=august"])
    tiny = parse_config(["model=tiny"])
    assert (tiny.text.depth, tiny.head_width, tiny.predictor_width, tiny.sigreg_slices) == (12, 2048, 2048, 4096)


def test_dropout_keeps_the_published_layer_numbers():
    _, model = _model("dropout=0.1", "head_dropout=0.1")
    assert {"0.weight", "1.weight", "3.weight"} <= set(model.vision.pre_proj.state_dict())
    assert {"0.weight", "1.weight", "4.weight", "5.weight", "8.weight"} <= set(model.vision.projector.state_dict())
    x = torch.randn(400, 24, dtype=torch.float64)
    assert not torch.equal(model.vision.pre_proj(x), model.vision.pre_proj(x))
    model.eval()
    assert torch.equal(model.vision.pre_proj(x), model.vision.pre_proj(x))


def test_the_base_size_is_the_published_configuration():
    c = parse_config(["model=base"])
    told = (c.batch_size, c.steps, c.lr, c.weight_decay, c.betas, c.warmup, c.schedule, c.final_lr, c.clip, c.seed)
    assert told == (256, 50_000, 2e-4, 0.01, (0.9, 0.999), 1000, "cosine", 0.1, 1.0, 1)
    assert (c.lambda_v, c.lambda_t, c.sigreg_slices, c.sigreg_knots, c.sigreg_t_max) == (0.02, 0.02, 4096, 17, 3.0)
    assert (c.embed_dim, c.head_width, c.predictor_width, c.predictor_depth, c.dropout, c.max_length) == (
        768,
        2048,
        2048,
        4,
        0.0,
        77,
    )
    assert SIZES["base"]["vision"] == {"width": 768, "depth": 12, "heads": 12, "patch": 16}
    assert (c.text_readout, c.align_loss, c.prediction, c.sigreg_directions) == ("eot", "mse", "predictor", "separate")
    assert c.augmentation == "standard" and parse_config([]).augmentation == "crop"  # scenes' captions say left and right


@pytest.mark.slow
def test_sigreg_through_a_compiler_is_sigreg():
    """The functional forms that torch.compile turns into fused GPU kernels, here through the graph capture alone."""
    z, a = _z(37, 9), F.normalize(_z(9, 70, seed=1).detach(), dim=0)
    one, two = SIGReg(70, engine="tiles")(z, a), SIGReg(70, engine="aot_eager")(z, a)
    assert one.item() == pytest.approx(two.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(one, z)[0], torch.autograd.grad(two, z)[0], rtol=1e-9, atol=1e-12)
