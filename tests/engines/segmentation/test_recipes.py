"""DINOv2's and DINOv3's linear recipes as cards: their constants, and the learning rate at every step."""

from __future__ import annotations

import math

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import task_card
from levl_eval.engines.segmentation import mmseg_parts  # noqa: F401  registers what plans name
from levl_eval.engines.segmentation.mmseg_config import plan_of


def rates(plan, steps):
    """The learning rate of each of the first ``steps`` updates, by mmengine's own schedulers."""
    from mmengine.registry import PARAM_SCHEDULERS

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=plan.optim_wrapper["optimizer"]["lr"])
    schedulers = [PARAM_SCHEDULERS.build({**s, "optimizer": optimizer}) for s in plan.param_scheduler]
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for s in schedulers:
            s.step()
    return out


@pytest.mark.parametrize(
    ("name", "decay"),
    [("ade20k-dinov2", "poly"), ("voc-dinov2", "poly"), ("cityscapes-dinov2", "poly"), ("ade20k-dinov3", "cosine")],
)
def test_constants_and_schedule_are_the_published_ones(name, decay):
    """Both: 40,000 updates of 16 crops of 512,
    1,500 of warm-up from 1e-6 of the rate, windows 341 apart, batch norm before the linear layer."""
    card = task_card(name)
    plan = plan_of(card, load_backbone("random:nano"), 21)
    head = plan.model["decode_head"]
    assert (card.steps, card.batch_size, card.crop, card.lr) == (40_000, 16, 512, 1e-3)
    assert plan.model["test_cfg"] == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    assert head["type"] == "LevlLinearHead" and head["dropout_ratio"] == (0.1 if decay == "cosine" else 0.0)
    assert plan.optim_wrapper["optimizer"]["weight_decay"] == (1e-3 if decay == "cosine" else 1e-4)
    assert ("PhotoMetricDistortion" in str(plan.train_pipeline)) == (decay == "poly")
    found = rates(plan, 2_000)
    for step in (0, 1, 700, 1_499, 1_500, 1_999):
        warm = min(1.0, 1e-6 + (1 - 1e-6) * step / 1_499)  # mmengine reaches the whole rate one update before the end
        cosine = (1 + math.cos(math.pi * step / 40_000)) / 2
        wanted = 1e-3 * warm * (cosine if decay == "cosine" else 1 - max(0, step - 1_500) / 38_500)
        assert found[step] == pytest.approx(wanted, rel=2e-3, abs=1e-12), step
