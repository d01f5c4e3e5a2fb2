"""Losses, gradients, schedules and updates against tests/golden/pretrain.json, which plain formulas made (make_pretrain.py)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from levl_eval.models.config import parse_config
from levl_eval.models.towers import build_model
from levl_eval.pretrain import SIGReg
from levl_eval.pretrain.objectives import loss_of
from levl_eval.pretrain.schedule import learning_rate, optimizer_of

GOLDEN = Path(__file__).parents[1] / "golden"
VALUES = json.loads((GOLDEN / "pretrain.json").read_text())


@pytest.fixture(scope="module")
def plain():
    """The script's weights, inputs and summaries (its formulas are not used here)."""
    before = torch.get_default_dtype()
    spec = importlib.util.spec_from_file_location("golden_make_pretrain", GOLDEN / "make_pretrain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_default_dtype(before)
    return module


def _config(case, *more):
    c = {"objective": "levljepa", **case}
    words = [
        "vision.width=8", "vision.depth=2", "vision.heads=2", "vision.patch=4", "image_size=16", "text.width=6", "text.depth=2",
        "text.heads=2", "max_length=9", "embed_dim=4", "sigreg_slices=11", "text_buckets=2", "vocab_size=300",
        f"objective={({'plus': 'levljepa_plus', 'direct': 'levljepa'}).get(c['objective'], c['objective'])}",
        f"prediction={'direct' if c['objective'] == 'direct' else 'predictor'}", f"align_loss={c.get('align', 'mse')}",
        f"lambda_v={c.get('lv', 0.02)}", f"lambda_t={c.get('lt', 0.02)}",
        f"lambda_multi={c.get('lm', 0.2)}", f"plus_predicts={'views' if c.get('each') else 'mean'}",
        f"pre_proj_hidden_dims={c.get('head', [7])}", f"projector_hidden_dims={c.get('predict', [6, 6]) or []}",
        f"text_readout={c.get('readout', 'eot')[:5]}", f"pad77_attends={'all' if c.get('readout') == 'pad77-all' else 'text'}",
    ]  # fmt: skip
    return parse_config([*words, *more]).model_copy(update={"image_size": 8})


def _model(plain, config, case):
    model = build_model(config, plain.T["vocab"]).double()
    w = plain.weights(case.get("head", plain.HEAD), case.get("predict", plain.PREDICTOR))
    parameters = dict(model.named_parameters())
    for name, value in w.items():
        parameters.pop(name).data.copy_(value.detach())
    for name in list(parameters):
        parameters.pop(name).data.fill_(1.3 if name == "logit_scale" else -2.0)
    return model.train()


def _texts(readout):
    from levl_eval.models import tokenizer

    class Words:
        """Tokens as they stand, through the package's own encoding."""

        def token_to_id(self, text):
            return 0

        def encode_batch(self, texts, add_special_tokens):
            return [type("E", (), {"ids": [int(x) for x in t.split()]}) for t in texts]

    ids, last = tokenizer.encode(Words(), TEXTS, 9, readout)
    return torch.from_numpy(ids), torch.from_numpy(last)


TEXTS = ["3 4 5", "6 7 8 9 10", "11", "12 13 14 15 16 17 18 19", "2 3 2 5 7 1"]


@pytest.mark.parametrize("name", list(VALUES["losses"]))
def test_losses_and_every_gradient(plain, name):
    case = plain.CASES[name]
    config = _config(case)
    model = _model(plain, config, case)
    views = 4 if case.get("objective") == "plus" else 1
    images = plain.wave("images", (views * plain.BATCH, 3, 8, 8))
    x = [images.view(4, plain.BATCH, 3, 8, 8)[:2], images.view(4, plain.BATCH, 3, 8, 8)[2:]] if views == 4 else images
    ids, last = _texts(config.text_readout)
    queue = [plain.directions("directions/v"), plain.directions("directions/v" if case.get("shared") else "directions/t")]
    if config.lambda_v == 0:
        queue = []
    sigreg = SIGReg(11)
    loss, _ = loss_of(config, model(x, ids, last, 2), lambda z: sigreg(z, queue.pop(0)))
    wanted = VALUES["losses"][name]
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-11)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [n for n, _ in model.named_parameters()]
    assert set(names) == set(wanted["gradients"])
    largest = max(v[0] for v in wanted["gradients"].values())
    for n, g in zip(names, gradients, strict=True):
        square, product = plain.summary(n, g)
        assert square == pytest.approx(wanted["gradients"][n][0], rel=1e-8, abs=1e-20 * largest), n
        assert product == pytest.approx(wanted["gradients"][n][1], rel=1e-7, abs=1e-11 * largest**0.5), n


@pytest.mark.parametrize("name", list(VALUES["schedules"]))
def test_schedules(plain, name):
    case = plain.SCHEDULES[name]
    start = "null" if case["start"] is None else case["start"]
    words = ["model=base", "steps=100", "warmup=10", f"warmup_start_factor={start}", f"final_lr={case.get('final', 0.1)}"]
    if "wsd" in case:
        words += [
            "schedule=wsd",
            f"wsd_decay_frac={case['wsd'] / 100}",
            f"wsd_decay={'linear' if case.get('linear') else 'cosine'}",
        ]
    config = parse_config(words)
    assert [learning_rate(config, s) for s in range(100)] == pytest.approx(VALUES["schedules"][name], rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("name", list(VALUES["adamw"]))
def test_updates(plain, name):
    words = ["betas=[0.9, 0.98]", "eps=1.0e-6", "weight_decay=0.2"] if name == "openclip" else ["weight_decay=0.01"]
    config = _config({}, "lr=2.0e-4", f"weight_decay_on={'all' if name == 'all' else 'matrices'}", *words)
    model = _model(plain, config, {})
    optimizer = optimizer_of(model, config)
    for _ in range(3):
        for n, p in model.named_parameters():
            p.grad = plain.wave("gradient/" + n, tuple(p.shape))
        optimizer.step()
    for n, p in model.named_parameters():
        assert plain.summary(n, p.detach()) == pytest.approx(VALUES["adamw"][name][n], rel=1e-10, abs=1e-12), n


def test_the_stored_values_are_what_the_script_gives(plain):
    """At three of the cases; the whole is made again by python tests/golden/make_pretrain.py."""
    torch.set_default_dtype(torch.float64)
    try:
        for name in ("levljepa pad77", "plus", "siglip"):
            assert float(plain.loss_of(plain.CASES[name])[0]) == pytest.approx(VALUES["losses"][name]["loss"], rel=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)
