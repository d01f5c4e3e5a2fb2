"""The objectives on paired embeddings, each the published formula at the published code's scale.

Several processes: negatives, SIGReg and BatchNorm (parallel.py) are over all rows; every function returns the mean over this
process's rows, whose average over processes is the loss of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.core.distributed import joined_group
from levl_eval.models.config import PretrainConfig
from levl_eval.pretrain.parallel import gather, pairwise_sigmoid

Regulariser = Callable[[Tensor], Tensor]


def distance(prediction: Tensor, target: Tensor, kind: str = "mse") -> Tensor:
    """mse: mean over batch and dimensions; cosine: mean of 2 - 2 cos, in float32 (docs/paper.md). Of several predictions [V, B, d] of one
    target [B, d] their mean.
    """
    target = target.expand_as(prediction)
    if kind == "cosine":
        return (2 - 2 * F.cosine_similarity(prediction, target, dim=-1)).mean()
    return F.mse_loss(prediction, target)


def levljepa(
    z_v: Tensor,
    z_t: Tensor,
    predict_v: Callable[[Tensor], Tensor] | nn.Module,
    predict_t: Callable[[Tensor], Tensor] | nn.Module,
    sigreg: Regulariser,
    lambda_v: float,
    lambda_t: float,
    align: str = "mse",
) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - lv - lt) cross + lv SIGReg(Z_v) + lt SIGReg(Z_t), cross at the code's scale (docs/paper.md, equations 5 and 6).

    z_v, z_t: [B, d], not normalised. cross is the mean over batch and dimensions, averaged over both directions; targets carry
    no gradient, so each encoder learns from prediction only through its own branch. A regulariser of weight 0 is not computed.
    Returns (loss, parts).
    """
    cross = 0.5 * (distance(predict_v(z_v), z_t.detach(), align) + distance(predict_t(z_t), z_v.detach(), align))
    return _regularised(cross, z_v, z_t, sigreg, lambda_v, lambda_t)


def direct(
    z_v: Tensor, z_t: Tensor, sigreg: Regulariser, lambda_v: float, lambda_t: float, align: str = "mse"
) -> tuple[Tensor, dict[str, Tensor]]:
    """The ablation without predictors: the pair's distance itself, with gradient to both sides (docs/paper.md, Table 7)."""
    return _regularised(distance(z_v, z_t, align), z_v, z_t, sigreg, lambda_v, lambda_t)


def _regularised(
    cross: Tensor, z_v: Tensor, z_t: Tensor, sigreg: Regulariser, lambda_v: float, lambda_t: float
) -> tuple[Tensor, dict[str, Tensor]]:
    loss, parts = (1 - lambda_v - lambda_t) * cross, {"cross": cross.detach()}
    for name, z, weight in (("sigreg_v", z_v, lambda_v), ("sigreg_t", z_t, lambda_t)):
        if weight:
            s = sigreg(z)
            loss = loss + weight * s
            parts[name] = s.detach()
    return loss, parts


def levljepa_plus(
    views: Tensor,
    z_t: Tensor,
    global_views: int,
    predict_v: Callable[[Tensor], Tensor] | nn.Module,
    predict_t: Callable[[Tensor], Tensor] | nn.Module,
    sigreg: Regulariser,
    weights: tuple[float, float, float],
    align: str = "mse",
) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - lv - lt - lm) cross + lv S_v + lt S_t + lm multi, with weights (lv, lt, lm) (docs/paper.md).

    views: [V, B, d], global crops first. The vision embedding is the mean of the global crops, with gradient; multi is the mean
    squared distance of every view from it; SIGReg is taken per view and averaged. predict_v may give a prediction of each view
    [V, B, d]: the first published form (train_levljepa_plus.py at 91cae67, before b120e44), where all of them are held to the text.
    """
    lambda_v, lambda_t, lambda_m = weights
    z_v = views[:global_views].mean(0)
    cross = 0.5 * (distance(predict_v(z_v), z_t.detach(), align) + distance(predict_t(z_t), z_v.detach(), align))
    multi = (views - z_v).square().mean()
    s_v, s_t = sigreg(views), sigreg(z_t)
    loss = (1 - lambda_v - lambda_t - lambda_m) * cross + lambda_v * s_v + lambda_t * s_t + lambda_m * multi
    return loss, {"cross": cross.detach(), "sigreg_v": s_v.detach(), "sigreg_t": s_t.detach(), "multi": multi.detach()}


def clip(z_v: Tensor, z_t: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021) against the negatives of all processes: z [B, d], scale exp(log_scale) at most 100."""
    v, t = F.normalize(z_v, dim=-1), F.normalize(z_t, dim=-1)
    scale = log_scale.clamp(max=math.log(100)).exp()
    target = torch.arange(len(v), device=v.device) + joined_group().rank * len(v)
    return 0.5 * (F.cross_entropy(scale * v @ gather(t).T, target) + F.cross_entropy(scale * t @ gather(v).T, target))


def siglip(z_v: Tensor, z_t: Tensor, log_scale: Tensor, bias: Tensor, block: int | None = None) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023, algorithm 1): sum over pairs with all processes' texts, divided by the batch.

    At most ``block`` columns of the similarity matrix (one process's batch where None) exist at a time.
    """
    v, t = F.normalize(z_v, dim=-1), F.normalize(z_t, dim=-1)
    return pairwise_sigmoid(v, gather(t), log_scale, bias, joined_group().rank * len(v), block or len(v))


def _full(z: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return z if z.dtype == torch.float64 else z.float()


def loss_of(config: PretrainConfig, out: dict[str, Tensor], sigreg: Regulariser) -> tuple[Tensor, dict[str, Tensor]]:
    """The configured objective of a forward pass (model.DualEncoder.forward), in at least float32.

    Returns (loss, its parts for the log).
    """
    c, z_t = config, _full(out["z_t"])
    if c.objective in ("levljepa", "levljepa_plus"):
        # The predictions are outputs of the forward pass, where a wrapped model (DDP) sees them.
        forward = {k: _full(out[k]) for k in ("p_v", "p_t") if k in out}
        if c.objective == "levljepa_plus":
            return levljepa_plus(
                _full(out["views"]), z_t, c.global_views, lambda _: forward["p_v"], lambda _: forward["p_t"], sigreg,
                (c.lambda_v, c.lambda_t, c.lambda_multi), c.align_loss,
            )  # fmt: skip
        z_v = _full(out["z_v"])
        if c.prediction == "direct":
            return direct(z_v, z_t, sigreg, c.lambda_v, c.lambda_t, c.align_loss)
        return levljepa(
            z_v, z_t, lambda _: forward["p_v"], lambda _: forward["p_t"], sigreg, c.lambda_v, c.lambda_t, c.align_loss
        )
    z_v, scale = _full(out["z_v"]), out["logit_scale"]
    if c.objective == "clip":
        return clip(z_v, z_t, scale), {"scale": scale.detach().exp()}
    loss = siglip(z_v, z_t, scale, out["logit_bias"])
    return loss, {"scale": scale.detach().exp(), "bias": out["logit_bias"].detach()}
