"""How many dimensions embeddings use: shared by what pretraining tells while it goes and by `levl-eval health`."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> float:
    """exp(-sum p log(p + 1e-7)), p the normalised singular values of the mean-centred embeddings [N, D] (docs/paper.md); at most D."""
    values = torch.linalg.svdvals((x - x.mean(0)).double())
    p = values / values.sum().clamp(min=1e-30)
    return float(torch.exp(-(p * torch.log(p + 1e-7)).sum()))
