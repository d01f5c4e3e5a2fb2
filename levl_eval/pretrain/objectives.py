"""The three objectives on paired embeddings, each the published formula at the published code's scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.pretrain.model import DualEncoder


def levljepa(
    z_v: Tensor,
    z_t: Tensor,
    predict_v: nn.Module,
    predict_t: nn.Module,
    sigreg: Callable[[Tensor], Tensor],
    lambda_v: float,
    lambda_t: float,
):
    """(1 - lv - lt) cross + lv SIGReg(Z_v) + lt SIGReg(Z_t), cross at the code's scale (PAPER 1.1).

    z_v, z_t: [B, d], not normalised. cross is the mean over batch and dimensions, averaged over both directions; targets carry
    no gradient, so each encoder learns from prediction only through its own branch. Returns (loss, parts).
    """
    cross = 0.5 * (F.mse_loss(predict_v(z_v), z_t.detach()) + F.mse_loss(predict_t(z_t), z_v.detach()))
    s_v, s_t = sigreg(z_v), sigreg(z_t)
    loss = (1 - lambda_v - lambda_t) * cross + lambda_v * s_v + lambda_t * s_t
    return loss, {"cross": cross.detach(), "sigreg_v": s_v.detach(), "sigreg_t": s_t.detach()}


def clip(z_v: Tensor, z_t: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch (Radford et al. 2021): z [B, d], scale exp(log_scale) at most 100."""
    logits = log_scale.clamp(max=math.log(100)).exp() * F.normalize(z_v, dim=-1) @ F.normalize(z_t, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def siglip(z_v: Tensor, z_t: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023, algorithm 1): sum over pairs, divided by the batch."""
    logits = log_scale.exp() * F.normalize(z_v, dim=-1) @ F.normalize(z_t, dim=-1).T + bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


def loss_of(
    model: DualEncoder, z_v: Tensor, z_t: Tensor, sigreg: Callable[[Tensor], Tensor], lambda_v: float, lambda_t: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's objective on a batch of embeddings, in float32. Returns (loss, its parts for the log)."""
    if model.objective == "levljepa":
        assert model.vision.projector is not None and model.text.projector is not None

        def f32(head: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda z: head(z).float()

        return levljepa(
            z_v.float(), z_t.float(), f32(model.vision.projector), f32(model.text.projector), sigreg, lambda_v, lambda_t
        )  # type: ignore[arg-type]
    if model.objective == "clip":
        return clip(z_v.float(), z_t.float(), model.logit_scale), {"scale": model.logit_scale.detach().exp()}
    loss = siglip(z_v.float(), z_t.float(), model.logit_scale, model.logit_bias)
    return loss, {"scale": model.logit_scale.detach().exp(), "bias": model.logit_bias.detach()}
