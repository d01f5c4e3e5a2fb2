"""Connector training: encoder and language model frozen, loss on answers only, several questions an image in one row (packing.py).

Data-parallel where several processes were launched: each takes its share of every batch, gradients are summed over the batch's
answer tokens, so that the result is that of one process up to rounding. An interrupted training goes on exactly where it was.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch

from levl_eval.cards import RecipeCard
from levl_eval.core.distributed import team
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import locked
from levl_eval.core.kept import mark_used, read_state, recall, write_state
from levl_eval.core.progress import Progress
from levl_eval.engines.convergence import convergence, thinned
from levl_eval.engines.vlm import connector as connectors
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.packing import Item, packed_terms
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.engines.vlm.tokens import read_tokens, token_width
from levl_eval.features.store import FeatureSet
from levl_eval.records.identity import cache_key

SAVE_EVERY = 30.0  # seconds between kept states
TRAINING = 1  # version of the training: raised when equal inputs would give another connector


def connector_key(meta: dict[str, Any]) -> str:
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


def learning_rate(recipe: RecipeCard, step: int, steps: int) -> float:
    """Linear warm-up over the recipe's share of the steps, then its schedule down to zero (or constant)."""
    warm = max(1, round(recipe.warmup * steps))
    rate = min(1.0, (step + 1) / warm)
    left = max(0, step - warm) / max(1, steps - warm)
    if recipe.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * left))
    elif recipe.schedule == "linear":
        rate *= 1 - left
    return recipe.lr * rate


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
def checkpointed(model: Any, on: bool) -> Iterator[None]:
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


class _State(TypedDict):
    step: int
    losses: list[float]
    net: dict[str, torch.Tensor]
    optimizer: dict[str, object]


def _load_state(
    path: Path, key: str, net: Connector, optimizer: torch.optim.Optimizer, device: torch.device, progress: Progress
) -> tuple[int, list[float]]:
    """Step and losses of an interrupted training; a broken state is said, and the training begins again, from its own beginning."""
    found = recall(lambda: read_state(path, key, device), progress)
    if found is None:
        return 0, []
    state = cast(_State, found)
    before = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    try:
        step, losses = int(state["step"]), [float(x) for x in state["losses"]]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        return step, losses
    except (RuntimeError, ValueError, KeyError, TypeError) as e:  # whole, but of another form
        progress.say(f"{path}: cannot be resumed from ({type(e).__name__}); computed again")
        net.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        return 0, []


def _new(
    language: LanguageModel, recipe: RecipeCard, features: Sequence[FeatureSet], seed: int, first: Connector | None
) -> Connector:
    """A connector to train: seeded and standardised on its images, or a copy of an earlier stage's."""
    torch.manual_seed(seed)
    scale = float(language.model.get_input_embeddings().weight.float().pow(2).mean().sqrt())
    dim, grid = token_width(features[0], recipe.connector), features[0].grid
    net = Connector(recipe.connector, dim, language.width, scale, grid)
    if first is not None:
        if first.spec != recipe.connector:
            raise UsageError(
                f"recipe {recipe.name}: field `first`: its `connector` is another one; the stages share one connector"
            )
        net.load_state_dict(first.state_dict())
        return net
    rows = [(f, r) for f in features for r in range(len(f.ids))]

    def read(i: int, j: int) -> np.ndarray:
        return np.concatenate([read_tokens(f, [r], recipe.connector) for f, r in rows[i:j]])

    connectors.fit_standardization(net, read, len(rows))
    return net


def train(
    language: LanguageModel,
    prompt: Prompt,
    recipe: RecipeCard,
    features: Sequence[FeatureSet],
    items: Sequence[Item] | Callable[[], Sequence[Item]],
    meta: dict[str, Any],
    cache: Path,
    device: torch.device,
    seed: int,
    progress: Progress,
    first: Connector | None = None,
) -> tuple[Connector, dict[str, Any], bool]:
    """Train a connector, or take it from ``cache``/connectors. Returns (connector, notes, whether it was a hit).

    items: or what makes them, asked only where there is something to train. An interrupted training goes on from its last state.
    Raises UsageError where there are none, and where the image tokens do not fit the model's context.
    """
    key = connector_key(meta)
    path = cache / "connectors" / f"{key}.safetensors"
    # Another run by hand may want the same connector: one trains it, the other waits and reads it.
    with locked(path.parent / "locks" / key) if team().first else contextlib.nullcontext():
        return _train_or_take(language, prompt, recipe, features, items, meta, path, device, seed, progress, first)


