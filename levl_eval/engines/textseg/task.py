"""The text-driven segmentation engine: patch tokens against the texts of the classes, scored by mIoU; nothing is trained.

Sliding windows, several names a class and the threshold for background as github.com/wangf3014/SCLIP (clip_segmentor.py) evaluates CLIP.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Readout
from levl_eval.backbones.values import ValueBackbone
from levl_eval.cards import TextSegmentationCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import did_you_mean
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_segmentation
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.dense_images import Shown
from levl_eval.engines.probes.texts import check_names, class_embeddings, prompt_templates, spoken_names
from levl_eval.engines.probes.zeroshot import main_readout
from levl_eval.engines.segmentation.fitting import scored_geometry
from levl_eval.engines.segmentation.images import palette_of, shown
from levl_eval.engines.segmentation.task import scored
from levl_eval.engines.textseg.head import ByText, Rule, TextHead
from levl_eval.features.views import make_views

PATHS = {
    "projection": "tokens after the final norm, through the projection of the class token",
    "value": "tokens of a last block in which each attends to itself alone, after the final norm, "
    "through the projection of the class token",
}


def run(context: Context[TextSegmentationCard]) -> Outcome:
    """Raises LevlError for a backbone whose patch tokens have no place in a text space, UsageError for wrong names, templates or rules."""
    read = read_segmentation(context.card.data, context.data, context.limit)
    test = scored_set(context.card, read)
    fitted, notes, seconds = prepared(context, test)
    outcome = scored(context, fitted, None, test, None)
    # What was read, whole: the set's identity, whatever the card leaves out of its classes.
    outcome.data = {**outcome.data, "fingerprint": fingerprint_of(read)}
    outcome.notes = {**notes, **outcome.notes}
    outcome.seconds = seconds | outcome.seconds
    return outcome


def prepared(context: Context[TextSegmentationCard], test: SegmentationSet) -> tuple[ByText, dict[str, object], dict[str, float]]:
    """Features, texts and the rule: what predicts; notes and seconds. Raises as :func:`run` does."""
    card, backbone = context.card, context.backbone
    readout = readout_of(backbone, card)
    prompts = Prompts.of(card, test.classes)
    templates = prompt_templates(card.templates, card.name)
    geometry = scored_geometry(card, backbone.preprocess)
    views = make_views(geometry.size, card.window, card.stride, card.flip)
    started = time.monotonic()
    reading = context if card.patches == "projection" else replace(context, backbone=ValueBackbone(backbone))
    features = reading.features(test.images, ("patches",), geometry, None, views)
    context.counts.update(reading.counts)
    context.ready()
    seconds = {"features": time.monotonic() - started}
    started = time.monotonic()
    texts = class_embeddings(backbone, prompts.names, templates, context.cache, context.progress)[readout.text].to(context.device)
    seconds["texts"] = time.monotonic() - started
    head = TextHead(backbone.image_embeddings, readout.image, texts, features.grid)
    threshold = card.background_threshold if card.background in ("text", "threshold") else None
    background = test.classes.index(card.background_class) if threshold is not None else -1
    rule = Rule(torch.tensor(prompts.owner, device=context.device), card.logit_scale, threshold, background)
    fitted = ByText(head, features, views, geometry, card, context.device, rule)
    notes: dict[str, object] = {
        "main_readout": readout.name,
        "patch_path": PATHS[card.patches],
        "templates": templates if len(templates) <= 8 else len(templates),
        "texts": len(prompts.names),
        "prompts_sha256": hashlib.sha256("\n".join([*templates, *prompts.names]).encode()).hexdigest(),
    }
    twice = check_names(prompts.names, tuple(prompts.names), card.name)
    if twice:
        context.progress.say(f"  {card.name}: {twice}")
        notes["ambiguous_prompts"] = twice
    return fitted, notes, seconds


def readout_of(backbone: Backbone, card: TextSegmentationCard) -> Readout:
    """The read-out of the card. Raises LevlError where the backbone has no text, or its patch tokens no place in the texts' space."""
    name = main_readout(backbone, card.readout, card.name)
    if not backbone.projects_patches:
        raise LevlError(
            f"{backbone.name}: its pooled feature is no class token of the patch tokens' own kind, so its projection into the texts' space "
            "is not defined of single patch tokens; leave this task out for it"
        )
    return next(r for r in backbone.readouts if r.name == name)


@dataclass(frozen=True)
class Prompts:
    """Names that stand in the templates, and the class of each."""

    names: list[str]
    owner: list[int]

    @staticmethod
    def of(card: TextSegmentationCard, classes: tuple[str, ...]) -> Prompts:
        """Raises UsageError for names that are not as many as classes, or empty."""
        names: list[str] = []
        owner: list[int] = []
        for c, spoken in enumerate(spoken_names(card.class_names, classes, (), card.name)):
            if card.background in ("text", "threshold") and classes[c] == card.background_class:
                words = [] if card.background == "threshold" else list(card.background_texts or [spoken])
            else:
                words = [w.strip() for w in re.split("[,;]", spoken)]
                words = words[:1] if card.synonyms == "first" else words
            words = [re.sub("[-_]", " ", w).strip() for w in words]
            check_names(words, tuple(words), card.name)
            names += words
            owner += [c] * len(words)
        return Prompts(names, owner)


def scored_set(card: TextSegmentationCard, test: SegmentationSet) -> SegmentationSet:
    """The set as the card scores it: without the background class where that is void. Raises UsageError where it has no such class."""
    if card.background == "none":
        return test
    if card.background_class not in test.classes:
        raise UsageError(
            f"{card.name}: field `background_class`: the set has no class {card.background_class!r}"
            f"{did_you_mean(card.background_class, list(test.classes))}; set `background: none`, or name it"
        )
    if card.background != "void":
        return test
    left_out, ignore = test.classes.index(card.background_class), test.ignore_index

    def mask(name: str) -> np.ndarray:
        labels = test.mask(name)
        kept = np.where((labels > left_out) & (labels != ignore), labels - 1, labels)
        return np.where(labels == left_out, ignore, kept)

    classes = tuple(c for k, c in enumerate(test.classes) if k != left_out)
    colours = np.delete(palette_of(card, test), left_out, 0)
    return dataclasses.replace(test, mask=mask, classes=classes, palette=tuple(int(v) for v in colours.reshape(-1)))


def show_textseg(context: Context[TextSegmentationCard]) -> Shown:
    """The test set as the texts see it, for `levl-eval show-dense`."""
    test = scored_set(context.card, read_segmentation(context.card.data, context.data, context.limit))
    return shown(prepared(context, test)[0], test)
