"""What each question scores under its task's main metric: by the text that was answered, or by the likeliest of its options.

Samples, floors and gains are all read here, so that they belong to the metric that stands in the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from levl_eval.cards import MultipleChoiceCard, QuestionCard
from levl_eval.data.types import Question
from levl_eval.engines.vlm.options import Likelihoods, by_length, chance, likeliest_right, mean_of, means_of_types
from levl_eval.engines.vlm.scoring import estimates, mean_name, score, scores_of, together, weights
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate

LETTERS = "letter_likelihood_accuracy"
OPTIONS = "option_likelihood_accuracy"
BY_LENGTH = "option_likelihood_accuracy_norm"
ALONE = "question_accuracy"


@dataclass(frozen=True)
class Reading:
    """What a language model made of a question set with one sight of its images, by question id.

    texts: answers. letters, options: log-likelihoods of the options' letters and of their texts.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    letters: Likelihoods = field(default_factory=dict)
    options: Likelihoods = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """questions: those that the metric counts, failed ones among them, which score 0. values: [questions] in [0, 1]."""

    questions: Sequence[Question]
    values: np.ndarray


def reads(card: QuestionCard) -> str:
    """Which part of a :class:`Reading` the card's main metric needs: "texts", "letters" or "options"."""
    if not isinstance(card, MultipleChoiceCard):
        return "texts"
    return {LETTERS: "letters", OPTIONS: "options", BY_LENGTH: "options"}.get(card.main_metric, "texts")


def likelihood_scores(name: str, reading: Reading, questions: Sequence[Question], failed: Collection[str]) -> Scores:
    """Scores by the likeliest option; questions without options, or with more of them than letters were read for, do not count.

    failed: ids of the questions that were not asked.
    """
    values = reading.letters if name == LETTERS else reading.options
    right = likeliest_right(by_length(values, questions) if name == BY_LENGTH else values, questions, failed)
    counted = [q for q in questions if q.question_id in right]
    return Scores(counted, together(np.array([right[q.question_id] for q in counted]), counted))


def likelihood_estimates(reading: Reading, questions: Sequence[Question], failed: Collection[str]) -> dict[str, Estimate]:
    """The accuracies of the likeliest option that ``reading`` allows, by metric."""
    out: dict[str, Estimate] = {}
    for name in (LETTERS, OPTIONS, BY_LENGTH):
        if reading.letters if name == LETTERS else reading.options:
            scores = likelihood_scores(name, reading, questions, failed)
            if len(scores.questions):
                out[name] = mean_of(scores.values, scores.questions)
    return out


def main_scores(card: QuestionCard, reading: Reading, questions: Sequence[Question], failed: Collection[str]) -> Scores:
    """Scores under the card's main metric; under the mean of its scorer where the main metric is no mean over questions (F1)."""
    if reads(card) != "texts":
        return likelihood_scores(card.main_metric, reading, questions, failed)
    if card.main_metric == ALONE:
        alone = [
            score(card.scorer, q, reading.texts[q.question_id]) if q.question_id in reading.texts else 0.0 for q in questions
        ]
        return Scores(questions, np.array(alone))
    return Scores(questions, scores_of(card.scorer, questions, reading.texts))


def main_estimate(card: QuestionCard, reading: Reading, scores: Scores) -> Estimate:
    """Their mean, over the questions' splits where there are any."""
    if reads(card) != "texts":
        return mean_of(scores.values, scores.questions)
    if card.main_metric == ALONE:
        return mean_estimate(scores.values, np.array([q.image_id for q in scores.questions]))
    return estimates(card.scorer, scores.questions, reading.texts)[mean_name(card.scorer)]


def parts_by_likelihood(
    card: QuestionCard, reading: Reading, questions: Sequence[Question], failed: Collection[str]
) -> dict[str, Estimate]:
    """Chance and the parts by kind of a main metric of likelihoods;
    {} where the answered letters count, whose parts ``estimates`` gives."""
    if reads(card) == "texts":
        return {}
    scores = main_scores(card, reading, questions, failed)
    kinds = means_of_types(scores.values, scores.questions)
    return chance(scores.values, scores.questions, weights(scores.questions)) | kinds
