"""A memory of labelled patches: which are kept, what their labels are, and the exact search for the nearest of them.

Balazevic et al., "Towards In-Context Scene Understanding" (NeurIPS 2023, arXiv 2306.01667), as github.com/vpariza/open-hummingbird-eval
(hbird/hbird_eval.py) takes it up: 30 neighbours by cosine, a softmax of cosine / 0.02, labels as shares of a patch's pixels, and of
every training view equally many patches, those with rare classes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.engines.nearest import joined, largest
from levl_eval.features.stored import Rows

KEYS, QUERIES = 16384, 1024  # patches of the memory and of test images that are compared at once
READ = 64  # views whose tokens are read at once


def pixel_counts(mask: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """int64 [h w, classes]: pixels of each class in each cell of a mask [S, S]; what is none of 0 .. classes - 1 does not count."""
    row = np.arange(mask.shape[0]) * grid[0] // mask.shape[0]
    column = np.arange(mask.shape[1]) * grid[1] // mask.shape[1]
    cell = row[:, None] * grid[1] + column[None, :]
    keep = (mask >= 0) & (mask < classes)
    table = np.bincount(cell[keep] * classes + mask[keep], minlength=grid[0] * grid[1] * classes)
    return table.reshape(grid[0] * grid[1], classes)


def chosen_patches(counts: np.ndarray, most: int | None, sampling: str, rng: np.random.Generator) -> np.ndarray:
    """Places, in order, of at most ``most`` labelled patches of a view (None: all) with pixel counts [n, C].

    balanced: those of least u f, u even in [0, 1) and f the sum, over the patch's classes, of the number of the view's patches that
    hold the class; random: any.
    """
    held = counts > 0
    labelled = np.flatnonzero(held.any(1))
    if most is None or len(labelled) <= most:
        return labelled
    draw = rng.random(len(labelled))
    if sampling == "balanced":
        draw = draw * (held @ held.sum(0))[labelled]
    return np.sort(labelled[np.argsort(draw, kind="stable")[:most]])


@dataclass(frozen=True)
class Labelled:
    """What a memory is drawn from: stored tokens [V, n, D] of some views, and pixel counts [n, C] of each, in their order."""

    tokens: Rows
    counts: Iterator[np.ndarray]


@dataclass(frozen=True)
class Memory:
    """tokens [M, D] as they were stored, inverse lengths [M], pixel counts of the classes [M, C]."""

    tokens: Tensor
    inverse: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def fill(parts: Sequence[Labelled], most: int | None, sampling: str, seed: int, cell: int) -> Memory:
    """The memory of some versions of the training images, of each view at most ``most`` patches. It is empty where nothing is labelled.

    cell: pixels that a patch has at most.
    """
    _, n, dim = parts[0].tokens.shape
    bound = sum(len(p.tokens) for p in parts) * min(n, most or n)
    tokens = np.empty((bound, dim), parts[0].tokens.dtype)
    counts: np.ndarray | None = None
    filled = 0
    for version, part in enumerate(parts):
        for first in range(0, len(part.tokens), READ):
            block = np.asarray(part.tokens[first : first + READ])
            for k, table in enumerate(itertools.islice(part.counts, len(block))):
                if counts is None:  # whole numbers, so that shares are exact; as short as they can be, as there are millions
                    counts = np.empty((bound, table.shape[1]), np.int16 if cell < 2**15 else np.int32)
                places = chosen_patches(table, most, sampling, np.random.default_rng([seed, version, first + k]))
                rows = slice(filled, filled + len(places))
                tokens[rows], counts[rows] = block[k, places], table[places]
                filled = rows.stop
    assert counts is not None
    kept = torch.from_numpy(tokens[:filled])
    inverse = [1 / b.float().norm(dim=-1).clamp(min=1e-12) for b in kept.split(KEYS)]
    return Memory(kept, torch.cat(inverse), torch.from_numpy(counts[:filled]))


def nearest(queries: Tensor, memory: Memory, k: int) -> tuple[Tensor, Tensor]:
    """Cosines [Q, k] and places [Q, k] in the memory of the k nearest of queries [Q, D], best first, by matrix products in blocks.

    Exact: every query meets every patch of the memory, in float32. Of equal cosines those that stand first in the memory.
    """
    query = F.normalize(queries.float(), dim=-1)
    best = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long, device=query.device)
    for first in range(0, len(memory), KEYS):
        keys = memory.tokens[first : first + KEYS].to(query.device).float()
        cosines = (query @ keys.T) * memory.inverse[first : first + KEYS].to(query.device)
        top, at = largest(cosines, min(k, len(keys)))
        best = joined(best, (top, at + first), k)
    return best


class NeighbourShares(nn.Module):
    """Tokens [B, n, D] to label shares [B, C, h, w]: those of the k nearest patches, weighted by the softmax of cosine / temperature."""

    def __init__(self, memory: Memory, k: int, temperature: float, grid: tuple[int, int]) -> None:
        super().__init__()
        self.memory, self.k, self.temperature, self.grid = memory, min(k, len(memory)), temperature, grid

    def forward(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1)
        out = torch.cat([self._shares(part) for part in flat.split(QUERIES)])
        return out.view(len(tokens), *self.grid, -1).permute(0, 3, 1, 2)

    def _shares(self, queries: Tensor) -> Tensor:
        cosines, place = nearest(queries, self.memory, self.k)
        weight = (cosines / self.temperature).softmax(1)
        counts = self.memory.counts[place.to(self.memory.counts.device)].to(queries.device).float()
        shares = counts / counts.sum(-1, keepdim=True)
        return torch.einsum("qk,qkc->qc", weight, shares)
