"""What a run tells of its embeddings while it goes: rank, shape, alignment, and a nearest-neighbour probe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.models.spectrum import effective_rank


def projections(z: Tensor, directions: int = 64) -> tuple[float, float]:
    """(mean standard deviation, mean kurtosis) of z [N, d] along fixed random directions; 1 and 3 for a standard Gaussian."""
    a = torch.randn(z.shape[1], directions, generator=torch.Generator().manual_seed(0)).to(z.device)
    x = z.float() @ (a / a.norm(dim=0))
    x = x - x.mean(0)
    var = x.square().mean(0)
    return float(var.sqrt().mean()), float((x.pow(4).mean(0) / var.square().clamp_min(1e-12)).mean())


def of_pairs(z_v: Tensor, z_t: Tensor) -> dict[str, float]:
    """Diagnostics of pairs [N, d]: ranks, projections of both modalities, matched and shuffled cosine."""
    out: dict[str, float] = {}
    for name, z in (("v", z_v), ("t", z_t)):
        out[f"rank_{name}"] = effective_rank(z)
        out[f"std_{name}"], out[f"kurtosis_{name}"] = projections(z)
    out["matched_cosine"] = float(F.cosine_similarity(z_v, z_t).mean())
    out["shuffled_cosine"] = float(F.cosine_similarity(z_v, z_t.roll(1, 0)).mean())
    return out


def knn_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 20) -> float:
    """Share of test rows [M, D] whose k nearest training rows by cosine vote for their label, votes weighted exp(cos / 0.07)."""
    cosine = F.normalize(test.float(), dim=1) @ F.normalize(train.float(), dim=1).T
    value, index = cosine.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), int(train_labels.max()) + 1, device=train.device)
    votes.scatter_add_(1, train_labels[index], (value / 0.07).exp())
    return float((votes.argmax(1) == test_labels).float().mean())
