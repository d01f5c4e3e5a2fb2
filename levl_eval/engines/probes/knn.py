"""Weighted nearest neighbours on the frozen pooled feature (Wu et al., CVPR 2018; DINO's evaluation): no training at all.

The k training images of the largest cosine vote for their classes with weight exp(cosine / temperature).
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import KNNCard
from levl_eval.core.progress import Progress
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import majority
from levl_eval.engines.nearest import joined, largest
from levl_eval.engines.probes.common import Matrix, load_parts, matrices, mean_per_class, samples_of
from levl_eval.metrics.statistics import mean_estimate

QUERIES, KEYS = 2048, 16384  # test and training rows compared at once
_PIECE = 512  # rows that are read and normalised at once: they stay in a processor's cache


def _room(count: int, device: torch.device) -> Tensor:
    """float32 memory [count] to be written to.

    On a CPU it is numpy's, which asks Linux for large pages: touching a block of similarities of torch's own for the first time
    costs a fifth of the product that fills it.
    """
    if device.type != "cpu":
        return torch.empty(count, device=device)
    array = np.empty(count + 16, np.float32)
    begin = -(array.ctypes.data // 4) % 16  # on 64 bytes, as torch's own
    return torch.from_numpy(array[begin : begin + count])


def _unit_rows(matrix: Matrix, begin: int, out: Tensor) -> Tensor:
    """``out`` [n, D], filled with the rows from ``begin`` on, of length 1."""
    at, size = 0, _PIECE if out.device.type == "cpu" else KEYS
    for piece in matrix.pieces(begin, begin + len(out), size):
        out[at : at + len(piece)] = F.normalize(piece.to(out.device), dim=-1)
        at += len(piece)
    return out


def neighbours(test: Matrix, train: Matrix, k: int, device: torch.device, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Cosines [N, k] and training positions [N, k] of the k nearest, best first, of equal cosines the earlier images;
    never more than a block of similarities."""
    k, dim, most = min(k, len(train)), train.dim, min(KEYS, len(train))
    queries = _unit_rows(test, 0, _room(len(test) * dim, device).view(len(test), dim)).split(QUERIES)
    key_room, room = _room(most * dim, device), _room(min(QUERIES, len(test)) * most, device)  # the same for all blocks
    best: list[tuple[Tensor, Tensor]] = []
    with progress.stage("nearest neighbours", len(train), "image") as bar:
        for i in range(0, len(train), KEYS):  # each block read and normalised once, for all queries
            n = min(KEYS, len(train) - i)
            keys = _unit_rows(train, i, key_room[: n * dim].view(n, dim)).T
            for j, query in enumerate(queries):
                similarities = torch.mm(query, keys, out=room[: len(query) * n].view(len(query), n))
                cosines, at = largest(similarities, min(k, n))
                if i:
                    best[j] = joined(best[j], (cosines, at + i), k)
                else:
                    best.append((cosines, at))
            bar.advance(n)
    return torch.cat([c for c, _ in best]).cpu().numpy(), torch.cat([at for _, at in best]).cpu().numpy()


def votes(cosines: np.ndarray, labels: np.ndarray, classes: int, temperature: float) -> Tensor:
    """[N, C] summed weights of neighbours with cosines [N, k] and labels [N, k]."""
    weight = torch.from_numpy(cosines).double()
    weight = ((weight - weight.amax(1, keepdim=True)) / temperature).exp()  # the scale of a row moves no vote
    return torch.zeros(len(weight), classes, dtype=torch.float64).scatter_add_(1, torch.from_numpy(labels), weight)


def run(context: Context[KNNCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable sets (see common.load_parts)."""
    card = context.card
    parts = load_parts(context, choices=False)
    started = time.monotonic()
    train, _, test = matrices(parts, card)
    cosines, places = neighbours(test, train, max(card.k), context.device, context.progress)
    labels, truth, notes = parts.train.labels[places], parts.test.labels, dict(parts.notes)
    metrics, samples = {}, None
    for k in card.k:
        if k > len(train):
            notes["k_above_training_images"] = len(train)
        voted = votes(cosines[:, :k], labels[:, :k], len(parts.classes), card.temperature)
        predicted = voted.argmax(1).numpy()
        right = (predicted == truth).astype(float)
        metrics[f"top1_k{k}"] = mean_estimate(right)
        if f"top1_k{k}" == card.main_metric:
            metrics["mean_per_class"] = mean_per_class(right, truth)
            if len(parts.classes) >= 10:
                top = voted.topk(5, 1).indices.numpy()
                metrics["top5"] = mean_estimate((top == truth[:, None]).any(1).astype(float))
            if parts.leaked.any():
                metrics["top1_unleaked"] = mean_estimate(right[~parts.leaked])
            samples = samples_of(parts.test.data, predicted, right)
            metrics |= majority(right, truth, parts.train.labels, len(parts.classes))
    parts.seconds["probe"] = time.monotonic() - started
    return Outcome(metrics, samples or [], parts.data, notes, parts.seconds, parts.cache)
