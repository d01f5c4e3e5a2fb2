"""Connector training: encoder and language model frozen, loss on answers only, several questions an image in one row (packing.py).

Data-parallel where several processes were launched: each takes its share of every batch, gradients are summed over the batch's
answer tokens, so that the result is that of one process up to rounding. An interrupted training resumes exactly where it was.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.cards import RecipeCard
from levl_eval.core.distributed import process_group
from levl_eval.core.errors import UsageError
from levl_eval.core.files import locked
from levl_eval.core.json_types import JsonObject, as_list
from levl_eval.core.kept import mark_used, recall
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.engines.convergence import convergence, thinned
from levl_eval.engines.fit import Resumable, Settings, training_loop
from levl_eval.engines.muon import MuonAndAdamW
from levl_eval.engines.vlm import connector as connectors
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.packing import Item, packed_terms
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.engines.vlm.tokens import read_tokens, token_width
from levl_eval.features.store import FeatureSet
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRAINING = 1  # version of the training: raised when equal inputs would give another connector


def connector_key(meta: Mapping[str, object]) -> str:
    """Content key of a trained connector: everything that made it (recipe.connector_parts)."""
    return cache_key("connector", TRAINING, **meta)


def _batches(items: Sequence[Item], size: int, epoch: int, seed: int) -> list[list[int]]:
    """Batches of items of similar length, in random order: a pure function of seed and epoch."""
    rng = np.random.default_rng([seed, epoch, 11])
    order = rng.permutation(len(items))
    out: list[list[int]] = []
    for i in range(0, len(order), size * 16):
        part = sorted(order[i : i + size * 16], key=lambda j: items[j].length)
        out += [list(part[k : k + size]) for k in range(0, len(part), size)]
    return [out[i] for i in rng.permutation(len(out))]


def schedule_of(recipe: RecipeCard, steps: int) -> Schedule:
    """Linear warm-up over the recipe's share of the steps, then its decay to zero (or none)."""
    warm = max(1, round(recipe.warmup * steps))
    return Schedule(steps, recipe.schedule, begins=warm, warmup=warm)


def optimizer_of(recipe: RecipeCard, net: nn.Module) -> torch.optim.Optimizer:
    """AdamW on all parameters, or Muon on the matrices of linear layers and AdamW on the others."""
    if recipe.optimizer == "muon":
        return MuonAndAdamW(net, recipe.lr, recipe.weight_decay)
    return torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def multiplies_in_bf16(recipe: RecipeCard, device: torch.device) -> bool:
    """Whether to multiply in bfloat16. "auto": on a GPU alone.

    Some CPUs have it in hardware too, but then one protocol would give other numbers on another CPU, and two processes, which round
    their shares of a batch apart, other answers than one.
    """
    return device.type == "cuda" if recipe.precision == "auto" else recipe.precision == "bf16"


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 8 << 30


def checkpointing_pays(language: LanguageModel, rows: int, positions: int, free: int) -> bool:
    """Whether the activations of a batch would take more than half of the free memory.

    A pre-norm block keeps about 14 tensors of the model's width and 4 of its inner width a position (attention kernels keep no
    square of positions).
    """
    c = language.config
    width = language.width
    inner = int(getattr(c, "intermediate_size", 0) or getattr(c, "n_inner", 0) or 4 * width)
    layers = int(getattr(c, "num_hidden_layers", 0) or getattr(c, "n_layer", 1))
    return rows * positions * layers * (14 * width + 4 * inner) * language.dtype.itemsize > free / 2


@contextlib.contextmanager
def checkpointed(model: PreTrainedModel, on: bool) -> Iterator[None]:
    """Recompute a block's activations in the backward pass instead of keeping them.

    transformers does this for blocks in training mode only. The blocks alone are put into it, not what they hold, so that
    no dropout starts.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not on or not blocks:
        yield
        return
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # renamed in transformers 5
    getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
    for m in blocks:
        m.training = True
    try:
        yield
    finally:
        getattr(model, f"{word}_checkpointing_disable")()
        for m in blocks:
            m.training = False


@dataclass(frozen=True)
class ConnectorTraining:
    """What a connector is trained with. first: of an earlier stage, where this one begins.

    features: of the recipe's sets, in its order.
    """

    language: LanguageModel
    prompt: Prompt
    recipe: RecipeCard
    features: Sequence[FeatureSet]
    device: torch.device
    seed: int
    progress: Progress
    first: Connector | None = None

    def new(self) -> Connector:
        """A connector to train: seeded and standardised on its images, or a copy of an earlier stage's.

        Raises UsageError where that is another kind.
        """
        torch.manual_seed(self.seed)
        spec, language = self.recipe.connector, self.language
        scale = float(language.model.get_input_embeddings().weight.float().pow(2).mean().sqrt())
        net = Connector(spec, token_width(self.features[0], spec), language.width, scale, self.features[0].grid)
        if self.first is not None:
            if self.first.spec != spec:
                raise UsageError(
                    f"recipe {self.recipe.name}: field `first`: its `connector` is another one; the stages share one connector"
                )
            net.load_state_dict(self.first.state_dict())
            return net
        rows = [(f, r) for f in self.features for r in range(len(f.ids))]

        def read(i: int, j: int) -> np.ndarray:
            return np.concatenate([read_tokens(f, [r], spec) for f, r in rows[i:j]])

        connectors.fit_standardization(net, read, len(rows))
        return net

    def recover(self, path: Path) -> tuple[Connector, JsonObject]:
        """The trained connector that is kept there, and its notes. Raises FileNotFoundError, Damaged."""
        spec = self.recipe.connector
        return connectors.recover(path, spec, token_width(self.features[0], spec), self.language.width, self.features[0].grid)

    def positions(self, net: Connector, question: int) -> int:
        """Length of what the language model reads: the prompt's head, an image's tokens, and so many tokens of a question."""
        tokens = net.count(read_tokens(self.features[0], [0], self.recipe.connector).shape[1])
        return len(self.prompt.head) + tokens + question

    def loss(self, net: Connector, batch: Sequence[Item], bf16: bool) -> Tensor:
        """Loss on this process's share of a batch, over the answer tokens of all of it: the shares' sum is the batch's mean loss."""
        group = process_group()
        mine = group.share(batch)
        weight = torch.tensor([float(sum(i.weight * len(a) for i in mine for _, a in i.questions))], device=self.device)
        group.add([weight])
        if not mine:  # nothing to see here, but the gradients take part in the sum
            return torch.stack([p.sum() * 0.0 for p in net.parameters()]).sum()
        raw = np.concatenate([read_tokens(self.features[i.source], [i.row], self.recipe.connector) for i in mine])
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            total, _ = packed_terms(self.language, self.prompt, net(torch.from_numpy(raw).to(self.device)), mine)
        return total / weight[0]


