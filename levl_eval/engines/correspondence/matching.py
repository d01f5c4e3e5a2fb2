"""Keypoints of one image looked for in another: where a pixel lies on the grid of tokens, and which place is the most alike.

Pixels count from 0, an integer is a pixel's middle. An input of side S has g x g tokens; token j's middle is at (j + 1/2) S/g - 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import CorrespondenceCard

TIE = 1e-6  # cosines so close to the best one are equal but for rounding


@dataclass(frozen=True)
class Frame:
    """Where an image of ``size`` (width, height) lies in the encoder's square input of ``side`` pixels, and its tokens on the image.

    pad: the longer side is scaled to ``side`` and the image stands in the middle, as A Tale of Two Features does (Junyi42/sd-dino,
    pck_spair_pascal.py: points are scaled and shifted without the half pixel); else it is squashed to the square.
    """

    size: tuple[int, int]
    side: int
    grid: tuple[int, int]  # rows, columns of tokens
    pad: bool = False

    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Input = image * scale + shift, both [2] of x and y."""
        width, height = self.size
        if not self.pad:
            scale = self.side / np.array([width, height], np.float64)
            return scale, scale / 2 - 0.5
        longer = max(self.size)
        shown = np.array([self.side if s == longer else int(np.around(self.side * s / longer)) for s in self.size])
        return np.full(2, self.side / longer), np.array([int((self.side - s) / 2) for s in shown], np.float64)

    def to_tokens(self, points: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of the image as (column, row) of tokens, whose middles are the integers."""
        scale, shift = self._scale()
        per_pixel = np.array(self.grid[::-1]) / self.side
        return np.asarray((points * scale + shift + 0.5) * per_pixel - 0.5)

    def token_of(self, points: np.ndarray) -> np.ndarray:
        """int64 [K, 2] (column, row) of the token that each pixel lies in; those beyond the image are taken to its border."""
        scale, shift = self._scale()
        offset = shift if self.pad else 0.0  # a pixel belongs to the token in which it begins
        index = np.floor((points * scale + offset) * np.array(self.grid[::-1]) / self.side)
        out: np.ndarray = np.clip(index, 0, np.array(self.grid[::-1]) - 1).astype(np.int64)
        return out

    def middles(self) -> tuple[np.ndarray, np.ndarray]:
        """x of the tokens' columns and y of their rows in the image's pixels."""
        scale, shift = self._scale()
        rows, columns = self.grid
        xs, ys = ((np.arange(n) + 0.5) * self.side / n - 0.5 for n in (columns, rows))
        return np.asarray((xs - shift[0]) / scale[0]), np.asarray((ys - shift[1]) / scale[1])


def _between(at: np.ndarray, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbour [N] among ``count`` tokens of places [N], and the upper one's weight;
    beyond the last token it is the last."""
    inside = np.clip(at, 0, count - 1)
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    return (
        torch.from_numpy(low).to(device),
        torch.from_numpy(high).to(device),
        torch.from_numpy((inside - low).astype(np.float32)).to(device),
    )


def features_at(tokens: Tensor, frame: Frame, points: np.ndarray, query: str) -> Tensor:
    """[K, D] features of pixels [K, 2], of tokens [n, D]."""
    rows, columns = frame.grid
    grid = tokens.view(rows, columns, -1)
    if query == "token":
        at = torch.from_numpy(frame.token_of(points)).to(tokens.device)
        return grid[at[:, 1], at[:, 0]]
    places = frame.to_tokens(points)
    left, right, x = _between(places[:, 0], columns, tokens.device)
    above, below, y = _between(places[:, 1], rows, tokens.device)
    x, y = x[:, None], y[:, None]
    upper = grid[above, left] * (1 - x) + grid[above, right] * x
    lower = grid[below, left] * (1 - x) + grid[below, right] * x
    return upper * (1 - y) + lower * y


class Target:
    """An image in which keypoints are looked for: its candidates lie at xs [W] by ys [H], in pixels."""

    def __init__(self, tokens: Tensor, frame: Frame, candidates: str) -> None:
        rows, columns = frame.grid
        self._grid = tokens.view(rows, columns, -1)
        self._pixels = candidates == "pixel"
        if not self._pixels:
            self.xs, self.ys = frame.middles()
            self._norm = self._grid.norm(dim=-1)
            return
        width, height = frame.size
        self.xs, self.ys = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        across = frame.to_tokens(np.stack([self.xs, np.zeros(width)], 1))[:, 0]
        down = frame.to_tokens(np.stack([np.zeros(height), self.ys], 1))[:, 1]
        left, right, x = _between(across, columns, tokens.device)
        self._above, self._below, self._y = _between(down, rows, tokens.device)
        # Interpolated along rows: between them, scalar products are interpolated in place of features, which are many times more.
        self._grid = self._grid[:, left] * (1 - x[:, None]) + self._grid[:, right] * x[:, None]
        own = (self._grid**2).sum(-1)
        # of the last row with itself: never beside another
        next_one = torch.cat([(self._grid[:-1] * self._grid[1:]).sum(-1), own[-1:]])
        y = self._y[:, None]
        between = torch.where((self._below > self._above)[:, None], next_one[self._above], own[self._above])
        squared = (1 - y) ** 2 * own[self._above] + y**2 * own[self._below] + 2 * y * (1 - y) * between
        self._norm = squared.clamp(min=0).sqrt()

    def cosines(self, features: Tensor) -> Tensor:
        """[K, H, W] of features [K, D] with every candidate; 0 where one of the two is 0."""
        products = torch.einsum("kd,rcd->krc", F.normalize(features, dim=-1), self._grid)
        if self._pixels:
            y = self._y[:, None]
            products = products[:, self._above] * (1 - y) + products[:, self._below] * y
        out: Tensor = products / self._norm.clamp(min=1e-12)
        return out


@dataclass(frozen=True)
class Matches:
    """For K keypoints: the first of the best candidates [K, 2] in pixels, and all that are as good, as (x, y) [n, 2] a keypoint."""

    best: np.ndarray
    tied: list[np.ndarray]

    def hits(self, truth: np.ndarray, longer: float, alpha: float) -> np.ndarray:
        """[K] whether the true place [K, 2] is at most ``alpha`` times ``longer`` away; of several equal candidates the share of them.

        An encoder that tells nothing has so the score of chance, not that of the corner where a search begins.
        """
        distances = (np.hypot(*(places - t).T) for places, t in zip(self.tied, truth, strict=True))
        return np.array([float((d / longer <= alpha).mean()) for d in distances])


@torch.inference_mode()
def matched(target: Target, features: Tensor) -> Matches:
    """The most alike candidates of each feature [K, D]."""
    cosines = target.cosines(features).flatten(1)
    top, at = cosines.max(1)
    columns = len(target.xs)

    def places(index: np.ndarray) -> np.ndarray:
        return np.stack([target.xs[index % columns], target.ys[index // columns]], -1)

    tied = [places(torch.nonzero(row >= t - TIE).flatten().cpu().numpy()) for row, t in zip(cosines, top, strict=True)]
    return Matches(places(at.cpu().numpy()), tied)


def frames(card: CorrespondenceCard, side: int, grid: tuple[int, int], size: tuple[int, int]) -> Frame:
    """The frame of an image of ``size`` under the card's resizing."""
    return Frame(size, side, grid, card.resize == "pad")
