"""Choices by image-text score, with every read-out the backbone has: captions of one image, or two images with two captions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from levl_eval.cards import ChoiceCard
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_choices
from levl_eval.data.types import ChoiceSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.probes.texts import image_embeddings, prompt_templates, text_embeddings
from levl_eval.engines.probes.zeroshot import main_readout
from levl_eval.engines.reads import arrays_of
from levl_eval.metrics.choices import (
    WINOGROUND_CHANCE,
    caption_choice,
    chance_of_choice,
    macro_mean,
    macro_weights,
    winoground_scores,
)
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate, paired_difference
from levl_eval.records import Sample

TWO_IMAGES = ("text_score", "image_score", "group_score")


def similarities(images: Tensor, texts: Tensor, data: ChoiceSet) -> list[np.ndarray]:
    """float64 [images, captions] inner products of each trial; texts [sum of captions, E] stand in order of the trials."""
    row = {name: k for k, name in enumerate(data.images.ids)}
    x, y = images.double().numpy(), texts.double().numpy()
    out, at = [], 0
    for t in data.trials:
        out.append(x[[row[i] for i in t.images]] @ y[at : at + len(t.captions)].T)
        at += len(t.captions)
    return out


def item_scores(similarity: list[np.ndarray], ties: str) -> dict[str, np.ndarray]:
    """Metric -> score of each trial [N], 0 or 1. similarity: of each trial, all of one image or all of two."""
    if similarity[0].shape[0] == 1:
        return {"accuracy": np.array([caption_choice(s[0], ties) for s in similarity])}
    each = np.array([winoground_scores(s) for s in similarity])
    return {name: each[:, k] for k, name in enumerate(TWO_IMAGES)}


def expected_scores(data: ChoiceSet) -> dict[str, np.ndarray]:
    """The same of random scores: chance, trial by trial."""
    if len(data.trials[0].images) == 1:
        return {"accuracy": np.array([chance_of_choice(len(t.captions)) for t in data.trials])}
    return {name: np.full(len(data.trials), c) for name, c in zip(TWO_IMAGES, WINOGROUND_CHANCE, strict=True)}


def averaged_kinds(data: ChoiceSet, card: ChoiceCard) -> np.ndarray:
    """Of each trial, whether it enters the mean over kinds: its kind is not left out and has trials enough."""
    counts = Counter(t.kind for t in data.trials)
    left = set(card.kinds_left_out)
    return np.array([t.kind not in left and counts[t.kind] >= card.least_of_a_kind for t in data.trials])


def check_pairs(data: ChoiceSet, card: ChoiceCard) -> None:
    """Raises UsageError: trials of one and of two images in one set, none, kinds left out that do not occur."""
    source = data.images.source
    if not data.trials:
        raise UsageError(f"{source}: no pair is left; none of its images can be used")
    if len({len(t.images) for t in data.trials}) > 1:
        raise UsageError(f"{source}: holds pairs about one image and about two; put them into two files")
    if len(data.trials[0].images) == 2 and card.ties != "wrong":
        raise UsageError(f"{card.name}: field `ties`: of two images equal scores are wrong; expected wrong")
    if card.main_metric.startswith("macro_"):
        counts = Counter(t.kind for t in data.trials if t.kind and t.kind not in card.kinds_left_out)
        if not counts:
            raise UsageError(f"{source}: its pairs have no kinds to be averaged over; set {card.name}.main_metric to accuracy")
        most = max(counts.values())
        if most < card.least_of_a_kind:
            raise UsageError(
                f"{source}: no kind has {card.least_of_a_kind} pairs (the largest has {most}); "
                f"lower {card.name}.least_of_a_kind, or --limit more"
            )


def estimates(scores: Mapping[str, np.ndarray], data: ChoiceSet, card: ChoiceCard) -> dict[str, Estimate]:
    """Metrics of item scores: means over trials, and for each of them the mean over kinds where the set has kinds."""
    clusters = np.array([t.images[0] for t in data.trials])
    kinds = np.array([t.kind for t in data.trials])
    kept = averaged_kinds(data, card)
    out = {name: mean_estimate(v, clusters) for name, v in scores.items()}
    if any(kinds[kept]):
        out |= {f"macro_{name}": macro_mean(v[kept], kinds[kept].tolist(), clusters[kept]) for name, v in scores.items()}
    return out


def by_kind(scores: np.ndarray, data: ChoiceSet) -> dict[str, Estimate]:
    """``kind/NAME`` for each kind of the set, where it has several."""
    kinds, clusters = np.array([t.kind for t in data.trials]), np.array([t.images[0] for t in data.trials])
    names = sorted(set(kinds.tolist()))
    return {f"kind/{k}": mean_estimate(scores[kinds == k], clusters[kinds == k]) for k in names} if len(names) > 1 else {}


def _chance(scores: Mapping[str, np.ndarray], data: ChoiceSet, card: ChoiceCard) -> dict[str, Estimate]:
    """Chance of the main metric and the gain over it, weighted as the metric is."""
    macro = card.main_metric.startswith("macro_")
    name = card.main_metric.removeprefix("macro_")
    if name not in scores:
        return {}
    kept = averaged_kinds(data, card) if macro else np.ones(len(data.trials), bool)
    clusters = np.array([t.images[0] for t in data.trials])[kept]
    weights = macro_weights([t.kind for t, k in zip(data.trials, kept, strict=True) if k]) if macro else 1.0
    mine, theirs = scores[name][kept] * weights, expected_scores(data)[name][kept] * weights
    return {
        "floor_chance": Estimate(value=float(theirs.mean()), n=len(theirs), clusters=len(set(clusters.tolist())), method="exact"),
        "gain_over_chance": paired_difference(mine, theirs, clusters),
    }


def _samples(similarity: list[np.ndarray], scores: Mapping[str, np.ndarray], data: ChoiceSet, card: ChoiceCard) -> list[Sample]:
    macro = card.main_metric.startswith("macro_")
    main = scores.get(card.main_metric.removeprefix("macro_"), next(iter(scores.values())))
    kept = averaged_kinds(data, card)
    out = []
    for k, t in enumerate(data.trials):
        s = similarity[k]
        chosen = int(s[0].argmax()) if len(t.images) == 1 else -1
        meta: dict[str, object] = {"kind": t.kind, "similarities": s.round(6).tolist()}
        if macro:
            meta["split"] = t.kind  # what a table's differences are averaged over
        if len(t.images) == 2:
            meta |= {"image_1": t.images[1], **{name: v[k] for name, v in scores.items()}}
        out.append(
            Sample(
                id=t.trial_id, image_id=t.images[0], prediction=t.captions[chosen] if chosen >= 0 else "", target=t.captions[0],
                score=float(main[k]) if kept[k] or not macro else None, meta=meta,
            )
        )  # fmt: skip
    return out


def run(context: Context[ChoiceCard]) -> Outcome:
    """Every read-out has its own metrics, as ``accuracy/average``; the plain ones are those of the read-out the authors report.

    Raises LevlError for a backbone without text, UsageError for unusable files and templates.
    """
    card, backbone = context.card, context.backbone
    chosen = main_readout(backbone, card.readout, card.name)
    (template,) = prompt_templates([card.template], card.name)
    data = read_choices(card.data, context.data, context.limit)
    check_pairs(data, card)
    started = time.monotonic()
    features = context.features(data.images, arrays_of(card))
    context.ready()
    images = image_embeddings(backbone, features.pooled, context.device)
    captions = [template.replace("{}", c) for t in data.trials for c in t.captions]
    texts = text_embeddings(backbone, captions, context.cache, context.progress)
    metrics: dict[str, Estimate] = {}
    others: dict[str, Estimate] = {}
    samples: list[Sample] = []
    for readout in backbone.readouts:
        similarity = similarities(images[readout.image], texts[readout.text], data)
        scores = item_scores(similarity, card.ties)
        results = estimates(scores, data, card)
        others |= {f"{k}/{readout.name}": v for k, v in results.items()}
        if readout.name == chosen:
            main = scores.get(card.main_metric.removeprefix("macro_"), next(iter(scores.values())))
            tied = np.array([len(np.unique(s)) < s.size for s in similarity], float)
            metrics |= results | by_kind(main, data) | _chance(scores, data, card)
            metrics["tied"] = mean_estimate(tied, np.array([t.images[0] for t in data.trials]))
            samples = _samples(similarity, scores, data, card)
    counts = {"images": len(data.images), "trials": len(data.trials)}
    about = {"fingerprint": fingerprint_of(data), "counts": counts, "split": data.split}
    kinds = Counter(printable(t.kind) for t in data.trials)
    notes = {
        "main_readout": chosen,
        "readouts": [r.name for r in backbone.readouts],
        "kinds": dict(kinds) if len(kinds) <= 64 else len(kinds),
    }
    return Outcome(metrics | others, samples, about, notes, {"total": time.monotonic() - started}, context.counts)
