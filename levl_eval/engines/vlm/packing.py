"""An image's questions and answers packed behind its prefix, and the loss on the answers.

[head | image tokens | question 1 answer 1 | question 2 answer 2 | ...] in one row. A mask lets every question see the head, the
image and itself, and positions restart behind the image, so that each question stands where it would stand alone: the loss
equals the unpacked one, and the image prefix runs once instead of once a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.cards import PromptSpec, RecipeCard
from levl_eval.core.errors import UsageError
from levl_eval.data.types import Question
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.features.store import FeatureSet

if TYPE_CHECKING:
    from levl_eval.engines.vlm.language import LanguageModel

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # prompt tokens, answer tokens


@dataclass(frozen=True)
class Item:
    """An image with some of its questions, tokenised. row: of the feature set ``source``. weight: of its answers' losses."""

    source: int
    row: int
    questions: tuple[Pair, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        return sum(len(p) + len(a) for p, a in self.questions)


def _choose(counts: Sequence[int], recipe: RecipeCard, rng: np.random.Generator) -> list[np.ndarray]:
    """Which questions of each data set are trained on: its ``count``, then the mix's ``max_questions``; in order of the files."""
    kept = []
    for k, n in enumerate(counts):
        wanted = recipe.data[k].count if k < len(recipe.data) else None
        kept.append(np.arange(n) if wanted is None or wanted >= n else np.sort(rng.choice(n, wanted, replace=False)))
    total = sum(map(len, kept))
    if recipe.max_questions is None or total <= recipe.max_questions:
        return kept
    mask = np.zeros(total, bool)
    mask[rng.choice(total, recipe.max_questions, replace=False)] = True
    ends = np.cumsum([len(x) for x in kept])
    return [x[mask[end - len(x) : end]] for x, end in zip(kept, ends, strict=True)]


def make_items(
    sets: Sequence[tuple[Sequence[Question], FeatureSet]], language: LanguageModel, prompt: Prompt, recipe: RecipeCard, seed: int
) -> list[Item]:
    """Group questions by image, at most ``questions_per_image`` in an item; fixed random subsets where the recipe limits them.

    Raises UsageError naming the question whose answer is empty.
    """
    rng = np.random.default_rng([seed, 7])
    chosen = _choose([len(questions) for questions, _ in sets], recipe, rng)
    out = []
    for k, ((questions, features), indices) in enumerate(zip(sets, chosen, strict=True)):
        rows = features.row
        by_image: dict[int, list[Pair]] = {}
        for j in indices:
            q = questions[int(j)]
            try:
                answer = prompt.answer(language, q.answer)
            except UsageError as e:
                raise UsageError(f"recipe {recipe.name}: question {q.question_id} (image {q.image_id}): {e}") from e
            by_image.setdefault(rows[q.image_id], []).append((tuple(prompt.question(language, q.question)), tuple(answer)))
        weight = recipe.data[k].weight if k < len(recipe.data) else 1.0
        for row, pairs in by_image.items():
            order = rng.permutation(len(pairs))
            for i in range(0, len(pairs), recipe.questions_per_image):
                out.append(Item(k, row, tuple(pairs[j] for j in order[i : i + recipe.questions_per_image]), weight))
    return out


def _mask(language: LanguageModel, sees: Tensor, position: Tensor, kind: torch.dtype) -> Tensor | dict[str, Tensor]:
    """bool [B, T, T] as the additive mask the model wants: one for all layers, or one a kind of layer where some slide."""

    def additive(visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=kind, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(kind).min)[:, None]

    if language.window is None:
        return additive(sees)
    close = sees & (position[:, :, None] - position[:, None, :] < language.window)
    if getattr(language.config, "layer_types", None):
        return {"full_attention": additive(sees), "sliding_attention": additive(close)}
    return additive(close)


def _logits(language: LanguageModel, hidden: Tensor) -> Tensor:
    """Last hidden states [n, width] -> float32 logits [n, V], with what some architectures do to them behind the output matrix."""
    c = language.config
    logits = language.model.get_output_embeddings()(hidden).float()
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        logits = logits * float(getattr(c, name, None) or 1.0)
    logits = logits / float(getattr(c, "logits_scaling", None) or 1.0)  # Granite
    cap = getattr(c, "final_logit_softcapping", None)  # Gemma 2
    out: Tensor = cap * torch.tanh(logits / cap) if cap else logits
    return out


def packed_terms(language: LanguageModel, prompt: Prompt, visual: Tensor, items: Sequence[Item]) -> tuple[Tensor, float]:
    """Weighted sum of the cross entropies of the answer tokens of a batch, and the sum of their weights.

    visual: [B, N, width], one row an item.
    """
    device = visual.device
    head = torch.tensor(prompt.head, dtype=torch.long, device=device)
    start = len(prompt.head) + visual.shape[1]
    width = max(i.length for i in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    block = torch.full((len(items), width), -1, dtype=torch.long)
    position = torch.zeros(len(items), width, dtype=torch.long)
    weights = torch.zeros(len(items), width)
    for b, item in enumerate(items):
        at = 0
        for k, (p, a) in enumerate(item.questions):
            n = len(p) + len(a)
            ids[b, at : at + n] = torch.tensor([*p, *a])
            block[b, at : at + n] = k + 1
            position[b, at : at + n] = torch.arange(start, start + n)
            weights[b, at + len(p) : at + n] = item.weight
            at += n
    ids, block, position, weights = (t.to(device) for t in (ids, block, position, weights))
    kind = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else language.dtype
    embeds = torch.cat(
        [language.embed(head).expand(len(items), -1, -1).to(kind), visual.to(kind), language.embed(ids).to(kind)], 1
    )
    block = torch.cat([torch.zeros(len(items), start, dtype=torch.long, device=device), block], 1)
    position = torch.cat([torch.arange(start, device=device).expand(len(items), -1), position], 1)
    total = block.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    sees = ((block[:, :, None] == block[:, None, :]) | (block == 0)[:, None, :]) & causal
    mask = _mask(language, sees, position, kind)
    hidden = _decoder(language)(
        inputs_embeds=embeds, attention_mask=mask, position_ids=position, use_cache=False
    ).last_hidden_state
    # The token before an answer token predicts it.
    asked = weights > 0
    losses = F.cross_entropy(_logits(language, hidden[:, start - 1 : -1][asked]), ids[asked], reduction="none")
    return (losses * weights[asked]).sum(), float(weights.sum())


def packed_loss(language: LanguageModel, prompt: Prompt, visual: Tensor, items: Sequence[Item]) -> Tensor:
    """Mean cross entropy of the answer tokens of a batch."""
    total, weight = packed_terms(language, prompt, visual, items)
    return total / weight


def _decoder(language: LanguageModel) -> nn.Module:
    """The model without its output matrix."""
    model = language.model
    out: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    return out


def _alone_and_packed(language: LanguageModel) -> tuple[float, float]:
    """Summed losses of two short questions behind one prefix, each asked by itself, and both packed."""
    ids = [(40 + 31 * k) % language.config.vocab_size for k in range(8)]
    head, pairs = ids[:3], ((tuple(ids[3:5]), (ids[5],)), ((ids[6],), (ids[7],)))
    alone = 0.0
    for question, answer in pairs:
        row = torch.tensor([[*head, *question, *answer]], device=language.device)
        table = language.model(inputs_embeds=language.embed(row)).logits[0, -len(answer) - 1 : -1].float()
        alone += float(F.cross_entropy(table, row[0, -len(answer) :], reduction="sum"))
    nothing = torch.zeros(1, 0, language.width, dtype=language.dtype, device=language.device)
    return alone, float(packed_terms(language, Prompt(PromptSpec(), tuple(head), ""), nothing, [Item(0, 0, pairs)])[0])


@torch.inference_mode()
def check_packing(language: LanguageModel) -> None:
    """Raises UsageError for a model that cannot keep questions behind one prefix apart, or whose logits we would get wrong.

    Positions by distance alone (ALiBi: MPT, BLOOM), recurrent layers, heads that are no matrix. What does not show in the
    architecture is tried: two short questions, packed and by themselves.
    """
    kinds = set(getattr(language.config, "layer_types", None) or ())
    sound = (
        kinds <= {"full_attention", "sliding_attention"} and "position_ids" in signature(_decoder(language).forward).parameters
    )
    if sound:
        alone, packed = _alone_and_packed(language)
        sound = abs(packed - alone) <= (1e-3 if language.dtype == torch.float32 else 0.05) * max(1.0, abs(alone))
    if not sound:
        kind = str(getattr(language.config, "model_type", "") or type(language.model).__name__)
        raise UsageError(
            f"--llm {language.name}: a model of kind {kind} does not keep questions behind one image prefix apart (ALiBi positions, "
            "recurrent layers, or a head of its own); give one with attention and position embeddings, such as Llama, Qwen, GPT-2 or Gemma"
        )
