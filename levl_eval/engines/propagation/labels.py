"""Labels carried from frame to frame by alike tokens,
as DINO does (Caron et al., ICCV 2021; facebookresearch/dino, eval_video_segmentation.py)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from levl_eval.cards import PropagationCard

_BLOCK = 1 << 26  # affinities held at once


def reduced(mask: np.ndarray, grid: tuple[int, int], objects: int) -> Tensor:
    """float32 [objects + 1, h, w]: a mask [H, W] of object numbers at the tokens' resolution (nearest), one map each, the background first.

    Numbers beyond ``objects`` are background.
    """
    known = np.where(mask > objects, 0, mask).astype(np.uint8)
    small = np.array(Image.fromarray(known).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
    return F.one_hot(torch.from_numpy(small).long(), objects + 1).permute(2, 0, 1).float()


def shares(mask: np.ndarray, grid: tuple[int, int], objects: int) -> Tensor:
    """float32 [objects + 1, h, w]: which share of each token's area each object has in a mask [H, W], the background first."""
    known = torch.from_numpy(np.where(mask > objects, 0, mask))
    return F.adaptive_avg_pool2d(F.one_hot(known.long(), objects + 1).permute(2, 0, 1).float(), grid)


def enlarged(maps: Tensor, side: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """int64 [H, W] of maps [C, h, w]: interpolated to the input of ``side`` (rows, columns), each spread over 0 to 1,
    the largest one at each pixel (of equals the first), then to the frame of ``size`` (rows, columns) by the nearest pixel."""
    wide = F.interpolate(maps[None], size=side, mode="bilinear", align_corners=False)[0]
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    spread = torch.where(high > 0, (wide - low) / (high - low).clamp(min=1e-12), wide)
    # A map that is the same everywhere above 0 has no range: it stays 0, as what is least of it.
    labels = spread.argmax(0).to(torch.uint8).cpu().numpy()
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(np.int64)


def neighbourhood(grid: tuple[int, int], radius: int, rows: slice, device: torch.device) -> Tensor:
    """bool [tokens in ``rows``, h w]: which tokens lie at most ``radius`` rows and columns away
    from each one of a slice of them; 0: all."""
    height, width = grid
    at = torch.arange(height * width, device=device)
    if not radius:
        return torch.ones(len(at[rows]), len(at), dtype=torch.bool, device=device)
    row, column = at // width, at % width
    near = (row[rows, None] - row[None]).abs() <= radius
    return near & ((column[rows, None] - column[None]).abs() <= radius)


def carried(
    target: Tensor, sources: Sequence[Tensor], labels: Sequence[Tensor], grid: tuple[int, int], card: PropagationCard
) -> Tensor:
    """Labels [C, h, w] of a frame of tokens [n, D], from context frames of tokens [n, D] and labels [C, h, w]; tokens of length 1.

    A token's label is the mean of those of the ``top_k`` tokens of all context frames that are most alike within ``radius``, weighted by
    exp(cosine / temperature). Tokens that are as alike as the last of them count too.
    """
    keys, values = torch.cat(list(sources)), torch.cat([x.flatten(1) for x in labels], 1).T
    count, device = len(target), target.device
    out = torch.empty(count, values.shape[1], device=device)
    for start in range(0, count, step := max(1, _BLOCK // len(keys))):
        rows = slice(start, min(start + step, count))
        near = neighbourhood(grid, card.radius, rows, device).repeat(1, len(sources))
        cosines = (target[rows] @ keys.T).masked_fill_(~near, -torch.inf)
        best = cosines.topk(min(card.top_k, len(keys)), 1).values
        weights = ((cosines - best[:, :1]) / card.temperature).exp()  # the scale of a row moves nothing
        weights = weights.masked_fill_(cosines < best[:, -1:], 0)
        out[rows] = (weights / weights.sum(1, keepdim=True)) @ values
    return out.T.reshape(-1, *grid)


@torch.inference_mode()
def followed(tokens: Iterator[Tensor], first: Tensor, grid: tuple[int, int], card: PropagationCard) -> Iterator[Tensor]:
    """Labels [C, h, w] of every frame after the first one, whose tokens [n, D] come first; ``first``: its own labels."""
    start = F.normalize(next(tokens), dim=-1)
    context: deque[tuple[Tensor, Tensor]] = deque(maxlen=card.context_frames)
    for frame in tokens:
        target = F.normalize(frame, dim=-1)
        sources, labels = [start, *(t for t, _ in context)], [first, *(x for _, x in context)]
        reached = carried(target, sources, labels, grid, card)
        context.append((target, reached))
        yield reached
