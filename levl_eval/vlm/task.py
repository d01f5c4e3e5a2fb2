"""The vqa engine: GQA, VQAv2, POPE and a user's questions, answered by a frozen language model from frozen patch tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from levl_eval.cards import RecipeCard, VQACard, protocol_of
from levl_eval.data.readers import read_questions
from levl_eval.data.types import Question, QuestionSet
from levl_eval.engines import Context, Outcome
from levl_eval.errors import UsageError
from levl_eval.features import FeatureSet
from levl_eval.io import atomic_write
from levl_eval.metrics.gqa import gqa_correct, gqa_scores
from levl_eval.metrics.pope import is_unparsed, pope_answer, pope_scores
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.metrics.vqa import normalize_vqa_answer, vqa_accuracy
from levl_eval.records import Estimate, Sample
from levl_eval.vlm.connector import Connector
from levl_eval.vlm.engine import answer_all
from levl_eval.vlm.language import LanguageModel, load_language_model
from levl_eval.vlm.prompts import Prompt, make_prompt
from levl_eval.vlm.training import connector_key, make_items, train


def score(scorer: str, question: Question, text: str) -> float:
    """Score of one answer in [0, 1] by the task's official rule."""
    if scorer == "gqa":
        return float(gqa_correct(text, question.answer))
    if scorer == "pope":
        return float(pope_answer(text) == question.answer)
    if scorer == "vqav2":
        return vqa_accuracy(text, question.answers or (question.answer,))
    if len(question.answers) > 1:
        return vqa_accuracy(text, question.answers)
    return float(normalize_vqa_answer(text) == normalize_vqa_answer(question.answer))


def _by_image(questions: Sequence[Question]) -> dict[str, list[Question]]:
    out: dict[str, list[Question]] = {}
    for q in questions:
        out.setdefault(q.image_id, []).append(q)
    return out


def answer_set(
    language: LanguageModel,
    prompt: Prompt,
    connector: Connector | None,
    features: FeatureSet | None,
    data: QuestionSet,
    context: Context,
    what: str,
) -> dict[str, str]:
    """Answers by question id; without a connector the prompt has no image."""
    groups = _by_image(data.questions)
    visual_of = None
    if connector is not None and features is not None:
        row, net, found = features.row, connector, features
        rows = [row[i] for i in groups]

        def visual_of(indices: Sequence[int]) -> torch.Tensor:
            raw = np.stack([found.patches[rows[i]] for i in indices]).astype(np.float32)
            with torch.inference_mode():
                return net(torch.from_numpy(raw).to(context.device))

    with context.progress.stage(what, len(data.questions), "question") as bar:
        texts = answer_all(language, prompt, visual_of, [[q.question for q in qs] for qs in groups.values()], bar.advance)
    return {q.question_id: t for qs, ts in zip(groups.values(), texts, strict=True) for q, t in zip(qs, ts, strict=True)}


def _estimates(card: VQACard, questions: Sequence[Question], answers: dict[str, str]) -> dict[str, Estimate]:
    """The task's official metrics, each with an interval clustered by image."""
    scores = np.array([score(card.scorer, q, answers[q.question_id]) for q in questions])
    images = np.array([q.image_id for q in questions])

    def part(mask: np.ndarray) -> Estimate:
        return mean_estimate(scores[mask], images[mask])

    out: dict[str, Estimate] = {}
    if card.scorer == "pope":
        splits = np.array([q.meta.get("split", "") for q in questions])
        names = list(dict.fromkeys(splits.tolist()))
        out["accuracy"] = _mean_of_splits(scores, images, splits, names)
        for name in names:
            mask = splits == name
            out[f"accuracy_{name}"] = part(mask)
            given = [answers[q.question_id] for q, m in zip(questions, mask, strict=True) if m]
            labels = [q.answer for q, m in zip(questions, mask, strict=True) if m]
            out[f"f1_{name}"] = _f1(given, labels, images[mask])
        pooled = pope_scores([answers[q.question_id] for q in questions], [q.answer for q in questions])
        out["f1"] = _f1([answers[q.question_id] for q in questions], [q.answer for q in questions], images)
        for key in ("precision", "recall"):
            out[key] = Estimate(value=pooled[key], n=len(questions), method="pooled, no interval")
        yes = np.array([pope_answer(answers[q.question_id]) == "yes" for q in questions], float)
        unparsed = np.array([is_unparsed(answers[q.question_id]) for q in questions], float)
        out["yes_ratio"], out["unparsed"] = mean_estimate(yes, images), mean_estimate(unparsed, images)
        return out
    out["accuracy"] = mean_estimate(scores, images)
    if card.scorer == "gqa":
        # What the official definition gives as a mean over questions also gets an interval.
        structural = np.array([(q.meta.get("types") or {}).get("structural", "") for q in questions])
        semantic = np.array([(q.meta.get("types") or {}).get("semantic", "") for q in questions])
        if (structural != "").any():
            out["open"], out["binary"] = part(structural == "query"), part((structural != "query") & (structural != ""))
        for prefix, values in (("structural", structural), ("semantic", semantic)):
            out |= {f"{prefix}/{v}": part(values == v) for v in sorted(set(values.tolist()) - {""})}
        official = gqa_scores(
            {q.question_id: answers[q.question_id] for q in questions},
            {q.question_id: {**q.meta, "answer": q.answer} for q in questions},
        )
        for key in ("consistency",):
            if key in official:
                out[key] = Estimate(value=official[key], n=len(questions), method="official, no interval")
    if card.scorer == "vqav2":
        kinds = np.array([q.meta.get("answer_type", "") for q in questions])
        out |= {f"answer_type/{k}": part(kinds == k) for k in sorted(set(kinds.tolist()) - {""})}
    return {k: e for k, e in out.items() if e.n}


