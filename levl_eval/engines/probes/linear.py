"""The linear probe on the frozen pooled feature (docs/paper.md): standardised features, one linear layer, AdamW."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import LinearProbeCard, LinearTraining
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import thinned, train_until_converged
from levl_eval.engines.fit import BestEpoch, Settings, shuffled_rows, training_loop
from levl_eval.engines.floors import majority
from levl_eval.engines.probes.common import Matrix, all_scores, load_parts, matrices, samples_of


@torch.inference_mode()
def logits_of(layer: nn.Module, matrix: Matrix, device: torch.device) -> Tensor:
    """[N, C] on the CPU, block by block."""
    return torch.cat([layer(b.to(device)).float().cpu() for b in matrix.blocks()])


@torch.inference_mode()
def classes_of(layer: nn.Module, matrix: Matrix, device: torch.device) -> np.ndarray:
    """[N] predicted classes; never more logits than a block's."""
    return np.concatenate([layer(b.to(device)).argmax(1).cpu().numpy() for b in matrix.blocks()])


def fit(
    x: Matrix, y: np.ndarray, classes: int, card: LinearTraining, seed: int, device: torch.device,
    watch: tuple[Matrix, np.ndarray] | None = None, progress: Progress | None = None,
) -> tuple[nn.Linear, list[float], list[float]]:  # fmt: skip
    """One linear layer on [N, D] by AdamW and cross entropy, batch by batch from the stored features.

    watch: validation features and labels; the layer is then that of the epoch with the best accuracy on them (the first of
    equals). Returns the layer, its loss by epoch and the validation accuracy by epoch. Raises LevlError if it diverges.
    """
    torch.manual_seed(seed)
    rows = shuffled_rows(len(x), card.batch_size, torch.Generator().manual_seed(seed))
    layer = nn.Linear(x.dim, classes, bias=card.bias).to(device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=card.lr, weight_decay=card.weight_decay)
    per_epoch = math.ceil(len(x) / card.batch_size)
    steps = card.epochs * per_epoch
    target = torch.from_numpy(y)

    def loss_of(step: int) -> Tensor:
        batch = next(rows)
        return F.cross_entropy(layer(x.take(batch).to(device)), target[batch].to(device))

    best = None
    if watch is not None:
        features, labels = watch
        best = BestEpoch(
            lambda: float((classes_of(layer, features, device) == labels).mean()), lambda: copy.deepcopy(layer.state_dict())
        )
    settings = Settings("linear probe", steps, Schedule(steps, card.schedule), per_epoch)
    curve = training_loop(optimizer, settings, loss_of, progress or Progress(quiet=True), after_epoch=best)
    if best is not None and best.best is not None:
        layer.load_state_dict(best.best)
    return layer.eval().requires_grad_(False), curve.tolist(), best.scores if best is not None else []


def fit_by_card(
    x: Matrix, y: np.ndarray, classes: int, card: LinearTraining, seed: int, device: torch.device,
    watch: tuple[Matrix, np.ndarray] | None = None, progress: Progress | None = None,
) -> tuple[nn.Linear, list[float], list[float], dict[str, object]]:  # fmt: skip
    """:func:`fit` for as long as the card's ``until`` says; also what notes say of convergence."""

    def train_by(card: LinearTraining) -> tuple[tuple[nn.Linear, list[float]], list[float]]:
        layer, curve, watched = fit(x, y, classes, card, seed, device, watch, progress)
        return (layer, watched), curve

    (layer, watched), curve, state = train_until_converged(card, math.ceil(len(x) / card.batch_size), train_by)
    return layer, curve, watched, state


def run(context: Context[LinearProbeCard]) -> Outcome:
    """Raises UsageError/LevlError: missing or empty folders, class folders that differ, images that cannot be decoded."""
    card = context.card
    parts = load_parts(context, choices=card.keep == "best")
    started = time.monotonic()
    train, validation, test = matrices(parts, card)
    watch = (validation, parts.validation.labels) if validation is not None and parts.validation is not None else None
    y, classes = parts.train.labels, len(parts.classes)
    layer, curve, watched, state = fit_by_card(train, y, classes, card, context.seed, context.device, watch, context.progress)
    logits = logits_of(layer, test, context.device)
    metrics, right = all_scores(logits, parts, card.ece_bins)
    metrics |= majority(right, parts.test.labels, y, classes)
    parts.seconds["probe"] = time.monotonic() - started
    notes = {**parts.notes, "probe_loss": thinned(curve), "converged": state}
    if watched:
        notes["epoch"] = int(np.argmax(watched)) + 1
        notes["validation_top1"] = [round(v, 5) for v in watched]
    samples = samples_of(parts.test.data, logits.argmax(1).numpy(), right)
    return Outcome(metrics, samples, parts.data, notes, parts.seconds, parts.cache)
