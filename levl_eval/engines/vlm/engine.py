"""Shared-prefix answering: an image's prefix runs once, all its questions continue from it together.

The image prefix (head and visual tokens) is by far the longest part of a prompt. It is prefilled once an image; its key-value
cache is laid out for that image's questions, in chunks under a memory bound; those are padded on the left, with explicit
positions, and decoded greedily together; finished rows are dropped. In float32 the answers equal those of one `generate` a
question (``answer_alone``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from levl_eval.core.errors import UsageError
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.prompts import Prompt

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True)
class Bounds:
    """What may be decoded at once: ``rows`` questions, and ``memory`` bytes of keys, values and logits."""

    rows: int = 256
    memory: int = 1 << 30

    def fit(self, language: LanguageModel, positions: int) -> int:
        """Rows of so many positions that fit. Half the memory is left to the images' own prefixes."""
        return max(1, min(self.rows, self.memory // (2 * language.row_bytes(positions))))


@dataclass
class _Prefix:
    """The key-value cache behind the prefixes of some images, and how long they are."""

    cache: DynamicCache
    length: int


def _cut(language: LanguageModel, ids: list[int], stop: Sequence[str]) -> str:
    """Text of answer tokens up to the end token or the first stop string."""
    for k, token in enumerate(ids):
        if token in language.ends:
            ids = ids[:k]
            break
    text = language.tokenizer.decode(ids, skip_special_tokens=True)
    for mark in stop:
        body = text.lstrip()
        if mark in body:
            text = body.split(mark)[0]
    out: str = text.strip()
    return out


def _embed_prefix(language: LanguageModel, prompt: Prompt, visual: Tensor | None, count: int) -> Tensor:
    """Input embeddings [count, P, width] of what stands before the questions."""
    head = torch.tensor(prompt.head, dtype=torch.long, device=language.device)
    embeds = language.embed(head).expand(count, -1, -1)
    if visual is not None:
        embeds = torch.cat([embeds, visual.to(device=language.device, dtype=language.dtype)], 1)
    return embeds


def _last(length: int, kept: int, device: torch.device) -> Tensor:
    """The last ``kept`` of ``length`` positions; a number would make them a view, by which bfloat16 on CPUs copies the vocabulary a row."""
    return torch.arange(max(0, length - kept), length, device=device)


def _prefill(language: LanguageModel, embeds: Tensor) -> _Prefix:
    from transformers import DynamicCache

    cache = DynamicCache(config=language.model.config)
    if embeds.shape[1]:
        last = _last(embeds.shape[1], 1, embeds.device)
        language.model(inputs_embeds=embeds, use_cache=True, logits_to_keep=last, **{language.cache_argument(): cache})
    return _Prefix(cache, embeds.shape[1])


def _lay_out(prefix: _Prefix, images: Sequence[int], device: torch.device) -> DynamicCache:
    """A cache of its own with one row for every entry of ``images``; the prefix's is left as it is."""
    rows = copy.copy(prefix.cache)
    rows.layers = [copy.copy(layer) for layer in prefix.cache.layers]
    if prefix.length:
        rows.batch_select_indices(torch.tensor(images, device=device))
    return rows


def _check_context(language: LanguageModel, prefix: int, longest: int, new: int) -> None:
    if prefix + longest + new > language.context:
        raise UsageError(
            f"{language.name}: {prefix} prefix, {longest} question and {new} answer tokens exceed its context of {language.context}; "
            "use fewer image tokens (connector.kind=resampler or unshuffle_mlp) or a model with more positions"
        )


def too_long(
    language: LanguageModel, prompt: Prompt, visual: int, questions: Iterable[tuple[str, str]], new: int | None = None
) -> dict[str, int]:
    """key -> positions it needs, of the (key, question) pairs that do not fit the model's context. visual: image tokens before it.

    Only questions of more bytes than there are positions left are tokenised: no token stands for less than a byte.
    """
    fixed = len(prompt.head) + visual + (prompt.spec.max_new_tokens if new is None else new)
    around = len(prompt.question(language, "")) + 8
    out = {}
    for key, text in questions:
        if fixed + around + len(text.encode("utf-8", "surrogatepass")) <= language.context:
            continue
        need = fixed + len(prompt.question(language, text))
        if need > language.context:
            out[key] = need
    return out


def _chunks(language: LanguageModel, lengths: Sequence[int], prefix: int, new: int, bounds: Bounds) -> Iterator[list[int]]:
    """Indices of rows that run together.

    Rows of different lengths are padded inside the sequence. A sliding window is counted in cache places, padding included, and
    with nothing before it a padded place would see nothing at all: in both cases only rows of one length run together.
    """
    alike = language.window is not None or not prefix
    groups: dict[int, list[int]] = {}
    for i, n in enumerate(lengths):
        groups.setdefault(n if alike else 0, []).append(i)
    for group in groups.values():
        size = bounds.fit(language, prefix + max(lengths[i] for i in group) + new)
        for k in range(0, len(group), size):
            yield group[k : k + size]


class _Rows:
    """Rows of tokens behind their prefixes: padded ids, mask and positions as the model wants them."""

    def __init__(self, language: LanguageModel, prefix: int, tokens: Sequence[Sequence[int]]) -> None:
        device, longest = language.device, max(len(x) for x in tokens)
        padding = torch.tensor([longest - len(x) for x in tokens])
        self.ids = torch.full((len(tokens), longest), language.eos, dtype=torch.long)
        for r, x in enumerate(tokens):
            self.ids[r, longest - len(x) :] = torch.tensor(x)
        steps = torch.arange(longest)[None, :] - padding[:, None]
        seen = torch.ones(len(tokens), prefix, dtype=torch.long)
        self.ids = self.ids.to(device)
        self.mask = torch.cat([seen, (steps >= 0).long()], 1).to(device)
        self.position = (prefix + steps.clamp(min=0)).to(device)

    def keep(self, index: Tensor, chosen: Tensor) -> None:
        """Go on with some rows and one new token each."""
        self.ids = chosen[index, None]
        self.position = self.position[index, -1:] + 1
        self.mask = torch.cat([self.mask[index], self.mask.new_ones(len(index), 1)], 1)


def _decode(
    language: LanguageModel,
    prompt: Prompt,
    cache: DynamicCache,
    prefix: int,
    tokens: Sequence[Sequence[int]],
    choices: Sequence[int] = (),
) -> tuple[list[list[int]], list[list[float]], list[bool]]:
    """Greedy continuations of rows of tokens that stand behind the rows of ``cache``; log-likelihoods of ``choices`` as their first; and
    which rows went on to the last step without an end or a stop string.
    """
    name, spec = language.cache_argument(), prompt.spec
    rows = _Rows(language, prefix, tokens)
    alive = list(range(len(tokens)))
    out: list[list[int]] = [[] for _ in tokens]
    values: list[list[float]] = [[] for _ in tokens]
    for step in range(spec.max_new_tokens):
        logits = language.model(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            position_ids=rows.position,
            use_cache=True,
            logits_to_keep=_last(rows.ids.shape[1], 1, rows.ids.device),
            **{name: cache},
        ).logits
        chosen = logits[:, -1].argmax(-1)
        if choices and step == 0:
            values = logits[:, -1].float().log_softmax(-1)[:, list(choices)].tolist()
        keep = []
        for k, token in enumerate(chosen.tolist()):
            out[alive[k]].append(token)
            stopped = spec.stop and any(s in language.tokenizer.decode(out[alive[k]]).lstrip() for s in spec.stop)
            if token not in language.ends and not stopped:
                keep.append(k)
        if not keep:
            alive = []
            break
        index = torch.tensor(keep, device=language.device)
        if len(keep) < len(alive):
            cache.batch_select_indices(index)
        alive = [alive[k] for k in keep]
        rows.keep(index, chosen)
    cut = set(alive)
    return out, values, [k in cut for k in range(len(tokens))]


@torch.inference_mode()
def answer_batch(
    language: LanguageModel,
    prompt: Prompt,
    visual: Tensor | None,
    questions: Sequence[Sequence[str]],
    bounds: Bounds = Bounds(),
) -> list[list[str]]:
    """Greedy answers to ``questions[i]`` about the image of ``visual[i]``.

    visual: [B, N, width] connector outputs, or None for a prompt without an image (text only). Raises UsageError where prefix and
    question do not fit the model's context.
    """
    return _answer(language, prompt, visual, questions, (), bounds)[0]


def _answer(
    language: LanguageModel,
    prompt: Prompt,
    visual: Tensor | None,
    questions: Sequence[Sequence[str]],
    choices: Sequence[int],
    bounds: Bounds,
    cut: list[list[bool]] | None = None,
) -> tuple[list[list[str]], list[list[list[float]]]]:
    """Answers, and log-likelihoods of the tokens ``choices`` as their first: [image][question] and [image][question][choice].

    cut: filled with which answers reached ``max_new_tokens``, [image][question].
    """
    asked = [(i, prompt.question(language, q)) for i, qs in enumerate(questions) for q in qs]
    if not asked:
        return [[] for _ in questions], [[] for _ in questions]
    new = prompt.spec.max_new_tokens
    embeds = _embed_prefix(language, prompt, visual, len(questions))
    lengths = [len(ids) for _, ids in asked]
    _check_context(language, embeds.shape[1], max(lengths), new)
    prefix = _prefill(language, embeds)
    results: list[tuple[str, list[float], bool]] = [("", [], False)] * len(asked)
    for chunk in _chunks(language, lengths, prefix.length, new, bounds):
        cache = _lay_out(prefix, [asked[r][0] for r in chunk], language.device)
        decoded = _decode(language, prompt, cache, prefix.length, [asked[r][1] for r in chunk], choices)
        for r, ids, likely, unended in zip(chunk, *decoded, strict=True):
            results[r] = _cut(language, ids, prompt.spec.stop), likely, unended
    texts: list[list[str]] = [[] for _ in questions]
    values: list[list[list[float]]] = [[] for _ in questions]
    flags: list[list[bool]] = [[] for _ in questions]
    for (i, _), (text, likely, unended) in zip(asked, results, strict=True):
        texts[i].append(text)
        values[i].append(likely)
        flags[i].append(unended)
    if cut is not None:
        cut += flags
    return texts, values


@torch.inference_mode()
def likelihood_batch(
    language: LanguageModel,
    prompt: Prompt,
    visual: Tensor | None,
    pairs: Sequence[Sequence[tuple[str, str]]],
    bounds: Bounds = Bounds(),
) -> list[list[tuple[float, bool]]]:
    """For each (question, beginning of an answer) of ``pairs[i]`` about image i: natural log-likelihood of the beginning, and whether
    greedy decoding would begin so.
    """
    asked = [(i, prompt.question(language, q), prompt.answer_start(language, end)) for i, ps in enumerate(pairs) for q, end in ps]
    if not asked:
        return [[] for _ in pairs]
    embeds = _embed_prefix(language, prompt, visual, len(pairs))
    lengths = [len(q) + len(end) for _, q, end in asked]
    _check_context(language, embeds.shape[1], max(lengths), 0)
    prefix = _prefill(language, embeds)
    kept = max(len(end) for _, _, end in asked) + 1
    values = [(0.0, False)] * len(asked)
    for chunk in _chunks(language, lengths, prefix.length, 0, bounds):
        cache = _lay_out(prefix, [asked[r][0] for r in chunk], language.device)
        rows = _Rows(language, prefix.length, [[*asked[r][1], *asked[r][2]] for r in chunk])
        logits = language.model(
            input_ids=rows.ids, attention_mask=rows.mask, position_ids=rows.position, use_cache=True,
            logits_to_keep=_last(rows.ids.shape[1], kept, rows.ids.device), **{language.cache_argument(): cache},
        ).logits.float()  # fmt: skip
        for k, r in enumerate(chunk):
            end = torch.tensor(asked[r][2], dtype=torch.long, device=logits.device)
            table = logits[k, -len(end) - 1 : -1].log_softmax(-1)
            values[r] = float(table.gather(1, end[:, None]).sum()), bool((table.argmax(-1) == end).all())
    flat = iter(values)
    return [[next(flat) for _ in ps] for ps in pairs]


def score_batch(
    language: LanguageModel,
    prompt: Prompt,
    visual: Tensor | None,
    questions: Sequence[Sequence[str]],
    choices: Sequence[str],
    bounds: Bounds = Bounds(),
) -> list[list[list[float]]]:
    """Log-likelihood of each of ``choices`` as the beginning of the answer: [image][question][choice], natural logarithm."""
    pairs = [[(q, c) for q in qs for c in choices] for qs in questions]
    results = likelihood_batch(language, prompt, visual, pairs, bounds)
    n = len(choices)
    return [
        [[v for v, _ in row[k * n : (k + 1) * n]] for k in range(len(qs))] for row, qs in zip(results, questions, strict=True)
    ]


@torch.inference_mode()
def answer_alone(language: LanguageModel, prompt: Prompt, visual: Tensor | None, question: str) -> str:
    """One question with the library's own `generate`: what the shared-prefix engine must equal, and is compared with in speed.

    visual: [N, width] or None.
    """
    tail = language.embed(torch.tensor(prompt.question(language, question), device=language.device))[None]
    embeds = torch.cat([_embed_prefix(language, prompt, None if visual is None else visual[None], 1), tail], 1)
    out = language.model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=language.device),
        max_new_tokens=prompt.spec.max_new_tokens, do_sample=False, num_beams=1,
        eos_token_id=sorted(language.ends), pad_token_id=language.eos,
    )  # fmt: skip
    return _cut(language, out[0].tolist(), prompt.spec.stop)


