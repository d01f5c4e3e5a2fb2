"""Connector training: encoder and language model frozen, loss on answers only, an image's questions packed behind its prefix.

Packing: [head | image tokens | question 1 answer 1 | question 2 answer 2 | ...] in one row. A mask lets every question see the
head, the image and itself, and positions restart behind the image, so that each question stands where it would stand alone:
the loss equals the unpacked one, and the image prefix runs once instead of once a question.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.cards import RecipeCard
from levl_eval.data.types import Question
from levl_eval.errors import LevlError, UsageError
from levl_eval.features import FeatureSet
from levl_eval.io import atomic_path
from levl_eval.progress import Progress
from levl_eval.vlm import connector as connectors
from levl_eval.vlm.connector import Connector
from levl_eval.vlm.language import LanguageModel
from levl_eval.vlm.prompts import Prompt


@dataclass(frozen=True)
class Item:
    """An image with some of its questions, tokenised. row: of the feature set ``source``."""

    source: int
    row: int
    questions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # (prompt tokens, answer tokens)

    @property
    def length(self) -> int:
        return sum(len(p) + len(a) for p, a in self.questions)


def make_items(
    sets: Sequence[tuple[Sequence[Question], FeatureSet]], language: LanguageModel, prompt: Prompt, recipe: RecipeCard, seed: int
) -> list[Item]:
    """Group questions by image, at most ``questions_per_image`` in an item; a fixed random subset where the recipe limits them."""
    rng = np.random.default_rng([seed, 7])
    chosen: list[tuple[int, Question]] = [(k, q) for k, (questions, _) in enumerate(sets) for q in questions]
    if recipe.max_questions is not None and len(chosen) > recipe.max_questions:
        keep = np.sort(rng.choice(len(chosen), recipe.max_questions, replace=False))
        chosen = [chosen[i] for i in keep]
    rows = [f.row for _, f in sets]
    by_image: dict[tuple[int, int], list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for k, q in chosen:
        pair = (tuple(prompt.question(language, q.question)), tuple(prompt.answer(language, q.answer)))
        by_image.setdefault((k, rows[k][q.image_id]), []).append(pair)
    out = []
    for (k, row), pairs in by_image.items():
        order = rng.permutation(len(pairs))
        for i in range(0, len(pairs), recipe.questions_per_image):
            out.append(Item(k, row, tuple(pairs[j] for j in order[i : i + recipe.questions_per_image])))
    return out


def packed_loss(language: LanguageModel, prompt: Prompt, visual: Tensor, items: Sequence[Item]) -> Tensor:
    """Mean cross entropy of the answer tokens of a batch. visual: [B, N, width], one row an item."""
    device = visual.device
    head = torch.tensor(prompt.head, dtype=torch.long, device=device)
    start = len(prompt.head) + visual.shape[1]
    width = max(i.length for i in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    block = torch.full((len(items), width), -1, dtype=torch.long)
    position = torch.zeros(len(items), width, dtype=torch.long)
    answers = torch.zeros(len(items), width, dtype=torch.bool)
    for b, item in enumerate(items):
        at = 0
        for k, (p, a) in enumerate(item.questions):
            n = len(p) + len(a)
            ids[b, at : at + n] = torch.tensor([*p, *a])
            block[b, at : at + n] = k + 1
            position[b, at : at + n] = torch.arange(start, start + n)
            answers[b, at + len(p) : at + n] = True
            at += n
    ids, block, position, answers = (t.to(device) for t in (ids, block, position, answers))
    embeds = torch.cat(
        [language.embed(head).expand(len(items), -1, -1).to(visual.dtype), visual, language.embed(ids).to(visual.dtype)], 1
    )
    prefix = torch.zeros(len(items), start, dtype=torch.long, device=device)
    block = torch.cat([prefix, block], 1)
    position = torch.cat([torch.arange(start, device=device).expand(len(items), -1), position], 1)
    total = block.shape[1]
    sees = ((block[:, :, None] == block[:, None, :]) | (block == 0)[:, None, :]) & torch.ones(
        total, total, dtype=torch.bool, device=device
    ).tril()
    kind = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else embeds.dtype
    mask = torch.zeros(sees.shape, dtype=kind, device=device).masked_fill_(~sees, torch.finfo(kind).min)[:, None]
    inner = language.model.get_decoder() if hasattr(language.model, "get_decoder") else language.model.base_model
    hidden = inner(inputs_embeds=embeds, attention_mask=mask, position_ids=position, use_cache=False).last_hidden_state
    # The token before an answer token predicts it.
    logits = language.model.get_output_embeddings()(hidden[:, start - 1 : -1][answers]).float()
    return F.cross_entropy(logits, ids[answers])


def _batches(items: Sequence[Item], size: int, epoch: int, seed: int) -> list[list[int]]:
    """Batches of items of similar length, in random order: a pure function of seed and epoch."""
    rng = np.random.default_rng([seed, epoch, 11])
    order = rng.permutation(len(items))
    out: list[list[int]] = []
    for i in range(0, len(order), size * 16):
        part = sorted(order[i : i + size * 16], key=lambda j: items[j].length)
        out += [list(part[k : k + size]) for k in range(0, len(part), size)]
    return [out[i] for i in rng.permutation(len(out))]


def connector_key(meta: dict[str, Any]) -> str:
    """Content key of a trained connector: everything that made it."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def train(
    language: LanguageModel,
    prompt: Prompt,
    recipe: RecipeCard,
    features: Sequence[FeatureSet],
    items: Sequence[Item],
    meta: dict[str, Any],
    cache: Path,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> tuple[Connector, dict[str, Any], bool]:
    """Train a connector, or take it from ``cache``/connectors. Returns (connector, notes, whether it was a hit).

    An interrupted training goes on from its last state. Raises UsageError where the image tokens do not fit the model's context.
    """
    if not items:
        raise UsageError(f"recipe {recipe.name}: no training questions; check `recipe.data`")
    tokens, dim = features[0].patches.shape[1:]
    longest = len(prompt.head) + tokens + max(len(p) + len(a) for i in items for p, a in i.questions)
    if longest > language.context:
        raise UsageError(
            f"{language.name}: {tokens} image tokens and the longest question need {longest} positions, it has {language.context}; use fewer tokens"
        )
    key = connector_key(meta)
    path = cache / "connectors" / f"{key}.safetensors"
    if path.exists():
        try:
            found, stored = connectors.load(path, recipe.connector, dim, language.width)
            return found.to(device), stored["notes"], True
        except UsageError as e:
            progress.say(f"{e}")
    weight = language.model.get_input_embeddings().weight
    torch.manual_seed(seed)
    net = Connector(recipe.connector, dim, language.width, float(weight.float().pow(2).mean().sqrt())).to(device)
    connectors.fit_standardization(net, features[0].patches if len(features) == 1 else _Stacked([f.patches for f in features]))
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(items) / recipe.images_per_batch)
    steps = max(1, round(recipe.epochs * per_epoch))
    state_path = path.with_suffix(".state.pt")
    step, losses = 0, []
    if state_path.exists():
        try:
            state = torch.load(state_path, weights_only=True, map_location=device)
            net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            step, losses = state["step"], state["losses"]
        except Exception:  # a broken state is no loss: the training begins again
            step, losses = 0, []
    bf16 = device.type == "cuda" or (device.type == "cpu" and _bf16_pays())
    saved = time.monotonic()
    schedule: list[list[int]] = []
    epoch = -1
    net.train()
    with progress.stage(f"connector ({recipe.name})", steps - step, "step") as bar:
        while step < steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                schedule = _batches(items, recipe.images_per_batch, epoch, seed)
            batch = [items[i] for i in schedule[step % per_epoch % len(schedule)]]
            warm = max(1, round(recipe.warmup * steps))
            rate = min(1.0, (step + 1) / warm)
            if recipe.schedule == "cosine":
                rate *= 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate
            raw = np.stack([features[i.source].patches[i.row] for i in batch]).astype(np.float32)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = packed_loss(language, prompt, net(torch.from_numpy(raw).to(device)), batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise LevlError(f"connector ({recipe.name}): the loss is {value} at step {step}; lower recipe.lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            optimizer.step()
            losses.append(value)
            step += 1
            bar.advance(note=f"loss {np.mean(losses[-50:]):.3f}")
            if time.monotonic() - saved > 30:
                saved = time.monotonic()
                with atomic_path(state_path) as temporary:
                    torch.save(
                        {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "losses": losses}, temporary
                    )
    curve = [round(float(np.mean(part)), 5) for part in np.array_split(np.array(losses), min(50, len(losses)))]
    notes = {
        "connector": key,
        "connector_steps": steps,
        "connector_loss": curve,
        "connector_questions": sum(len(i.questions) for i in items),
    }
    net.eval().requires_grad_(False)
    connectors.save(path, net, {**meta, "notes": notes})
    state_path.unlink(missing_ok=True)
    return net, notes, False


def _bf16_pays() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); elsewhere it is emulated, and slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Stacked:
    """Several [N, n, D'] arrays read as one, for the standardisation's pass."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.shape = (sum(len(a) for a in arrays), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        out, start = [], 0
        for a in self.arrays:
            low, high = max(part.start - start, 0), min(part.stop - start, len(a))
            if low < high:
                out.append(np.asarray(a[low:high]))
            start += len(a)
        return np.concatenate(out)
