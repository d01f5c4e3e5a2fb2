"""From a recipe card to a trained connector: its data, its stages, and the key under which it is kept and reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from levl_eval.backbones.base import Backbone
from levl_eval.cards import ConnectorSpec, DataSpec, PromptSpec, RecipeCard, protocol_of
from levl_eval.core.hashing import digest
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_questions
from levl_eval.data.types import ImageSet, QuestionSet
from levl_eval.engines.contract import RunCache, counted_features
from levl_eval.engines.reads import arrays_of_connector
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.packing import Item, make_items
from levl_eval.engines.vlm.prompts import asks_by_template, make_prompt
from levl_eval.engines.vlm.tokens import check_layer, layers_of_connector
from levl_eval.engines.vlm.training import ConnectorTraining, connector_key, multiplies_in_bf16, train
from levl_eval.features.request import Reading
from levl_eval.features.store import FeatureSet, FeatureStore
from levl_eval.features.version import FEATURES


@dataclass
class VQAResources:
    """Everything a connector is made with: who sees, who answers, and where features and connectors are kept."""

    backbone: Backbone
    language: LanguageModel
    data: str  # a directory, or "hub"
    store: FeatureStore
    cache: Path
    device: torch.device
    progress: Progress
    batch_size: int = 64
    kept: RunCache = field(default_factory=RunCache)
    counts: dict[str, int] = field(
        default_factory=lambda: {"feature_hits": 0, "feature_misses": 0, "connector_hits": 0, "connector_misses": 0}
    )

    def features(self, images: ImageSet, spec: ConnectorSpec) -> FeatureSet:
        """The tokens of the wanted layer, from the store; several processes fill it together."""
        how = Reading(layers=layers_of_connector(spec), tokens=spec.token_dtype)
        return counted_features(self, images, arrays_of_connector(spec), how)


def questions(kept: RunCache, spec: DataSpec, data: str, limit: int | None = None) -> QuestionSet:
    """A question set, read once in a run: its tasks share what they train on, its backbones all of it."""
    name = spec.model_dump_json()
    return kept.get(f"questions {name} {limit}", data, lambda: read_questions(spec, data, limit))


@dataclass(frozen=True)
class Trained:
    """A connector, what made it (its ``key`` and ``meta``), and notes for the record."""

    connector: Connector
    key: str
    meta: Mapping[str, object]
    notes: Mapping[str, object]
    sets: list[QuestionSet]


def prompt_identity(spec: PromptSpec, language: LanguageModel) -> dict[str, object]:
    """What of a prompt a connector was trained behind; decoding limits do not matter to it."""
    chat = asks_by_template(language, spec)
    return {"chat": True, "user": spec.user, "system": spec.system} if chat else {"template": spec.template}


def vlm_parts(resources: VQAResources) -> dict[str, object]:
    """What every connector, and every answer through one, depends on besides data and prompt."""
    return {
        "encoder": resources.backbone.encoder_parts(), "preprocess": resources.backbone.preprocess.describe(), "features": FEATURES,
        "language_model": resources.language.parts(), "dtype": str(resources.language.dtype), "device": resources.device.type,
    }  # fmt: skip


def questions_parts(question_set: QuestionSet) -> dict[str, object]:
    """A question set by content and in its order: questions and their answers, and the images' ids in the order of their features."""
    known = question_set.__dict__.get("_order")
    if known is None:
        asked = [[q.question_id, q.image_id, q.question, q.answer, list(q.answers)] for q in question_set.questions]
        known = question_set.__dict__["_order"] = digest([asked, list(question_set.images.ids)])  # once: a set may hold millions
    return {"questions": question_set.fingerprint, "images": question_set.images.fingerprint, "order": known}


def get_or_train_connector(
    resources: VQAResources, recipe: RecipeCard, spec: PromptSpec, seed: int, lap: Callable[[str], None] = lambda stage: None
) -> Trained:
    """The connector of a recipe, trained or reused. ``spec``: the task's prompt, where the recipe has none of its own.

    Raises UsageError/LevlError: data that is missing or empty, images that cannot be decoded, tokens beyond the context.
    """
    seed = seed if recipe.seed is None else recipe.seed
    spec = recipe.prompt or spec
    first = get_or_train_connector(resources, recipe.first, spec, seed, lap) if recipe.first is not None else None
    sets = [questions(resources.kept, s, resources.data) for s in recipe.data]
    prompt = make_prompt(spec, resources.language)
    backbone = resources.backbone
    check_layer(backbone, recipe.connector)
    lap("read")
    features = [resources.features(s.images, recipe.connector) for s in sets]
    lap("features")
    meta = {
        **vlm_parts(resources), "recipe": protocol_of(recipe), "prompt": prompt_identity(spec, resources.language), "seed": seed,
        "precision": "bf16" if multiplies_in_bf16(recipe, resources.device) else "fp32",
        "data": [questions_parts(s) for s in sets], "first": first.key if first else None,
    }  # fmt: skip

    def items() -> list[Item]:
        return make_items(
            [(s.questions, f) for s, f in zip(sets, features, strict=True)], resources.language, prompt, recipe, seed
        )

    job = ConnectorTraining(
        resources.language,
        prompt,
        recipe,
        features,
        resources.device,
        seed,
        resources.progress,
        first.connector if first else None,
    )
    connector, notes, hit = train(job, items, meta, resources.cache)
    resources.counts["connector_hits" if hit else "connector_misses"] += 1
    lap("connector")
    if first is not None:
        notes = {**notes, "connector_first": first.key}
    return Trained(connector, connector_key(meta), meta, notes, sets)
