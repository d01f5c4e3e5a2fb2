"""Shared-prefix answering: an image's prefix runs once, all its questions continue from it together.

The image prefix (head and visual tokens) is by far the longest part of a prompt. It is prefilled once an image; its key-value
cache is laid out for that image's questions; those are padded on the left, with explicit positions, and decoded greedily
together; finished rows are dropped. In float32 the answers equal those of one `generate` a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from levl_eval.errors import UsageError
from levl_eval.vlm.language import LanguageModel
from levl_eval.vlm.prompts import Prompt


def _cut(language: LanguageModel, ids: list[int], stop: Sequence[str]) -> str:
    """Text of answer tokens up to the end token or the first stop string."""
    if language.eos in ids:
        ids = ids[: ids.index(language.eos)]
    text = language.tokenizer.decode(ids, skip_special_tokens=True)
    for mark in stop:
        body = text.lstrip()
        if mark in body:
            text = body.split(mark)[0]
    return text.strip()


def _slides(model: Any) -> bool:
    config = model.config.get_text_config()
    return "sliding_attention" in (getattr(config, "layer_types", None) or ()) or bool(
        getattr(config, "use_sliding_window", False)
    )


def _by_length(
    language: LanguageModel, prompt: Prompt, visual: Tensor | None, questions: Sequence[Sequence[str]]
) -> list[list[str]]:
    """The same answers in batches of equally long questions."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for i, qs in enumerate(questions):
        for k, q in enumerate(qs):
            groups.setdefault(len(prompt.question(language, q)), []).append((i, k))
    out = [[""] * len(qs) for qs in questions]
    for where in groups.values():
        images = sorted({i for i, _ in where})
        part = [[questions[i][k] for j, k in where if j == i] for i in images]
        found = answer_batch(language, prompt, None if visual is None else visual[images], part)
        for i, texts in zip(images, found, strict=True):
            for (_, k), text in zip([w for w in where if w[0] == i], texts, strict=True):
                out[i][k] = text
    return out


@torch.inference_mode()
def answer_batch(
    language: LanguageModel, prompt: Prompt, visual: Tensor | None, questions: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Greedy answers to ``questions[i]`` about the image of ``visual[i]``.

    visual: [B, N, width] connector outputs, or None for a prompt without an image (text only). Raises UsageError where prefix and
    question do not fit the model's context.
    """
    from transformers import DynamicCache

    model, device = language.model, next(language.model.parameters()).device
    kind = language.model.get_input_embeddings().weight.dtype
    count = len(questions)
    head = torch.tensor(prompt.head, dtype=torch.long, device=device)
    embeds = language.embed(head).expand(count, -1, -1)
    if visual is not None:
        embeds = torch.cat([embeds, visual.to(device=device, dtype=kind)], 1)
    prefix = embeds.shape[1]
    asked = [(i, prompt.question(language, q)) for i, qs in enumerate(questions) for q in qs]
    if not asked:
        return [[] for _ in questions]
    lengths = {len(ids) for _, ids in asked}
    if len(lengths) > 1 and _slides(model):
        # A sliding window is counted in cache places, padding included: only questions of one length may share a batch.
        return _by_length(language, prompt, visual, questions)
    longest = max(lengths)
    if prefix + longest + prompt.spec.max_new_tokens > language.context:
        raise UsageError(
            f"{language.name}: {prefix} prefix and {longest} question tokens exceed its context of {language.context}; use fewer image tokens"
        )
    cache = DynamicCache(config=model.config)
    name = language.cache_argument()
    if prefix:
        model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1, **{name: cache})
        cache.batch_select_indices(torch.tensor([i for i, _ in asked], device=device))

    rows = len(asked)
    ids = torch.full((rows, longest), language.eos, dtype=torch.long)
    padding = torch.tensor([longest - len(x) for _, x in asked])
    for r, (_, x) in enumerate(asked):
        ids[r, longest - len(x) :] = torch.tensor(x)
    ids, padding = ids.to(device), padding.to(device)
    steps = torch.arange(longest, device=device)[None, :] - padding[:, None]
    mask = torch.cat([torch.ones(rows, prefix, dtype=torch.long, device=device), (steps >= 0).long()], 1)
    position = prefix + steps.clamp(min=0)
    alive = list(range(rows))
    out: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(prompt.spec.max_new_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=position, use_cache=True, logits_to_keep=1, **{name: cache}
        ).logits
        chosen = logits[:, -1].argmax(-1)
        keep = []
        for k, token in enumerate(chosen.tolist()):
            out[alive[k]].append(token)
            done = token == language.eos or any(s in language.tokenizer.decode(out[alive[k]]).lstrip() for s in prompt.spec.stop)
            if not done:
                keep.append(k)
        if not keep:
            break
        index = torch.tensor(keep, device=device)
        if len(keep) < len(alive):
            cache.batch_select_indices(index)
        alive = [alive[k] for k in keep]
        ids = chosen[index, None]
        position = position[index, -1:] + 1
        mask = torch.cat([mask[index], mask.new_ones(len(keep), 1)], 1)
    texts = [_cut(language, x, prompt.spec.stop) for x in out]
    result: list[list[str]] = [[] for _ in questions]
    for (i, _), text in zip(asked, texts, strict=True):
        result[i].append(text)
    return result


def answer_all(
    language: LanguageModel,
    prompt: Prompt,
    visual_of: Callable[[Sequence[int]], Tensor] | None,
    questions: Sequence[Sequence[str]],
    advance: Callable[[int], None],
    rows: int = 256,
) -> list[list[str]]:
    """Answers for many images: images are grouped so that at most about ``rows`` questions are decoded together.

    visual_of: image indices -> visual tokens [b, N, width]; None without images. An image with more questions than ``rows`` is
    asked in several chunks.
    """
    out: list[list[str]] = [[] for _ in questions]
    pieces = [(i, list(qs[k : k + rows])) for i, qs in enumerate(questions) for k in range(0, len(qs), rows)]
    at = 0
    while at < len(pieces):
        group: list[tuple[int, list[str]]] = []
        total = 0
        while at < len(pieces) and (not group or total + len(pieces[at][1]) <= rows):
            group.append(pieces[at])
            total += len(pieces[at][1])
            at += 1
        visual = visual_of([i for i, _ in group]) if visual_of is not None else None
        for (i, _), texts in zip(group, answer_batch(language, prompt, visual, [qs for _, qs in group]), strict=True):
            out[i] += texts
        advance(total)
    return out
