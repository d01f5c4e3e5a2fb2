"""GQA's metrics (Hudson and Manning, CVPR 2019, section 5.2, and the published eval.py), as far as the metadata allows."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from levl_eval.core.json_types import object_at

_NO_MARKS = str.maketrans("", "", string.punctuation)


def gqa_answer(text: str) -> str:
    """An answer without case and punctuation, which language models add and the classifiers GQA was made for do not."""
    return text.strip().lower().translate(_NO_MARKS).strip()


def gqa_correct(prediction: str, answer: str) -> bool:
    """Exact match of the two in the form of :func:`gqa_answer` (the published code compares them as they are);
    what it empties matches nothing."""
    return gqa_answer(prediction) == gqa_answer(answer) != ""


def gqa_steps(semantic: Sequence[Mapping[str, object]]) -> int:
    """Reasoning steps of a question's program: its operations less those that only say the answer, as published."""
    last = ("exist", "query: name", "choose name")
    return sum(not any(w in f"{o['operation']}: {o['argument']}" for w in last) for o in semantic)


def gqa_belongs(prediction: str, group: Sequence[str], question: Mapping[str, object]) -> bool:
    """Whether an answer is among a question's valid or plausible ones; of "what is common" questions these are three, as published."""
    if "Common" in str(object_at(question, "types").get("detailed") or ""):
        group = ("color", "material", "shape")
    return gqa_answer(prediction) in {gqa_answer(g) for g in group} - {""}


def gqa_distribution(gold: Sequence[str], given: Sequence[str], groups: Sequence[str]) -> float:
    """Chi-square distance between true and predicted answers within each group, weighted by its questions, over 100, as published.

    Lower is better; 0 where every group's answers are predicted as often as they are true. Not a fraction.
    """
    return float(weighted_gqa_distribution(gold, given, groups, np.ones((1, len(gold))))[0])


def weighted_gqa_distribution(
    gold: Sequence[str], given: Sequence[str], groups: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """[b] distances as of :func:`gqa_distribution` of questions that count ``weights`` [b, N] times each; NaN where none counts."""
    cells: dict[tuple[str, str], int] = {}  # the true answers of each group; what else is said in it does not enter
    true = np.array([cells.setdefault((g, gqa_answer(a)), len(cells)) for g, a in zip(groups, gold, strict=True)])
    other = len(cells)
    answered = np.array([cells.get((g, gqa_answer(a)), other) for g, a in zip(groups, given, strict=True)])
    names = {g: k for k, g in enumerate(dict.fromkeys(g for g, _ in cells))}
    group = np.array([names[g] for g, _ in cells])
    out = np.full(len(weights), np.nan)
    for k, w in enumerate(weights):
        n, m = np.bincount(true, w, other), np.bincount(answered, w, other + 1)[:other]
        if n.any():
            gaps = np.where(n > 0, (m - n) ** 2 / np.maximum(n, 1), 0.0)
            out[k] = np.bincount(group, gaps) @ np.bincount(group, n) / n.sum() / 100
    return out


def gqa_scores(
    predictions: Mapping[str, str],
    questions: Mapping[str, Mapping[str, object]],
    choices: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> dict[str, float]:
    """Scores of predicted answers by question id, over all of ``questions`` (a missing prediction counts as wrong).

    questions: the official fields (answer; types {structural, semantic, detailed}; entailed; groups; semantic: the program).
    choices: the official choices file (id -> {"valid": [...], "plausible": [...]}), where there is one. Returns fractions: accuracy;
    open (structural type query) and binary; structural/X, semantic/X, steps/N, words/N; consistency: over questions answered right,
    the mean accuracy on the questions they entail, as far as those are among ``questions`` (the published code wants them all);
    validity and plausibility with ``choices``. distribution: see :func:`gqa_distribution`, where groups are given.
    """
    right = {i: gqa_correct(predictions.get(i, ""), str(q["answer"])) for i, q in questions.items()}
    out: dict[str, float] = {"accuracy": sum(right.values()) / len(right)}
    parts: dict[str, list[bool]] = defaultdict(list)
    for i, q in questions.items():
        types = object_at(q, "types")
        if types:
            parts["open" if types.get("structural") == "query" else "binary"].append(right[i])
            for kind in ("structural", "semantic"):
                if types.get(kind):
                    parts[f"{kind}/{types[kind]}"].append(right[i])
        if isinstance(program := q.get("semantic"), Sequence) and program:
            parts[f"steps/{gqa_steps(program)}"].append(right[i])
        if q.get("question"):
            parts[f"words/{len(str(q['question']).split())}"].append(right[i])
    out |= {k: sum(v) / len(v) for k, v in sorted(parts.items())}

    shares = [share for i in questions if (share := gqa_consistency(i, questions, right)) is not None]
    if shares:
        out["consistency"] = sum(shares) / len(shares)

    if choices:
        for name, key in (("validity", "valid"), ("plausibility", "plausible")):
            hits = [gqa_belongs(predictions.get(i, ""), choices[i][key], q) for i, q in questions.items() if i in choices]
            if hits:
                out[name] = sum(hits) / len(hits)

    grouped = [(i, str(q["answer"]), str(group)) for i, q in questions.items() if (group := object_at(q, "groups").get("global"))]
    if grouped:
        out["distribution"] = gqa_distribution(
            [answer for _, answer, _ in grouped], [predictions.get(i, "") for i, _, _ in grouped], [g for _, _, g in grouped]
        )
    return out


def gqa_consistency(i: str, questions: Mapping[str, Mapping[str, object]], right: Mapping[str, bool]) -> float | None:
    """Share of the questions that question ``i`` entails that are answered right; None where it was answered wrong or entails none."""
    entailed = questions[i].get("entailed")
    inferred = [e for e in (entailed if isinstance(entailed, Iterable) else ()) if e != i and e in questions]
    return sum(right[e] for e in inferred) / len(inferred) if right[i] and inferred else None
