"""Packed training rows of the embedded language model, with where its heads should look while it learns to read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.tools.scenes_lm.text import BOS, EOS, PROMPT, TOGETHER, Asked, Example, Phrase

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_FUNCTION_WORDS = frozenset("a an the at on is there and of behind them background with says reads line".split())

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
        # letters and digits too
        self.meaning = {i for i, t in bare.items() if t.isascii() and t.isalnum() and t not in _FUNCTION_WORDS}

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


@dataclass
class _Row:
    """One description with its questions, while it grows. ends: where the copies of each phrase end; held: the words each phrase says."""

    number: int
    ids: list[int]
    ends: list[list[int]] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


class _Packer:
    """Lays examples out in rows and notes where their positions should look."""

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer, blind: frozenset[int]) -> None:
        self.bos, self.eos = (int(i) for i in tokenizer.encode(BOS + EOS).ids)
        self.meaning, self.blind = _Words(tokenizer), blind
        texts: list[str] = []
        for e in examples:
            texts += [" " + p.text for p in e.phrases]  # every word then carries its space, also the first
            for q in e.questions:
                texts += [PROMPT.format(question=q.question), f" {q.answer}"]
        self.encoded = iter(tokenizer.encode_batch(texts))
        self.added: list[tuple[int, int, int, float]] = []  # row, position, token, weight
        self.looks = {k: Looks() for k in (GATHER, FIND, COMPARE, READ)}
        self.words = {k: Looks() for k in (GATHER, FIND)}
        self.rows = [self._row(i, e) for i, e in enumerate(examples)]

    def _row(self, number: int, example: Example) -> _Row:
        row = _Row(number, [self.bos])
        rng = random.Random(len(example.text))
        bare = example.unsure and rng.random() < 0.5  # a connector's tokens hold no punctuation
        for phrase in example.phrases:
            self._phrase(row, example, phrase, bare, rng)
        start = len(row.ids)
        row.positions, row.block, row.weights = list(range(start)), [0] * start, [0.0] * start
        for k, question in enumerate(example.questions):
            self._question(row, question, start, k + 1)
        return row

    def _phrase(self, row: _Row, example: Example, phrase: Phrase, bare: bool, rng: random.Random) -> None:
        """As often as it has copies, word by word or (TOGETHER) as one token that its words are added to."""
        tokens = next(self.encoded).ids
        content = self.meaning.of(tokens)
        where = []
        for _ in range(0 if row.number in self.blind else phrase.copies):
            start = len(row.ids)
            if example.style == TOGETHER:
                row.ids.append(tokens[-1])
                held_now = [(w, 1.0) for w in content]
                if example.unsure:
                    held_now = _with_doubt(content, phrase.name, example.absent, self.meaning, rng)
                self.added += [(row.number, start, w, x) for w, x in held_now]
                if bare:
                    self.added.append((row.number, start, tokens[-1], -1.0))
                kept = [w for w, _ in held_now if w in content]
            else:
                row.ids += tokens
                targets = [start + k for k, t in enumerate(tokens) if t in self.meaning.meaning]
                self.looks[GATHER].add(row.number, len(row.ids) - 1, targets)
                kept = content
            where.append(len(row.ids) - 1)
            self.words[GATHER].add(row.number, where[-1], kept)
        row.ends.append(where)
        row.held.append(content)

    def _question(self, row: _Row, question: Asked, start: int, block: int) -> None:
        """Behind all that is there, at the positions right behind the description, which ends at ``start``."""
        prompt, answer = next(self.encoded), [*next(self.encoded).ids, self.eos]
        blind, shift = row.number in self.blind, PROMPT.index("{")
        seen = [] if blind else [(len(row.ids) + _token_at(prompt, shift + at), points) for at, points in question.cues]
        for at, points in seen:
            self.looks[FIND].add(row.number, at, [x for p in points for x in row.ends[p]] or [0])
            self.words[FIND].add(row.number, at, sorted({w for p in points for w in row.held[p]}) or [self.bos])
        if question.compares and len(seen) == 2:
            self.looks[COMPARE].add(row.number, seen[1][0], [seen[0][0]])
        if question.source and not blind:
            self.looks[READ].add(
                row.number, len(row.ids) + len(prompt.ids) - 1, [x for p in question.source for x in row.ends[p]]
            )
        row.ids += prompt.ids + answer
        row.positions += range(start, start + len(prompt.ids) + len(answer))
        row.block += [block] * (len(prompt.ids) + len(answer))
        row.weights += [0.0] * len(prompt.ids) + [1.0] * len(answer)


def pack(examples: Sequence[Example], tokenizer: Tokenizer, blind: frozenset[int] = frozenset()) -> Batch:
    """Descriptions with all their questions in one row each.

    Every question sees the description and itself, and stands right behind the description by its positions, as at inference.
    Answers and their ends are the targets. ``blind``: rows whose description is left out (text-only prior).
    """
    packed = _Packer(examples, tokenizer, blind)
    width = max(len(row.ids) for row in packed.rows)
    shape = (len(packed.rows), width)
    out = Batch(
        ids=np.zeros(shape, np.int64),
        positions=np.zeros(shape, np.int64),
        targets=np.full(shape, -100),
        weights=np.zeros(shape, np.float32),
        block=np.full(shape, -1),
        added=[(i * width + at, w, x) for i, at, w, x in packed.added],
        looks=packed.looks,
        words=packed.words,
    )
    for i, row in enumerate(packed.rows):
        n = len(row.ids)
        out.ids[i, :n], out.positions[i, :n], out.block[i, :n] = row.ids, row.positions, row.block
        # Token t is predicted by t - 1, which lies in the same block wherever the weight is not zero.
        out.targets[i, : n - 1], out.weights[i, : n - 1] = row.ids[1:], row.weights[1:]
    return out
