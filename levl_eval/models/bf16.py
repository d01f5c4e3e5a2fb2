"""Blocks of the towers in bfloat16 on a CPU, with their gradients written out: what autocast computes, without its copies.

Under autocast every operation of a block is a node of its own: activations go to bfloat16 and back around each LayerNorm, heads
are copied before every product, biases are added and summed in passes of their own. At the size of nano and tiny such passes cost
as much as the products. Here half a block (``x + attention(norm(x))``, ``x + mlp(norm(x))``) is one function: the stream x, its
gradient and the LayerNorms stay in float32, products are in bfloat16 as under autocast, so results equal autocast's to bfloat16's
rounding (tests/pretrain/test_bf16.py). Only for training: towers.fuse_blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block
    from torch.autograd.function import BackwardCFunction

BF16 = torch.bfloat16
# Columns beside a product's input: the first is 1 and meets the bias,
# the others keep rows aligned to what the processor multiplies at once.
_PAD = 32
_Grads = tuple[Tensor | None, ...]


def active(module: nn.Module) -> bool:
    """Whether a block marked by towers.fuse_blocks is to run as a fused one now: in training, under autocast to bfloat16."""
    return module.training and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == BF16


def _widened(weight: Tensor, bias: Tensor) -> Tensor:
    """weight [O, C] and bias [O] as one bfloat16 matrix [O, C + _PAD] for inputs of :func:`_normed`."""
    width = weight.shape[1]
    out = weight.new_zeros(len(weight), width + _PAD, dtype=BF16)
    out[:, :width], out[:, width] = weight, bias
    return out


def _normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of x [R, C] in float32 -> (its value in bfloat16 [R, C + _PAD], behind it 1 and zeros; mean; 1 / deviation)."""
    rows, width = x.shape
    value, mean, scale = torch.native_layer_norm(x, [width], weight, bias, eps)
    out = x.new_empty(rows, width + _PAD, dtype=BF16)
    out[:, :width] = value
    out[:, width:], out[:, width] = 0, 1
    return out, mean, scale


