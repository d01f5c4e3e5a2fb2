"""Video label propagation: the first frame's masks carried on by patch tokens, scored by J and F as DAVIS 2017 is. Nothing is trained.

J is the intersection over union of an object's mask, F how well its boundary is met (metrics.video). As in the official semi-supervised
evaluation neither the first frame, which is given, nor the last one is scored; every object counts once, whatever its video's length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Preprocess, patch_of
from levl_eval.cards import PropagationCard
from levl_eval.core.errors import LevlError
from levl_eval.data.images import fingerprint_contents, fingerprint_of
from levl_eval.data.readers import read_videos
from levl_eval.data.types import ImageSet, Video, VideoSet
from levl_eval.data.videos import check_sizes
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.propagation.images import keep_images
from levl_eval.engines.propagation.labels import enlarged, followed, reduced, shares
from levl_eval.engines.reads import arrays_of
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate, paired_difference
from levl_eval.metrics.video import Statistics, boundary_accuracy, region_similarity, statistics
from levl_eval.records import Sample

# What masks are made by: tokens; the first frame's mask, kept; what each token shows of the true masks (the ceiling of that resolution).
MADE = ("backbone", "first_mask", "ceiling")


@dataclass(frozen=True)
class Object:
    """An object of a video. j, f: of MADE, over its scored frames."""

    video: str
    number: int
    cluster: str  # the video's first frame
    frames: int
    j: dict[str, Statistics]
    f: dict[str, Statistics]

    def value(self, main: str, made: str) -> float:
        """The main metric's share of this object."""
        j, f = self.j[made].mean, self.f[made].mean
        return {"j_mean": j, "f_mean": f}.get(main, (j + f) / 2)


def geometry(card: PropagationCard, backbone: Backbone) -> Preprocess:
    """The backbone's normalisation with the task's geometry. Raises LevlError for a multiple that cuts its patches."""
    own = backbone.preprocess
    patch = patch_of(own.size, backbone.grid[0], backbone.depth)
    multiple = card.multiple or patch
    if multiple % patch:
        raise LevlError(
            f"{backbone.name}: field `multiple`: {multiple} is no multiple of its patch size {patch}; "
            f"take {max(1, round(multiple / patch)) * patch}"
        )
    return replace(own, size=card.size or own.size, resize="free", resize_to=multiple, interpolation=card.interpolation)


def frames_of(images: ImageSet, video: Video) -> ImageSet:
    """A video's frames as a set of their own: videos have inputs of different widths."""
    assert images.content is not None
    contents = {i: images.content(i) for i in video.frames}
    return replace(images, ids=video.frames, fingerprint=fingerprint_contents(contents), left_out={}, skipped={})


