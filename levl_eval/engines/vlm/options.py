"""Questions with lettered options: what the answers and the likelihoods of letters and of the options' texts say.

An accuracy is the mean over the questions' splits (meta ``split``): over the groups of questions that count together (MMVP's pairs,
MMBench's rows with their options turned round), each 1 only where all of its questions are right, or over CV-Bench's sources.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from levl_eval.core.distributed import process_group
from levl_eval.core.progress import Progress
from levl_eval.data.benchmarks import LETTERS
from levl_eval.data.types import Question, QuestionSet
from levl_eval.engines.vlm.answers import bounds_for, by_image
from levl_eval.engines.vlm.engine import likelihood_all
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.metrics.choices import macro_mean
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate, paired_difference

Likelihoods = Mapping[str, Sequence[float]]  # question id -> log-likelihoods, one an option


def with_instruction(data: QuestionSet, instruction: str) -> QuestionSet:
    """The set with the instruction behind each question; what the set is, its fingerprint, stays."""

    def asked(q: Question) -> Question:
        return replace(q, question=q.question + instruction)

    return replace(data, questions=[asked(q) for q in data.questions], failed=tuple(map(asked, data.failed)))


def mean_of(scores: np.ndarray, questions: Sequence[Question]) -> Estimate:
    """Mean over the questions' splits, over the questions where there are none, resampled by image."""
    images = np.array([q.image_id for q in questions])
    splits = [str(q.meta.get("split", "")) for q in questions]
    if not any(splits):
        return mean_estimate(scores, images)
    if any("group" in q.meta for q in questions):  # each split is scored as one item
        _, first = np.unique(np.array(splits), return_index=True)
        return mean_estimate(scores[first], images[first])
    return macro_mean(scores, splits, images)


def means_of_types(scores: np.ndarray, questions: Sequence[Question]) -> dict[str, Estimate]:
    """``type/NAME`` of each type of questions;
    ``category/NAME`` where questions count together, each group once, as MMBench reports them."""
    grouped = any("group" in q.meta for q in questions)
    types = np.array([str(q.meta.get("type") or "") for q in questions])
    out = {}
    for name in sorted(set(types.tolist()) - {""}):
        rows = np.flatnonzero(types == name)
        own = [questions[int(i)] for i in rows]
        mean = mean_of(scores[rows], own) if grouped else mean_estimate(scores[rows], np.array([q.image_id for q in own]))
        out[f"{'category' if grouped else 'type'}/{name}"] = mean
    return out


def chance_of(questions: Sequence[Question]) -> np.ndarray:
    """[questions] the expected score of letters drawn at random: one over the options, of a group the product of its questions'."""
    each = np.array([1 / q.meta["options"] if "options" in q.meta else 0.0 for q in questions])
    product: dict[object, float] = {}
    for q, c in zip(questions, each.tolist(), strict=True):
        product[q.meta.get("group")] = product.get(q.meta.get("group"), 1.0) * c
    return np.array([product[q.meta["group"]] if "group" in q.meta else c for q, c in zip(questions, each.tolist(), strict=True)])


def chance(scores: np.ndarray, questions: Sequence[Question], factor: np.ndarray) -> dict[str, Estimate]:
    """``floor_chance`` and the gain over it. factor: of each question, so that means are over splits."""
    expected = chance_of(questions)
    images = np.array([q.image_id for q in questions])
    return {
        "floor_chance": Estimate(
            value=float((expected * factor).mean()), n=len(expected), clusters=len(set(images.tolist())), method="exact"
        ),
        "gain_over_chance": paired_difference(scores * factor, expected * factor, images),
    }


def likeliest_right(values: Likelihoods, questions: Sequence[Question], failed: Collection[str]) -> dict[str, float]:
    """Question id -> 1.0 where the right option is the likeliest, else 0.0, as for a question that has failed.

    values: question id -> one an option, further ones are passed over. Questions without options are left out, and those with more
    options than values. The first of equal ones is chosen.
    """
    out: dict[str, float] = {}
    for q in questions:
        own = list(values.get(q.question_id, ()))[: q.meta.get("options", 0)]
        if "choices" not in q.meta or (q.question_id not in failed and len(own) < q.meta["options"]):
            continue
        out[q.question_id] = float(q.question_id not in failed and LETTERS[int(np.argmax(own))] == q.answer.upper())
    return out


def option_likelihoods(
    language: LanguageModel, prompt: Prompt, visual_of: Callable[[Sequence[str]], torch.Tensor] | None, questions: Sequence[Question],
    progress: Progress, what: str,
) -> dict[str, list[float]]:  # fmt: skip
    """Log-likelihood of each option's text as the beginning of an answer to the question without options, by question id.

    visual_of: image ids -> visual tokens; None: the prompt has no image. With several processes each takes its share of the images.
    """
    group = process_group()
    groups = by_image([q for q in questions if "choices" in q.meta])
    names = group.share(list(groups))
    pairs = [[(str(q.meta["stem"]), str(c)) for q in groups[i] for c in q.meta["choices"]] for i in names]

    def visual(indices: Sequence[int]) -> torch.Tensor:
        assert visual_of is not None
        return visual_of([names[i] for i in indices])

    fresh: list[tuple[str, list[float]]] = []
    with progress.stage(what, sum(map(len, pairs)), "option") as bar, torch.inference_mode():
        source = None if visual_of is None else visual
        for i, values in likelihood_all(language, prompt, source, pairs, bounds_for(language.device)):
            at = 0
            for q in groups[names[i]]:
                fresh.append((q.question_id, [v for v, _ in values[at : at + len(q.meta["choices"])]]))
                at += len(q.meta["choices"])
            bar.advance(len(values))
    return dict(group.gather(fresh))


def by_length(values: Likelihoods, questions: Sequence[Question]) -> dict[str, list[float]]:
    """The same per character of each option's text (lm-eval's acc_norm)."""
    texts = {q.question_id: q.meta["choices"] for q in questions if "choices" in q.meta}
    return {k: [v / max(1, len(str(t))) for v, t in zip(vs, texts[k], strict=True)] for k, vs in values.items()}
