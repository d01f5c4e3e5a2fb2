"""The attentive probe (docs/paper.md): one learned query reads the frozen patch tokens by cross attention, then an MLP and a linear layer.

With a single query, scores and values need no projection of every token: the query is folded into the key projection and the
value projection follows the weighted mean, which is the same function (attention weights sum to one) at a fraction of the work.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import AttentiveCard
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import convergence
from levl_eval.engines.fit import BestEpoch, Settings, shuffled_rows, training_loop
from levl_eval.engines.floors import majority
from levl_eval.engines.probes.common import Parts, all_scores, load_parts, samples_of
from levl_eval.features.augmented import cropped
from levl_eval.features.stored import Rows
from levl_eval.metrics.statistics import mean_estimate


class AttentiveHead(nn.Module):
    """[B, n, D] tokens -> [B, C] logits: x = q + proj(attention(q, norm(tokens))), x + mlp(norm(x)), linear.

    The pooler's weights are drawn from a normal of deviation 0.02, cut at -2 and 2 themselves, not at two deviations (timm's
    trunc_normal_ as July's script calls it); the projections that end a residual branch are divided by sqrt(2), as in I-JEPA's
    one-block pooler; the classifier keeps torch's default. The query is not normalised and the keys carry no bias, which a softmax ignores.
    """

    def __init__(self, dim: int, classes: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        last = nn.Linear(hidden, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), last)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.query, std=0.02, a=-2.0, b=2.0)
        self.linear = nn.Linear(dim, classes)
        with torch.no_grad():
            for end in (self.proj, last):
                end.weight.div_(math.sqrt(2))

    def pool(self, tokens: Tensor) -> Tensor:
        """[B, n, D] -> [B, D]."""
        dim = tokens.shape[-1]
        size = dim // self.heads
        x = self.norm1(tokens)
        q = self.q(self.query).view(self.heads, size)
        keys = torch.einsum("hs,hsd->hd", q, self.k.weight.view(self.heads, size, dim))  # the query in token space
        weights = (x @ keys.T * size**-0.5).softmax(1)  # [B, n, heads]
        means = weights.transpose(1, 2) @ x  # [B, heads, D]
        read = torch.einsum("bhd,hsd->bhs", means, self.v.weight.view(self.heads, size, dim)).flatten(1) + self.v.bias
        y = self.query + self.proj(read)
        out: Tensor = y + self.mlp(self.norm2(y))
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.linear(self.pool(tokens))
        return out


def tokens_at(array: Rows, rows: np.ndarray, device: torch.device) -> Tensor:
    order = np.argsort(rows, kind="stable")
    x = torch.from_numpy(np.asarray(array[rows[order]], np.float32))
    return x[torch.from_numpy(np.argsort(order, kind="stable"))].to(device)


@torch.inference_mode()
def classes_of(head: AttentiveHead, array: Rows, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """[N] predicted classes; never more logits than a batch's."""
    parts = [head(tokens_at(array, rows[i : i + 256], device)).argmax(1).cpu().numpy() for i in range(0, len(rows), 256)]
    return np.concatenate(parts)


@torch.inference_mode()
def predict(head: AttentiveHead, array: Rows, rows: np.ndarray, device: torch.device) -> Tensor:
    """[N, C] logits of the given rows, on the CPU."""
    return torch.cat([head(tokens_at(array, rows[i : i + 256], device)).cpu() for i in range(0, len(rows), 256)])


@dataclass(frozen=True)
class TrainingTokens:
    """versions: of the training images' tokens [N, n, D], which the epochs take in turn;
    image i is of class labels[i] and at row rows[i]."""

    versions: Sequence[Rows]
    rows: np.ndarray
    labels: np.ndarray


def train(
    head: AttentiveHead, data: TrainingTokens, card: AttentiveCard, seed: int, device: torch.device, progress: Progress,
    after_epoch: Callable[[], object] | None = None,
) -> list[float]:  # fmt: skip
    """Fit the head on stored patch tokens by AdamW with a cosine by step; returns the loss by epoch.

    An incomplete last batch is left out with the card's ``drop_last``, unless it is the only one.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, weight_decay=card.weight_decay)
    count = len(data.rows)
    per_epoch = max(1, count // card.batch_size) if card.drop_last else math.ceil(count / card.batch_size)
    steps = card.epochs * per_epoch
    batches = shuffled_rows(count, card.batch_size, torch.Generator().manual_seed(seed), card.drop_last)

    def loss_of(step: int) -> Tensor:
        at = next(batches).numpy()
        tokens = tokens_at(data.versions[step // per_epoch % len(data.versions)], data.rows[at], device)
        return F.cross_entropy(head(tokens), torch.from_numpy(data.labels[at]).to(device))

    settings = Settings("attentive probe", steps, Schedule(steps, "cosine", final=card.final_lr), per_epoch)
    return [float(x) for x in training_loop(optimizer, settings, loss_of, progress, after_epoch=after_epoch)]


def training_tokens(context: Context[AttentiveCard], parts: Parts) -> list[Rows]:
    """Stored tokens of the training images as they are, or of each of the card's random views of them."""
    card, own = context.card, context.backbone.preprocess
    if not card.views:
        return [parts.train.features.patches]
    squash = dataclasses.replace(own, resize="squash", resize_to=None, interpolation=card.view_interpolation)
    views = []
    for v in range(card.views):
        images = cropped(parts.train.data.images, v, card.view_scale, card.view_ratio, card.view_flip, card.view_seed)
        views.append(context.features(images, ("patches",), squash, card.layers).patches)
    return views


def run(context: Context[AttentiveCard]) -> Outcome:
    """Raises UsageError for heads that do not divide the width, and what common.load_parts raises."""
    card, device = context.card, context.device
    parts = load_parts(context, choices=False, more=True)
    dim = parts.train.features.patches.shape[-1]
    if dim % card.heads:
        raise UsageError(
            f"{card.name}: field `heads`: {card.heads} do not divide the token width {dim} of {context.backbone.name}"
        )
    tokens = training_tokens(context, parts)
    context.ready()
    started = time.monotonic()
    torch.manual_seed(context.seed)
    head = AttentiveHead(dim, len(parts.classes), card.heads, card.mlp_ratio).to(device)
    test, truth = parts.test, parts.test.labels
    right = np.zeros(len(truth))

    def score() -> float:
        nonlocal right
        right = (classes_of(head, test.features.patches, test.rows, device) == truth).astype(float)
        return float(right.mean())

    best = BestEpoch(score, lambda: right)
    data = TrainingTokens(tokens, parts.train.rows, parts.train.labels)
    curve = train(head, data, card, context.seed, device, context.progress, best if card.report_best else None)
    logits = predict(head, test.features.patches, test.rows, device)
    metrics, right = all_scores(logits, parts, card.ece_bins)
    metrics |= majority(right, truth, parts.train.labels, len(parts.classes))
    notes = {**parts.notes, "probe_loss": [round(v, 5) for v in curve], "converged": convergence(curve)}
    if best.best is not None:
        metrics["top1_best_epoch"] = mean_estimate(best.best)
        notes["top1_by_epoch"] = [round(v, 5) for v in best.scores]
        notes["top1_best_epoch"] = "the epoch is chosen on the test images, as the published script does: too good by that"
    parts.seconds["probe"] = time.monotonic() - started
    samples = samples_of(test.data, logits.argmax(1).numpy(), right)
    return Outcome(metrics, samples, parts.data, notes, parts.seconds, parts.cache)
