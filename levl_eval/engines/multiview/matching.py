"""Points of one view found in another by alike tokens, as Probe3D matches (El Banani et al., CVPR 2024, evals/utils/correspondence.py).

Tokens are interpolated to a grid of cells (bicubic), cells without a depth left out. A cell's match is the cell of the other view with the
nearest token by cosine distance; it stands out by 1 - (distance of the nearest) / (distance of the second), and of all matches those
that stand out most are kept. An error is the distance in space of the match from where the cell's point truly lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.data.types import View

TIE = 1e-6  # cosines so close to the best one are equal but for rounding
LEAST = 1e-9  # distances below it are taken for it, as Probe3D does
_BLOCK = 64_000_000  # cosines held at once


class Cells(NamedTuple):
    """What is seen of an object: unit tokens [N, D] and points [N, 3] in metres before the camera; place: the cells' numbers [N]."""

    tokens: Tensor
    points: Tensor
    place: np.ndarray


def cells_of(tokens: np.ndarray, grid: tuple[int, int], points: np.ndarray, device: torch.device) -> Cells:
    """Of an image's tokens [n, D] and the points [side, side, 3] of its cells."""
    side = len(points)
    held = torch.from_numpy(tokens.astype(np.float32)).to(device).view(1, *grid, -1).permute(0, 3, 1, 2)
    wide = F.interpolate(held, size=(side, side), mode="bicubic", align_corners=False)[0].flatten(1).T
    flat = points.reshape(-1, 3)
    place = np.flatnonzero(flat[:, 2] > 0)
    kept = torch.from_numpy(place).to(device)
    return Cells(F.normalize(wide[kept], dim=-1), torch.from_numpy(flat[place].astype(np.float64)).to(device), place)


def motion(one: View, other: View) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] that take points before one camera to where they are before the other."""
    turn = other.rotation @ one.rotation.T
    return turn, other.translation - turn @ one.translation


def angle_between(one: View, other: View) -> float:
    """Degrees by which the object is turned from view to view, 0 to 180."""
    cosine = (np.trace(one.rotation @ other.rotation.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@dataclass(frozen=True)
class Matched:
    """K kept matches.

    source: numbers of the source's cells [K]; errors: [K] metres, of the first of the best cells; right: threshold in metres ->
    [K], of several equal best cells the share of them that is less far off.
    """

    source: np.ndarray
    target: np.ndarray
    errors: np.ndarray
    right: dict[float, np.ndarray]


@torch.inference_mode()
def outstanding(source: Cells, target: Cells, count: int) -> Tensor:
    """int64 [K] the rows of the source that stand out most, at most ``count``; of equals the first ones."""
    step = max(1, _BLOCK // max(1, len(target.tokens)))
    weights = []
    for start in range(0, len(source.tokens), step):
        cosines = source.tokens[start : start + step] @ target.tokens.T
        nearest = (1 - cosines.topk(min(2, cosines.shape[1]), dim=1).values).clamp(min=LEAST)
        weights.append(1 - nearest[:, 0] / nearest[:, -1])
    return torch.sort(torch.cat(weights), descending=True, stable=True).indices[:count]


@torch.inference_mode()
def matched(source: Cells, target: Cells, move: tuple[np.ndarray, np.ndarray], count: int, thresholds: list[float]) -> Matched:
    """The matches of two views. move: what takes the source's points to the target's camera; thresholds: metres."""
    rows = outstanding(source, target, count)
    turn, shift = (torch.from_numpy(np.asarray(m, np.float64)).to(source.points.device) for m in move)
    true = source.points[rows] @ turn.T + shift
    parts: list[list[np.ndarray]] = []
    step = max(1, _BLOCK // 4 // max(1, len(target.tokens)))
    for start in range(0, len(rows), step):
        cosines = source.tokens[rows[start : start + step]] @ target.tokens.T
        best, at = cosines.max(1)
        tied = cosines >= best[:, None] - TIE
        distances = torch.cdist(true[start : start + step], target.points)
        shares = [((distances < t) & tied).sum(1) / tied.sum(1) for t in thresholds]
        own = distances.gather(1, at[:, None])[:, 0]
        parts.append([x.cpu().numpy() for x in (at, own, *shares)])
    at_all, errors, *hits = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Matched(
        source.place[rows.cpu().numpy()],
        target.place[at_all],
        errors,
        {t: h.astype(np.float64) for t, h in zip(thresholds, hits, strict=True)},
    )
