"""Learning rate and parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from levl_eval.core.schedule import Schedule
from levl_eval.models.config import PretrainConfig
from levl_eval.models.config_checks import wsd_steps


def schedule_of(config: PretrainConfig) -> Schedule:
    """The rates of the updates (docs/paper.md).

    Linear warm-up from ``warmup_start_factor`` of the peak (May 0, July 0.01), which it reaches at update ``warmup``; where None, from
    1 / warmup, and the peak is reached one update earlier (OpenCLIP's). Then cosine: to ``final_lr`` of the peak at update ``steps``;
    wsd: the peak, and over the last updates (``wsd_decay_frac`` or ``wsd_decay_steps``) a cosine to ``final_lr`` of it. Behind
    ``steps`` (``extend_to``) it stays there.
    """
    c = config
    kind, begins, ends = "cosine", c.warmup, c.steps
    if c.schedule == "wsd":
        begins = c.steps - wsd_steps(c)
        if c.wsd_decay == "linear":  # as levl-pretrain had it: at final_lr with the last update
            kind, begins, ends = "linear", begins - 1, c.steps - 1
    return Schedule(ends, kind, begins, c.warmup, c.warmup_start_factor, c.final_lr)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """The rate of update ``step`` (from 0)."""
    return config.lr * schedule_of(config).at(step)


def optimizer_of(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on all parameters as published, or not on gains, biases and scales (``weight_decay_on``)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    less = 0.0 if config.weight_decay_on == "matrices" else config.weight_decay
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": less},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
