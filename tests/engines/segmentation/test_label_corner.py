"""The ade20k card's training labels are those of its source: torch's nearest interpolation, the corner of each cell (PAPER 2b, 5)."""

from __future__ import annotations

import numpy as np
import torch

from levl_eval.cards.registry import task_card
from levl_eval.engines.segmentation.fitting import grid_labels


def test_ade20k_takes_the_label_at_the_corner_and_the_centre_by_name():
    mask = np.random.default_rng(0).integers(0, 150, (224, 224))
    theirs = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=(14, 14))[0, 0].numpy()
    assert np.array_equal(grid_labels(mask, (14, 14), task_card("ade20k").label_grid), theirs)
    centre = task_card("ade20k", {"label_grid": "nearest"}).label_grid
    assert np.array_equal(grid_labels(mask, (14, 14), centre), mask[8::16, 8::16]) and not np.array_equal(
        mask[8::16, 8::16], theirs
    )
