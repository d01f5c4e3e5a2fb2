"""One door to all readers: a data specification of a card and ``--data`` (a directory or "hub") -> an annotated set."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data import arrays, benchmarks, captions, classification, depth, pope, questions
from levl_eval.data.imagefolder import read_imagefolder
from levl_eval.data.images import opened_by
from levl_eval.data.masks import check_masks
from levl_eval.data.places import on_hub
from levl_eval.data.rgb import rules_of
from levl_eval.data.segmentation import read_segmentation as _segmentation
from levl_eval.data.skipping import check_skipped
from levl_eval.data.types import CaptionSet, ClassificationSet, DepthSet, QuestionSet, SegmentationSet

_QUESTIONS = {
    "gqa": questions.read_gqa, "vqav2": questions.read_vqav2, "pope": pope.read_pope, "vqa": questions.read_vqa,
    "llava": benchmarks.read_llava, "textvqa": benchmarks.read_textvqa, "vizwiz": benchmarks.read_vizwiz,
    "scienceqa": benchmarks.read_scienceqa, "mme": benchmarks.read_mme,
}  # fmt: skip

_CLASSES = {
    "imagefolder": read_imagefolder, "labels": classification.read_labels, "imagenet": classification.read_imagenet,
    "places365": classification.read_places365, "aircraft": classification.read_aircraft, "pets": classification.read_pets,
    "sun397": classification.read_sun397, "cifar10": arrays.read_cifar, "cifar100": arrays.read_cifar, "stl10": arrays.read_stl10,
    "tiny-imagenet": classification.read_tiny_imagenet,
}  # fmt: skip


def _wrong(spec: DataSpec, expected: str) -> UsageError:
    return UsageError(f"field `data.layout`: {spec.layout!r} holds no {expected}")


S = TypeVar("S", CaptionSet, ClassificationSet, DepthSet, QuestionSet, SegmentationSet)


def _ruled(found: S, spec: DataSpec) -> S:
    """The set with its images opened by the rules of its card, whichever reader found it; refused where more of it than allowed is broken."""
    check_skipped(found.images, spec)
    images = opened_by(found.images, rules_of(spec))
    return found if images is found.images else dataclasses.replace(found, images=images)


def read_questions(spec: DataSpec, data: str, limit: int | None = None) -> QuestionSet:
    """Questions with their images; ``limit`` keeps those about the first so many images. Raises UsageError: what is missing where."""
    if spec.layout not in _QUESTIONS:
        raise _wrong(spec, "questions")
    if on_hub(spec, data):
        from levl_eval.data.hub import hub_questions

        return _ruled(hub_questions(spec, limit), spec)
    return _ruled(_QUESTIONS[spec.layout](spec, data, limit), spec)


def read_segmentation(spec: DataSpec, data: str, limit: int | None = None) -> SegmentationSet:
    """Images with masks; ``limit`` keeps the first so many. Raises UsageError."""
    if spec.layout not in ("ade20k", "coco-stuff", "coco-stuff-27", "voc", "cityscapes", "segmentation"):
        raise _wrong(spec, "masks")
    if on_hub(spec, data):
        from levl_eval.data.hub import hub_segmentation

        return _ruled(check_masks(hub_segmentation(spec, limit)), spec)
    return _ruled(check_masks(_segmentation(spec, data, limit)), spec)


def read_classification(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Images with classes; ``limit`` keeps so many, spread over the classes. Raises UsageError."""
    if spec.layout not in _CLASSES:
        raise _wrong(spec, "classes")
    if on_hub(spec, data):
        from levl_eval.data.hub import hub_classification

        return _ruled(hub_classification(spec, limit), spec)
    return _ruled(_CLASSES[spec.layout](spec, data, limit), spec)


def read_captions(spec: DataSpec, data: str, limit: int | None = None) -> CaptionSet:
    """Images with captions; ``limit`` keeps the first so many images. Raises UsageError."""
    if spec.layout not in ("karpathy", "captions"):
        raise _wrong(spec, "captions")
    if data == "hub" and spec.root is None and spec.annotations is None:
        raise UsageError(
            f"--data hub: retrieval reads {spec.layout} from files; use --data DIR, or set data.annotations and data.images"
        )
    read = captions.read_karpathy if spec.layout == "karpathy" else captions.read_captions
    return _ruled(read(spec, data, limit), spec)


def read_depth(spec: DataSpec, data: str, scale: float, limit: int | None = None) -> DepthSet:
    """Images with depth maps, integers divided by ``scale``; ``limit`` keeps the first so many. Raises UsageError."""
    if spec.layout not in depth.READERS:
        raise _wrong(spec, "depth maps")
    if data == "hub" and spec.root is None and spec.images is None:
        raise UsageError(
            "--data hub: depth is read from files; use --data DIR, or set data.root (nyuv2), data.images and data.annotations"
        )
    return _ruled(depth.check_depth(depth.READERS[spec.layout](spec, data, scale, limit)), spec)
