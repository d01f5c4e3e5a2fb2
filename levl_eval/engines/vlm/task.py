"""The vqa engine: question sets answered by a frozen language model from a frozen encoder's tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from levl_eval.cards import LMMSCard, RecipeCard, VQACard
from levl_eval.core.errors import UsageError
from levl_eval.data.images import fingerprint_of
from levl_eval.data.types import QuestionSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.vlm import floors
from levl_eval.engines.vlm.answers import ENGINE, Answers, Journal, answer_set, flip_rate
from levl_eval.engines.vlm.language import load_language_model, pick_dtype
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.engines.vlm.recipe import Trained, VQAResources, get_or_train_connector, questions, questions_parts, vlm_parts
from levl_eval.engines.vlm.scoring import check_scorer, estimates, score
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample
from levl_eval.records.identity import cache_key

_META = ("split", "types", "answer_type", "question_type", "type", "category")


def vqa_resources(context: Context[VQACard | LMMSCard], llm_dtype: str) -> VQAResources:
    """What a connector is made with, from what the run gives."""
    dtype = pick_dtype(llm_dtype, context.device)
    language = context.kept.get("language", (context.llm, dtype), lambda: load_language_model(context.llm, context.device, dtype))
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


def samples(card: VQACard, data: QuestionSet, answers: Answers) -> Iterator[Sample]:
    """One sample a question, made as it is written: a large set's samples are never held together."""
    known = has_answers(data)
    for q in data.questions:
        meta: dict[str, Any] = {"question": q.question, **{k: q.meta[k] for k in _META if k in q.meta}}
        if q.question_id in answers.likelihoods:
            meta["likelihoods"] = [round(v, 5) for v in answers.likelihoods[q.question_id]]
        text = answers.texts[q.question_id]
        yield Sample(
            id=q.question_id, image_id=q.image_id, prediction=text, target=q.answer,
            score=score(card.scorer, q, text) if known else None, meta=meta,
        )  # fmt: skip


def has_answers(data: QuestionSet) -> bool:
    return any(q.answer for q in data.questions)


def answers_key(resources: VQAResources, card: VQACard, trained: Trained, test: QuestionSet) -> str:
    """Under what answers are kept while a test set is asked."""
    return cache_key(
        "answers", ENGINE, **vlm_parts(resources), connector=trained.key, prompt=card.prompt.model_dump(mode="json"),
        test=questions_parts(test), choices=list(card.likelihood),
    )  # fmt: skip


def upload_file(data: QuestionSet, answers: Answers) -> dict[str, str]:
    """The VQA server's format: a list of {question_id, answer}, in the file name it expects."""
    rows = [{"question_id": int(q.question_id), "answer": answers.texts[q.question_id]} for q in data.questions]
    return {f"v2_OpenEnded_mscoco_{data.split}_levl-eval_results.json": json.dumps(rows, ensure_ascii=False) + "\n"}


def _how_answered(card: VQACard, resources: VQAResources, test: QuestionSet, answers: Answers) -> dict[str, Any]:
    """Notes on the answering: how many questions in how long, by which arithmetic, asked in which form."""
    return {
        "questions": len(test.questions) - answers.resumed, "resumed": answers.resumed, "seconds": round(answers.seconds, 2),
        "dtype": str(resources.language.dtype).removeprefix("torch."), "attention": getattr(resources.language.model.config, "_attn_implementation", ""),
        "chat": resources.language.chat if card.prompt.chat is None else card.prompt.chat,
    }  # fmt: skip


def _about(test: QuestionSet, trained: Trained) -> dict[str, Any]:
    """What a record says of the data."""
    return {
        "fingerprint": fingerprint_of(test),
        "counts": {
            "questions": len(test.questions), "images": len(test.images), "train_questions": sum(len(s.questions) for s in trained.sets)
        },
        "version": test.version, "split": test.split, "train": [fingerprint_of(s) for s in trained.sets],
    }  # fmt: skip


def run(context: Context[VQACard]) -> Outcome:
    """Train or reuse the connector of (backbone, language model, recipe, seed), answer the test questions, score them.

    Raises UsageError/LevlError: data that is missing or empty, images that cannot be decoded, prefixes beyond the context.
    """
    card = context.card
    assert isinstance(card.recipe, RecipeCard)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def lap(stage: str) -> None:
        nonlocal started
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - started
        started = time.monotonic()

    test = questions(context.kept, card.data, context.data, context.limit)
    public = has_answers(test)
    if not public and card.main_metric != "answered":
        raise UsageError(
            f"{test.images.source}: split {test.split} has no public answers; choose one that has, or task vqav2-testdev for an upload file"
        )
    if public:
        check_scorer(card.scorer, test.questions)
    resources = vqa_resources(context, card.llm_dtype)
    prompt = make_prompt(card.prompt, resources.language)
    lap("read")
    trained = get_or_train_connector(resources, card.recipe, card.prompt, context.seed, lap)
    visual_of = floors.visual_reader(resources, trained, test)
    lap("features")

    journal = Journal(context.cache / "answers" / f"{answers_key(resources, card, trained, test)}.jsonl")
    answers = answer_set(
        resources.language,
        prompt,
        visual_of,
        test.questions,
        context.progress,
        f"answering {card.name}",
        journal,
        card.likelihood,
    )
    notes = {**trained.notes, "answering": _how_answered(card, resources, test, answers)}
    if notes["answering"]["dtype"] != "float32":
        notes["flip_rate"] = flip_rate(resources.language, prompt, visual_of, test.questions, answers)
    lap("answers")
    images = np.array([q.image_id for q in test.questions])
    metrics: dict[str, Estimate] = {}
    files: dict[str, str] = {}
    if public:
        metrics = estimates(card.scorer, test.questions, answers.texts, answers.likelihoods)
        metrics |= floors.measure(resources, card, prompt, test, trained, answers, context.seed)
    else:
        files = upload_file(test, answers)
    if card.main_metric == "answered":
        given = np.array([bool(answers.texts[q.question_id]) for q in test.questions], float)
        metrics["answered"] = mean_estimate(given, images)
    lap("scores")
    journal.remove()
    return Outcome(metrics, samples(card, test, answers), _about(test, trained), notes, seconds, resources.counts, files)
