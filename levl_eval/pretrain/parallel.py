"""Several processes as one: embeddings gathered with their gradients, and BatchNorm over all processes' rows.

Throughout, every process computes the mean over its own rows and gradients are averaged over processes, as DDP does; with equal
rows a process that is the gradient of the mean over all rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.core.distributed import joined_group


class _Gather(torch.autograd.Function):
    """All processes' rows, in rank order; the gradient of a row is the sum over the processes that used it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(joined_group().size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = joined_group().rank * ctx.rows
        return total[start : start + ctx.rows]


def gather(x: Tensor) -> Tensor:
    """[B, ...] of each process -> [W B, ...] of all, differentiable; every process must hold equally many rows."""
    return _Gather.apply(x) if joined_group().size > 1 else x


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d over the rows of all processes, on any device (torch's own refuses CPU tensors). State dict as BatchNorm1d's.

    x: [B, C] with equally many rows in every process. Statistics in float32 (of float64 in float64); running variance unbiased, as torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        count = joined_group().size
        if not self.training or count == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        rows = len(x) * count
        mean = _Sum.apply(x.sum(0)) / rows
        centred = x - mean
        var = _Sum.apply((centred * centred).sum(0)) / rows
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((var * (rows / max(1, rows - 1))).to(self.running_var.dtype), momentum)
        out = centred * torch.rsqrt(var + self.eps)
        if self.affine:
            out = out * self.weight + self.bias
        normalised: Tensor = out.to(input.dtype)
        return normalised


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d below ``module`` by one over all processes; parameters and buffers are kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d) and not isinstance(child, SyncBatchNorm1d):
            new = SyncBatchNorm1d(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            new.load_state_dict(child.state_dict(), assign=True)  # with their type and device
            setattr(module, name, new)
        else:
            sync_batch_norm(child)
    return module


class _PairwiseSigmoid(torch.autograd.Function):
    """sum over pairs of -log sigmoid(sign (scale cos + bias)) / rows, block by block; gradients are made on the way.

    v: [B, d], t: [M, d], both of unit length; the positive of row i is column i + offset. At most B x block similarities exist
    at a time.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor, log_scale: Tensor, bias: Tensor, offset: int, block: int) -> Tensor:
        scale = log_scale.exp()
        total = v.new_zeros(())
        gv, gt, gs, gb = torch.zeros_like(v), torch.zeros_like(t), v.new_zeros(()), v.new_zeros(())
        rows = torch.arange(len(v), device=v.device)
        for start in range(0, len(t), block):
            part = t[start : start + block]
            cos = v @ part.T
            logits = scale * cos + bias
            # Rows whose positive is in this block, by numbers of the host: to look for them would be to wait for a GPU.
            first, last = max(0, start - offset), max(0, min(len(v), start + len(part) - offset))
            i = rows[first:last]
            j = i + (offset - start)
            positive = logits[i, j]
            total -= F.logsigmoid(-logits).sum() + (F.logsigmoid(positive) - F.logsigmoid(-positive)).sum()
            slope = logits.sigmoid()
            slope[i, j] -= 1
            gb += slope.sum()
            gs += (slope * cos).sum()
            gv.addmm_(slope, part)
            gt[start : start + len(part)].addmm_(slope.T, v)
        n = len(v)
        ctx.save_for_backward(gv * (scale / n), gt * (scale / n), gs * (scale / n), gb / n)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gv, gt, gs, gb = ctx.saved_tensors
        g = grads[0]
        return g * gv, g * gt, g * gs, g * gb, None, None


def pairwise_sigmoid(v: Tensor, t: Tensor, log_scale: Tensor, bias: Tensor, offset: int, block: int) -> Tensor:
    """See :class:`_PairwiseSigmoid`; differentiable in all four tensors."""
    out: Tensor = _PairwiseSigmoid.apply(v, t, log_scale, bias, offset, block)
    return out
