"""Linear depth heads on cached patch tokens: labels at token resolution, training, closed form, metres by token."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.cards.dense import DepthCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.engines.segmentation.head import LinearHead, token_statistics


def valid(depth: np.ndarray, card: DepthCard) -> np.ndarray:
    """Which pixels are known and within (min_depth, max_depth]."""
    with np.errstate(invalid="ignore"):
        out: np.ndarray = np.isfinite(depth) & (depth > card.min_depth) & (depth <= card.max_depth)
        return out


def grid_depth(depth: np.ndarray, grid: tuple[int, int], card: DepthCard) -> np.ndarray:
    """float32 [h, w] of a depth map [H, W] by the card's ``label_grid``; NaN where a cell has no valid pixel."""
    height, width = depth.shape
    keep = valid(depth, card)
    if card.label_grid == "nearest":
        rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
        columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
        place = np.ix_(rows, columns)
        return np.where(keep[place], depth[place], np.nan).astype(np.float32)
    cell = (np.arange(height) * grid[0] // height)[:, None] * grid[1] + np.arange(width) * grid[1] // width
    many = np.bincount(cell[keep], minlength=grid[0] * grid[1])
    total = np.bincount(cell[keep], depth[keep].astype(np.float64), minlength=grid[0] * grid[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(many > 0, total / many, np.nan).reshape(grid).astype(np.float32)


class DepthHead(nn.Module):
    """[B, n, D] tokens -> metres [B, h, w], positive, not yet clipped."""

    centres: Tensor

    def __init__(self, linear: LinearHead, card: DepthCard, softplus: bool) -> None:
        super().__init__()
        self.linear, self.card, self.softplus = linear, card, softplus
        near, far = card.min_depth, card.max_depth
        if card.bin_spacing == "log":
            near, far = math.log(near), math.log(far)
        steps = torch.linspace(near, far, card.bins)
        self.register_buffer("centres", steps.exp() if card.bin_spacing == "log" else steps)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.linear(tokens)
        if self.card.head == "bins":
            weight = x.softmax(1) if self.card.bin_weights == "softmax" else x.relu() + 0.1
            return torch.einsum("bkhw,k->bhw", weight / weight.sum(1, keepdim=True), self.centres)
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


def _new(patches: np.ndarray, grid: tuple[int, int], card: DepthCard) -> LinearHead:
    dim = patches.shape[-1]
    mean, std = token_statistics(patches, floor=card.std_floor) if card.standardize else (torch.zeros(dim), torch.ones(dim))
    return LinearHead(mean, std, card.bins if card.head == "bins" else 1, grid, True)


def _start(linear: LinearHead, labels: np.ndarray, card: DepthCard) -> None:
    """A regression starts as the training mean, which it would otherwise spend its first epochs on."""
    if card.head != "bins":
        known = labels[np.isfinite(labels)].astype(np.float64)
        at = float(np.log(known).mean()) if card.target == "log" else float(np.log(np.expm1(min(known.mean(), 500.0))))
        nn.init.zeros_(linear.linear.weight)
        nn.init.constant_(linear.linear.bias, at)


def train_head(
    patches: np.ndarray,
    labels: np.ndarray,
    grid: tuple[int, int],
    card: DepthCard,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[DepthHead, list[float]]:
    """Fit the card's head on [N, n, D] tokens and metres [N, h, w] (NaN: unknown). Returns it and its loss by epoch.

    Raises LevlError where nothing is labelled or the loss is not finite.
    """
    if not np.isfinite(labels).any():
        raise LevlError("depth: no training pixel is within the caps; check `min_depth`, `max_depth` and `depth_scale`")
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    linear = _new(patches, grid, card)
    if card.head == "ridge":
        return _ridge(linear, patches, labels, card, device, progress), []
    _start(linear, labels, card)
    head = DepthHead(linear, card, softplus=True).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, betas=card.betas, weight_decay=card.weight_decay)
    target = torch.from_numpy(labels)
    total = card.epochs * math.ceil(len(patches) / card.batch_size)
    step, curve = 0, []
    with progress.stage(f"{card.head} head", card.epochs, "epoch") as bar:
        for _ in range(card.epochs):
            losses = []
            for rows in torch.randperm(len(patches), generator=generator).split(card.batch_size):
                for group in optimizer.param_groups:
                    group["lr"] = card.lr * (0.5 * (1 + math.cos(math.pi * step / total)) if card.schedule == "cosine" else 1.0)
                step += 1
                rows = rows.sort().values
                y = target[rows].to(device)
                keep = torch.isfinite(y)
                if not keep.any():
                    continue
                x = torch.from_numpy(patches[rows.numpy()].astype(np.float32)).to(device)
                loss = depth_loss(head(x)[keep], y[keep], card)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            curve.append(float(np.mean(losses)))
            if not math.isfinite(curve[-1]):
                raise LevlError(f"depth: the head's loss is {curve[-1]}; lower `lr`")
            bar.advance(note=f"loss {curve[-1]:.3f}")
    return head.eval().requires_grad_(False), curve


@torch.inference_mode()
def _ridge(
    linear: LinearHead, patches: np.ndarray, labels: np.ndarray, card: DepthCard, device: torch.device, progress: Progress
) -> DepthHead:
    """Least squares to the card's target with a penalty on the weights, not on the bias; two sums are streamed."""
    linear = linear.to(device)
    width = patches.shape[-1] + 1
    kind = torch.float32 if device.type == "mps" else torch.float64
    gram, cross = torch.zeros(width, width, dtype=kind, device=device), torch.zeros(width, dtype=kind, device=device)
    with progress.stage("ridge head", len(patches), "image") as bar:
        for i in range(0, len(patches), card.batch_size):
            y = torch.from_numpy(labels[i : i + card.batch_size]).to(device).flatten()
            x = torch.from_numpy(patches[i : i + card.batch_size].astype(np.float32)).to(device)
            keep = torch.isfinite(y)
            flat = ((x - linear.mean) / linear.std).flatten(0, 1)[keep].to(kind)
            flat = torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
            goal = y[keep].to(kind)
            gram += flat.T @ flat
            cross += flat.T @ (goal.log() if card.target == "log" else goal)
            bar.advance(len(x))
    penalty = torch.full((width,), card.ridge_lambda, dtype=kind, device=device)
    penalty[-1] = 0
    system = gram + torch.diag(penalty)
    solution = torch.linalg.pinv(system) @ cross if card.ridge_lambda == 0 else torch.linalg.solve(system, cross)
    linear.linear.weight.copy_(solution[None, :-1])
    linear.linear.bias.copy_(solution[-1:])
    return DepthHead(linear, card, softplus=False).to(device).eval().requires_grad_(False)
