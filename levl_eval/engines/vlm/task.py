"""The vqa engine: question sets answered by a frozen language model from a frozen encoder's tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.cards import LMMSCard, MultipleChoiceCard, QuestionCard, RecipeCard
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.images import fingerprint_of
from levl_eval.data.types import QuestionSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.vlm import floors
from levl_eval.engines.vlm.answers import ENGINE, Answers, Journal, answer_set, cut_words, flip_rate
from levl_eval.engines.vlm.engine import too_long
from levl_eval.engines.vlm.language import load_language_model, pick_dtype
from levl_eval.engines.vlm.main_scores import Reading, likelihood_estimates, main_scores, parts_by_likelihood
from levl_eval.engines.vlm.options import option_likelihoods, with_instruction
from levl_eval.engines.vlm.prompts import asks_by_template, how_asked, make_prompt
from levl_eval.engines.vlm.recipe import Trained, VQAResources, get_or_train_connector, questions, questions_parts, vlm_parts
from levl_eval.engines.vlm.scoring import check_scorer, estimates
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    from levl_eval.engines.vlm.language import LanguageModel
    from levl_eval.engines.vlm.prompts import Prompt

# Pixels of the encoder's input below which a word of warning stands beside text in images. Our choice: a line of a page of 2,200 pixels is
# some 30 high, which is six at 448 and three at 224.
LEGIBLE = 448
READING = "scenes-reading"  # the recipe that asks of print, letters and comparisons
READER = "scenes-reader"  # the language model that has read them
_META = ("split", "types", "answer_type", "question_type", "type", "category")


def vqa_resources(context: Context[QuestionCard | LMMSCard], llm_dtype: str) -> VQAResources:
    """What a connector is made with, from what the run gives. Says once a run how the language model is asked."""
    dtype = pick_dtype(llm_dtype, context.device)
    language = context.kept.get("language", (context.llm, dtype), lambda: load_language_model(context.llm, context.device, dtype))
    how = how_asked(language, context.card.prompt)
    context.kept.get("asked", (context.llm, how), lambda: context.progress.say(f"{context.llm}: {how}"))
    return VQAResources(
        context.backbone,
        language,
        context.data,
        context.store,
        context.cache,
        context.device,
        context.progress,
        context.batch_size,
        context.kept,
    )


def asked_of(
    context: Context[QuestionCard], language: LanguageModel, prompt: Prompt, visual_of: floors.VisualOf, test: QuestionSet
) -> tuple[QuestionSet, dict[str, str]]:
    """The test set with those questions failed that do not fit the language model's context, and why each failed row has failed.

    Raises UsageError naming the first of them where more do not fit than the card allows to skip.
    """
    reasons = {q.question_id: f"image {test.images.skipped[q.image_id]}" for q in test.failed}
    visual = visual_of([test.questions[0].image_id]).shape[1]
    long = too_long(language, prompt, visual, ((q.question_id, q.question) for q in test.questions))
    if not long:
        return test, reasons
    spec, total = context.card.data, len(test.rows)
    first, need = next(iter(long.items()))
    words = (
        f"question {printable(first)[:200]} needs {need} positions of {language.name}, with {visual} image tokens and the answer"
    )
    if not spec.may_skip.allows(len(long), total):
        more = f" ({len(long)} of {total} questions do not fit)" if len(long) > 1 else ""
        raise UsageError(
            f"{test.images.source}: {words}{more}, which exceed its context of {language.context}; "
            "use fewer image tokens (connector.kind=resampler or unshuffle_mlp), "
            "a shorter question or a model with more positions, or let such rows fail (--skip-broken)"
        )
    context.progress.say(
        f"  {context.card.name}: {len(long)} of {total} questions do not fit its context of {language.context} and fail: {words}"
    )
    reasons |= {name: f"needs {n} positions of {language.context}" for name, n in long.items()}
    kept = [q for q in test.questions if q.question_id not in long]
    if not kept:
        raise UsageError(f"{test.images.source}: no question fits: {words}; use a model with more positions")
    failed = (*test.failed, *(q for q in test.questions if q.question_id in long))
    return replace(test, questions=kept, failed=failed), reasons


def samples(
    card: QuestionCard, data: QuestionSet, answers: Answers, reading: Reading, reasons: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Sample]:
    """One sample a question, scored as the main metric counts it, made as it is written: a large set's samples are never held together.

    reasons: why failed ones failed. A question that the main metric leaves out has no score.
    """
    scores: dict[str, float] = {}
    if has_answers(data):
        main = main_scores(card, reading, data.rows, {q.question_id for q in data.failed})
        scores = dict(zip((q.question_id for q in main.questions), main.values.tolist(), strict=True))
    for q in data.rows:
        meta: dict[str, object] = {"question": q.question, **{k: q.meta[k] for k in _META if k in q.meta}}
        for name, values in (("likelihoods", reading.letters), ("option_likelihoods", reading.options)):
            if q.question_id in values:
                meta[name] = [round(v, 5) for v in values[q.question_id]]
        text = answers.texts.get(q.question_id)
        yield Sample(
            id=q.question_id, image_id=q.image_id, prediction=text or "", target=q.answer, score=scores.get(q.question_id),
            status="ok" if text is not None else f"failed: {reasons.get(q.question_id, 'no answer')}", meta=meta,
        )  # fmt: skip


def has_answers(data: QuestionSet) -> bool:
    return any(q.answer for q in data.rows)


def answers_key(resources: VQAResources, card: QuestionCard, trained: Trained, test: QuestionSet) -> str:
    """Under what answers are kept while a test set is asked."""
    return cache_key(
        "answers", ENGINE, **vlm_parts(resources), connector=trained.key, prompt=card.prompt.model_dump(mode="json"),
        test=questions_parts(test), choices=list(card.likelihood), instruction=getattr(card, "instruction", ""),
    )  # fmt: skip


def upload_file(data: QuestionSet, answers: Answers) -> dict[str, str]:
    """The VQA server's format: a list of {question_id, answer}, in the file name it expects."""
    rows = [{"question_id": int(q.question_id), "answer": answers.texts.get(q.question_id, "")} for q in data.rows]
    return {f"v2_OpenEnded_mscoco_{data.split}_levl-eval_results.json": json.dumps(rows, ensure_ascii=False) + "\n"}


