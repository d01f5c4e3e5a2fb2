"""Linear heads for surface normals on cached patch tokens: labels at token resolution, loss, training, closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards.normals import NormalsCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.engines.dense_common import LabelledTokens, LinearHead, solve_on_tokens, train_on_tokens

_EPS = 1e-4  # cosines are kept so far from 1 and -1, where the angle has no slope (Probe3D)


def grid_normals(normals: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, 3]: the direction of the mean of each cell's known normals of a map [H, W, 3]; NaN where it has none."""
    height, width = normals.shape[:2]
    known = (normals != 0).any(-1)
    cell = (np.arange(height) * grid[0] // height)[:, None] * grid[1] + np.arange(width) * grid[1] // width
    total = np.stack(
        [np.bincount(cell[known], normals[..., k][known].astype(np.float64), minlength=grid[0] * grid[1]) for k in range(3)], -1
    )
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.where(length > 1e-6, total / np.maximum(length, 1e-6), np.nan).reshape(*grid, 3).astype(np.float32)


@dataclass(frozen=True)
class NormalTokens(LabelledTokens):
    """Tokens labelled with unit vectors [N, h, w, 3], NaN where unknown."""

    def linear(self, card: NormalsCard) -> LinearHead:
        """A new linear layer on standardised tokens, with as many outputs as the card's loss takes."""
        mean, std = self.scale(card.standardize, card.std_floor)
        return LinearHead(mean, std, 4 if card.head == "linear" and card.loss == "angular-nll" else 3, self.grid, True)


def normal_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Mean over flat outputs [n, 3 or 4] against unit vectors [n, 3]: the angle; with a fourth output x the negative
    log-likelihood of the angle a under kappa = elu(x) + 1.01: ln(1 + exp(-kappa pi)) - ln(kappa^2 + 1) + kappa a."""
    angle = F.cosine_similarity(outputs[:, :3], truth, dim=1).clamp(-1 + _EPS, 1 - _EPS).acos()
    if outputs.shape[1] == 3:
        return angle.mean()
    kappa = F.elu(outputs[:, 3]) + 1.01
    return (torch.log1p(torch.exp(-kappa * math.pi)) - torch.log(kappa**2 + 1) + kappa * angle).mean()


def token_loss(head: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor | None:
    """:func:`normal_loss` on tokens [b, n, D] against unit vectors [b, h, w, 3], NaN where unknown; None where all are."""
    keep = torch.isfinite(y).all(-1)
    return normal_loss(head(x).movedim(1, -1)[keep], y[keep]) if keep.any() else None


def token_angle(head: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """The mean angle in radians alone, whatever the head is trained by: it is what is scored, a likelihood is not."""
    return token_loss(lambda tokens: head(tokens)[:, :3], x, y)


def train_head(
    data: NormalTokens, card: NormalsCard, seed: int, device: torch.device, progress: Progress
) -> tuple[nn.Module, list[float]]:
    """Fit the card's head, [B, n, D] -> [B, 3 or 4, h, w]. Returns it and its loss by epoch, [] of one that is solved.

    Raises LevlError where nothing is labelled or the loss is not finite.
    """
    if not np.isfinite(data.labels).any():
        raise LevlError("normals: no training pixel has a normal; check the maps")
    torch.manual_seed(seed)
    linear = data.linear(card)
    if card.head == "ridge":
        return _ridge(linear, data, card, device, progress), []
    # Starts as the mean direction: a cosine has no slope to speak of where all outputs are next to zero.
    mean = np.nanmean(data.labels.reshape(-1, 3), 0)
    nn.init.zeros_(linear.linear.weight)
    nn.init.zeros_(linear.linear.bias)
    with torch.no_grad():
        linear.linear.bias[:3] = torch.from_numpy(mean / max(float(np.linalg.norm(mean)), 1e-6))
    head = linear.to(device)

    curve = train_on_tokens(head, data, card, token_loss, seed, device, progress)
    return head.eval().requires_grad_(False), curve


def _ridge(linear: LinearHead, data: NormalTokens, card: NormalsCard, device: torch.device, progress: Progress) -> LinearHead:
    """Least squares to the components."""

    def goals(normals: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        y = normals.flatten(0, 2)
        keep = torch.isfinite(y).all(-1)
        return keep, y[keep].to(dtype)

    solve_on_tokens(linear, data, goals, card, device, progress)
    return linear.eval().requires_grad_(False)
