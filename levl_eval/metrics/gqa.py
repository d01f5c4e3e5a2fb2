"""GQA's metrics (Hudson and Manning, CVPR 2019, section 5.2, and the published eval.py), as far as the metadata allows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any


def gqa_correct(prediction: str, answer: str) -> bool:
    """Exact match, after case and a closing full stop are dropped, which language models add and classifiers do not."""
    return prediction.strip().rstrip(".").strip().lower() == answer.strip().lower()


def gqa_scores(
    predictions: Mapping[str, str],
    questions: Mapping[str, Mapping[str, Any]],
    choices: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, float]:
    """Scores of predicted answers by question id, over all of ``questions`` (a missing prediction counts as wrong).

    questions: the official fields (answer; types {structural, semantic}; entailed; groups). choices: the official choices file
    (id -> {"valid": [...], "plausible": [...]}), where there is one. Returns fractions: accuracy; binary (verify and logical
    yes/no questions' answers), open; structural/X and semantic/X; consistency: over questions answered right, the mean
    accuracy on the questions they entail; validity and plausibility with ``choices``. distribution is GQA's chi-square distance
    between predicted and true answers within global groups (lower is better; not a fraction).
    """
    right = {i: gqa_correct(predictions.get(i, ""), q["answer"]) for i, q in questions.items()}
    out: dict[str, float] = {"accuracy": sum(right.values()) / len(right)}
    parts: dict[str, list[bool]] = defaultdict(list)
    for i, q in questions.items():
        types = q.get("types") or {}
        if types:
            parts["open" if types.get("structural") == "query" else "binary"].append(right[i])
            for kind in ("structural", "semantic"):
                if types.get(kind):
                    parts[f"{kind}/{types[kind]}"].append(right[i])
    out |= {k: sum(v) / len(v) for k, v in sorted(parts.items())}

    shares = []
    for i, q in questions.items():
        inferred = [e for e in (q.get("entailed") or ()) if e != i and e in questions]
        if right[i] and inferred:
            shares.append(sum(right[e] for e in inferred) / len(inferred))
    if shares:
        out["consistency"] = sum(shares) / len(shares)

    if choices:
        for name, key in (("validity", "valid"), ("plausibility", "plausible")):
            hits = [predictions.get(i, "").strip().rstrip(".").lower() in choices[i][key] for i in questions if i in choices]
            if hits:
                out[name] = sum(hits) / len(hits)

    gold: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for i, q in questions.items():
        group = (q.get("groups") or {}).get("global")
        if group:
            gold[group][q["answer"]] += 1
            given[group][predictions.get(i, "").strip().rstrip(".").lower()] += 1
    if gold:
        total = sum(sum(c.values()) for c in gold.values())
        distance = 0.0
        for group, true in gold.items():
            # Published form: squared difference over the true count, averaged over the group's answers, weighted by its size.
            chi = sum((given[group].get(a, 0) - n) ** 2 / n for a, n in true.items())
            distance += chi / len(true) * sum(true.values()) / total
        out["distribution"] = distance
    return out
