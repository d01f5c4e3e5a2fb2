"""What the heads share: sets with their validation part, stored features as matrices read in blocks, accuracies, samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.backbones.base import Backbone
from levl_eval.cards import CarvedSpec, DataSpec, ProbeCard, TaskFields
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.images import fingerprint_of
from levl_eval.data.leakage import shared_images
from levl_eval.data.readers import read_classification
from levl_eval.data.types import ClassificationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.moments import Moments
from levl_eval.engines.reads import arrays_of
from levl_eval.features.store import FeatureSet
from levl_eval.features.stored import SideBySide, Vectors
from levl_eval.metrics.calibration import calibration_error
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import fraction_interval, mean_estimate, wilson
from levl_eval.records import Sample

IN_MEMORY = 1 << 30  # bytes of float32 features kept in memory; larger sets are read from the store batch by batch
BLOCK = 8192  # rows read at once


def carve(labels: np.ndarray, spec: CarvedSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training and of validation, a fixed random share of each class; a class of one image stays in training."""
    rng = np.random.default_rng(spec.seed)
    train, validation = [], []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        count = min(len(rows) - 1, max(1, round(spec.share * len(rows))))
        validation.append(rows[:count])
        train.append(rows[count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


class Matrix:
    """Some rows of a stored feature array [N, D] as float32, l2-normalised and standardised when they are read.

    The array stays on the disk; only where all rows fit into IN_MEMORY bytes are they kept, with the same values.
    """

    def __init__(self, array: Vectors, rows: np.ndarray | None = None, l2: bool = False) -> None:
        self.array, self.l2 = array, l2
        self.rows = np.arange(len(array)) if rows is None else rows
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self.in_memory: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        out: int = self.array.shape[1]
        return out

    def _read(self, index: np.ndarray) -> Tensor:
        return self._scaled(np.asarray(self.array[self.rows[index]], np.float32))

    def _scaled(self, rows: np.ndarray) -> Tensor:
        x = torch.from_numpy(rows)
        if self.l2:
            x = F.normalize(x, dim=-1)
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def _held(self) -> Tensor | None:
        """All rows, read once; None where they do not fit."""
        if self.in_memory is None and 4 * len(self) * self.dim <= IN_MEMORY:
            self.in_memory = torch.empty(len(self), self.dim)
            for b in self._positions():
                self.in_memory[b[0] : b[-1] + 1] = self._read(b)
        return self.in_memory

    def take(self, index: np.ndarray | Tensor) -> Tensor:
        """[b, D] of the given positions among the rows."""
        held = self._held()
        if held is not None:
            return held[torch.as_tensor(index)]
        index = np.asarray(index)
        order = np.argsort(index, kind="stable")  # a memory map is read in its own order
        return self._read(index[order])[torch.from_numpy(np.argsort(order, kind="stable"))]

    def _positions(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        for i in range(0, len(self), size):
            yield np.arange(i, min(i + size, len(self)))

    def blocks(self, size: int = BLOCK) -> Iterator[Tensor]:
        """All rows in order, [<= size, D] at a time; the caller's own."""
        for b in self._positions(size):
            held = self._held()  # of which a slice costs half of what a gather does
            yield self.take(b) if held is None else held[b[0] : b[-1] + 1].clone()

    def pieces(self, begin: int, end: int, size: int) -> Iterator[Tensor]:
        """Rows ``begin`` to ``end`` in order, [<= size, D] at a time, the caller's own; for rows that are read once, as none is kept."""
        rows = self.rows[begin:end]
        in_a_run = len(rows) > 0 and bool((np.diff(rows) == 1).all())  # of which a slice copies nothing
        # All of them at once, as what is stored is verified together.
        part = self.array[int(rows[0]) : int(rows[-1]) + 1] if in_a_run else self.array[rows]
        for i in range(0, len(rows), size):
            yield self._scaled(np.array(part[i : i + size], np.float32))

    def fit_scale(self) -> None:
        """Standardise from now on by these rows' own mean and standard deviation (over n - 1, at least 1e-8, docs/paper.md)."""
        moments = Moments()
        for b in self._positions():
            moments.add(self._read(b))
        self.mean, self.std = moments.mean.float(), moments.std(ddof=1).float().clamp(min=1e-8)
        self.in_memory = None

    def scale_like(self, other: Matrix) -> None:
        self.mean, self.std, self.in_memory = other.mean, other.std, None


def global_features(features: FeatureSet, readout: str) -> Vectors:
    """float32 [N, D] of a read-out: the encoder's own pooling, the mean over its patch tokens, or both side by side.

    ``cls`` is what stands under ``pooled`` in the features that :func:`layers_of` asks for.
    """
    if readout in ("pooled", "cls"):
        return features.pooled
    return SideBySide(features.pooled, features.mean) if readout == "pooled+mean-patch" else features.mean


@dataclass
class Part:
    """A split with its features: position i is image ids[i] of class labels[i] at row rows[i] of ``features``."""

    data: ClassificationSet
    features: FeatureSet
    rows: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        out: np.ndarray = self.data.labels[self.rows]
        return out

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Parts:
    """Training, validation (empty where no choice is made) and test with everything a record says about them."""

    train: Part
    validation: Part | None
    test: Part
    classes: tuple[str, ...]
    data: dict[str, object]
    notes: dict[str, object]
    seconds: dict[str, float]
    cache: dict[str, int]
    leaked: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # [test images]: stands in training too


def _same_classes(name: str, a: ClassificationSet, b: ClassificationSet, what: str) -> None:
    if a.classes != b.classes:
        only = sorted(set(a.classes) ^ set(b.classes))
        first = f", first {only[0]!r}" if only else " in their order"
        raise LevlError(f"{name}: class folders of training and {what} differ{first}; give both the same ones")


def layers_of(card: TaskFields, backbone: Backbone) -> list[int] | None:
    """Blocks to read for a card: its ``layers``, or the last one where its class token is wanted and the encoder pools otherwise.

    Raises LevlError for ``readout: cls`` of an encoder without class token.
    """
    return blocks_to_read(getattr(card, "readout", ""), getattr(card, "layers", None), backbone, f"{card.name}: field `readout`")


def blocks_to_read(readout: str, layers: list[int] | None, backbone: Backbone, where: str) -> list[int] | None:
    """The same for a read-out by name; ``where`` begins the message. Raises LevlError for "cls" of an encoder without class token."""
    if readout != "cls":
        return layers
    if not backbone.class_token:
        raise LevlError(f"{where}: cls: {backbone.name} has no class token; take pooled or mean-patch")
    return [-1] if layers is None and backbone.class_token == "blocks" else layers


def features_of(context: Context[TaskFields], data: ClassificationSet) -> FeatureSet:
    """What the card's head reads of a set's features, from the store, at the layers it needs."""
    return context.features(data.images, arrays_of(context.card), layers=layers_of(context.card, context.backbone))


def own_validation(context: Context[ProbeCard], notes: dict[str, object]) -> ClassificationSet | None:
    """The published validation set the card names; None where it is to be carved out of training.

    Hub copies often lack the list: a card that names no hub source for it is carved there, and the notes say so.
    Raises UsageError, with the way out, where the list is not among the files.
    """
    card, spec = context.card, context.card.validation
    if not isinstance(spec, DataSpec):
        return None
    if context.data == "hub" and spec.hub is None and spec.root is None:
        notes["validation"] = "carved out of training: the card names no hub source for the published validation set"
        return None
    try:
        return read_classification(spec, context.data)
    except UsageError as e:
        raise UsageError(
            f"{e} (field `validation`; to carve one out of training: --set '{card.name}.validation={{share: 0.1}}')"
        ) from e


def _apart(
    context: Context[ProbeCard], train: ClassificationSet, own: ClassificationSet, notes: dict[str, object]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of training without the validation images it lists too (as `trainval` does), found by content.

    Also where in training all of validation stands, or None where it is not wholly there.
    Raises LevlError where nothing is left to train on.
    """
    listed = dict(shared_images(train.images, own.images, context.cache, context.progress))
    inside = np.isin(np.array(train.images.ids), list(listed))
    if inside.all():
        raise LevlError(f"{context.card.name}: every training image is a validation image too; set `train` or `validation`")
    held = np.flatnonzero(inside)
    if len(held):
        notes["validation_images_listed_in_training"] = len(held)
    label = dict(zip(own.images.ids, own.labels, strict=True))
    same = all(label[listed[train.images.ids[i]]] == train.labels[i] for i in held)
    whole = same and len(held) == len(own.images) == len(set(listed.values()))
    return np.flatnonzero(~inside), held if whole else None


def _leaks(
    context: Context[ProbeCard],
    train: ClassificationSet,
    test: ClassificationSet,
    own: ClassificationSet | None,
    notes: dict[str, object],
) -> np.ndarray:
    """bool [test images]: stands in training or in the validation set too. Such images are counted, named in the notes and told."""
    card = context.card
    twice = shared_images(test.images, train.images, context.cache, context.progress)
    chosen_by: list[tuple[str, str]] = []
    if own is not None:
        known = {t for t, _ in twice}  # where validation is part of training, told below
        chosen_by = [p for p in shared_images(test.images, own.images, context.cache, context.progress) if p[0] not in known]
    for pairs, part, note, count in (
        (chosen_by, "validation", "leakage_into_validation", {"test_images_in_validation": len(chosen_by)}),
        (twice, "training", "leakage", {"test_images_in_training": len(twice), "of": len(test.images)}),
    ):
        if pairs:
            notes[note] = {**count, "first": [list(p) for p in pairs[:10]]}
            context.progress.say(
                f"  {card.name}: leakage: {len(pairs)} of {len(test.images)} test images are {part} images too "
                f"({pairs[0][0]} is {pairs[0][1]}); see top1_unleaked"
            )
    return np.isin(np.array(test.images.ids), [t for t, _ in (*twice, *chosen_by)])


def _validation(
    context: Context[ProbeCard], learn: Part, own: ClassificationSet | None, notes: dict[str, object]
) -> tuple[np.ndarray, Part]:
    """Rows of training that are left, and the validation part: the card's own set, or what is carved out of training."""
    card = context.card
    if own is None:
        rows, held = carve(learn.labels, card.validation if isinstance(card.validation, CarvedSpec) else CarvedSpec())
        if not len(held):
            raise LevlError(f"{card.name}: every class has one training image, so no validation can be taken; set `validation`")
        return rows, Part(learn.data, learn.features, held)
    rows, listed = _apart(context, learn.data, own, notes)
    if listed is not None:
        return rows, Part(learn.data, learn.features, listed)  # training's list has encoded them already
    return rows, Part(own, features_of(context, own), np.arange(len(own.labels)))


def load_parts(context: Context[ProbeCard], choices: bool, more: bool = False) -> Parts:
    """The card's sets with features. choices: a validation part is needed, the card's own or carved out of training; training
    images that the validation set holds too are then not trained on.
    more: the engine asks for further features, and calls ``context.ready()`` itself when it has them.

    Raises UsageError/LevlError: missing or empty sets, classes that differ, images that cannot be decoded. Test images that
    are in training too are counted, named in the notes and told.
    """
    card = context.card
    train, test = read_classification(card.train, context.data), read_classification(card.data, context.data, context.limit)
    _same_classes(card.name, train, test, "test")
    notes: dict[str, object] = {}
    own = own_validation(context, notes) if choices else None
    if own is not None:
        _same_classes(card.name, train, own, "validation")
    leaked = _leaks(context, train, test, own, notes)
    single = [train.classes[c] for c, n in enumerate(np.bincount(train.labels, minlength=len(train.classes))) if n == 1]
    if single:
        notes["classes_of_one_image"] = single
        context.progress.say(f"  {card.name}: {len(single)} classes have one training image, first {single[0]!r}")
    started = time.monotonic()
    learn, judge = (Part(s, features_of(context, s), np.arange(len(s.labels))) for s in (train, test))
    validation = None
    if choices:
        rows, validation = _validation(context, learn, own, notes)
        learn = Part(train, learn.features, rows)
    if not more:
        context.ready()
    counts = {"train_images": len(learn), **({} if validation is None else {"validation_images": len(validation)})}
    data: dict[str, object] = {**data_of(test), "train": fingerprint_of(train)}
    data["counts"] = {**counts_of(test), **counts}
    if own is not None:
        data["validation"] = fingerprint_of(own)
    seconds = {"features": time.monotonic() - started}
    return Parts(learn, validation, judge, train.classes, data, notes, seconds, context.counts, leaked)


def matrices(parts: Parts, card: ProbeCard) -> tuple[Matrix, Matrix | None, Matrix]:
    """The card's read-out of training, validation and test, scaled by training."""
    arrays: dict[int, Vectors] = {}

    def matrix(part: Part) -> Matrix:
        key = id(part.features)  # training and a validation part carved out of it have the same
        if key not in arrays:
            arrays[key] = global_features(part.features, card.readout)
        return Matrix(arrays[key], part.rows, card.l2_normalize)

    train = matrix(parts.train)
    if card.standardize:
        train.fit_scale()
    others = [None if p is None else matrix(p) for p in (parts.validation, parts.test)]
    for m in others:
        if m is not None:
            m.scale_like(train)
    assert others[1] is not None
    return train, others[0], others[1]


def scores(logits: Tensor, labels: np.ndarray) -> tuple[dict[str, Estimate], np.ndarray]:
    """top1, top5 (from ten classes on) and the mean of the classes' accuracies of [N, C] logits; also top1 by image."""
    order = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu().numpy()
    right = (order[:, 0] == labels).astype(float)
    out = {"top1": mean_estimate(right)}
    if logits.shape[1] >= 10:
        out["top5"] = mean_estimate((order == labels[:, None]).any(1).astype(float))
    out["mean_per_class"] = mean_per_class(right, labels)
    return out, right


def mean_per_class(right: np.ndarray, labels: np.ndarray) -> Estimate:
    """Mean of the accuracies of the classes that occur, each estimated apart."""
    by_class = [right[labels == c] for c in np.unique(labels)]
    variance = sum(r.var() / len(r) for r in by_class) / len(by_class) ** 2
    value, se = float(np.mean([r.mean() for r in by_class])), float(np.sqrt(variance))
    n = len(labels)
    # Where every class is all right or all wrong (one image each), the classes show no error of their own: that of n images is taken.
    low, high = fraction_interval(value, se, n) if se else wilson(value * n, n)
    return Estimate(value=value, stderr=se, low=low, high=high, n=n, clusters=n, method="stratified wilson")


def all_scores(logits: Tensor, parts: Parts, bins: int | None) -> tuple[dict[str, Estimate], np.ndarray]:
    """:func:`scores` on the test part, its calibration error, and top1 without images that training has too."""
    labels = parts.test.labels
    out, right = scores(logits, labels)
    if bins:
        confidence = logits.double().softmax(1).amax(1).cpu().numpy()
        out["calibration_error"] = calibration_error(confidence, right, bins)
    if parts.leaked.any():
        out["top1_unleaked"] = mean_estimate(right[~parts.leaked])
    return out, right


def samples_of(data: ClassificationSet, predicted: np.ndarray, right: np.ndarray) -> list[Sample]:
    """One sample an image: predicted and true class, 1 or 0 (or a share of draws)."""
    names = data.classes
    return [
        Sample(id=i, image_id=i, prediction=names[p], target=names[t], score=float(r))
        for i, p, t, r in zip(data.images.ids, predicted, data.labels, right, strict=True)
    ]


def counts_of(data: ClassificationSet) -> dict[str, int]:
    return {"images": len(data.images), "classes": len(data.classes)}


def data_of(data: ClassificationSet) -> dict[str, object]:
    """What a record says of a classification set."""
    return {"fingerprint": fingerprint_of(data), "counts": counts_of(data), "split": data.split}
