"""A probe's seed is what its number depends on, and all of what it depends on."""

from __future__ import annotations

import numpy as np
import torch

from levl_eval.cards.registry import task_card
from levl_eval.engines.probes.common import Matrix
from levl_eval.engines.probes.linear import fit


def test_another_seed_is_another_probe_and_the_same_one_the_same():
    rng = np.random.default_rng(0)
    x = Matrix(rng.standard_normal((40, 4)).astype(np.float32))
    card = task_card("linear", {"epochs": "2", "batch_size": "8"})
    found = [fit(x, np.arange(40) % 2, 2, card, s, torch.device("cpu"))[0].weight for s in (0, 1, 0)]
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
