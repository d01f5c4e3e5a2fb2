"""What the dense heads share: labelled tokens in batches, standardised heads and their training, maps at image resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.backbones.base import Preprocess
from levl_eval.cards.dense import DepthCard, MapCard, SegmentationCard
from levl_eval.cards.normals import NormalsCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.data.types import ImageSet
from levl_eval.engines.convergence import epochs_by_held_out, held_out, thinned, train_until_converged
from levl_eval.engines.fit import Settings, shuffled_rows, training_loop
from levl_eval.engines.moments import Moments
from levl_eval.engines.ridge import Ridge
from levl_eval.features.stored import Rows, SomeRows

BLOCK = 64  # images whose tokens are read at once for their statistics


@dataclass(frozen=True)
class LabelledTokens:
    """What a dense head is trained on: stored tokens [N, n, D],
    and labels [N, h, w] (or [N, h, w, C]) at their resolution, (h, w) = grid, h w = n."""

    patches: Rows | SomeRows
    labels: np.ndarray
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.patches)

    def batch(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """(tokens [b, n, D] float32, labels [b, h, w]) of some rows, which are read, and given, in the file's order."""
        at = rows.sort().values.numpy()
        return torch.from_numpy(self.patches[at].astype(np.float32)).to(device), torch.from_numpy(self.labels[at]).to(device)

    def part(self: _Data, rows: np.ndarray) -> _Data:
        """Those of some rows, in their order, whose tokens are read when they are asked for."""
        assert not isinstance(self.patches, SomeRows)
        return replace(self, patches=SomeRows(self.patches, rows), labels=self.labels[rows])

    def scale(self, standardize: bool, floor: float) -> tuple[Tensor, Tensor]:
        """:func:`token_statistics` of the tokens; zeros and ones where they are not to be standardised."""
        dim = self.patches.shape[-1]
        return token_statistics(self.patches, floor) if standardize else (torch.zeros(dim), torch.ones(dim))


_Data = TypeVar("_Data", bound=LabelledTokens)


def token_statistics(patches: Rows | SomeRows, floor: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over n) per dimension over all tokens of [N, n, D]; the latter at least ``floor`` (docs/paper.md)."""
    moments = Moments()
    for i in range(0, len(patches), BLOCK):
        moments.add(torch.from_numpy(patches[i : i + BLOCK].astype(np.float32)).flatten(0, 1))
    return moments.mean.float(), moments.std().clamp(min=floor).float()


class Head(nn.Module):
    """Standardised tokens [B, n, D] to a map; subclasses give ``logits(x [B, D, h, w]) -> [B, C, h, w]``."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        x = (tokens - self.mean) / self.std
        # Channels first before the grid is unfolded: a plain view of [B, n, D] would scramble space and channels.
        return self.logits(x.transpose(1, 2).unflatten(2, self.grid))

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LinearHead(Head):
    """One linear layer on each token."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int, grid: tuple[int, int], bias: bool) -> None:
        super().__init__(mean, std, grid)
        self.linear = nn.Linear(len(mean), classes, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.movedim(1, -1)).movedim(-1, 1)
        return out


class FixedMap(nn.Module):
    """A head without sight: its maps [V, ...], of the V views of an image, for every image."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", maps)

    def forward(self, tokens: Tensor) -> Tensor:
        maps = self.get_buffer("maps")
        return maps.repeat(len(tokens) // len(maps), *[1] * (maps.ndim - 1))


_Card = TypeVar("_Card", SegmentationCard, DepthCard, NormalsCard)
_Head = TypeVar("_Head", bound=nn.Module)
# (head, tokens [b, n, D], labels [b, h, w]) -> loss, None where nothing is labelled.
Loss: TypeAlias = Callable[[_Head, Tensor, Tensor], Tensor | None]


@torch.inference_mode()
def solve_on_tokens(
    linear: LinearHead, data: LabelledTokens, goals: Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]], card: DepthCard | NormalsCard,
    device: torch.device, progress: Progress,
) -> None:  # fmt: skip
    """Fill a linear layer with the least-squares solution under the card's penalty on the weights, not on the bias.

    goals: (labels of a batch, number format) -> (bool [m], which of its tokens count; [kept, C] in that format, what they should give).
    """
    linear.to(device)
    ridge = Ridge(data.patches.shape[-1], linear.linear.out_features, device)
    with progress.stage("ridge head", len(data), "image") as bar:
        for rows in torch.arange(len(data)).split(card.batch_size):
            x, labels = data.batch(rows, device)
            keep, y = goals(labels, ridge.dtype)
            ridge.add(((x - linear.mean) / linear.std).flatten(0, 1)[keep], y)
            bar.advance(len(x))
    weight, bias = ridge.solve(card.ridge_lambda)
    linear.linear.weight.copy_(weight.T)
    linear.linear.bias.copy_(bias)


