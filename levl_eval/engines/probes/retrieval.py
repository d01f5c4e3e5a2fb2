"""Image-text retrieval: recall at k both ways, for every read-out the backbone has. Similarities exist a block at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from levl_eval.cards import RetrievalCard
from levl_eval.core.errors import UsageError
from levl_eval.data.captions import first_captions
from levl_eval.data.images import fingerprint_of
from levl_eval.data.readers import read_captions
from levl_eval.data.types import CaptionSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import retrieval_chance
from levl_eval.engines.probes.texts import image_embeddings, text_embeddings
from levl_eval.engines.probes.zeroshot import main_readout
from levl_eval.engines.reads import arrays_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.retrieval import recall_at
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.records import Sample

ROWS, COLUMNS = 512, 4096  # images and captions compared at once


@dataclass
class Ranks:
    """greater, tied, right (see metrics.retrieval.recall_at) of every image among captions and of every caption among images."""

    image: np.ndarray  # [3, images]
    text: np.ndarray  # [3, captions]


def _distinct(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows, each row's place among them, and how often each occurs."""
    kept, inverse, counts = np.unique(x.numpy(), axis=0, return_inverse=True, return_counts=True)
    return torch.from_numpy(kept), torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(counts)


@torch.inference_mode()
def ranks(
    images: Tensor, texts: Tensor, owner: np.ndarray, device: torch.device, rows: int = ROWS, columns: int = COLUMNS
) -> Ranks:
    """How embeddings [N, E] and [M, E] rank each other by inner product; caption j belongs to image owner[j].

    Two passes over the same blocks of [rows, columns] similarities: the scores of the right pairs, then the counts against them.
    Blocks are of distinct embeddings, each pair of which is multiplied once a pass: equal embeddings have exactly equal scores.
    """
    a, at_a, times_a = (t.to(device) for t in _distinct(images))
    b, at_b, times_b = (t.to(device) for t in _distinct(texts))
    own = torch.from_numpy(owner).to(device)
    n, m = len(images), len(texts)
    pair = torch.empty(m, device=device)  # score of each caption with its image

    def within(places: Tensor, start: int, size: int) -> Tensor:
        return torch.nonzero((places >= start) & (places < start + size)).flatten()

    def blocks() -> Iterator[tuple[int, int]]:
        for i in range(0, len(a), rows):
            for j in range(0, len(b), columns):
                yield i, j

    row_of = at_a[own]  # of each caption's image
    for i, j in blocks():
        inside = torch.nonzero((row_of >= i) & (row_of < i + rows) & (at_b >= j) & (at_b < j + columns)).flatten()
        if len(inside):
            s = a[i : i + rows] @ b[j : j + columns].T
            pair[inside] = s[row_of[inside] - i, at_b[inside] - j]
    best = torch.full((n,), -torch.inf, device=device).scatter_reduce_(0, own, pair, "amax")
    image = torch.zeros(3, n, dtype=torch.long, device=device)
    text = torch.zeros(3, m, dtype=torch.long, device=device)
    for i, j in blocks():
        s = a[i : i + rows] @ b[j : j + columns].T  # the same product again, with the same bits
        here, times = within(at_a, i, rows), times_b[j : j + columns]
        for part in here.split(rows):
            scores, mine = s[at_a[part] - i], best[part].unsqueeze(1)
            image[0, part] += ((scores > mine) * times).sum(1)
            image[1, part] += ((scores == mine) * times).sum(1)
        here, times = within(at_b, j, columns), times_a[i : i + rows].unsqueeze(1)
        for part in here.split(columns):
            scores, its = s[:, at_b[part] - j], pair[part]
            text[0, part] += ((scores > its) * times).sum(0)
            text[1, part] += ((scores == its) * times).sum(0)
    # What was counted as equal holds the right ones themselves; none of them is above the best of them.
    image[2].scatter_add_(0, own, (pair == best[own]).long())
    image[1] -= image[2]
    text[2] = 1
    text[1] -= 1
    return Ranks(image.cpu().numpy(), text.cpu().numpy())


