"""The seam between the run and its engines: what an engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from levl_eval.cards import TaskFields
from levl_eval.core.progress import Progress
from levl_eval.core.registry import Registry, imported
from levl_eval.features.version import FEATURES
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Sample

if TYPE_CHECKING:
    import torch

    from levl_eval.backbones.base import Backbone, Preprocess
    from levl_eval.data.types import ImageSet
    from levl_eval.features.request import Reading
    from levl_eval.features.store import FeatureSet, FeatureStore
    from levl_eval.features.views import Views

_T = TypeVar("_T")
Card = TypeVar("Card", bound=TaskFields, covariant=True)

# engine name of a card -> "module:function", imported only when it runs; function(Context) -> Outcome
ENGINES: Registry[str, Callable[[Context[TaskFields]], Outcome]] = Registry("engine", imported, {
    "vqa": "levl_eval.engines.vlm.task:run",
    "segmentation": "levl_eval.engines.segmentation.task:run",
    "textseg": "levl_eval.engines.textseg.task:run",
    "incontext": "levl_eval.engines.incontext.task:run",
    "linear": "levl_eval.engines.probes.linear:run",
    "zeroshot": "levl_eval.engines.probes.zeroshot:run",
    "linear-path": "levl_eval.engines.probes.path:run",
    "knn": "levl_eval.engines.probes.knn:run",
    "attentive": "levl_eval.engines.probes.attentive:run",
    "retrieval": "levl_eval.engines.probes.retrieval:run",
    "mcq": "levl_eval.engines.vlm.task:run",
    "shift": "levl_eval.engines.probes.shift:run",
    "choice": "levl_eval.engines.probes.choice:run",
    "backgrounds": "levl_eval.engines.probes.backgrounds:run",
    "lmms": "levl_eval.engines.lmms.task:run",
    "mmseg": "levl_eval.engines.segmentation.mmseg_task:run",
    "depth": "levl_eval.engines.depth.task:run",
    "depth-recipe": "levl_eval.engines.depth.recipe:run",
    "normals": "levl_eval.engines.normals.task:run",
    "correspondence": "levl_eval.engines.correspondence.task:run",
    "propagation": "levl_eval.engines.propagation.task:run",
    "instance": "levl_eval.engines.instance.task:run",
    "multiview": "levl_eval.engines.multiview.task:run",
})  # fmt: skip

# Raised when an engine's numbers change on purpose (CHANGELOG says how); part of every identity.
# attentive 2: crops are drawn by image content, not by id; linear-path 2: every C converges, from other starting points;
# depth 2: Garg's crop is cut off to whole pixels, as KITTI's evaluations do; mcq 2: samples, floors and gains are those of the
# main metric; knn, segmentation (its head knn) and incontext 2: of equal cosines the earlier image or patch.
VERSIONS: dict[str, int] = {
    **dict.fromkeys(ENGINES, 1),
    **dict.fromkeys(("attentive", "linear-path", "depth", "mcq", "knn", "segmentation", "incontext"), 2),
}
ANSWERS = 3  # how a language model answers a set of questions


def versions_of(name: str) -> dict[str, int]:
    """The versions behind an engine's numbers, by what they are of."""
    answers = {"answers": ANSWERS} if name in TOGETHER else {}
    return {"engine": VERSIONS[name], "features": FEATURES, **answers}


# engines that several processes of a launcher run together, step by step (core.distributed)
TOGETHER = frozenset({"vqa", "mcq", "lmms"})

# engines that compare images with texts, by the backbone's text encoder
WITH_TEXT = frozenset({"zeroshot", "retrieval", "choice", "textseg"})


class StopAfterFeatures(Exception):
    """A process that came to help with a job's features has done so (Context.ready)."""


