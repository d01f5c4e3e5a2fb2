"""Heads without gradient descent: ridge regression in closed form, and nearest neighbours in a memory of labelled tokens."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import SegmentationCard
from levl_eval.core.progress import Progress
from levl_eval.engines.dense_common import Head, LinearHead
from levl_eval.engines.nearest import largest
from levl_eval.engines.ridge import Ridge
from levl_eval.engines.segmentation.head import ClassTokens


@torch.inference_mode()
def ridge_head(data: ClassTokens, card: SegmentationCard, device: torch.device, progress: Progress) -> LinearHead:
    """The linear layer with least ||X W + b - Y||^2 + lambda ||W||^2, Y one-hot, over labelled tokens.

    The bias, where the card has one, is not penalised. Raises LevlError: nothing labelled.
    """
    data.check()
    mean, std = data.scale_for(card)
    head = LinearHead(mean, std, data.classes, data.grid, card.bias).to(device)
    ridge = Ridge(len(mean), data.classes, device, card.bias)
    with progress.stage("ridge head", len(data), "image") as bar:
        for rows in torch.arange(len(data)).split(card.batch_size):
            x, y = data.batch(rows, device)
            target = y.flatten().long()
            keep = target != data.ignore
            ridge.add(((x - head.mean) / head.std).flatten(0, 1)[keep], target[keep])
            bar.advance(len(x))
    weight, bias = ridge.solve(card.ridge_lambda)
    head.linear.weight.copy_(weight.T)
    if card.bias:
        head.linear.bias.copy_(bias)
    return head.eval().requires_grad_(False)


class NeighbourHead(Head):
    """In-context retrieval: each token takes the labels of its nearest labelled training tokens, weighted by exp(cosine / T)."""

    memory: Tensor
    labels: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        grid: tuple[int, int],
        memory: Tensor,
        labels: Tensor,
        classes: int,
        card: SegmentationCard,
    ) -> None:
        super().__init__(mean, std, grid)
        self.register_buffer("memory", memory)  # [M, D], unit length
        self.register_buffer("labels", labels)  # [M]
        self.classes, self.k, self.temperature = classes, min(card.knn_k, len(memory)), card.knn_temperature

    def logits(self, x: Tensor) -> Tensor:
        tokens = F.normalize(x.flatten(2).transpose(1, 2).flatten(0, 1), dim=-1)
        votes = []
        for part in tokens.split(1024):  # bounds the [tokens, M] similarities
            cosines, places = largest(part @ self.memory.T, self.k)
            weight = ((cosines - cosines[:, :1]) / self.temperature).exp()
            table = torch.zeros(len(part), self.classes, device=x.device)
            votes.append(table.scatter_add_(1, self.labels[places], weight / weight.sum(1, keepdim=True)))
        return torch.cat(votes).view(len(x), *self.grid, self.classes).permute(0, 3, 1, 2)


def neighbour_head(data: ClassTokens, card: SegmentationCard, seed: int, device: torch.device) -> NeighbourHead:
    """A memory of at most ``knn_memory`` labelled tokens, drawn at random without replacement.

    Raises LevlError where nothing is labelled.
    """
    data.check()
    mean, std = data.scale_for(card)
    flat, grid = data.labels.reshape(-1), data.grid
    labelled = np.flatnonzero(flat != data.ignore)
    if len(labelled) > card.knn_memory:
        labelled = np.sort(np.random.default_rng(seed).choice(labelled, card.knn_memory, replace=False))
    image, place = np.divmod(labelled, grid[0] * grid[1])
    rows = np.concatenate(
        [data.patches[image[i : i + 8192], place[i : i + 8192]].astype(np.float32) for i in range(0, len(labelled), 8192)]
    )
    memory = F.normalize((torch.from_numpy(rows) - mean) / std, dim=-1)
    target = torch.from_numpy(flat[labelled].astype(np.int64))
    return NeighbourHead(mean, std, grid, memory, target, data.classes, card).to(device).eval().requires_grad_(False)