def recalls(
    images: Tensor, texts: Tensor, owner: np.ndarray, ks: list[int], folds: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Hits [len(ks), images] and [len(ks), captions], each fold of consecutive images on its own."""
    n = len(images)
    by_image, by_text = np.zeros((len(ks), n)), np.zeros((len(ks), len(texts)))
    for part in np.array_split(np.arange(n), folds):
        mine = np.flatnonzero((owner >= part[0]) & (owner <= part[-1]))
        by_query = ranks(images[part[0] : part[-1] + 1], texts[torch.from_numpy(mine)], owner[mine] - part[0], device)
        for r, k in enumerate(ks):
            by_image[r, part] = recall_at(by_query.image[0], by_query.image[1], k, by_query.image[2])
            by_text[r, mine] = recall_at(by_query.text[0], by_query.text[1], k, by_query.text[2])
    return by_image, by_text


def _mean_recall(by_image: np.ndarray, by_text: np.ndarray, owner: np.ndarray) -> Estimate:
    """Mean of both ways' mean recalls, bootstrapped over images with their captions."""
    n = by_image.shape[1]
    counts = np.zeros((n, 4))
    counts[:, 0], counts[:, 1] = by_image.mean(0), 1
    np.add.at(counts[:, 2], owner, by_text.mean(0))
    np.add.at(counts[:, 3], owner, 1)
    return bootstrap_statistic(
        counts, lambda s: (s[..., 0] / s[..., 1].clip(1e-12) + s[..., 2] / s[..., 3].clip(1e-12)) / 2, draws=2000, seed=0,
        n=n + len(owner),
    )  # fmt: skip


def _chance(by_image: np.ndarray, by_text: np.ndarray, owner: np.ndarray, card: RetrievalCard) -> dict[str, Estimate]:
    """The mean recall of a random order, which hits as often on average for any embeddings, and the gain over it."""
    theirs = retrieval_chance(owner, by_image.shape[1], card.k, card.folds)
    gain = _mean_recall(by_image - theirs[0], by_text - theirs[1], owner)
    return {
        "floor_chance": _mean_recall(*theirs, owner),
        "gain_over_chance": gain.model_copy(update={"method": f"paired {gain.method}"}),
    }


def captions_of(card: RetrievalCard, data: str, limit: int | None) -> CaptionSet:
    """The card's captions and their images. Raises UsageError for unusable files."""
    return first_captions(read_captions(card.data, data, limit), card.captions_per_image)


def run(context: Context[RetrievalCard]) -> Outcome:
    """Raises LevlError for a backbone without text, UsageError for unusable caption files or more folds than images."""
    card, backbone = context.card, context.backbone
    chosen = main_readout(backbone, card.readout, card.name)
    data = captions_of(card, context.data, context.limit)
    if card.folds > len(data.images):
        raise UsageError(f"{card.name}: field `folds`: {card.folds} folds of {len(data.images)} images")
    started = time.monotonic()
    features = context.features(data.images, arrays_of(card))
    context.ready()
    images = image_embeddings(backbone, features.pooled, context.device)
    texts = text_embeddings(backbone, list(data.captions), context.cache, context.progress)
    metrics: dict[str, Estimate] = {}
    others: dict[str, Estimate] = {}
    samples: list[Sample] = []
    clusters = np.array(data.images.ids)[data.owner]
    for readout in backbone.readouts:
        by_image, by_text = recalls(images[readout.image], texts[readout.text], data.owner, card.k, card.folds, context.device)
        results = {"mean_recall": _mean_recall(by_image, by_text, data.owner)}
        for r, k in enumerate(card.k):
            results[f"image_to_text_r{k}"] = mean_estimate(by_image[r])
            results[f"text_to_image_r{k}"] = mean_estimate(by_text[r], clusters)
        others |= {f"{k}/{readout.name}": v for k, v in results.items()}
        if readout.name == chosen:
            metrics |= results | _chance(by_image, by_text, data.owner, card)
            one, other = by_image.mean(0), by_text.mean(0)
            samples = [
                Sample(id=f"image/{i}", image_id=i, score=float(one[k]), meta={"split": "image-to-text"})
                for k, i in enumerate(data.images.ids)
            ] + [
                Sample(
                    id=f"text/{j}", image_id=str(clusters[j]), target=c, score=float(other[j]), meta={"split": "text-to-image"}
                )
                for j, c in enumerate(data.captions)
            ]
    counts = {"images": len(data.images), "captions": len(data.captions)}
    about = {"fingerprint": fingerprint_of(data), "counts": counts, "split": data.split}
    notes = {"main_readout": chosen, "readouts": [r.name for r in backbone.readouts]}
    return Outcome(metrics | others, samples, about, notes, {"total": time.monotonic() - started}, context.counts)
