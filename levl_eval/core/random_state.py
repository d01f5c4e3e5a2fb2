"""State of the global random generators, kept and put back: torch's on the CPU, numpy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    import torch


class RandomState(TypedDict):
    """As torch.save writes and its safe reader reads it: tensors and numbers alone."""

    torch: torch.Tensor  # uint8
    numpy: torch.Tensor  # int64 [625]: the Mersenne twister's words and its position
    numpy_gauss: list[float]  # a normal number that is drawn already: [] or [value]
    python: torch.Tensor  # int64 [625], in the same way
    python_gauss: list[float]


def random_state() -> RandomState:
    """The state of all three."""
    import torch

    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    words = [*state["state"]["key"].tolist(), state["state"]["pos"]]
    _, internal, python_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor(words), "numpy_gauss": [state["gauss"]] if state["has_gauss"] else [],
        "python": torch.tensor(internal), "python_gauss": [] if python_gauss is None else [python_gauss],
    }  # fmt: skip


def restore_random_state(state: RandomState) -> None:
    """Put back what :func:`random_state` gave."""
    import torch

    torch.set_rng_state(state["torch"].cpu())  # a state may have been read to another device
    *words, position = state["numpy"].tolist()
    gauss = state["numpy_gauss"]
    np.random.set_state(("MT19937", np.array(words, np.uint32), position, len(gauss), gauss[0] if gauss else 0.0))
    random.setstate((3, tuple(state["python"].tolist()), state["python_gauss"][0] if state["python_gauss"] else None))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All three seeded inside, and afterwards as they were. seed: at least 0; numpy takes its last 32 bits."""
    import torch

    before = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)
    try:
        yield
    finally:
        restore_random_state(before)
