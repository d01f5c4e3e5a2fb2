"""A sweep over learning rates and weight decays as one stacked problem: tokens are read and standardised once for all of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import SegmentationCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.engines.dense_common import LinearHead
from levl_eval.engines.fit import Settings, shuffled_rows, training_loop
from levl_eval.engines.segmentation.head import ClassTokens
from levl_eval.metrics.segmentation import statistics_from_counts


class StackedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, ICLR 2019) over parameters [S, ...] with a learning rate [S] and a weight decay [S] for each of S."""

    def __init__(
        self, parameters: list[Tensor], rates: Tensor, decay: Tensor, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, {"lr": rates})
        self.decay, self.betas, self.eps, self.step_count = decay, betas, eps, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.step_count += 1
        one, two = self.betas
        group = self.param_groups[0]
        for p, m, v in zip(group["params"], self.first, self.second, strict=True):
            shape = (-1,) + (1,) * (p.ndim - 1)
            lr = group["lr"].view(shape)
            p.mul_(1 - lr * self.decay.view(shape))
            m.lerp_(p.grad, 1 - one)
            v.mul_(two).addcmul_(p.grad, p.grad, value=1 - two)
            root = (v / (1 - two**self.step_count)).sqrt_().add_(self.eps)
            p.sub_(lr / (1 - one**self.step_count) * m / root)


def sweep_pairs(card: SegmentationCard) -> list[tuple[float, float]]:
    """(lr, weight decay) of every candidate; one where the card sweeps nothing. Raises UsageError for other heads than linear."""
    pairs = list(itertools.product(card.sweep_lr or [card.lr], card.sweep_weight_decay or [card.weight_decay]))
    if len(pairs) > 1 and card.head != "linear":
        raise UsageError(f"{card.name}: field `sweep_lr`: only `head: linear` is swept, found {card.head}")
    return pairs


class _Candidates:
    """Linear heads [S] on the same tokens, from the same first weights."""

    def __init__(self, start: LinearHead, count: int) -> None:
        self.start, self.count = start, count
        own = start.linear
        self.weights = own.weight.detach()[None].repeat(count, 1, 1).requires_grad_()  # [S, C, D]
        self.bias = None if own.bias is None else own.bias.detach()[None].repeat(count, 1).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weights] if self.bias is None else [self.weights, self.bias]

    def logits(self, x: Tensor) -> Tensor:
        """[b, n, D] -> [b n, S, C]: one matrix product for all candidates."""
        z = ((x - self.start.mean) / self.start.std).flatten(0, 1) @ self.weights.flatten(0, 1).T
        z = z.unflatten(1, (self.count, -1))
        out: Tensor = z if self.bias is None else z + self.bias
        return out

    def losses(self, x: Tensor, y: Tensor, ignore: int) -> Tensor | None:
        """Mean cross entropy [S] over the labelled ones of [b, h, w]; None where there are none."""
        flat = y.flatten().long()
        if (flat == ignore).all():
            return None
        many = flat[:, None].expand(-1, self.count).flatten()
        each = F.cross_entropy(self.logits(x).flatten(0, 1), many, ignore_index=ignore, reduction="none")
        return each.view(-1, self.count).sum(0) / (flat != ignore).sum()

    @torch.no_grad()
    def head(self, chosen: int) -> LinearHead:
        """One of them as a head of its own."""
        self.start.linear.weight.copy_(self.weights[chosen])
        if self.bias is not None:
            self.start.linear.bias.copy_(self.bias[chosen])
        return self.start.eval().requires_grad_(False)


def sweep_head(
    data: ClassTokens, card: SegmentationCard, seed: int, device: torch.device, progress: Progress, views: int = 1
) -> tuple[LinearHead, list[float], dict[str, object]]:
    """Train all pairs together on part of the images, choose by mIoU on the rest at token resolution.

    views: rows of one image, which stand together; an image is held out as a whole. All candidates start from the same weights
    and see the same batches. Returns the chosen head, its loss by epoch and what each candidate scored. Raises LevlError where
    nothing is labelled, too few images are there to hold one out, or every candidate diverged.
    """
    data.check()
    pairs = sweep_pairs(card)
    generator = torch.Generator().manual_seed(seed)
    learn, held = _split(len(data) // views, views, card, generator)
    mean, std = data.scale_for(card)
    torch.manual_seed(seed)
    heads = _Candidates(LinearHead(mean, std, data.classes, data.grid, card.bias).to(device), len(pairs))
    rates, decay = (torch.tensor(v, device=device) for v in zip(*pairs, strict=True))
    batches = shuffled_rows(len(learn), card.batch_size, generator)
    per_epoch = math.ceil(len(learn) / card.batch_size)
    steps = card.epochs * per_epoch
    curves = training_loop(
        StackedAdamW(heads.parameters, rates, decay, card.betas),
        Settings(f"sweep of {len(pairs)} linear heads", steps, Schedule(steps, card.schedule), per_epoch),
        lambda step: heads.losses(*data.batch(learn[next(batches)], device), data.ignore),
        progress,
    )
    scores = _held_out_scores(heads, data, held, card.batch_size, device)
    finite = np.isfinite(curves).all(0)
    if not finite.any():
        raise LevlError(f"{card.name}: every candidate of the sweep diverged; lower `sweep_lr`")
    best = int(np.argmax(np.where(finite, scores, -1)))
    table = [
        {"lr": lr, "weight_decay": wd, "held_out_mean_iou": round(float(s), 5)} for (lr, wd), s in zip(pairs, scores, strict=True)
    ]
    note: dict[str, object] = {"candidates": table, "chosen": table[best], "held_out_images": len(held) // views}
    return heads.head(best), curves[:, best].tolist(), note


def _split(images: int, views: int, card: SegmentationCard, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that are trained on and rows that choose. Raises LevlError where none are left to train on."""
    held = max(1, round(card.sweep_holdout * images))
    if held >= images:
        raise LevlError(
            f"{card.name}: field `sweep_holdout`: {held} of {images} training images leave none to train on; lower it"
        )
    shuffled = torch.randperm(images, generator=generator)
    learn, choose = ((part[:, None] * views + torch.arange(views)).flatten() for part in (shuffled[held:], shuffled[:held]))
    return learn, choose


@torch.inference_mode()
def _held_out_scores(heads: _Candidates, data: ClassTokens, rows: Tensor, size: int, device: torch.device) -> np.ndarray:
    """mIoU [S] at token resolution."""
    counts = torch.zeros(heads.count, data.classes, 3, dtype=torch.int64, device=device)
    for part in rows.split(size):
        x, y = data.batch(part, device)
        flat = y.flatten().long()
        keep = flat != data.ignore
        predicted, truth = heads.logits(x).argmax(2)[keep], flat[keep]
        for s in range(heads.count):
            counts[s] += class_counts(predicted[:, s], truth, data.classes)
    return statistics_from_counts(counts.cpu().numpy())["mean_iou"]


def class_counts(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """[C, 3] pixels of intersection, target and prediction by class, on the device of the flat label tensors."""
    parts = (truth[predicted == truth], truth, predicted)
    return torch.stack([torch.bincount(p, minlength=classes) for p in parts], -1)
