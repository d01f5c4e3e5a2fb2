"""Linear depth heads on cached patch tokens: labels at token resolution, training, closed form, metres by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.cards.dense import DepthCard, MetresFields
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.engines.dense_common import LabelledTokens, LinearHead, solve_on_tokens, train_on_tokens


def valid(depth: np.ndarray, card: MetresFields) -> np.ndarray:
    """Which pixels are known and within (min_depth, max_depth]."""
    with np.errstate(invalid="ignore"):
        out: np.ndarray = np.isfinite(depth) & (depth > card.min_depth) & (depth <= card.max_depth)
        return out


def grid_depth(depth: np.ndarray, grid: tuple[int, int], card: DepthCard) -> np.ndarray:
    """float32 [h, w] of a depth map [H, W] by the card's ``label_grid``; NaN where a cell has no valid pixel."""
    height, width = depth.shape
    if card.label_grid == "mean":
        return grid_depth_of(depth, grid, card)
    keep = valid(depth, card)
    rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    place = np.ix_(rows, columns)
    return np.where(keep[place], depth[place], np.nan).astype(np.float32)


def grid_depth_of(depth: np.ndarray, grid: tuple[int, int], card: MetresFields) -> np.ndarray:
    """float32 [h, w]: the mean of each cell's valid pixels of a depth map [H, W]; NaN where it has none."""
    height, width = depth.shape
    keep = valid(depth, card)
    cell = (np.arange(height) * grid[0] // height)[:, None] * grid[1] + np.arange(width) * grid[1] // width
    many = np.bincount(cell[keep], minlength=grid[0] * grid[1])
    total = np.bincount(cell[keep], depth[keep].astype(np.float64), minlength=grid[0] * grid[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(many > 0, total / many, np.nan).reshape(grid).astype(np.float32)


def bin_centres(card: MetresFields) -> Tensor:
    """float32 [bins]: the centres of a card's bins in metres."""
    near, far = card.min_depth, card.max_depth
    if card.bin_spacing == "log":
        return torch.linspace(math.log(near), math.log(far), card.bins).exp()
    return torch.linspace(near, far, card.bins)


def binned(outputs: Tensor, centres: Tensor, weights: str) -> Tensor:
    """[B, bins, h, w] of a head -> metres [B, h, w]: the mean of the centres, weighted by the positive outputs."""
    weight = outputs.softmax(1) if weights == "softmax" else outputs.relu() + 0.1
    return torch.einsum("bkhw,k->bhw", weight / weight.sum(1, keepdim=True), centres)


class DepthHead(nn.Module):
    """[B, n, D] tokens -> metres [B, h, w], positive, not yet clipped."""

    centres: Tensor

    def __init__(self, linear: LinearHead, card: DepthCard, softplus: bool) -> None:
        super().__init__()
        self.linear, self.card, self.softplus = linear, card, softplus
        self.register_buffer("centres", bin_centres(card))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.linear(tokens)
        if self.card.head == "bins":
            return binned(x, self.centres, self.card.bin_weights)
        x = x[:, 0]
        if self.card.target == "log":
            out: Tensor = x.clamp(-20, 20).exp()
            return out
        # A trained head stays positive; the closed form may not be, and is clipped where it is scored.
        return nn.functional.softplus(x) if self.softplus else x


def depth_loss(predicted: Tensor, truth: Tensor, card: DepthCard) -> Tensor:
    """The card's loss over flat metres."""
    if card.loss == "silog":
        d = predicted.log() - truth.log()
        return ((d * d).mean() - card.silog_lambda * d.mean() ** 2).clamp_min(1e-12).sqrt()
    return (predicted - truth).abs().mean() if card.loss == "l1" else ((predicted - truth) ** 2).mean()


@dataclass(frozen=True)
class DepthTokens(LabelledTokens):
    """Tokens labelled with metres, NaN where unknown."""

    def linear(self, card: DepthCard) -> LinearHead:
        """A new linear layer on standardised tokens, with as many outputs as the card's head has."""
        mean, std = self.scale(card.standardize, card.std_floor)
        return LinearHead(mean, std, card.bins if card.head == "bins" else 1, self.grid, True)


def _start(linear: LinearHead, labels: np.ndarray, card: DepthCard) -> None:
    """A regression starts as the training mean, which it would otherwise spend its first epochs on."""
    if card.head != "bins":
        known = labels[np.isfinite(labels)].astype(np.float64)
        at = float(np.log(known).mean()) if card.target == "log" else float(np.log(np.expm1(min(known.mean(), 500.0))))
        nn.init.zeros_(linear.linear.weight)
        nn.init.constant_(linear.linear.bias, at)


def token_loss(head: DepthHead, x: Tensor, y: Tensor) -> Tensor | None:
    """The loss of the head's card on tokens [b, n, D] against metres [b, h, w], NaN where unknown; None where all are."""
    keep = torch.isfinite(y)
    return depth_loss(head(x)[keep], y[keep], head.card) if keep.any() else None


def train_head(
    data: DepthTokens, card: DepthCard, seed: int, device: torch.device, progress: Progress
) -> tuple[DepthHead, list[float]]:
    """Fit the card's head. Returns it and its loss by epoch, [] of one that is solved.

    Raises LevlError where nothing is labelled or the loss is not finite.
    """
    if not np.isfinite(data.labels).any():
        raise LevlError("depth: no training pixel is within the caps; check `min_depth`, `max_depth` and `depth_scale`")
    torch.manual_seed(seed)
    linear = data.linear(card)
    if card.head == "ridge":
        return _ridge(linear, data, card, device, progress), []
    _start(linear, data.labels, card)
    head = DepthHead(linear, card, softplus=True).to(device)

    curve = train_on_tokens(head, data, card, token_loss, seed, device, progress)
    return head.eval().requires_grad_(False), curve


def _ridge(linear: LinearHead, data: DepthTokens, card: DepthCard, device: torch.device, progress: Progress) -> DepthHead:
    """Least squares to the card's target."""

    def goals(metres: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        y = metres.flatten()
        keep = torch.isfinite(y)
        goal = y[keep].to(dtype)
        return keep, (goal.log() if card.target == "log" else goal)[:, None]

    solve_on_tokens(linear, data, goals, card, device, progress)
    return DepthHead(linear, card, softplus=False).to(device).eval().requires_grad_(False)
