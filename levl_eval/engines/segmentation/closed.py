"""Heads without gradient descent: ridge regression in closed form, and nearest neighbours in a memory of labelled tokens."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import SegmentationCard
from levl_eval.core.progress import Progress
from levl_eval.engines.segmentation.head import Head, LinearHead, batches, check_labels, statistics_for


@torch.inference_mode()
def ridge_head(
    patches: np.ndarray, labels: np.ndarray, grid: tuple[int, int], classes: int, card: SegmentationCard, ignore: int,
    device: torch.device, progress: Progress,
) -> LinearHead:  # fmt: skip
    """The linear layer with least ||X W + b - Y||^2 + lambda ||W||^2, Y one-hot, over labelled tokens; two sums are streamed.

    [N, n, D] tokens and [N, h, w] labels. The bias, where the card has one, is not penalised. Raises LevlError: nothing labelled.
    """
    check_labels(labels, ignore)
    mean, std = statistics_for(card, patches)
    head = LinearHead(mean, std, classes, grid, card.bias).to(device)
    width = len(mean) + int(card.bias)
    # float64 where the device has it: the normal equations square the condition number.
    kind = torch.float32 if device.type == "mps" else torch.float64
    gram = torch.zeros(width, width, dtype=kind, device=device)
    cross = torch.zeros(width, classes, dtype=kind, device=device)
    with progress.stage("ridge head", len(patches), "image") as bar:
        for x, y in batches(patches, torch.from_numpy(labels), torch.arange(len(patches)), card.batch_size, device):
            flat, target = ((x - head.mean) / head.std).flatten(0, 1).to(kind), y.flatten()
            keep = target != ignore
            flat, target = flat[keep], target[keep]
            if card.bias:
                flat = torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
            gram += flat.T @ flat
            # X^T Y with one-hot Y: rows summed by class.
            cross += torch.zeros(classes, width, dtype=kind, device=device).index_add_(0, target, flat).T
            bar.advance(len(x))
    penalty = torch.full((width,), card.ridge_lambda, dtype=kind, device=device)
    if card.bias:
        penalty[-1] = 0
    system = gram + torch.diag(penalty)
    # Without a penalty the system may be singular; its least-norm solution still is the regression.
    solution = torch.linalg.pinv(system) @ cross if card.ridge_lambda == 0 else torch.linalg.solve(system, cross)
    head.linear.weight.copy_(solution[: len(mean)].T)
    if card.bias:
        head.linear.bias.copy_(solution[-1])
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
            nearest = (part @ self.memory.T).topk(self.k, dim=1)
            weight = ((nearest.values - nearest.values[:, :1]) / self.temperature).exp()
            table = torch.zeros(len(part), self.classes, device=x.device)
            votes.append(table.scatter_add_(1, self.labels[nearest.indices], weight / weight.sum(1, keepdim=True)))
        return torch.cat(votes).view(len(x), *self.grid, self.classes).permute(0, 3, 1, 2)


def neighbour_head(
    patches: np.ndarray, labels: np.ndarray, grid: tuple[int, int], classes: int, card: SegmentationCard, ignore: int, seed: int,
    device: torch.device,
) -> NeighbourHead:  # fmt: skip
    """A memory of at most ``knn_memory`` labelled tokens of [N, n, D], drawn at random without replacement.

    Raises LevlError where nothing is labelled.
    """
    check_labels(labels, ignore)
    mean, std = statistics_for(card, patches)
    flat = labels.reshape(-1)
    found = np.flatnonzero(flat != ignore)
    if len(found) > card.knn_memory:
        found = np.sort(np.random.default_rng(seed).choice(found, card.knn_memory, replace=False))
    image, place = np.divmod(found, grid[0] * grid[1])
    rows = np.concatenate(
        [patches[image[i : i + 8192], place[i : i + 8192]].astype(np.float32) for i in range(0, len(found), 8192)]
    )
    memory = F.normalize((torch.from_numpy(rows) - mean) / std, dim=-1)
    target = torch.from_numpy(flat[found].astype(np.int64))
    return NeighbourHead(mean, std, grid, memory, target, classes, card).to(device).eval().requires_grad_(False)
