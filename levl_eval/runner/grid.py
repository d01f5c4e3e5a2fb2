"""`--grid task.field=v1,v2`: a task under every combination of some of its fields, each a protocol of its own.

Features do not depend on a head's fields, so they are computed once and only heads run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean

MAX_VARIANTS = 1_000  # of one task


@dataclass(frozen=True)
class Variant:
    """A task with some fields set. label: the task's name alone where nothing is varied."""

    task: str
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        return f"{self.task}[{', '.join(f'{k}={v}' for k, v in self.choices)}]" if self.choices else self.task


def split_values(text: str) -> list[str]:
    """Commas outside brackets, braces and quotes separate values: ``[0.9,0.99],[0.9,0.95]`` are two."""
    out, depth, quote, start = [], 0, "", 0
    for at, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        elif c == "," and depth == 0:
            out.append(text[start:at].strip())
            start = at + 1
    return [*out, text[start:].strip()]


def stems_of(tasks: Sequence[str]) -> dict[str, list[str]]:
    """How ``--set`` and ``--grid`` call tasks: by name, a card's file by its stem -> the tasks that are called so."""
    out: dict[str, list[str]] = {}
    for t in dict.fromkeys(tasks):
        out.setdefault(Path(t).stem if t.endswith((".yaml", ".yml")) else t, []).append(t)
    return out


def only_task(where: str, stem: str, stems: Mapping[str, Sequence[str]]) -> str:
    """The one task that a word stands for. Raises UsageError where it stands for several; where: the option, as it was given."""
    if len(stems[stem]) > 1:
        raise UsageError(
            f"{where}: {stem!r} may be {' or '.join(stems[stem])}; run them apart, or give one card's file another name"
        )
    return stems[stem][0]


def parse_grid(
    words: Sequence[str], tasks: Sequence[str], settings: Sequence[str] = ()
) -> dict[str, list[tuple[str, list[str]]]]:
    """``["linear.lr=0.1,0.01"]`` -> {"linear": [("lr", ["0.1", "0.01"])]}.

    Raises UsageError for another form, a task that is not run, a field given twice or also by ``--set`` or inside another one,
    and for values given twice.
    """
    stems = stems_of(tasks)
    fixed = {s.partition("=")[0] for s in settings}
    out: dict[str, list[tuple[str, list[str]]]] = {}
    for word in words:
        left, equals, text = word.partition("=")
        task, dot, field = left.partition(".")
        values = split_values(text)
        if not equals or not dot or not field or "" in values:
            raise UsageError(f"--grid {word!r}: expected task.field=value,value, for example ade20k.label_grid=nearest,corner")
        if task not in stems:
            raise UsageError(f"--grid {word!r}: {task!r} is not among --tasks{did_you_mean(task, list(stems))}")
        named = only_task(f"--grid {word!r}", task, stems)
        if left in fixed:
            raise UsageError(f"--grid {word!r}: {left} is fixed by --set; give it only once")
        mine = out.setdefault(named, [])
        if field in (f for f, _ in mine):
            raise UsageError(f"--grid {word!r}: {left} is given twice; put all its values into one")
        for known, _ in mine:
            inside, outside = sorted((field, known), key=len, reverse=True)
            if inside.startswith(f"{outside}."):
                raise UsageError(
                    f"--grid {word!r}: {task}.{inside} is part of {task}.{outside}, which is varied too; give one of them"
                )
        if len(set(values)) < len(values):
            raise UsageError(f"--grid {word!r}: a value is given twice")
        mine.append((field, values))
    return out


def variants(words: Sequence[str], tasks: Sequence[str], settings: Sequence[str] = ()) -> list[Variant]:
    """Every task in order, each under every combination of its grid. Raises UsageError as parse_grid, and for more than MAX_VARIANTS."""
    grid = parse_grid(words, tasks, settings)
    out = []
    for task in tasks:
        fields = grid.get(task, [])
        count = 1
        for _, values in fields:
            count *= len(values)
        if count > MAX_VARIANTS:
            raise UsageError(f"--grid: {count:,} combinations of {task}; at most {MAX_VARIANTS:,}")
        names = [f for f, _ in fields]
        out += [Variant(task, tuple(zip(names, chosen, strict=True))) for chosen in itertools.product(*(v for _, v in fields))]
    return out


def fixed_by(of_task: Sequence[Variant], settings: Mapping[str, str]) -> tuple[str, ...]:
    """Fields that all combinations of a grid share: those of ``--set``, and those that it gives one value; () without a grid."""
    chosen = [dict(v.choices) for v in of_task]
    return (*settings, *(f for f in chosen[0] if len({c[f] for c in chosen}) == 1)) if chosen[0] else ()


class Resolves(Protocol):
    """Resolves a task's card with fields set, of which some (shared) may be passed over. Raises UsageError."""

    def __call__(self, name: str, overrides: dict[str, str], *, shared: Collection[str]) -> object: ...


def check_shared(task: str, of_task: Sequence[Variant], settings: Mapping[str, str], card: Resolves) -> None:
    """Raises UsageError for a field that all combinations of a task's grid share (:func:`fixed_by`) and none of them reads."""
    fixed = fixed_by(of_task, settings)
    for field in fixed:
        others = [f for f in fixed if f != field]
        for left, v in enumerate(of_task, 1 - len(of_task)):
            try:
                card(task, {**settings, **dict(v.choices)}, shared=others)
                break
            except UsageError:
                if not left:
                    raise


def check_distinct(labels: Sequence[str], hashes: Sequence[str]) -> None:
    """Raises UsageError where two variants are one protocol: a field that moves no number, or two ways to write a value."""
    seen: dict[str, str] = {}
    for label, protocol in zip(labels, hashes, strict=True):
        if protocol in seen:
            raise UsageError(
                f"--grid: {seen[protocol]} and {label} are the same protocol "
                "(a field that moves no number, one value written twice, or a place of data: run those apart, into one --out)"
            )
        seen[protocol] = label