def _how_answered(card: QuestionCard, resources: VQAResources, test: QuestionSet, answers: Answers) -> dict[str, object]:
    """Notes on the answering: how many questions in how long, by which arithmetic, asked in which form."""
    return {
        "questions": len(test.questions) - answers.resumed, "resumed": answers.resumed, "seconds": round(answers.seconds, 2),
        "dtype": str(resources.language.dtype).removeprefix("torch."),
        "attention": getattr(resources.language.model.config, "_attn_implementation", ""),
        "chat": asks_by_template(resources.language, card.prompt), "cut": len(answers.cut),
    }  # fmt: skip


def _about(test: QuestionSet, trained: Trained, asked: QuestionSet) -> dict[str, object]:
    """What a record says of the data. asked: ``test`` without the questions that do not fit."""
    failed: dict[str, object] = {"failed_rows": len(asked.failed)} if asked.failed else {}
    if len(asked.failed) > len(test.failed):
        failed["too_long"] = {"questions": len(asked.failed) - len(test.failed), "of": len(test.rows)}
    return failed | {
        "fingerprint": fingerprint_of(test),
        "counts": {
            "questions": len(test.rows), "images": len(test.images), "train_questions": sum(len(s.questions) for s in trained.sets)
        },
        "version": test.version, "split": test.split, "train": [fingerprint_of(s) for s in trained.sets],
    }  # fmt: skip


def _notes(
    context: Context[QuestionCard], resources: VQAResources, asked: QuestionSet, answers: Answers, reasons: Mapping[str, str]
) -> dict[str, object]:
    """How the questions were answered, which answers were cut (said once on the screen too), and which rows failed."""
    card = context.card
    out: dict[str, object] = {"answering": _how_answered(context.card, resources, asked, answers)}
    if words := cut_words(len(answers.cut), len(asked.questions), card.prompt.max_new_tokens):
        out["cut_answers"] = words
        context.progress.say(f"  {card.name}: {words}")
    size = context.backbone.preprocess.size
    if card.small_text and size < LEGIBLE:
        out["small_text"] = (
            f"asks about text in images, which is hardly legible at {size} px, the input of {context.backbone.name}"
        )
        context.progress.say(f"  {card.name}: {out['small_text']}")
    if isinstance(card.recipe, RecipeCard) and card.recipe.name == READING and resources.language.name == "scenes-lm":
        out["never_read"] = f"asks what the language model scenes-lm has never read; {READER} has (--llm {READER})"
        context.progress.say(f"  {card.name}: {out['never_read']}")
    if reasons:
        name, why = next(iter(reasons.items()))
        first = f"{printable(name)[:200]} ({why})"
        out["failed_rows"] = f"{len(asked.failed)} of {len(asked.rows)} rows failed and count as wrong answers, first {first}"
    return out


