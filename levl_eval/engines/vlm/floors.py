"""What a row gets without sight, each trained or asked the same way: no image, a blank one, another one's, an untrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from levl_eval.backbones.twin import random_twin
from levl_eval.cards import QuestionCard, RecipeCard
from levl_eval.core.distributed import process_group
from levl_eval.core.files import locked
from levl_eval.core.hashing import digest
from levl_eval.core.kept import Damaged, mark_used, read_json, recall, write_json
from levl_eval.data.types import QuestionSet
from levl_eval.engines.vlm.answers import ENGINE, answer_set
from levl_eval.engines.vlm.main_scores import Reading, main_estimate, main_scores, reads
from levl_eval.engines.vlm.options import option_likelihoods
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.engines.vlm.recipe import Trained, VQAResources, get_or_train_connector, prompt_identity
from levl_eval.engines.vlm.scoring import weights
from levl_eval.engines.vlm.tokens import encode_tokens, read_tokens
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import paired_difference
from levl_eval.records.identity import cache_key

VisualOf = Callable[[Sequence[str]], torch.Tensor]


def visual_reader(resources: VQAResources, trained: Trained, data: QuestionSet, other: dict[str, str] | None = None) -> VisualOf:
    """Image ids -> visual tokens, from stored features; ``other``: the image to show in each one's place."""
    net = trained.connector
    features = resources.features(data.images, net.spec)
    row = features.row

    def visual_of(names: Sequence[str]) -> torch.Tensor:
        raw = read_tokens(features, [row[other[n] if other else n] for n in names], net.spec)
        with torch.inference_mode():
            out: torch.Tensor = net(torch.from_numpy(raw).to(resources.device))
            return out

    return visual_of


def _blank(resources: VQAResources, trained: Trained) -> VisualOf:
    """One mid-grey image, whatever is asked for."""
    backbone, net = resources.backbone, trained.connector
    size = backbone.preprocess.size
    image = backbone.preprocess(Image.new("RGB", (size, size), (127, 127, 127)))[None].to(resources.device)
    with torch.inference_mode():
        visual = net(encode_tokens(backbone, image, net.spec))
    return lambda names: visual.expand(len(names), -1, -1)


def exchange(names: Sequence[str], seed: int) -> dict[str, str]:
    """Another image for each, every image used once and none in its own place (where there are two or more)."""
    order = np.random.default_rng([seed, 23]).permutation(len(names))
    return {names[a]: names[b] for a, b in zip(order, np.roll(order, -1), strict=True)}


def _read(
    resources: VQAResources, card: QuestionCard, prompt: Prompt, visual_of: VisualOf | None, data: QuestionSet, what: str
) -> Reading:
    """What the card's main metric needs of a reading, and no more."""
    language, progress = resources.language, resources.progress
    needed = reads(card)
    if needed == "options":
        return Reading(options=option_likelihoods(language, prompt, visual_of, data.questions, progress, what))
    choices = card.likelihood if needed == "letters" else ()
    answers = answer_set(language, prompt, visual_of, data.questions, progress, what, choices=choices)
    return Reading(letters=answers.likelihoods) if needed == "letters" else Reading(answers.texts)


def text_only(resources: VQAResources, card: QuestionCard, prompt: Prompt, data: QuestionSet) -> Reading:
    """The language model alone: the same questions without any image. The same for every backbone, so kept."""
    path = resources.cache / "floors" / f"{floor_key(resources, card, data)}.json"
    # Workers come to it at the same time, when their first connectors are trained: one asks, the others wait and read.
    with locked(path.parent / "locks" / path.stem) if process_group().main else nullcontext():
        return _asked_or_kept(resources, card, prompt, data, path)


def _asked_or_kept(resources: VQAResources, card: QuestionCard, prompt: Prompt, data: QuestionSet, path: Path) -> Reading:
    needed = reads(card)
    wanted = {q.question_id for q in data.questions if needed == "texts" or "choices" in q.meta}
    kept = process_group().from_main(
        recall(lambda: _kept(path, wanted, needed), resources.progress) if process_group().main else None
    )
    if kept is not None:
        return kept
    reading = _read(resources, card, prompt, None, data, "text-only floor")
    if process_group().main:
        write_json(path, path.stem, getattr(reading, needed))
    return reading


def floor_key(resources: VQAResources, card: QuestionCard, data: QuestionSet) -> str:
    """Under what is kept that a language model makes of questions without an image: what is asked, of which model, how. No image and no
    encoder enters.
    """
    needed = reads(card)
    options: dict[str, object] = {}
    if needed != "texts":
        options = {"reads": needed, "letters": list(card.likelihood) if needed == "letters" else [], "options": digest(
            [[q.question_id, q.meta.get("stem", ""), list(map(str, q.meta.get("choices", ())))] for q in data.questions]
        )}  # fmt: skip
    return cache_key(
        "floor", ENGINE, language_model=resources.language.parts(), dtype=str(resources.language.dtype), device=resources.device.type,
        prompt=prompt_identity(card.prompt, resources.language), stop=list(card.prompt.stop), new=card.prompt.max_new_tokens,
        questions=digest([[q.question_id, q.question] for q in data.questions]),
        groups=digest([q.image_id for q in data.questions]), **options,  # groups: what is decoded together
    )  # fmt: skip


def _kept(path: Path, wanted: set[str], needed: str) -> Reading:
    """Kept answers, or likelihoods. Raises FileNotFoundError, Damaged."""
    values = read_json(path, path.stem)
    if not isinstance(values, dict) or values.keys() != wanted or not all(_is_kind(v, needed) for v in values.values()):
        raise Damaged(f"{path}: does not hold an answer to each of {len(wanted)} questions")
    mark_used(path)
    if needed == "texts":
        return Reading(texts=values)
    return Reading(letters=values) if needed == "letters" else Reading(options=values)


def _is_kind(value: object, needed: str) -> bool:
    """Whether this can be a question's text, or its likelihoods."""
    if needed == "texts":
        return isinstance(value, str)
    return isinstance(value, list) and all(isinstance(v, float) for v in value)


def measure(
    resources: VQAResources, card: QuestionCard, prompt: Prompt, data: QuestionSet, trained: Trained, reading: Reading, seed: int
) -> dict[str, Estimate]:
    """For each floor of the card its main metric (floor_NAME) and the row's gain over it, paired question by question (gain_over_NAME).

    Questions that have failed are wrong on both sides.
    """
    assert isinstance(card.recipe, RecipeCard)
    failed = {q.question_id for q in data.failed}
    mine = main_scores(card, reading, data.rows, failed)
    factor = weights(mine.questions)
    images = np.array([q.image_id for q in mine.questions])
    out: dict[str, Estimate] = {}
    for floor in card.floors:
        if floor == "text-only":
            unsighted = text_only(resources, card, prompt, data)
        else:
            if floor == "blank-image":
                visual_of = _blank(resources, trained)
            elif floor == "shuffled-images":
                visual_of = visual_reader(resources, trained, data, exchange(data.images.ids, seed))
            else:
                twin = VQAResources(**{**vars(resources), "backbone": random_twin(resources.backbone)})
                visual_of = visual_reader(twin, get_or_train_connector(twin, card.recipe, card.prompt, seed), data)
            unsighted = _read(resources, card, prompt, visual_of, data, f"floor: {floor}")
        theirs = main_scores(card, unsighted, data.rows, failed)
        name = floor.replace("-", "_")
        out[f"floor_{name}"] = main_estimate(card, unsighted, theirs)
        out[f"gain_over_{name}"] = paired_difference(mine.values * factor, theirs.values * factor, images)
    return out