def train(
    job: ConnectorTraining, items: Sequence[Item] | Callable[[], Sequence[Item]], meta: Mapping[str, object], cache: Path
) -> tuple[Connector, dict[str, object], bool]:
    """Train a connector, or take it from ``cache``/connectors. Returns (connector, notes, whether it was a hit).

    items: or what makes them, asked only where there is something to train. An interrupted training resumes from its last state.
    Raises UsageError where there are none, and where the image tokens do not fit the model's context.
    """
    key = connector_key(meta)
    path = cache / "connectors" / f"{key}.safetensors"
    # Another run by hand may want the same connector: one trains it, the other waits and reads it.
    with locked(path.parent / "locks" / key) if process_group().main else contextlib.nullcontext():
        return _train_or_take(job, items, meta, path)


def _train_or_take(
    job: ConnectorTraining, items: Sequence[Item] | Callable[[], Sequence[Item]], meta: Mapping[str, object], path: Path
) -> tuple[Connector, dict[str, object], bool]:
    language, recipe = job.language, job.recipe
    kept = recall(lambda: job.recover(path), job.progress) if process_group().main else None
    if process_group().from_main(kept is not None):
        kept = kept or job.recover(path)
        mark_used(path)
        # Of a connector kept by an earlier version the thinned curve must do.
        curve = [x for x in as_list(kept[1].get("connector_loss", []), f"{path}: connector_loss") if isinstance(x, float)]
        notes: dict[str, object] = {"converged": convergence(curve), **kept[1]}
        return kept[0].to(job.device), notes, True
    items = items() if callable(items) else items
    if not items:
        raise UsageError(f"recipe {recipe.name}: no training questions; check `recipe.data`")
    net = job.new().to(job.device)
    longest = job.positions(net, max(len(p) + len(a) for i in items for p, a in i.questions))
    if longest > language.context:
        raise UsageError(
            f"{language.name}: {job.positions(net, 0) - len(job.prompt.head)} image tokens and the longest question need {longest} "
            f"positions, it has {language.context}; use fewer tokens"
        )
    notes = _descend(job, items, net, path)
    notes["connector"] = path.stem
    net.eval().requires_grad_(False)
    if process_group().main:
        connectors.save(path, net, {**meta, "notes": notes})
        path.with_suffix(".state.pt").unlink(missing_ok=True)
    process_group().wait()
    return net, notes, False


def _descend(job: ConnectorTraining, items: Sequence[Item], net: Connector, path: Path) -> dict[str, object]:
    """The training itself; ``net`` is changed in place. Returns what is worth noting."""
    recipe, device, group = job.recipe, job.device, process_group()
    optimizer = optimizer_of(recipe, net)
    per_epoch = len(_batches(items, recipe.images_per_batch, 0, job.seed))
    steps = recipe.steps or max(1, round(recipe.epochs * per_epoch))
    bf16 = multiplies_in_bf16(recipe, device)
    positions = job.positions(net, max(i.length for i in items))
    rows = math.ceil(recipe.images_per_batch / group.size)
    again = recipe.checkpointing == "on" or (
        recipe.checkpointing == "auto" and checkpointing_pays(job.language, rows, positions, _free_memory(device))
    )
    batches_of = lru_cache(1)(lambda epoch: _batches(items, recipe.images_per_batch, epoch, job.seed))

    def loss_of(step: int) -> Tensor:
        epoch, number = divmod(step, per_epoch)
        return job.loss(net, [items[i] for i in batches_of(epoch)[number]], bf16)

    def summed(loss: Tensor) -> Tensor:
        """Loss and gradients of the processes' shares, added."""
        if group.size > 1:
            for p in net.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            group.add([loss, *(p.grad for p in net.parameters() if p.grad is not None)])
        return loss

    group.wait()
    net.train()
    with checkpointed(job.language.model, again):
        losses = training_loop(
            optimizer,
            Settings(f"connector ({recipe.name})", steps, schedule_of(recipe, steps), remedy="lower recipe.lr", clip=recipe.clip),
            loss_of,
            job.progress,
            after_backward=summed,
            resumable=Resumable(path.with_suffix(".state.pt"), path.stem, net, device, job.progress, writes=group.main),
        ).tolist()
    return {
        "connector_steps": steps, "connector_loss": thinned(losses, 50), "converged": convergence(losses),
        "connector_questions": sum(len(i.questions) for i in items),
    }  # fmt: skip