def _groups(sizes: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Consecutive images whose questions together are at most ``rows``; an image with more stands alone."""
    group: list[int] = []
    total = 0
    for i, n in enumerate(sizes):
        if group and total + n > rows:
            yield group
            group, total = [], 0
        group.append(i)
        total += n
    if group:
        yield group


def answer_all(
    language: LanguageModel,
    prompt: Prompt,
    visual_of: Callable[[Sequence[int]], Tensor] | None,
    questions: Sequence[Sequence[str]],
    bounds: Bounds = Bounds(),
    choices: Sequence[str] = (),
    told_cut: Callable[[int, list[bool]], None] | None = None,
) -> Iterator[tuple[int, list[str], list[list[float]]]]:
    """Answers for many images, as they become ready: (image index, its answers, log-likelihoods of ``choices`` for each question).

    told_cut: called before each with the image index and which of its answers reached ``max_new_tokens``.

    visual_of: image indices -> visual tokens [b, N, width]; None without images. Small images are grouped so that at most
    ``bounds`` are decoded together; an image with more questions is prefilled once and asked in chunks.
    """
    if not any(questions):
        return
    probe = visual_of([0]).shape[1] if visual_of is not None else 0
    sample = [len(prompt.question(language, q)) for q in sorted((q for qs in questions for q in qs), key=len)[-3:]]
    # before an hour's answers, not behind
    _check_context(language, len(prompt.head) + probe, max(sample), prompt.spec.max_new_tokens)
    rows = bounds.fit(language, len(prompt.head) + probe + max(sample) + prompt.spec.max_new_tokens)
    starts = [prompt.answer_start(language, c) for c in choices]
    # Choices of one token ("yes" and "no" in most vocabularies) can be read where the answer begins, at no cost.
    first = [s[0] for s in starts] if all(len(s) == 1 for s in starts) else []
    for group in _groups([len(qs) for qs in questions], rows):
        visual = visual_of(group) if visual_of is not None else None
        part = [questions[i] for i in group]
        cut: list[list[bool]] = []
        with torch.inference_mode():
            texts, values = _answer(language, prompt, visual, part, first, bounds, cut)
        if choices and not first:
            values = score_batch(language, prompt, visual, part, choices, bounds)
        for i, answers, likely, flags in zip(group, texts, values if choices else [[] for _ in part], cut, strict=True):
            if told_cut is not None:
                told_cut(i, flags)
            yield i, answers, likely


def likelihood_all(
    language: LanguageModel,
    prompt: Prompt,
    visual_of: Callable[[Sequence[int]], Tensor] | None,
    pairs: Sequence[Sequence[tuple[str, str]]],
    bounds: Bounds = Bounds(),
) -> Iterator[tuple[int, list[tuple[float, bool]]]]:
    """``likelihood_batch`` for many images, grouped as in ``answer_all``: (image index, what each of its pairs got)."""
    if not any(pairs):
        return
    probe = visual_of([0]).shape[1] if visual_of is not None else 0
    longest = sorted((q + end for ps in pairs for q, end in ps), key=len)[-3:]
    rows = bounds.fit(language, len(prompt.head) + probe + max(len(prompt.question(language, t)) for t in longest))
    for group in _groups([len(ps) for ps in pairs], rows):
        visual = visual_of(group) if visual_of is not None else None
        yield from zip(group, likelihood_batch(language, prompt, visual, [pairs[i] for i in group], bounds), strict=True)
