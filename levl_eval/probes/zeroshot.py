"""Zero-shot classification by text prompts, with every read-out the backbone has (PAPER 2d)."""

from __future__ import annotations

import time

import numpy as np
import torch

from levl_eval.cards import ZeroShotCard
from levl_eval.data.readers import read_classification
from levl_eval.engines import Context, Outcome
from levl_eval.errors import LevlError, UsageError
from levl_eval.probes.linear import data_of, samples_of, scores
from levl_eval.records import Estimate


@torch.inference_mode()
def class_embeddings(backbone, names: list[str], templates: list[str]) -> dict[str, torch.Tensor]:
    """[C, E] by name: the mean over the templates' normalised embeddings, normalised again (as CLIP's prompt ensembles)."""
    total: dict[str, torch.Tensor] = {}
    for template in templates:
        for key, value in backbone.text_embeddings([template.format(n) for n in names]).items():
            total[key] = total.get(key, 0) + value.float()
    return {k: torch.nn.functional.normalize(v, dim=-1) for k, v in total.items()}


def run(context: Context) -> Outcome:
    """top1 is the backbone's first read-out, the one its authors report; each read-out also has its own metric.

    Raises LevlError for a backbone without text, UsageError for wrong class names or templates.
    """
    card: ZeroShotCard = context.card
    backbone = context.backbone
    if not backbone.has_text:
        raise LevlError(
            f"{backbone.name} has no text encoder (or no tokenizer), so there is no zero-shot; leave this task out for it"
        )
    data = read_classification(card.data, context.data, context.limit)
    names = card.class_names or [c.replace("_", " ").strip() for c in data.classes]
    if len(names) != len(data.classes):
        raise UsageError(f"{card.name}: field `class_names`: {len(names)} names for {len(data.classes)} class folders")
    wrong = [t for t in card.templates if "{}" not in t]
    if wrong or not card.templates:
        raise UsageError(f"{card.name}: field `templates`: {(wrong or [''])[0]!r} has no {{}} for the class name")
    started = time.monotonic()
    features = context.store.get(
        backbone, data.images, device=context.device, batch_size=context.batch_size, progress=context.progress
    )
    cache = {"feature_hits": int(features.hit), "feature_misses": int(not features.hit)}
    texts = class_embeddings(backbone, names, card.templates)
    with torch.inference_mode():
        parts = [
            backbone.image_embeddings(torch.from_numpy(np.asarray(features.pooled[i : i + 4096], np.float32)).to(context.device))
            for i in range(0, len(data.images), 4096)
        ]
        images = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    metrics: dict[str, Estimate] = {}
    samples = None
    for readout in backbone.readouts:
        logits = (images[readout.image].float() @ texts[readout.text].T).cpu()
        found, right = scores(logits, data.labels)
        if samples is None:  # the first read-out is the authors'
            metrics |= found
            samples = samples_of(data, logits.argmax(1).numpy(), right)
        metrics[f"top1/{readout.name}"] = found["top1"]
    notes = {"templates": card.templates, "first_readout": backbone.readouts[0].name}
    return Outcome(metrics, samples or [], data_of(data), notes, {"total": time.monotonic() - started}, cache)
