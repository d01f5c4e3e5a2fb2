"""Heads on cached patch tokens: standardisation, training at token resolution, logits at pixel resolution.

Every head maps [B, n, D] tokens to [B, C, h, w] class logits (votes for kNN); it is streamed from the feature store in batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import SegmentationCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress


def token_statistics(patches: np.ndarray, block: int = 512, floor: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension over all tokens of [N, n, D]; std at least ``floor`` (docs/paper.md)."""
    total = np.zeros(patches.shape[-1])
    square = total.copy()
    for i in range(0, len(patches), block):
        x = patches[i : i + block].reshape(-1, patches.shape[-1]).astype(np.float64)
        total += x.sum(0)
        square += (x * x).sum(0)
    n = len(patches) * patches.shape[1]
    mean = total / n
    std = np.sqrt(np.maximum(square / n - mean * mean, 0)).clip(floor)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


class Head(nn.Module):
    """Standardised tokens to a map; subclasses give ``logits(x [B, D, h, w]) -> [B, C, h, w]``."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        x = (tokens - self.mean) / self.std
        # Channels first before the grid is unfolded: a plain view of [B, n, D] would scramble space and channels.
        return self.logits(x.transpose(1, 2).unflatten(2, self.grid))

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LinearHead(Head):
    """One linear layer on each token."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int], bias: bool) -> None:
        super().__init__(mean, std, grid)
        self.linear = nn.Linear(len(mean), classes, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.movedim(1, -1)).movedim(-1, 1)
        return out


class NormedLinearHead(Head):
    """Batch norm, then one linear layer (DINOv2's and MAE's linear segmentation head)."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int], bias: bool) -> None:
        super().__init__(torch.zeros_like(mean), torch.ones_like(std), grid)
        self.norm = nn.BatchNorm2d(len(mean))
        self.linear = nn.Conv2d(len(mean), classes, 1, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


class ConvHead(Head):
    """3x3 convolution, batch norm, GELU, 1x1 convolution: the least head that sees a token's neighbours."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int], bias: bool, width: int) -> None:
        super().__init__(mean, std, grid)
        self.body = nn.Sequential(
            nn.Conv2d(len(mean), width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU(), nn.Conv2d(width, classes, 1, bias=bias)
        )  # fmt: skip

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def batches(
    patches: np.ndarray, labels: Tensor, rows: Tensor, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens [b, n, D] float32, labels [b, h, w]) of ``rows`` in order; within a batch rows are read in the file's order."""
    for i in range(0, len(rows), size):
        part = rows[i : i + size].sort().values
        yield torch.from_numpy(patches[part.numpy()].astype(np.float32)).to(device), labels[part].long().to(device)


def learning_rate(card: SegmentationCard, base: float, step: int, total: int) -> float:
    return base * 0.5 * (1 + math.cos(math.pi * step / total)) if card.schedule == "cosine" else base


def statistics_for(card: SegmentationCard, patches: np.ndarray) -> tuple[Tensor, Tensor]:
    """What the card's tokens are standardised by; zeros and ones where it asks for none."""
    dim = patches.shape[-1]
    if card.standardize and card.head != "linear-bn":
        return token_statistics(patches, floor=card.std_floor)
    return torch.zeros(dim), torch.ones(dim)


def _new_head(card: SegmentationCard, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int]) -> Head:
    if card.head == "linear-bn":
        return NormedLinearHead(mean, std, classes, grid, card.bias)
    if card.head == "conv":
        return ConvHead(mean, std, classes, grid, card.bias, card.conv_width)
    return LinearHead(mean, std, classes, grid, card.bias)


def train_head(
    patches: np.ndarray, labels: np.ndarray, grid: tuple[int, int], classes: int, card: SegmentationCard, ignore: int, seed: int,
    device: torch.device, progress: Progress,
) -> tuple[Head, list[float]]:  # fmt: skip
    """Fit the card's gradient-trained head on [N, n, D] tokens and [N, h, w] labels. Returns it and its loss by epoch.

    Raises LevlError where no training pixel has a class, or the loss is not finite.
    """
    check_labels(labels, ignore)
    generator = torch.Generator().manual_seed(seed)
    mean, std = statistics_for(card, patches)
    torch.manual_seed(seed)
    head = _new_head(card, mean, std, classes, grid).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, betas=card.betas, weight_decay=card.weight_decay)
    target = torch.from_numpy(labels)
    total = card.epochs * math.ceil(len(patches) / card.batch_size)
    step, curve = 0, []
    with progress.stage(f"{card.head} head", card.epochs, "epoch") as bar:
        for _ in range(card.epochs):
            losses = []
            order = torch.randperm(len(patches), generator=generator)
            for x, y in batches(patches, target, order, card.batch_size, device):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(card, card.lr, step, total)
                step += 1
                if (y == ignore).all():
                    continue
                loss = F.cross_entropy(head(x), y, ignore_index=ignore)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            curve.append(float(np.mean(losses)))
            if not math.isfinite(curve[-1]):
                raise LevlError(f"segmentation: the head's loss is {curve[-1]}; lower `lr`")
            bar.advance(note=f"loss {curve[-1]:.3f}")
    return head.eval().requires_grad_(False), curve


def check_labels(labels: np.ndarray, ignore: int) -> None:
    """Raises LevlError where nothing is labelled."""
    if (labels == ignore).all():
        raise LevlError("segmentation: every training pixel is ignored; check `ignore_index` and `reduce_zero_label`")


@torch.inference_mode()
def logits_of(head: nn.Module, patches: np.ndarray, device: torch.device) -> Tensor:
    """[B, C, h, w] on the device of stored tokens [B, n, D]."""
    out: Tensor = head(torch.from_numpy(patches.astype(np.float32)).to(device))
    return out


def upsample(logits: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Class logits to pixels: a linear head commutes with bilinear upsampling, and logits are fewer than features."""
    return F.interpolate(logits, size=size, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))


def predict(head: nn.Module, patches: np.ndarray, size: tuple[int, int], device: torch.device) -> np.ndarray:
    """Labels [B, H, W] of tokens [B, n, D]."""
    return upsample(logits_of(head, patches, device), size).argmax(1).cpu().numpy()
