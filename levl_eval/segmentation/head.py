"""A linear head on cached patch tokens: standardisation, training at token resolution, scoring at pixel resolution."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import SegmentationCard
from levl_eval.errors import LevlError
from levl_eval.progress import Progress


def token_statistics(patches: np.ndarray, block: int = 512) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension over all tokens of [N, n, D]; std at least 1e-8 (PAPER 2b)."""
    total = np.zeros(patches.shape[-1])
    square = total.copy()
    for i in range(0, len(patches), block):
        x = patches[i : i + block].reshape(-1, patches.shape[-1]).astype(np.float64)
        total += x.sum(0)
        square += (x * x).sum(0)
    n = len(patches) * patches.shape[1]
    mean = total / n
    std = np.sqrt(np.maximum(square / n - mean * mean, 0)).clip(1e-8)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


class LinearHead(nn.Module):
    """[B, n, D] tokens -> [B, C, h, w] class logits."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int], bias: bool) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.linear = nn.Linear(len(mean), classes, bias=bias)
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.linear((tokens - self.mean) / self.std)
        # Channels first before the grid is unfolded: a plain view of [B, n, C] would scramble space and classes.
        return logits.transpose(1, 2).unflatten(2, self.grid)


def train_head(
    patches: np.ndarray, labels: np.ndarray, grid: tuple[int, int], classes: int, card: SegmentationCard, ignore: int, seed: int,
    device: torch.device, progress: Progress,
) -> tuple[LinearHead, list[float]]:  # fmt: skip
    """Fit the head on [N, n, D] tokens and [N, h, w] labels at token resolution. Returns it and its loss by epoch.

    Raises LevlError where no training pixel has a class, or the loss is not finite.
    """
    if (labels == ignore).all():
        raise LevlError("segmentation: every training pixel is ignored; check `ignore_index` and `reduce_zero_label`")
    generator = torch.Generator().manual_seed(seed)
    dim = patches.shape[-1]
    mean, std = token_statistics(patches) if card.standardize else (torch.zeros(dim), torch.ones(dim))
    torch.manual_seed(seed)
    head = LinearHead(mean, std, classes, grid, card.bias).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, weight_decay=card.weight_decay)
    target = torch.from_numpy(labels.astype(np.int64))
    per_epoch = math.ceil(len(patches) / card.batch_size)
    total = card.epochs * per_epoch
    step, curve = 0, []
    with progress.stage("linear head", card.epochs, "epoch") as bar:
        for _ in range(card.epochs):
            losses = []
            order = torch.randperm(len(patches), generator=generator)
            for i in range(0, len(order), card.batch_size):
                rows = order[i : i + card.batch_size].sort().values
                if card.schedule == "cosine":
                    for group in optimizer.param_groups:
                        group["lr"] = card.lr * 0.5 * (1 + math.cos(math.pi * step / total))
                y = target[rows].to(device)
                step += 1
                if (y == ignore).all():
                    continue
                logits = head(torch.from_numpy(patches[rows.numpy()].astype(np.float32)).to(device))
                loss = F.cross_entropy(logits, y, ignore_index=ignore)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            curve.append(float(np.mean(losses)))
            if not math.isfinite(curve[-1]):
                raise LevlError(f"segmentation: the head's loss is {curve[-1]}; lower `lr`")
            bar.advance(note=f"loss {curve[-1]:.3f}")
    return head.eval().requires_grad_(False), curve


@torch.inference_mode()
def predict(head: LinearHead, patches: np.ndarray, size: tuple[int, int], device: torch.device) -> np.ndarray:
    """Labels [B, H, W] of tokens [B, n, D]: class logits, not features, are upsampled (a linear head commutes with it)."""
    logits = head(torch.from_numpy(patches.astype(np.float32)).to(device))
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1).cpu().numpy()
