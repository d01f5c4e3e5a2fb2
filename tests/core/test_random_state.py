"""The global random generators are put back as they were, whatever happens in between, and may be kept in a file."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from levl_eval.core.random_state import random_state, restore_random_state, seeded


def _draw():
    """Numbers of all three, normal ones too: their generators hold half a pair back."""
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), np.random.randn(), random.random(), random.gauss(0, 1)


def test_a_kept_state_gives_the_same_numbers_again(tmp_path):
    _draw()  # half a pair of normal numbers is held back now
    torch.save({"random": random_state()}, tmp_path / "s.pt")
    first = _draw()
    state = torch.load(tmp_path / "s.pt", weights_only=True)["random"]  # torch's safe reader takes it
    restore_random_state(state)
    assert _draw() == first


def test_inside_it_is_seeded_and_afterwards_as_it_was():
    state = random_state()
    after = _draw()
    restore_random_state(state)
    with pytest.raises(KeyError), seeded(2**40 + 5):
        inside = _draw()
        raise KeyError
    assert _draw() == after
    with seeded(2**40 + 5):
        assert _draw() == inside
    with seeded(6):
        assert _draw() != inside