def _norm_backward(gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Gradients of a LayerNorm's input [R, C], weight and bias from that of its output, in bfloat16."""
    made = torch.ops.aten.native_layer_norm_backward(
        gradient.float(), x, [x.shape[1]], mean, scale, weight, bias, [True, True, True]
    )
    return list(made)


def _heads(x: Tensor, parts: int, batch: int, heads: int) -> tuple[Tensor, ...]:
    """[B N, parts C] -> parts of [B heads, N, C / heads]."""
    split = x.view(batch, -1, parts, heads, x.shape[1] // (parts * heads))
    return split.permute(2, 0, 3, 1, 4).reshape(parts, batch * heads, -1, split.shape[-1]).unbind(0)


def _joined(x: Tensor, batch: int) -> Tensor:
    """The way back: [parts, B heads, N, D] -> [B N, parts heads D]."""
    parts, both, tokens, size = x.shape
    return x.view(parts, batch, both // batch, tokens, size).permute(1, 3, 0, 2, 4).reshape(batch * tokens, -1)


def _linear_backward(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias, in float32, from that of its output [R, O] and its input [R, C]."""
    return (gradient.t() @ x).float(), gradient.sum(0).float()


def _saved(ctx: BackwardCFunction) -> tuple[Tensor, ...]:
    out: tuple[Tensor, ...] = ctx.saved_tensors
    return out


class _Attention(torch.autograd.Function):
    """x + proj(attention(norm(x))), of all tokens; with ``causal`` each sees those up to itself."""

    @staticmethod
    def forward(ctx: BackwardCFunction, how: tuple[float, int, bool], x: Tensor, *weights: Tensor) -> Tensor:
        """how: (the norm's epsilon, heads, causal); x [B, N, C] in float32; weights: of norm, qkv, proj each weight [out, in] and bias."""
        eps, heads, causal = how
        norm_w, norm_b, qkv_w, qkv_b, proj_w, proj_b = weights
        batch, tokens, width = x.shape
        rows = x.reshape(-1, width)
        normed, mean, scale = _normed(rows, norm_w, norm_b, eps)
        qkv, proj = _widened(qkv_w, qkv_b), proj_w.to(BF16)
        qkv[:width] *= (width // heads) ** -0.5  # the scores' scale
        q, k, v = _heads(normed @ qkv.t(), 3, batch, heads)
        scores = torch.bmm(q, k.transpose(1, 2))
        if causal:
            seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
            scores.masked_fill_(~seen, torch.finfo(BF16).min)
        p = scores.softmax(-1)
        out = _joined(torch.bmm(p, v)[None], batch)
        ctx.save_for_backward(rows, mean, scale, norm_w, norm_b, normed, qkv, proj, q, k, v, p, out)
        return torch.add(rows, torch.addmm(proj_b.to(BF16), out, proj.t())).view(x.shape)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> _Grads:
        rows, mean, scale, norm_w, norm_b, normed, qkv, proj, q, k, v, p, out = _saved(ctx)
        batch, _, width = grads[0].shape
        whole = grads[0].reshape(-1, width)
        g = whole.to(BF16)
        d_proj = _linear_backward(g, out)
        (d_out,) = _heads(g @ proj, 1, batch, len(q) // batch)
        d = q.new_empty(3, *q.shape)
        torch.bmm(p.transpose(1, 2), d_out, out=d[2])
        d_scores = torch._softmax_backward_data(torch.bmm(d_out, v.transpose(1, 2)), p, -1, BF16)
        torch.bmm(d_scores, k, out=d[0])
        torch.bmm(d_scores.transpose(1, 2), q, out=d[1])
        joined = _joined(d, batch)
        d_qkv = _linear_backward(joined, normed[:, :width])
        for x in d_qkv:
            x[:width] *= q.shape[-1] ** -0.5
        dx, *d_norm = _norm_backward(joined @ qkv[:, :width], rows, mean, scale, norm_w, norm_b)
        return None, dx.add_(whole).view_as(grads[0]), *d_norm, *d_qkv, *d_proj


class _ClassTokenAttention(torch.autograd.Function):
    """The same for the first token alone: x [B, N, C] -> [B, 1, C] (readout.py)."""

    @staticmethod
    def forward(ctx: BackwardCFunction, how: tuple[float, int, bool], x: Tensor, *weights: Tensor) -> Tensor:
        eps, heads, _ = how
        norm_w, norm_b, qkv_w, qkv_b, proj_w, proj_b = weights
        batch, tokens, width = x.shape
        rows = x.reshape(-1, width)
        normed, mean, scale = _normed(rows, norm_w, norm_b, eps)
        qkv, proj = _widened(qkv_w, qkv_b), proj_w.to(BF16)
        qkv[:width] *= (width // heads) ** -0.5
        (q,) = _heads(normed[::tokens] @ qkv[:width].t(), 1, batch, heads)
        k, v = _heads(normed @ qkv[width:].t(), 2, batch, heads)
        p = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        out = _joined(torch.bmm(p, v)[None], batch)
        ctx.save_for_backward(rows, mean, scale, norm_w, norm_b, normed, qkv, proj, q, k, v, p, out)
        return torch.add(rows[::tokens], torch.addmm(proj_b.to(BF16), out, proj.t())).unsqueeze(1)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> _Grads:
        rows, mean, scale, norm_w, norm_b, normed, qkv, proj, q, k, v, p, out = _saved(ctx)
        batch, _, width = grads[0].shape
        tokens = len(rows) // batch
        whole = grads[0].reshape(-1, width)
        g = whole.to(BF16)
        d_proj = _linear_backward(g, out)
        (d_out,) = _heads(g @ proj, 1, batch, len(q) // batch)
        d = k.new_empty(2, *k.shape)
        torch.bmm(p.transpose(1, 2), d_out, out=d[1])
        d_scores = torch._softmax_backward_data(torch.bmm(d_out, v.transpose(1, 2)), p, -1, BF16)
        torch.bmm(d_scores.transpose(1, 2), q, out=d[0])
        d_q, joined = _joined(torch.bmm(d_scores, k)[None], batch), _joined(d, batch)
        q_w, q_b = _linear_backward(d_q, normed[::tokens, :width])
        kv_w, kv_b = _linear_backward(joined, normed[:, :width])
        factor = q.shape[-1] ** -0.5
        d_qkv = torch.cat([q_w * factor, kv_w]), torch.cat([q_b * factor, kv_b])
        d_normed = joined @ qkv[width:, :width]
        d_normed[::tokens] += d_q @ qkv[:width, :width]
        dx, *d_norm = _norm_backward(d_normed, rows, mean, scale, norm_w, norm_b)
        dx[::tokens] += whole
        return None, dx.view(batch, tokens, width), *d_norm, *d_qkv, *d_proj


class _MLP(torch.autograd.Function):
    """x + fc2(gelu(fc1(norm(x))))."""

    @staticmethod
    def forward(ctx: BackwardCFunction, how: tuple[float, str], x: Tensor, *weights: Tensor) -> Tensor:
        """how: (the norm's epsilon, gelu's ``approximate``); x [..., C] in float32; weights: of norm, fc1, fc2, as above."""
        eps, ctx.approximate = how  # type: ignore[attr-defined]
        norm_w, norm_b, fc1_w, fc1_b, fc2_w, fc2_b = weights
        rows = x.reshape(-1, x.shape[-1])
        normed, mean, scale = _normed(rows, norm_w, norm_b, eps)
        fc1, fc2 = _widened(fc1_w, fc1_b), fc2_w.to(BF16)
        before = normed @ fc1.t()
        after = F.gelu(before, approximate=how[1])
        ctx.save_for_backward(rows, mean, scale, norm_w, norm_b, normed, fc1, fc2, before, after)
        return torch.add(rows, torch.addmm(fc2_b.to(BF16), after, fc2.t())).view(x.shape)

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> _Grads:
        rows, mean, scale, norm_w, norm_b, normed, fc1, fc2, before, after = _saved(ctx)
        width = rows.shape[1]
        whole = grads[0].reshape(-1, width)
        g = whole.to(BF16)
        d_fc2 = _linear_backward(g, after)
        d = torch.ops.aten.gelu_backward(g @ fc2, before, approximate=ctx.approximate)  # type: ignore[attr-defined]
        d_fc1 = _linear_backward(d, normed[:, :width])
        dx, *d_norm = _norm_backward(d @ fc1[:, :width], rows, mean, scale, norm_w, norm_b)
        return None, dx.add_(whole).view_as(grads[0]), *d_norm, *d_fc1, *d_fc2


def vit_block(block: Block, x: Tensor, only_class_token: bool) -> Tensor:
    """A timm block as :func:`towers.vision_tower` builds it: x [B, N, C] -> float32 [B, N, C], or [B, 1, C] of the class token."""
    attention, mlp = block.attn, block.mlp
    half = _ClassTokenAttention if only_class_token else _Attention
    with torch.autocast("cpu", enabled=False):
        middle: Tensor = half.apply(
            (block.norm1.eps, attention.num_heads, False), x.float(), block.norm1.weight, block.norm1.bias, attention.qkv.weight,
            attention.qkv.bias, attention.proj.weight, attention.proj.bias,
        )  # fmt: skip
        out: Tensor = _MLP.apply(
            (block.norm2.eps, "none"), middle, block.norm2.weight, block.norm2.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight,
            mlp.fc2.bias,
        )  # fmt: skip
    return out


def patches(embed: nn.Module, pixels: Tensor) -> Tensor:
    """timm's patch embedding as one product: [B, 3, H, W] -> [B, H / P, W / P, C] in bfloat16."""
    weight: Tensor = embed.proj.weight  # type: ignore[union-attr,assignment]
    bias: Tensor = embed.proj.bias  # type: ignore[union-attr,assignment]
    channels, side = weight.shape[1], weight.shape[-1]
    batch, _, height, width = pixels.shape
    cut = pixels.to(BF16).reshape(batch, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
    return F.linear(cut.reshape(batch, height // side, width // side, -1), weight.flatten(1), bias)


def last_states(encoder: nn.Module, ids: Tensor, last: Tensor) -> Tensor:
    """States [B, C] of a GPT-2 (:func:`towers.text_tower`) at positions ``last`` [B] of ids [B, L].

    What nobody reads is left out: behind the attention of the last block only those positions.
    """
    x = encoder.wte(ids) + encoder.wpe(torch.arange(ids.shape[1]))  # type: ignore[operator]
    blocks = list(encoder.h)  # type: ignore[arg-type]
    for i, block in enumerate(blocks):
        attention, mlp = block.attn, block.mlp
        with torch.autocast("cpu", enabled=False):
            x = _Attention.apply(
                (block.ln_1.eps, attention.num_heads, True), x, block.ln_1.weight, block.ln_1.bias, attention.c_attn.weight.t(),
                attention.c_attn.bias, attention.c_proj.weight.t(), attention.c_proj.bias,
            )  # fmt: skip
            if i + 1 == len(blocks):
                x = x[torch.arange(len(ids)), last]
            x = _MLP.apply(
                (block.ln_2.eps, "tanh"), x, block.ln_2.weight, block.ln_2.bias, mlp.c_fc.weight.t(), mlp.c_fc.bias,
                mlp.c_proj.weight.t(), mlp.c_proj.bias,
            )  # fmt: skip
    out: Tensor = encoder.ln_f(x)  # type: ignore[operator]
    return out
