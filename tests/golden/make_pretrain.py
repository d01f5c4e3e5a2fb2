"""Golden values of pretraining, computed by formulas written out here in float64, without any code of levl_eval.

    python tests/golden/make_pretrain.py     # writes tests/golden/pretrain.json

A ViT, a GPT-2, heads and predictors are plain functions of a dictionary of weights; weights, images, tokens and directions are sines of
their index, so that nothing but this file is needed to make them again. Of every loss and of every parameter's gradient it keeps
numbers: the gradient's sum of squares and its product with a sine. tests/pretrain/test_golden.py holds the package to them.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)

V = {"width": 8, "depth": 2, "heads": 2, "patch": 4, "size": 8}
T = {"width": 6, "depth": 2, "heads": 2, "vocab": 20, "length": 9}
BATCH, DIM, HEAD, PREDICTOR, SLICES, KNOTS, T_MAX = 5, 4, [7], [6, 6], 11, 17, 3.0
TOKENS = [[3, 4, 5], [6, 7, 8, 9, 10], [11], [12, 13, 14, 15, 16, 17, 18, 19], [2, 3, 2, 5, 7, 1]]


def wave(name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    """Numbers between -scale and scale that depend on name and index alone."""
    count = math.prod(shape)
    phase = zlib.crc32(name.encode()) % 1000 / 7
    return scale * torch.sin(phase + 1.7 * torch.arange(count, dtype=torch.float64)).reshape(shape)


def weights(head: list[int], predict: list[int] | None) -> dict[str, torch.Tensor]:
    """Every parameter of both towers under its published name."""
    shapes: dict[str, tuple[int, ...]] = {}
    d = V["width"]
    shapes["vision.encoder.cls_token"] = (1, 1, d)
    shapes["vision.encoder.pos_embed"] = (1, 1 + (V["size"] // V["patch"]) ** 2, d)
    shapes["vision.encoder.patch_embed.proj.weight"] = (d, 3, V["patch"], V["patch"])
    shapes["vision.encoder.patch_embed.proj.bias"] = (d,)
    for i in range(V["depth"]):
        p = f"vision.encoder.blocks.{i}."
        for n, s in {
            "norm1": (d,),
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "norm2": (d,),
            "mlp.fc1": (4 * d, d),
            "mlp.fc2": (d, 4 * d),
        }.items():
            shapes[p + n + ".weight"], shapes[p + n + ".bias"] = s, s[:1]
    shapes["vision.encoder.norm.weight"] = shapes["vision.encoder.norm.bias"] = (d,)
    d = T["width"]
    shapes["text.encoder.wte.weight"], shapes["text.encoder.wpe.weight"] = (T["vocab"], d), (T["length"], d)
    for i in range(T["depth"]):
        p = f"text.encoder.h.{i}."
        for n, s in {
            "ln_1": (d,),
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "ln_2": (d,),
            "mlp.c_fc": (d, 4 * d),
            "mlp.c_proj": (4 * d, d),
        }.items():
            shapes[p + n + ".weight"], shapes[p + n + ".bias"] = s, s[-1:]
    shapes["text.encoder.ln_f.weight"] = shapes["text.encoder.ln_f.bias"] = (d,)
    for side, width in (("vision", V["width"]), ("text", T["width"])):
        heads = [("pre_proj", [width, *head, DIM], 3)] + ([("projector", [DIM, *predict, DIM], 4)] if predict is not None else [])
        for part, dims, stride in heads:
            for k in range(len(dims) - 1):
                shapes[f"{side}.{part}.{stride * k}.weight"], shapes[f"{side}.{part}.{stride * k}.bias"] = (
                    (dims[k + 1], dims[k]),
                    (dims[k + 1],),
                )
                if k < len(dims) - 2:
                    shapes[f"{side}.{part}.{stride * k + 1}.weight"] = shapes[f"{side}.{part}.{stride * k + 1}.bias"] = (
                        dims[k + 1],
                    )
    out = {}
    for name, shape in shapes.items():
        gain = name.endswith("weight") and len(shape) == 1
        out[name] = (wave(name, shape, 0.2) + 1.0 if gain else wave(name, shape, 0.5)).requires_grad_()
    return out


def layer_norm(x, w, p, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[p + ".weight"] + w[p + ".bias"]


def attention(q, k, v, heads, allowed=None):
    size = q.shape[-1] // heads
    out = []
    for h in range(heads):
        at = slice(h * size, (h + 1) * size)
        score = q[..., at] @ k[..., at].transpose(-1, -2) / math.sqrt(size)
        if allowed is not None:
            score = score.masked_fill(~allowed, -math.inf)
        out.append(score.softmax(-1) @ v[..., at])
    return torch.cat(out, -1)


def vit(w, images):
    """[B, 3, S, S] -> class token after the final norm [B, width]; S other than the table's is not needed here."""
    p, patch = "vision.encoder.", V["patch"]
    cells = images.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = cells @ w[p + "patch_embed.proj.weight"].flatten(1).T + w[p + "patch_embed.proj.bias"]
    x = torch.cat([w[p + "cls_token"].expand(len(x), -1, -1), x], 1) + w[p + "pos_embed"]
    for i in range(V["depth"]):
        b = f"{p}blocks.{i}."
        q, k, v = (layer_norm(x, w, b + "norm1", 1e-6) @ w[b + "attn.qkv.weight"].T + w[b + "attn.qkv.bias"]).chunk(3, -1)
        x = x + attention(q, k, v, V["heads"]) @ w[b + "attn.proj.weight"].T + w[b + "attn.proj.bias"]
        h = layer_norm(x, w, b + "norm2", 1e-6) @ w[b + "mlp.fc1.weight"].T + w[b + "mlp.fc1.bias"]
        x = x + 0.5 * h * (1 + torch.erf(h / math.sqrt(2))) @ w[b + "mlp.fc2.weight"].T + w[b + "mlp.fc2.bias"]
    return layer_norm(x, w, p + "norm", 1e-6)[:, 0]


