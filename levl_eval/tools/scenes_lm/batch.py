"""Packed training rows of the embedded language model, with where its heads should look while it learns to read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.tools.scenes_lm.text import BOS, EOS, PROMPT, TOGETHER, Example

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_FUNCTION_WORDS = frozenset("a an the at on is there and of behind them background with".split())

GATHER, FIND, COMPARE, READ = "gather", "find", "compare", "read"


@dataclass
class Looks:
    """Positions that should look at others: position ``at[k]`` of row ``row[k]`` at every ``target[j]`` with ``owner[j] == k``."""

    row: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)

    def add(self, row: int, at: int, targets: Sequence[int]) -> None:
        self.owner += [len(self.row)] * len(targets)
        self.target += targets
        self.row.append(row)
        self.at.append(at)

    def __len__(self) -> int:
        return len(self.row)


@dataclass
class Batch:
    """Packed sequences. ids, positions, targets: int64 [B, T] (targets -100 where nothing is asked); weights float32 [B, T];
    block: int64 [B, T], 0 for the description, k for question k, -1 for padding.

    added: (flat position, token, weight): embeddings added at that position (phrases told at once).
    looks: for GATHER, the end of a phrase at its words; FIND, a word of the question at the ends of phrases it points at (at the
    beginning of text where there is none); COMPARE, the later of two such words at the earlier; READ, the last token of the
    prompt at the phrases that hold the answer. words: the tokens that a GATHER or FIND position should then hold; FIND's first.
    """

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    block: np.ndarray
    added: list[tuple[int, int, float]]
    looks: dict[str, Looks]
    words: dict[str, Looks]


class _Words:
    """Which tokens carry meaning: whole words that are no function words, and pieces of such."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        texts = {i: t for t, i in tokenizer.get_vocab().items()}
        bare = {i: t.removeprefix("\u0120") for i, t in texts.items()}  # byte-level BPE writes a leading space as U+0120
        self.meaning = {i for i, t in bare.items() if t.isascii() and t.isalpha() and t not in _FUNCTION_WORDS}

    def of(self, ids: Sequence[int]) -> list[int]:
        return list(dict.fromkeys(i for i in ids if i in self.meaning))


def _with_doubt(
    content: Sequence[int], name: str, absent: Sequence[str], meaning: _Words, rng: random.Random
) -> list[tuple[int, float]]:
    """The words of a phrase as an encoder knows them: some faint, some missing, the name shared with that of something absent."""
    names = meaning.of(meaning.tokenizer.encode(f" {name}").ids) if name else []
    sure = rng.uniform(0.35, 1.0)
    loud = rng.uniform(0.5, 1.2)
    out = [
        (w, loud * sure) if w in names else (w, loud * rng.uniform(0.3, 1.0))
        for w in content
        if w in names or rng.random() < 0.85
    ]
    if names and absent:
        left = loud * (1 - sure)
        share = rng.random()
        for other, x in zip(rng.sample(absent, min(2, len(absent))), (share * left, (1 - share) * left), strict=False):
            out += [(w, x) for w in meaning.of(meaning.tokenizer.encode(f" {other}").ids)]
    return out


def _token_at(encoding: Encoding, character: int) -> int:
    return next(i for i, (start, end) in enumerate(encoding.offsets) if start <= character < end)


def pack(examples: Sequence[Example], tokenizer: Tokenizer, blind: frozenset[int] = frozenset()) -> Batch:
    """Descriptions with all their questions in one row each. Every question sees the description and itself, and stands right
    behind the description by its positions, as at inference. Answers and their ends are the targets. ``blind``: rows whose
    description is left out (text-only prior)."""
    bos, eos = (int(i) for i in tokenizer.encode(BOS + EOS).ids)
    meaning = _Words(tokenizer)
    texts: list[str] = []
    for e in examples:
        texts += [" " + p.text for p in e.phrases]  # every word then carries its space, also the first
        for q in e.questions:
            texts += [PROMPT.format(question=q.question), f" {q.answer}"]
    encoded = iter(tokenizer.encode_batch(texts))
    rows = []
    added: list[tuple[int, int, int, float]] = []
    looks = {k: Looks() for k in (GATHER, FIND, COMPARE, READ)}
    words = {k: Looks() for k in (GATHER, FIND)}
    shift = PROMPT.index("{")
    for i, e in enumerate(examples):
        ids, ends, held = [bos], [], []
        rng = random.Random(len(e.text))
        bare = e.unsure and rng.random() < 0.5  # a connector's tokens hold no punctuation
        for p in e.phrases:
            tokens = next(encoded).ids
            content = meaning.of(tokens)
            where = []
            for _ in range(0 if i in blind else p.copies):
                start = len(ids)
                if e.style == TOGETHER:
                    ids.append(tokens[-1])
                    held_now = _with_doubt(content, p.name, e.absent, meaning, rng) if e.unsure else [(w, 1.0) for w in content]
                    added += [(i, start, w, x) for w, x in held_now]
                    if bare:
                        added.append((i, start, tokens[-1], -1.0))
                    kept = [w for w, _ in held_now if w in content]
                else:
                    ids += tokens
                    looks[GATHER].add(i, len(ids) - 1, [start + k for k, t in enumerate(tokens) if t in meaning.meaning])
                    kept = content
                where.append(len(ids) - 1)
                words[GATHER].add(i, where[-1], kept)
            ends.append(where)
            held.append(content)
        start = len(ids)
        positions, block, weights = list(range(start)), [0] * start, [0.0] * start
        for k, q in enumerate(e.questions):
            prompt, answer = next(encoded), [*next(encoded).ids, eos]
            seen = [] if i in blind else [(len(ids) + _token_at(prompt, shift + at), points) for at, points in q.cues]
            for at, points in seen:
                looks[FIND].add(i, at, [x for p in points for x in ends[p]] or [0])
                words[FIND].add(i, at, sorted({w for p in points for w in held[p]}) or [bos])
            if q.compares and len(seen) == 2:
                looks[COMPARE].add(i, seen[1][0], [seen[0][0]])
            if q.source and i not in blind:
                looks[READ].add(i, len(ids) + len(prompt.ids) - 1, [x for p in q.source for x in ends[p]])
            ids += prompt.ids + answer
            positions += range(start, start + len(prompt.ids) + len(answer))
            block += [k + 1] * (len(prompt.ids) + len(answer))
            weights += [0.0] * len(prompt.ids) + [1.0] * len(answer)
        rows.append((ids, positions, block, weights))
    width = max(len(r[0]) for r in rows)
    shape = (len(rows), width)
    out = Batch(
        ids=np.zeros(shape, np.int64),
        positions=np.zeros(shape, np.int64),
        targets=np.full(shape, -100),
        weights=np.zeros(shape, np.float32),
        block=np.full(shape, -1),
        added=[(i * width + at, w, x) for i, at, w, x in added],
        looks=looks,
        words=words,
    )
    for i, (ids, positions, block, weights) in enumerate(rows):
        n = len(ids)
        out.ids[i, :n], out.positions[i, :n], out.block[i, :n] = ids, positions, block
        # Token t is predicted by t - 1, which lies in the same block wherever the weight is not zero.
        out.targets[i, : n - 1], out.weights[i, : n - 1] = ids[1:], weights[1:]
    return out
