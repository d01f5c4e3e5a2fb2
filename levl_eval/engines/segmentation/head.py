"""Gradient-trained segmentation heads on cached patch tokens; every head maps [B, n, D] tokens to [B, C, h, w] class logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import SegmentationCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.engines.dense_common import Head, LabelledTokens, LinearHead, logits_of, train_on_tokens, upsample


@dataclass(frozen=True)
class ClassTokens(LabelledTokens):
    """Tokens labelled by ids of ``classes`` classes; ``ignore`` where void."""

    classes: int
    ignore: int

    def check(self) -> None:
        """Raises LevlError where nothing is labelled."""
        if (self.labels == self.ignore).all():
            raise LevlError("segmentation: every training pixel is ignored; check `ignore_index` and `reduce_zero_label`")

    def scale_for(self, card: SegmentationCard) -> tuple[Tensor, Tensor]:
        """What the card's tokens are standardised by; zeros and ones where it asks for none."""
        return self.scale(card.standardize and card.head != "linear-bn", card.std_floor)

    def loss(self, head: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
        """Cross-entropy of a head on tokens [b, n, D] against classes [b, h, w]; None where all are void."""
        return None if (y == self.ignore).all() else F.cross_entropy(head(x), y.long(), ignore_index=self.ignore)


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


def _new_head(card: SegmentationCard, data: ClassTokens) -> Head:
    mean, std = data.scale_for(card)
    if card.head == "linear-bn":
        return NormedLinearHead(mean, std, data.classes, data.grid, card.bias)
    if card.head == "conv":
        return ConvHead(mean, std, data.classes, data.grid, card.bias, card.conv_width)
    return LinearHead(mean, std, data.classes, data.grid, card.bias)


def train_head(
    data: ClassTokens, card: SegmentationCard, seed: int, device: torch.device, progress: Progress
) -> tuple[Head, list[float]]:
    """Fit the card's gradient-trained head. Returns it and its loss by epoch.

    Raises LevlError where no training pixel has a class, or the loss is not finite.
    """
    data.check()
    torch.manual_seed(seed)
    head = _new_head(card, data).to(device)

    curve = train_on_tokens(head, data, card, data.loss, seed, device, progress)
    return head.eval().requires_grad_(False), curve


def predict(head: nn.Module, patches: np.ndarray, size: tuple[int, int], device: torch.device) -> np.ndarray:
    """Labels [B, H, W] of tokens [B, n, D]."""
    return upsample(logits_of(head, patches, device), size).argmax(1).cpu().numpy()