def gpt(w, ids, mask):
    """[B, L] and which tokens may be attended to -> last hidden states [B, L, width]."""
    p, length = "text.encoder.", ids.shape[1]
    x = w[p + "wte.weight"][ids] + w[p + "wpe.weight"][:length]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, :].bool()
    for i in range(T["depth"]):
        b = f"{p}h.{i}."
        q, k, v = (layer_norm(x, w, b + "ln_1", 1e-5) @ w[b + "attn.c_attn.weight"] + w[b + "attn.c_attn.bias"]).chunk(3, -1)
        x = x + attention(q, k, v, T["heads"], allowed) @ w[b + "attn.c_proj.weight"] + w[b + "attn.c_proj.bias"]
        h = layer_norm(x, w, b + "ln_2", 1e-5) @ w[b + "mlp.c_fc.weight"] + w[b + "mlp.c_fc.bias"]
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[b + "mlp.c_proj.weight"] + w[b + "mlp.c_proj.bias"]
    return layer_norm(x, w, p + "ln_f", 1e-5)


def text(w, readout):
    """The read-out states [B, width]."""
    length = T["length"]
    if readout == "eot":
        rows = [[*t[: length - 1], 0] for t in TOKENS]
    else:
        rows = [t[:length] for t in TOKENS]
    ids = torch.tensor([r + [0] * (length - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])
    if readout == "pad77-all":
        mask = torch.ones_like(mask)
    states = gpt(w, ids, mask)
    return states[:, -1] if readout != "eot" else torch.stack([s[len(r) - 1] for s, r in zip(states, rows, strict=True)])


def head(w, p, x, count, stride):
    """A BatchNorm MLP in training mode with ``count`` hidden layers."""
    for k in range(count):
        x = x @ w[f"{p}.{stride * k}.weight"].T + w[f"{p}.{stride * k}.bias"]
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        x = x * w[f"{p}.{stride * k + 1}.weight"] + w[f"{p}.{stride * k + 1}.bias"]
        x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return x @ w[f"{p}.{stride * count}.weight"].T + w[f"{p}.{stride * count}.bias"]


def sigreg(z, a):
    """PAPER 1.3 with the whole tensor."""
    if z.ndim == 3:
        return torch.stack([sigreg(v, a) for v in z]).mean()
    t = torch.linspace(0, T_MAX, KNOTS)
    h = T_MAX / (KNOTS - 1)
    window = torch.exp(-t.square() / 2)
    weight = torch.tensor([h] + [2 * h] * (KNOTS - 2) + [h]) * window
    x = (z @ a)[:, :, None] * t
    return (((x.cos().mean(0) - window).square() + x.sin().mean(0).square()) @ weight).mean() * len(z)


def directions(name):
    a = wave(name, (DIM, SLICES))
    return a / a.norm(dim=0)


CASES: dict[str, dict] = {
    "levljepa eot": {}, "levljepa pad77": {"readout": "pad77"}, "levljepa pad77-all": {"readout": "pad77-all"},
    "levljepa cosine": {"align": "cosine"}, "levljepa lambdas": {"lv": 0.1, "lt": 0.3}, "levljepa no sigreg": {"lv": 0.0, "lt": 0.0},
    "levljepa shared directions": {"shared": True}, "levljepa july heads": {"head": [7, 9], "predict": [6, 8, 5]},
    "levljepa plain heads": {"head": [], "predict": []},
    "direct": {"objective": "direct", "predict": None}, "direct no sigreg": {"objective": "direct", "predict": None, "lv": 0.0, "lt": 0.0},
    "plus": {"objective": "plus"}, "plus pad77 cosine": {"objective": "plus", "readout": "pad77", "align": "cosine", "lm": 0.1},
    "plus first form": {"objective": "plus", "each": True},
    "plus first form cosine": {"objective": "plus", "each": True, "align": "cosine"},
    "clip": {"objective": "clip", "predict": None}, "clip pad77": {"objective": "clip", "predict": None, "readout": "pad77"},
    "siglip": {"objective": "siglip", "predict": None}, "siglip pad77": {"objective": "siglip", "predict": None, "readout": "pad77"},
}  # fmt: skip


def loss_of(case: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the weights it was computed from."""
    c = {
        "objective": "levljepa",
        "readout": "eot",
        "align": "mse",
        "lv": 0.02,
        "lt": 0.02,
        "lm": 0.2,
        "shared": False,
        "each": False,
        "head": HEAD,
        "predict": PREDICTOR,
        **case,
    }
    w = weights(c["head"], c["predict"])
    count = len(c["head"])
    a_v = directions("directions/v")
    a_t = a_v if c["shared"] else directions("directions/t")

    def distance(x, y):
        if c["align"] == "cosine":
            return (2 - 2 * (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).mean()
        return (x - y).square().mean()

    z_t = head(w, "text.pre_proj", text(w, c["readout"]), count, 3)
    views = 4 if c["objective"] == "plus" else 1
    images = wave("images", (views * BATCH, 3, V["size"], V["size"]))
    z = head(w, "vision.pre_proj", vit(w, images), count, 3)
    if views > 1:
        z = z.reshape(views, BATCH, DIM)
        z_v = (z[0] + z[1]) / 2
    else:
        z_v = z
    if c["objective"] in ("clip", "siglip"):
        w["logit_scale"] = torch.tensor(1.3).requires_grad_()
        v, t = (x / x.norm(dim=1, keepdim=True) for x in (z_v, z_t))
        s = w["logit_scale"].exp() * v @ t.T
        if c["objective"] == "clip":
            return -(s.log_softmax(1).diag().mean() + s.log_softmax(0).diag().mean()) / 2, w
        w["logit_bias"] = torch.tensor(-2.0).requires_grad_()
        sign = 2 * torch.eye(BATCH) - 1
        return F.softplus(-sign * (s + w["logit_bias"])).sum() / BATCH, w
    rest = c["lv"] * sigreg(z, a_v) + c["lt"] * sigreg(z_t, a_t)
    if c["objective"] == "direct":
        return (1 - c["lv"] - c["lt"]) * distance(z_v, z_t) + rest, w
    n = len(c["predict"])
    # LeVLJEPA+ before b120e44: every view predicts the text, in one batch.
    seen, wanted = (z.reshape(views * BATCH, DIM), z_t.repeat(views, 1)) if c["each"] else (z_v, z_t)
    cross = (
        distance(head(w, "vision.projector", seen, n, 4), wanted.detach())
        + distance(head(w, "text.projector", z_t, n, 4), z_v.detach())
    ) / 2
    if c["objective"] == "plus":
        rest = rest + c["lm"] * (z - z_v).square().mean()
        return (1 - c["lv"] - c["lt"] - c["lm"]) * cross + rest, w
    return (1 - c["lv"] - c["lt"]) * cross + rest, w


SCHEDULES: dict[str, dict] = {
    "may": {"start": 0.0}, "july": {"start": 0.01}, "openclip": {"start": None, "final": 0.0},
    "wsd": {"start": 0.01, "wsd": 15}, "wsd 40": {"start": 0.01, "wsd": 40}, "wsd linear": {"start": 0.01, "wsd": 15, "linear": True},
}  # fmt: skip


def schedule(case: dict, steps: int = 100, warmup: int = 10, lr: float = 2e-4) -> list[float]:
    """The rate of every update."""
    final, out = case.get("final", 0.1) * lr, []
    for s in range(steps):
        start, fall = case["start"], case.get("wsd", steps - warmup)
        if s < warmup:
            out.append(lr * (s + 1) / warmup if start is None else lr * start + (lr - lr * start) * s / warmup)
        elif s < steps - fall:
            out.append(lr)
        elif case.get("linear"):
            out.append(lr + (final - lr) * (s + 1 - (steps - fall)) / fall)
        else:
            out.append(final + (lr - final) * (1 + math.cos(math.pi * (s - (steps - fall)) / fall)) / 2)
    return out


def adamw(
    w: torch.Tensor, g: torch.Tensor, decay: float, steps: int = 3, lr: float = 2e-4, betas=(0.9, 0.999), eps: float = 1e-8
):
    """A parameter after ``steps`` updates with the same gradient (Loshchilov and Hutter 2019, algorithm 2)."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for k in range(1, steps + 1):
        w = w - lr * decay * w
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g.square()
        w = w - lr * (m / (1 - betas[0] ** k)) / ((v / (1 - betas[1] ** k)).sqrt() + eps)
    return w


def summary(name: str, x: torch.Tensor) -> list[float]:
    return [float(x.square().sum()), float((x * wave("summary/" + name, tuple(x.shape))).sum())]


def main() -> None:
    out: dict = {"losses": {}, "schedules": {n: schedule(c) for n, c in SCHEDULES.items()}, "adamw": {}}
    for name, case in CASES.items():
        loss, w = loss_of(case)
        grads = torch.autograd.grad(loss, list(w.values()))
        out["losses"][name] = {
            "loss": float(loss.detach()),
            "gradients": {n: summary(n, g) for n, g in zip(w, grads, strict=True)},
        }
    for name, decay, parameters in (
        ("all", (0.01, 0.01), {}),
        ("matrices", (0.01, 0.0), {}),
        ("openclip", (0.2, 0.0), {"betas": (0.9, 0.98), "eps": 1e-6}),
    ):
        w = weights(HEAD, PREDICTOR)
        out["adamw"][name] = {
            n: summary(n, adamw(x.detach(), wave("gradient/" + n, tuple(x.shape)), decay[x.ndim < 2], **parameters))
            for n, x in w.items()
        }
    Path(__file__).with_name("pretrain.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