def _train_or_take(
    language: LanguageModel,
    prompt: Prompt,
    recipe: RecipeCard,
    features: Sequence[FeatureSet],
    items: Sequence[Item] | Callable[[], Sequence[Item]],
    meta: dict[str, Any],
    path: Path,
    device: torch.device,
    seed: int,
    progress: Progress,
    first: Connector | None,
) -> tuple[Connector, dict[str, Any], bool]:
    dim, grid = token_width(features[0], recipe.connector), features[0].grid
    kept = (
        recall(lambda: connectors.recover(path, recipe.connector, dim, language.width, grid), progress) if team().first else None
    )
    if team().agree(kept is not None):
        kept = kept or connectors.recover(path, recipe.connector, dim, language.width, grid)
        mark_used(path)
        # Of a connector kept by an earlier version the thinned curve must do.
        notes = {"converged": convergence(kept[1].get("connector_loss", [])), **kept[1]}
        return kept[0].to(device), notes, True
    items = items() if callable(items) else items
    if not items:
        raise UsageError(f"recipe {recipe.name}: no training questions; check `recipe.data`")
    net = _new(language, recipe, features, seed, first).to(device)
    tokens = net.count(read_tokens(features[0], [0], recipe.connector).shape[1])
    longest = len(prompt.head) + tokens + max(len(p) + len(a) for i in items for p, a in i.questions)
    if longest > language.context:
        raise UsageError(
            f"{language.name}: {tokens} image tokens and the longest question need {longest} positions, it has {language.context}; use fewer tokens"
        )
    notes = _loop(language, prompt, recipe, features, items, net, path, device, seed, progress)
    notes["connector"] = path.stem
    net.eval().requires_grad_(False)
    if team().first:
        connectors.save(path, net, {**meta, "notes": notes})
        path.with_suffix(".state.pt").unlink(missing_ok=True)
    team().wait()
    return net, notes, False


def _loop(
    language: LanguageModel,
    prompt: Prompt,
    recipe: RecipeCard,
    features: Sequence[FeatureSet],
    items: Sequence[Item],
    net: Connector,
    path: Path,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The steps themselves; ``net`` is changed in place. Returns what is worth noting."""
    group = team()
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = len(_batches(items, recipe.images_per_batch, 0, seed))
    steps = recipe.steps or max(1, round(recipe.epochs * per_epoch))
    state_path = path.with_suffix(".state.pt")
    group.wait()
    step, losses = _load_state(state_path, path.stem, net, optimizer, device, progress)
    bf16 = multiplies_in_bf16(recipe, device)
    positions = (
        len(prompt.head) + net.count(read_tokens(features[0], [0], recipe.connector).shape[1]) + max(i.length for i in items)
    )
    rows = math.ceil(recipe.images_per_batch / group.size)
    again = recipe.checkpointing == "on" or (
        recipe.checkpointing == "auto" and checkpointing_pays(language, rows, positions, _free_memory(device))
    )
    saved = time.monotonic()
    schedule: list[list[int]] = []
    epoch = -1
    net.train()
    with (
        progress.stage(f"connector ({recipe.name})", steps - step, "step") as bar,
        checkpointed(language.model, again),
    ):
        while step < steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                schedule = _batches(items, recipe.images_per_batch, epoch, seed)
            rate = learning_rate(recipe, step, steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            optimizer.zero_grad(set_to_none=False)
            value = _step(language, prompt, recipe, features, [items[i] for i in schedule[step % per_epoch]], net, device, bf16)
            if not math.isfinite(value):
                raise LevlError(f"connector ({recipe.name}): the loss is {value} at step {step}; lower recipe.lr")
            torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            optimizer.step()
            losses.append(value)
            step += 1
            bar.advance(note=f"loss {np.mean(losses[-50:]):.3f}")
            if group.first and time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "losses": losses}
                write_state(state_path, path.stem, state)
    return {
        "connector_steps": steps, "connector_loss": thinned(losses, 50), "converged": convergence(losses),
        "connector_questions": sum(len(i.questions) for i in items),
    }  # fmt: skip


def _step(
    language: LanguageModel,
    prompt: Prompt,
    recipe: RecipeCard,
    features: Sequence[FeatureSet],
    batch: Sequence[Item],
    net: Connector,
    device: torch.device,
    bf16: bool,
) -> float:
    """Gradients of one batch, over all processes; returns its mean loss."""
    group = team()
    mine = group.share(batch)
    weight = torch.tensor([float(sum(i.weight * len(a) for i in mine for _, a in i.questions))], device=device)
    group.add([weight])
    loss = torch.zeros(1, device=device)
    if mine:
        raw = np.concatenate([read_tokens(features[i.source], [i.row], recipe.connector) for i in mine])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            total, _ = packed_terms(language, prompt, net(torch.from_numpy(raw).to(device)), mine)
        (total / weight[0]).backward()
        loss += (total / weight[0]).detach()
    if group.size > 1:
        for p in net.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        group.add([loss, *(p.grad for p in net.parameters() if p.grad is not None)])
    return float(loss)