class Follower:
    """The card's propagation over stored tokens."""

    def __init__(self, context: Context[PropagationCard], test: VideoSet) -> None:
        self.card, self._context, self._test = context.card, context, test
        self.how = geometry(context.card, context.backbone)
        self._features: dict[str, FeatureSet] = {}

    def features(self, video: Video) -> FeatureSet:
        """Tokens of a video's frames, from the store."""
        if video.name not in self._features:
            frames = frames_of(self._test.images, video)
            self._features[video.name] = self._context.features(frames, arrays_of(self.card), self.how, self.card.layers)
        return self._features[video.name]

    def masks(self, video: Video) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(true mask, mask by MADE) [H, W] of every frame after the first one, of which the caller may stop before the last."""
        device, features = self._context.device, self.features(video)
        first = self._test.mask(video.frames[0])
        size, objects = (first.shape[0], first.shape[1]), int(first.max())
        wide, high = self.how.geometry(self._test.images.open(video.frames[0])).size
        tokens = (torch.from_numpy(features.patches[k].astype(np.float32)).to(device) for k in range(len(video.frames)))
        maps = followed(tokens, reduced(first, features.grid, objects).to(device), features.grid, self.card)
        for name, carried in zip(video.frames[1:], maps, strict=True):
            truth = self._test.mask(name)
            made, most = (enlarged(m, (high, wide), size) for m in (carried, shares(truth, features.grid, objects)))
            yield truth, {"backbone": made, "first_mask": first, "ceiling": most}

    def scored(self, video: Video) -> list[Object]:
        """Every object of a video by its numbers."""
        objects = int(self._test.mask(video.frames[0]).max())
        j: dict[str, list[list[float]]] = {made: [[] for _ in range(objects)] for made in MADE}
        f: dict[str, list[list[float]]] = {made: [[] for _ in range(objects)] for made in MADE}
        for k, (truth, masks) in enumerate(self.masks(video)):
            if k == len(video.frames) - 2:  # the last one
                break
            for made, mask in masks.items():
                for number in range(objects):
                    mine, its = mask == number + 1, truth == number + 1
                    j[made][number].append(region_similarity(mine, its))
                    f[made][number].append(boundary_accuracy(mine, its, self.card.bound))
        return [
            Object(
                video.name, n + 1, video.frames[0], len(video.frames) - 2,
                {m: statistics(np.array(j[m][n])) for m in MADE}, {m: statistics(np.array(f[m][n])) for m in MADE},
            )
            for n in range(objects)
        ]  # fmt: skip


def metrics_of(objects: list[Object], main: str) -> dict[str, Estimate]:
    """Every metric by name; intervals over videos, whose objects are not independent."""
    clusters = np.array([o.video for o in objects])

    def mean(values: list[float]) -> Estimate:
        return mean_estimate(np.array(values), clusters)

    out = {"j_and_f": mean([o.value("j_and_f", "backbone") for o in objects])}
    for k in ("j", "f"):
        each: list[Statistics] = [getattr(o, k)["backbone"] for o in objects]
        out |= {f"{k}_mean": mean([s.mean for s in each]), f"{k}_recall": mean([s.recall for s in each])}
        decay = np.array([s.decay for s in each])
        out[f"{k}_decay"] = paired_difference(decay, np.zeros(len(decay)), clusters).model_copy(update={"method": "over videos"})
    mine, theirs, most = (np.array([o.value(main, made) for o in objects]) for made in MADE)
    out["floor_first_mask"], out["ceiling_tokens"] = mean_estimate(theirs, clusters), mean_estimate(most, clusters)
    out["gain_over_first_mask"] = paired_difference(mine, theirs, clusters)
    for name in dict.fromkeys(o.video for o in objects):
        out[f"j_and_f/{name}"] = mean_estimate(np.array([o.value("j_and_f", "backbone") for o in objects if o.video == name]))
    return out


def run(context: Context[PropagationCard]) -> Outcome:
    """Raises UsageError/LevlError for unusable data."""
    card = context.card
    test = read_videos(card.data, context.data, context.limit)
    started = time.monotonic()
    check_sizes(test)
    follower = Follower(context, test)
    for video in context.progress.track(test.videos, "encoding videos", unit="video"):
        follower.features(video)
    seconds = {"features": time.monotonic() - started}
    context.ready()
    started = time.monotonic()
    objects = [o for v in context.progress.track(test.videos, "following objects", unit="video") for o in follower.scored(v)]
    metrics = metrics_of(objects, card.main_metric)
    seconds["scores"] = time.monotonic() - started
    if context.work is not None:
        keep_images(context.work, test, lambda v: (m for _, m in follower.masks(v)))
    samples = [
        Sample(
            id=f"{o.video}/{o.number}", image_id=o.cluster, score=o.value(card.main_metric, "backbone"),
            meta={"video": o.video, "frames": o.frames, "j": round(o.j["backbone"].mean, 6), "f": round(o.f["backbone"].mean, 6)},
        )
        for o in objects
    ]  # fmt: skip
    counts = {"images": len(test.images), "videos": len(test.videos), "objects": len(objects)}
    about = {"fingerprint": fingerprint_of(test), "counts": counts, "split": test.split}
    return Outcome(metrics, samples, about, {"scored": "neither first nor last frames"}, seconds, context.counts)