class Laps:
    """Seconds by stage: each call ends one, and the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._started
        self._started = now


def _measured(
    context: Context[QuestionCard], resources: VQAResources, prompt: Prompt, trained: Trained, visual_of: floors.VisualOf,
    asked: QuestionSet, answers: Answers,
) -> tuple[dict[str, Estimate], Reading]:  # fmt: skip
    """The metrics of a set with public answers, floors among them, and what they were read from."""
    card = context.card
    reading = Reading(answers.texts, answers.likelihoods)
    metrics = estimates(card.scorer, asked.rows, answers.texts, answers.likelihoods)
    if isinstance(card, MultipleChoiceCard):
        if card.option_texts:
            what = f"options of {card.name}"
            texts = option_likelihoods(resources.language, prompt, visual_of, asked.questions, context.progress, what)
            reading = replace(reading, options=texts)
        failed = {q.question_id for q in asked.failed}
        metrics |= likelihood_estimates(reading, asked.rows, failed) | parts_by_likelihood(card, reading, asked.rows, failed)
    return metrics | floors.measure(resources, card, prompt, asked, trained, reading, context.seed), reading


def run(context: Context[QuestionCard]) -> Outcome:
    """Train or reuse the connector of (backbone, language model, recipe, seed), answer the test questions, score them.

    Raises UsageError/LevlError: data that is missing or empty, images that cannot be decoded, prefixes beyond the context.
    """
    card = context.card
    assert isinstance(card.recipe, RecipeCard)
    lap = Laps()
    test = questions(context.kept, card.data, context.data, context.limit)
    public = has_answers(test)
    if not public and card.main_metric != "answered":
        raise UsageError(
            f"{test.images.source}: split {test.split} has no public answers; choose one that has, or task vqav2-testdev for an upload file"
        )
    if public:
        check_scorer(card.scorer, test.rows)
    resources = vqa_resources(context, card.llm_dtype)
    prompt = make_prompt(card.prompt, resources.language)
    lap("read")
    trained = get_or_train_connector(resources, card.recipe, card.prompt, context.seed, lap)
    visual_of = floors.visual_reader(resources, trained, test)
    put = with_instruction(test, card.instruction) if isinstance(card, MultipleChoiceCard) else test
    asked, reasons = asked_of(context, resources.language, prompt, visual_of, put)
    lap("features")
    journal = Journal(context.cache / "answers" / f"{answers_key(resources, card, trained, test)}.jsonl")
    answers = answer_set(
        resources.language,
        prompt,
        visual_of,
        asked.questions,
        context.progress,
        f"answering {card.name}",
        journal,
        card.likelihood,
    )
    notes = {**trained.notes, **_notes(context, resources, asked, answers, reasons)}
    if str(resources.language.dtype) != "torch.float32":
        notes["flip_rate"] = flip_rate(resources.language, prompt, visual_of, asked.questions, answers)
    lap("answers")
    metrics: dict[str, Estimate] = {}
    files: dict[str, str] = {}
    reading = Reading(answers.texts, answers.likelihoods)
    if public:
        metrics, reading = _measured(context, resources, prompt, trained, visual_of, asked, answers)
    else:
        files = upload_file(asked, answers)
    if card.main_metric == "answered":
        given = np.array([bool(answers.texts.get(q.question_id)) for q in asked.rows], float)
        metrics["answered"] = mean_estimate(given, np.array([q.image_id for q in asked.rows]))
    lap("scores")
    journal.remove()
    return Outcome(
        metrics,
        samples(card, asked, answers, reading, reasons),
        _about(test, trained, asked),
        notes,
        lap.seconds,
        resources.counts,
        files,
    )
