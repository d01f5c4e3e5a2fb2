"""The linear probe on the frozen global read-out (PAPER 2c): standardised features, one linear layer, AdamW."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import LinearProbeCard
from levl_eval.data.images import fingerprint_text
from levl_eval.data.readers import read_classification
from levl_eval.data.types import ClassificationSet
from levl_eval.engines import Context, Outcome
from levl_eval.errors import LevlError
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Estimate, Sample


def matrix(card: LinearProbeCard, features) -> Tensor:
    """float32 [N, D] of the card's read-out, l2-normalised where the card says so."""
    x = features.pooled if card.readout == "pooled" else np.stack([np.asarray(p, np.float32).mean(0) for p in features.patches])
    t = torch.from_numpy(np.asarray(x, np.float32))
    return F.normalize(t, dim=-1) if card.l2_normalize else t


def fit(
    x: Tensor, y: Tensor, classes: int, card: LinearProbeCard, seed: int, device: torch.device
) -> tuple[nn.Linear, list[float]]:
    """One linear layer on [N, D] by AdamW and cross entropy; returns it and its loss by epoch. Raises LevlError if it diverges."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(x.shape[1], classes, bias=card.bias).to(device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=card.lr, weight_decay=card.weight_decay)
    x, y = x.to(device), y.to(device)
    total, step, curve = card.epochs * math.ceil(len(x) / card.batch_size), 0, []
    for _ in range(card.epochs):
        losses = []
        order = torch.randperm(len(x), generator=generator)
        for i in range(0, len(x), card.batch_size):
            if card.schedule == "cosine":
                for group in optimizer.param_groups:
                    group["lr"] = card.lr * 0.5 * (1 + math.cos(math.pi * step / total))
            rows = order[i : i + card.batch_size].to(device)
            loss = F.cross_entropy(layer(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
        curve.append(float(np.mean(losses)))
    if not math.isfinite(curve[-1]):
        raise LevlError(f"linear probe: the loss is {curve[-1]}; lower `lr`")
    return layer.eval(), curve


def scores(logits: Tensor, labels: np.ndarray) -> tuple[dict[str, Estimate], np.ndarray]:
    """top1, top5 (from ten classes on) and the mean of the classes' accuracies of [N, C] logits; also top1 by image."""
    order = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu().numpy()
    right = (order[:, 0] == labels).astype(float)
    out = {"top1": mean_estimate(right)}
    if logits.shape[1] >= 10:
        out["top5"] = mean_estimate((order == labels[:, None]).any(1).astype(float))
    by_class = [right[labels == c] for c in np.unique(labels)]
    variance = sum(r.var() / len(r) for r in by_class) / len(by_class) ** 2
    value, se = float(np.mean([r.mean() for r in by_class])), float(np.sqrt(variance))
    out["mean_per_class"] = Estimate(
        value=value,
        stderr=se,
        low=value - 1.96 * se,
        high=value + 1.96 * se,
        n=len(labels),
        clusters=len(labels),
        method="stratified normal",
    )
    return out, right


def samples_of(data: ClassificationSet, predicted: np.ndarray, right: np.ndarray) -> list[Sample]:
    names = data.classes
    return [
        Sample(id=i, image_id=i, prediction=names[p], target=names[t], score=float(r))
        for i, p, t, r in zip(data.images.ids, predicted, data.labels, right, strict=True)
    ]


def data_of(data: ClassificationSet) -> dict:
    counts = {"images": len(data.images), "classes": len(data.classes)}
    return {"fingerprint": fingerprint_text([data.fingerprint, data.images.fingerprint]), "counts": counts, "split": data.split}


def run(context: Context) -> Outcome:
    """Raises UsageError/LevlError: missing or empty folders, class folders that differ, images that cannot be decoded."""
    card: LinearProbeCard = context.card
    train, test = read_classification(card.train, context.data), read_classification(card.data, context.data, context.limit)
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise LevlError(f"{card.name}: class folders of training and test differ, first {only[0]!r}; give both the same ones")
    cache = {"feature_hits": 0, "feature_misses": 0}
    found = []
    started = time.monotonic()
    for part in (train, test):
        f = context.store.get(
            context.backbone, part.images, device=context.device, batch_size=context.batch_size, progress=context.progress
        )
        cache["feature_hits" if f.hit else "feature_misses"] += 1
        found.append(matrix(card, f))
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    x, z = found
    if card.standardize:
        mean, std = x.mean(0), x.std(0).clamp(min=1e-8)
        x, z = (x - mean) / std, (z - mean) / std
    layer, curve = fit(x, torch.from_numpy(train.labels), len(train.classes), card, context.seed, context.device)
    with torch.inference_mode():
        logits = layer(z.to(context.device)).float().cpu()
    metrics, right = scores(logits, test.labels)
    seconds["probe"] = time.monotonic() - started
    data = {**data_of(test), "train": data_of(train)["fingerprint"]}
    data["counts"]["train_images"] = len(train.images)
    return Outcome(
        metrics,
        samples_of(test, logits.argmax(1).numpy(), right),
        data,
        {"probe_loss": [round(v, 5) for v in curve]},
        seconds,
        cache,
    )