def train_on_tokens(
    head: _Head, data: LabelledTokens, card: SegmentationCard | DepthCard | NormalsCard, loss: Loss[_Head], seed: int,
    device: torch.device, progress: Progress,
) -> list[float]:  # fmt: skip
    """Fit a head on labelled tokens by AdamW as the card says; returns its loss by epoch. Raises LevlError where it is not finite."""
    if not card.epochs:
        return []  # the head as it begins, which the rule on held-out images compares with
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, betas=card.betas, weight_decay=card.weight_decay)
    rows = shuffled_rows(len(data), card.batch_size, torch.Generator().manual_seed(seed))
    per_epoch = math.ceil(len(data) / card.batch_size)
    steps = card.epochs * per_epoch
    settings = Settings(f"{card.head} head", steps, Schedule(steps, card.schedule), per_epoch)
    curve = training_loop(optimizer, settings, lambda step: loss(head, *data.batch(next(rows), device)), progress)
    return [float(x) for x in curve]


def trained(
    card: _Card, data: _Data, train: Callable[[_Card, _Data], tuple[_Head, list[float]]], loss: Loss[_Head], seed: int,
    device: torch.device, views: int = 1,
) -> tuple[_Head, dict[str, object]]:  # fmt: skip
    """A head trained for as long as the card's ``until`` says, and what notes say of its training.

    train: (card, tokens) -> head, loss by epoch; loss: what is compared on held-out images; views: rows of one image,
    which stand together and are held out together. Raises LevlError where there is nothing to hold out.
    """
    if card.until != "held-out":
        head, curve, state = train_until_converged(card, math.ceil(len(data) / card.batch_size), lambda card: train(card, data))
        return head, {"head_loss": thinned(curve), "converged": state}
    learn, unseen = (
        data.part((images[:, None] * views + np.arange(views)).ravel()) for images in held_out(len(data) // views, seed)
    )

    def loss_of(epochs: int) -> float:
        return mean_loss(train(card.model_copy(update={"epochs": epochs}), learn)[0], unseen, loss, card.batch_size, device)

    epochs, notes = epochs_by_held_out(card, math.ceil(len(learn) / card.batch_size), loss_of)
    head, curve = train(card.model_copy(update={"epochs": epochs}), data)
    return head, {"head_loss": thinned(curve), "converged": {**notes, "epochs": epochs}}


@torch.inference_mode()
def mean_loss(head: _Head, data: LabelledTokens, loss: Loss[_Head], size: int, device: torch.device) -> float:
    """The mean of a head's loss by batch. Raises LevlError where nothing is labelled."""
    losses = [loss(head, *data.batch(rows, device)) for rows in torch.arange(len(data)).split(size)]
    known = [float(x) for x in losses if x is not None]
    if not known:
        raise LevlError("no held-out training image has a label; give more images, or set `until: epochs`")
    return sum(known) / len(known)


@torch.inference_mode()
def logits_of(head: nn.Module, patches: np.ndarray, device: torch.device) -> Tensor:
    """What a head gives, [B, ...] on the device, of stored tokens [B, n, D]."""
    out: Tensor = head(torch.from_numpy(patches.astype(np.float32)).to(device))
    return out


def upsample(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """[B, C, h, w] to pixels: a linear head commutes with bilinear upsampling, and its outputs are fewer than the features."""
    return F.interpolate(maps, size=size, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))


def geometry_of(card: MapCard | DepthCard | NormalsCard, own: Preprocess, resize: str) -> Preprocess:
    """The backbone's normalisation with the task's geometry: images and labels must be cut alike for every backbone."""
    return replace(own, size=card.size or own.size, resize=resize, resize_to=None, interpolation=card.interpolation)


def same_size(images: ImageSet, name: str, labels: np.ndarray, what: str) -> np.ndarray:
    """``labels`` [H, W] of an image as they are.

    Raises LevlError where their size is not the image's; what: "mask", "depth map", "map of normals".
    """
    size = images.open(name).size
    if (labels.shape[1], labels.shape[0]) != size:
        raise LevlError(
            f"{images.source}/{name}: image is {size[0]}x{size[1]}, its {what} {labels.shape[1]}x{labels.shape[0]}; they must be equal"
        )
    return labels
