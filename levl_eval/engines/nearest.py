"""The largest values of rows, with equal ones settled: searches for neighbours are cut into blocks, which must not move what is found."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row of [N, M] (k at most M) and their places, both [N, k], best first;
    of equal ones those that stand first.

    Tensor.topk takes any of them.
    """
    top, at = values.topk(min(k + 1, values.shape[1]), dim=1)
    if top.shape[1] > k:
        open_rows = torch.nonzero(top[:, k - 1] == top[:, k]).flatten()
        top, at = top[:, :k], at[:, :k]
        if len(open_rows):
            at[open_rows] = _first_of_equal(values[open_rows], top[open_rows, -1:], k)
    at = at.sort(dim=1).values
    top, order = values.gather(1, at).sort(dim=1, descending=True, stable=True)
    return top, at.gather(1, order)


def _first_of_equal(values: Tensor, least: Tensor, k: int) -> Tensor:
    """Places [N, k], in order, of all that is above ``least`` [N, 1], and of the first of what equals it."""
    above, equal = values > least, values == least
    missing = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= missing))
    return chosen.nonzero()[:, 1].view(-1, k)


def joined(best: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of two lists of values [N, ...] and places, each best first; of equal ones those of ``best``."""
    values, order = torch.cat([best[0], more[0]], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.cat([best[1], more[1]], 1).gather(1, order)[:, :k]
