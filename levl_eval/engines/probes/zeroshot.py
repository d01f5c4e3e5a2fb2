"""Zero-shot classification by text prompts, with every read-out the backbone has (docs/paper.md)."""

from __future__ import annotations

import hashlib
import time

import numpy as np

from levl_eval.backbones.base import Backbone
from levl_eval.cards import ZeroShotCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import did_you_mean
from levl_eval.data.readers import read_classification
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import chance
from levl_eval.engines.probes.common import data_of, features_of, samples_of, scores
from levl_eval.engines.probes.texts import check_names, class_embeddings, image_embeddings, prompt_templates, spoken_names
from levl_eval.metrics.calibration import calibration_error
from levl_eval.metrics.estimate import Estimate


def main_readout(backbone: Backbone, chosen: str | None, task: str) -> str:
    """Name of the read-out behind the main metric: the card's, or the one the backbone's authors report (its first).

    Raises LevlError for a backbone without text, UsageError for a read-out it does not have.
    """
    if not backbone.has_text:
        raise LevlError(
            f"{backbone.name} has no text encoder (or no tokenizer), so there is no zero-shot or retrieval; leave this task out for it"
        )
    known = [r.name for r in backbone.readouts]
    if chosen is not None and chosen not in known:
        raise UsageError(
            f"{task}: field `readout`: {backbone.name} has no {chosen!r}{did_you_mean(chosen, known)}; it has {', '.join(known)}"
        )
    return chosen or known[0]


def run(context: Context[ZeroShotCard]) -> Outcome:
    """Every read-out has its own metrics, as ``top1/average``; ``top1`` is the paper's (notes: main_readout).

    Raises LevlError for a backbone without text, UsageError for wrong class names, templates or read-out.
    """
    card = context.card
    backbone = context.backbone
    chosen = main_readout(backbone, card.readout, card.name)
    data = read_classification(card.data, context.data, context.limit)
    names = spoken_names(card.class_names, data.classes, data.names, card.name)
    if np.array_equal(names, list(data.classes)) and all(c[:1] == "n" and c[1:].isdigit() for c in data.classes):
        raise UsageError(
            f"{card.name}: the classes are WordNet ids, which say nothing in a prompt; put LOC_synset_mapping.txt beside the "
            "folders, or set `class_names` (openai, or a file)"
        )
    templates = prompt_templates(card.templates, card.name)
    ambiguous = check_names(names, data.classes, card.name)
    if ambiguous:
        context.progress.say(f"  {card.name}: {ambiguous}")
    started = time.monotonic()
    features = features_of(context, data)
    context.ready()
    texts = class_embeddings(backbone, names, templates, context.cache, context.progress)
    images = image_embeddings(backbone, features.pooled, context.device)
    metrics: dict[str, Estimate] = {}
    others: dict[str, Estimate] = {}
    samples = None
    for readout in backbone.readouts:
        logits = images[readout.image] @ texts[readout.text].T
        metrics_of_readout, right = scores(logits, data.labels)
        confidence = (card.logit_scale * logits.double()).softmax(1).amax(1).numpy()
        metrics_of_readout["calibration_error"] = calibration_error(confidence, right, card.ece_bins)
        if readout.name == chosen:
            metrics |= metrics_of_readout | chance(right, len(data.classes))
            samples = samples_of(data, logits.argmax(1).numpy(), right)
        others |= {f"{k}/{readout.name}": v for k, v in metrics_of_readout.items()}
    notes = {
        "main_readout": chosen,
        "readouts": [r.name for r in backbone.readouts],
        "templates": templates if len(templates) <= 8 else len(templates),
        "prompts_sha256": hashlib.sha256("\n".join([*templates, *names]).encode()).hexdigest(),
    }
    if ambiguous:
        notes["ambiguous_prompts"] = ambiguous
    return Outcome(metrics | others, samples or [], data_of(data), notes, {"total": time.monotonic() - started}, context.counts)
