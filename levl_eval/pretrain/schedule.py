"""Learning rate and parameter groups."""

from __future__ import annotations

import math

import torch
from torch import nn

from levl_eval.pretrain.config import PretrainConfig

_WSD_START, _WSD_DECAY = 0.01, 0.15  # first share of the peak; last share of the steps in which it falls (PAPER 1.6)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """The rate of update ``step`` (from 0) (PAPER 1.6).

    cosine: linear warm-up from 0, then a cosine to ``final_lr`` of the peak at the last step. wsd: linear warm-up from 1% of the
    peak, the peak, and a linear fall to ``final_lr`` of it over the last 15% of the steps.
    """
    c = config
    if c.schedule == "wsd":
        if step < c.warmup:
            return c.lr * (_WSD_START + (1 - _WSD_START) * step / c.warmup)
        fall = max(1, round(_WSD_DECAY * c.steps))
        t = max(0.0, (step + 1 - (c.steps - fall)) / fall)
        return c.lr * (1 - (1 - c.final_lr) * t)
    if step < c.warmup:
        return c.lr * (step + 1) / c.warmup
    t = (step - c.warmup) / max(1, c.steps - c.warmup)
    return c.lr * (c.final_lr + (1 - c.final_lr) * 0.5 * (1 + math.cos(math.pi * t)))


def optimizer_of(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; gains, biases and scales without weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
