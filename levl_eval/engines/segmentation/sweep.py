"""A sweep over learning rates and weight decays as one stacked problem: tokens are read and standardised once for all of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import SegmentationCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.segmentation.head import LinearHead, batches, check_labels, learning_rate, statistics_for
from levl_eval.metrics.segmentation import statistics_from_counts


class StackedAdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) over parameters [S, ...] with a learning rate and a weight decay for each of S."""

    def __init__(self, parameters: list[Tensor], decay: Tensor, betas: tuple[float, float], eps: float = 1e-8) -> None:
        self.parameters, self.decay, self.betas, self.eps, self.step_count = parameters, decay, betas, eps, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:
        """rates: [S] learning rates of this step."""
        self.step_count += 1
        one, two = self.betas
        for p, m, v in zip(self.parameters, self.first, self.second, strict=True):
            assert p.grad is not None
            shape = (-1,) + (1,) * (p.ndim - 1)
            lr = rates.view(shape)
            p.mul_(1 - lr * self.decay.view(shape))
            m.lerp_(p.grad, 1 - one)
            v.mul_(two).addcmul_(p.grad, p.grad, value=1 - two)
            root = (v / (1 - two**self.step_count)).sqrt_().add_(self.eps)
            p.sub_(lr / (1 - one**self.step_count) * m / root)
            p.grad = None


def sweep_pairs(card: SegmentationCard) -> list[tuple[float, float]]:
    """(lr, weight decay) of every candidate; one where the card sweeps nothing. Raises UsageError for other heads than linear."""
    pairs = list(itertools.product(card.sweep_lr or [card.lr], card.sweep_weight_decay or [card.weight_decay]))
    if len(pairs) > 1 and card.head != "linear":
        raise UsageError(f"{card.name}: field `sweep_lr`: only `head: linear` is swept, found {card.head}")
    return pairs


def sweep_head(
    patches: np.ndarray, labels: np.ndarray, grid: tuple[int, int], classes: int, card: SegmentationCard, ignore: int, seed: int,
    device: torch.device, progress: Progress, views: int = 1,
) -> tuple[LinearHead, list[float], dict[str, Any]]:  # fmt: skip
    """Train all pairs together on part of [N, n, D] tokens and [N, h, w] labels, choose by mIoU on the rest at token resolution.

    views: rows of one image, which stand together; a image is held out as a whole. All candidates start from the same weights
    and see the same batches. Returns the chosen head, its loss by epoch and what each candidate scored. Raises LevlError where
    nothing is labelled, too few images are there to hold one out, or every candidate diverged.
    """
    check_labels(labels, ignore)
    pairs = sweep_pairs(card)
    generator = torch.Generator().manual_seed(seed)
    images = len(patches) // views
    held = max(1, round(card.sweep_holdout * images))
    if held >= images:
        raise LevlError(
            f"{card.name}: field `sweep_holdout`: {held} of {images} training images leave none to train on; lower it"
        )
    shuffled = torch.randperm(images, generator=generator)
    rows = [(part[:, None] * views + torch.arange(views)).flatten() for part in (shuffled[held:], shuffled[:held])]
    mean, std = (t.to(device) for t in statistics_for(card, patches))
    torch.manual_seed(seed)
    start = LinearHead(mean, std, classes, grid, card.bias).to(device)
    weights = start.linear.weight.detach()[None].repeat(len(pairs), 1, 1).requires_grad_()  # [S, C, D]
    bias = start.linear.bias.detach()[None].repeat(len(pairs), 1).requires_grad_() if card.bias else None
    base, decay = (torch.tensor(v, device=device) for v in zip(*pairs, strict=True))
    optimizer = StackedAdamW([weights] + ([bias] if bias is not None else []), decay, card.betas)
    target = torch.from_numpy(labels)

    def stacked(x: Tensor) -> Tensor:
        """[b, n, D] -> [b n, S, C]: one matrix product for all candidates."""
        z = ((x - mean) / std).flatten(0, 1) @ weights.flatten(0, 1).T
        z = z.unflatten(1, (len(pairs), classes))
        out: Tensor = z if bias is None else z + bias
        return out

    total = card.epochs * math.ceil(len(rows[0]) / card.batch_size)
    step, curves = 0, []
    with progress.stage(f"sweep of {len(pairs)} linear heads", card.epochs, "epoch") as bar:
        for _ in range(card.epochs):
            losses = []
            order = rows[0][torch.randperm(len(rows[0]), generator=generator)]
            for x, y in batches(patches, target, order, card.batch_size, device):
                rates = base * learning_rate(card, 1.0, step, total)
                step += 1
                flat = y.flatten()
                if (flat == ignore).all():
                    continue
                many = flat[:, None].expand(-1, len(pairs)).flatten()
                each = F.cross_entropy(stacked(x).flatten(0, 1), many, ignore_index=ignore, reduction="none")
                each = each.view(-1, len(pairs)).sum(0) / (flat != ignore).sum()
                each.sum().backward()  # candidates share no parameter: each gets its own gradient
                optimizer.step(rates)
                losses.append(each.detach().cpu().numpy())
            curves.append(np.mean(losses, 0))
            bar.advance()
    counts = torch.zeros(len(pairs), classes, 3, dtype=torch.int64, device=device)
    with torch.inference_mode():
        for x, y in batches(patches, target, rows[1], card.batch_size, device):
            keep = y.flatten() != ignore
            found, truth = stacked(x).argmax(2)[keep], y.flatten()[keep]
            for s in range(len(pairs)):
                counts[s] += class_counts(found[:, s], truth, classes)
    scores = statistics_from_counts(counts.cpu().numpy())["mean_iou"]
    finite = np.isfinite(np.stack(curves)).all(0)
    if not finite.any():
        raise LevlError(f"{card.name}: every candidate of the sweep diverged; lower `sweep_lr`")
    best = int(np.argmax(np.where(finite, scores, -1)))
    with torch.no_grad():
        start.linear.weight.copy_(weights[best])
        if bias is not None:
            start.linear.bias.copy_(bias[best])
    table = [
        {"lr": lr, "weight_decay": wd, "held_out_mean_iou": round(float(s), 5)} for (lr, wd), s in zip(pairs, scores, strict=True)
    ]
    note = {"candidates": table, "chosen": table[best], "held_out_images": held}
    return start.eval().requires_grad_(False), [float(c[best]) for c in curves], note


def class_counts(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """[C, 3] pixels of intersection, target and prediction by class, on the device of the flat label tensors."""
    parts = (truth[predicted == truth], truth, predicted)
    return torch.stack([torch.bincount(p, minlength=classes) for p in parts], -1)