def _clusters(images: np.ndarray) -> tuple[np.ndarray, int]:
    names, index = np.unique(images, return_inverse=True)
    return index, len(names)


def _mean_of_splits(scores: np.ndarray, images: np.ndarray, splits: np.ndarray, names: list[str]) -> Estimate:
    """Mean over the splits' accuracies, resampled by image for all splits together (they share their images)."""
    index, k = _clusters(images)
    counts = np.zeros((k, len(names), 2))
    for s, name in enumerate(names):
        mask = splits == name
        counts[:, s, 0] = np.bincount(index[mask], scores[mask], k)
        counts[:, s, 1] = np.bincount(index[mask], minlength=k)
    return bootstrap_statistic(counts, lambda c: (c[..., 0] / np.maximum(c[..., 1], 1e-12)).mean(-1), n=len(scores))


def _f1(given: list[str], labels: list[str], images: np.ndarray) -> Estimate:
    index, k = _clusters(images)
    yes, true = np.array([pope_answer(g) == "yes" for g in given]), np.array([x == "yes" for x in labels])
    cells = (yes & true, yes & ~true, ~yes & true)
    counts = np.stack([np.bincount(index, c.astype(float), k) for c in cells], -1)
    return bootstrap_statistic(
        counts, lambda c: 2 * c[..., 0] / np.maximum(2 * c[..., 0] + c[..., 1] + c[..., 2], 1e-12), n=len(given)
    )


def _floor(context: Context, card: VQACard, language: LanguageModel, prompt: Prompt, data: QuestionSet) -> Estimate:
    """Accuracy of the language model alone: the same questions without any image. The same for every backbone, so kept."""
    parts = {
        "llm": language.sha256,
        "prompt": card.prompt.model_dump(),
        "scorer": card.scorer,
        "data": data.fingerprint,
        "n": len(data.questions),
    }
    path = context.cache / "floors" / f"{connector_key(parts)}.json"
    if path.exists():
        try:
            return Estimate.model_validate(json.loads(path.read_text()))
        except ValueError:
            pass
    answers = answer_set(language, prompt, None, None, data, context, "text-only floor")
    found = _estimates(card, data.questions, answers)["accuracy"]
    atomic_write(path, found.model_dump_json())
    return found


def _training_sets(recipe: RecipeCard, context: Context) -> list[QuestionSet]:
    return [read_questions(spec, context.data) for spec in recipe.data]


def run(context: Context) -> Outcome:
    """Train or reuse the connector of (backbone, language model, recipe, seed), answer the test questions, score them.

    Raises UsageError/LevlError: data that is missing or empty, images that cannot be decoded, prefixes beyond the context.
    """
    card: VQACard = context.card
    assert isinstance(card.recipe, RecipeCard)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def lap(stage: str) -> None:
        nonlocal started
        seconds[stage] = time.monotonic() - started
        started = time.monotonic()

    test = read_questions(card.data, context.data, context.limit)
    if card.scorer != "exact" and not any(q.answer for q in test.questions):
        raise UsageError(f"{test.images.source}: split {test.split} has no public answers; choose one that has")
    sets = _training_sets(card.recipe, context)
    language = load_language_model(
        context.llm, context.device, torch.bfloat16 if context.device.type == "cuda" else torch.float32
    )
    prompt = make_prompt(card.prompt, language)
    lap("read")

    def features(images: Any) -> FeatureSet:
        found = context.store.get(
            context.backbone, images, device=context.device, batch_size=context.batch_size, progress=context.progress
        )
        hits["feature_hits" if found.hit else "feature_misses"] += 1
        return found

    hits = {"feature_hits": 0, "feature_misses": 0, "connector_hits": 0, "connector_misses": 0}
    train_features = [features(s.images) for s in sets]
    test_features = features(test.images)
    lap("features")

    meta = {
        "weights": context.backbone.weights_sha256, "preprocess": context.backbone.preprocess.describe(), "llm": language.sha256,
        "recipe": protocol_of(card.recipe), "prompt": card.prompt.template, "seed": context.seed,
        "data": [[s.fingerprint, s.images.fingerprint] for s in sets],
    }  # fmt: skip
    items = make_items(
        [(s.questions, f) for s, f in zip(sets, train_features, strict=True)], language, prompt, card.recipe, context.seed
    )
    connector, notes, hit = train(
        language, prompt, card.recipe, train_features, items, meta, context.cache, context.device, context.seed, context.progress
    )
    hits["connector_hits" if hit else "connector_misses"] += 1
    lap("connector")

    answers = answer_set(language, prompt, connector, test_features, test, context, f"answering {card.name}")
    lap("answers")
    metrics = _estimates(card, test.questions, answers)
    if "text-only" in card.floors:
        metrics["floor_text_only"] = _floor(context, card, language, prompt, test)
    lap("scores")
    samples = [
        Sample(
            id=q.question_id, image_id=q.image_id, prediction=answers[q.question_id], target=q.answer,
            score=score(card.scorer, q, answers[q.question_id]),
            meta={"question": q.question, **{k: q.meta[k] for k in ("split", "types", "answer_type", "question_type", "type") if k in q.meta}},
        )
        for q in test.questions
    ]  # fmt: skip
    data = {
        "fingerprint": connector_key({"questions": test.fingerprint, "images": test.images.fingerprint}),
        "counts": {"questions": len(test.questions), "images": len(test.images), "train_questions": sum(len(s.questions) for s in sets)},
        "version": test.version, "split": test.split, "train": [s.fingerprint for s in sets],
    }  # fmt: skip
    return Outcome(metrics, samples, data, notes, seconds, hits)