class RunCache:
    """What jobs of a run need alike, read once: question sets, and the language model they are put to."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[object, object]] = {}

    def get(self, slot: str, key: object, make: Callable[[], _T]) -> _T:
        """What ``slot`` holds under ``key``, else what ``make`` gives; a slot holds one thing at a time."""
        if slot not in self._found or self._found[slot][0] != key:
            self._found.pop(slot, None)  # gone before the next is read: two may not fit into memory
            self._found[slot] = key, make()
        return cast("_T", self._found[slot][1])  # a slot's name says what it holds

    def drop(self, slot: str) -> None:
        """Forget what ``slot`` holds."""
        self._found.pop(slot, None)


class FeatureSource(Protocol):
    """What features are read by."""

    @property
    def backbone(self) -> Backbone: ...

    @property
    def store(self) -> FeatureStore: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def counts(self) -> dict[str, int]: ...


def counted_features(
    source: FeatureSource, images: ImageSet, arrays: Sequence[str], how: Reading, also: Sequence[str] = ()
) -> FeatureSet:
    """The one way of engines to the feature store: FeatureStore.get, counted in ``source.counts`` as feature_hits or feature_misses."""
    features = source.store.get(
        source.backbone,
        images,
        arrays,
        how,
        device=source.device,
        batch_size=source.batch_size,
        progress=source.progress,
        also=also,
    )
    source.counts["feature_hits" if features.hit else "feature_misses"] += 1
    if features.streamed:
        source.counts["features_streamed"] = source.counts.get("features_streamed", 0) + 1
    return features


@dataclass
class Context(Generic[Card]):
    """One job for an engine: this card, on this backbone, with this seed."""

    card: Card  # the resolved task card (cards.VQACard, ...); recipes are already embedded
    backbone: Backbone
    data: str  # a directory, or "hub"
    seed: int
    store: FeatureStore
    cache: Path  # for connectors and other trained things that are shared between runs
    device: torch.device
    limit: int | None = None  # at most this many test images
    llm: str = "scenes-lm"  # name of a shipped model, hub name or directory
    batch_size: int = 64  # images a batch through the encoder
    progress: Progress = field(default_factory=Progress)
    helping: bool = False  # another process has this job; we only take part in the making of its features
    work: Path | None = None  # this job's own folder below --out, for what lets a killed training resume
    kept: RunCache = field(default_factory=RunCache)  # what this run's jobs share
    later: tuple[str, ...] = ()  # arrays that later jobs of the run read of the same images, at the same layers
    # For Outcome.cache. Of this job alone: a copy of the context for another card counts from 0.
    counts: dict[str, int] = field(init=False, default_factory=lambda: {"feature_hits": 0, "feature_misses": 0})

    def features(
        self,
        images: ImageSet,
        arrays: Sequence[str],
        preprocess: Preprocess | None = None,
        layers: Sequence[int] | None = None,
        views: Views | None = None,
    ) -> FeatureSet:
        """Those arrays (features.extraction.ARRAYS) of ``images``, from the store or computed and stored, counted as hit or miss.

        FeatureStore.get says how, and what it raises. Patch tokens are held in the card's ``token_dtype``.
        """
        from levl_eval.features.request import Reading

        also = self.later if preprocess is None and views is None else ()
        how = Reading(preprocess, layers, views, getattr(self.card, "token_dtype", "float16"))
        return counted_features(self, images, arrays, how, also)

    def ready(self) -> None:
        """Called by an engine when its features are there, before it trains or scores: a helper leaves here."""
        if self.helping:
            raise StopAfterFeatures


@dataclass
class Outcome:
    """What an engine found. Metrics by name; the card's main metric must be among them."""

    metrics: dict[str, Estimate]
    samples: Iterable[Sample]
    data: Mapping[str, object]  # fingerprint, counts, version
    notes: Mapping[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cache: dict[str, int] = field(default_factory=dict)  # feature_hits, feature_misses, connector_hits, ...
    files: dict[str, str] = field(default_factory=dict)  # further files by name, written to OUT/uploads/KEY/


def engine(name: str) -> Callable[[Context[TaskFields]], Outcome]:
    """The function of an engine."""
    return ENGINES.load(name)
