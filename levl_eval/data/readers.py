"""One door to all readers: a data specification of a card and ``--data`` (a directory or "hub") -> an annotated set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from typing import TypeAlias, TypeVar

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.registry import Registry, imported
from levl_eval.data.depth import check_depth
from levl_eval.data.images import opened_by
from levl_eval.data.masks import check_masks
from levl_eval.data.normals import check_normals
from levl_eval.data.places import on_hub
from levl_eval.data.rgb import rules_of
from levl_eval.data.skipping import check_skipped
from levl_eval.data.sources import unread_field
from levl_eval.data.types import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    DepthSet,
    InstanceSet,
    MultiviewSet,
    NormalSet,
    PairSet,
    QuestionSet,
    SegmentationSet,
    VideoSet,
)

S = TypeVar(
    "S",
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    DepthSet,
    InstanceSet,
    MultiviewSet,
    NormalSet,
    PairSet,
    QuestionSet,
    SegmentationSet,
    VideoSet,
)
Reader: TypeAlias = "Callable[[DataSpec, str, int | None], S]"  # (specification, --data, limit) -> a set; raises UsageError
_HERE = "levl_eval.data"


def _readers(kind: str, targets: dict[str, str]) -> Registry[str, Reader[S]]:
    """Layout -> its reader, imported when the first set of that layout is read."""
    return Registry(f"layout of {kind}", imported, {layout: f"{_HERE}.{target}" for layout, target in targets.items()})


QUESTIONS: Registry[str, Reader[QuestionSet]] = _readers("questions", {
    "gqa": "questions:read_gqa", "vqav2": "questions:read_vqav2", "pope": "pope:read_pope", "vqa": "questions:read_vqa",
    "llava": "benchmarks:read_llava", "textvqa": "benchmarks:read_textvqa", "vizwiz": "benchmarks:read_vizwiz",
    "scienceqa": "benchmarks:read_scienceqa", "mme": "benchmarks:read_mme",
    "mmvp": "multiple_choice_files:read_mmvp", "cv-bench": "multiple_choice_files:read_cv_bench",
    "seedbench": "multiple_choice_files:read_seedbench", "mmbench": "multiple_choice_files:read_mmbench",
    "ai2d": "multiple_choice_files:read_ai2d", "mcq": "multiple_choice_files:read_mcq",
    "realworldqa": "multiple_choice_files:read_realworldqa", "blink": "multiple_choice_files:read_mcq",
    "chartqa": "documents:read_chartqa", "docvqa": "documents:read_docvqa", "infovqa": "documents:read_infovqa",
    "ocrbench": "documents:read_ocrbench", "tallyqa": "counting:read_tallyqa", "vsr": "counting:read_vsr",
    "refcoco": "referring:read_refcoco", "refcoco-places": "referring:read_refcoco",
})  # fmt: skip
CLASSES: Registry[str, Reader[ClassificationSet]] = _readers("classes", {
    "imagefolder": "imagefolder:read_imagefolder", "labels": "classification:read_labels", "imagenet": "classification:read_imagenet",
    "places365": "classification:read_places365", "aircraft": "classification:read_aircraft", "pets": "classification:read_pets",
    "sun397": "classification:read_sun397", "tiny-imagenet": "classification:read_tiny_imagenet",
    **dict.fromkeys(("imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch"), "shifts:read_imagenet_shift"),
    "objectnet": "shifts:read_objectnet",
    "food101": "fine_grained:read_food101", "dtd": "fine_grained:read_dtd", "cub": "fine_grained:read_cub",
    "gtsrb": "fine_grained:read_gtsrb", "flowers102": "fine_grained:read_flowers", "stanford-cars": "fine_grained:read_cars",
    "cifar10": "arrays:read_cifar", "cifar100": "arrays:read_cifar", "stl10": "arrays:read_stl10",
})  # fmt: skip
MASKS: Registry[str, Reader[SegmentationSet]] = _readers("masks", dict.fromkeys(
    ("ade20k", "coco-stuff", "coco-stuff-27", "voc", "cityscapes", "pascal-context", "pascal-context-59", "segmentation"),
    "segmentation:read_segmentation"
))  # fmt: skip
CAPTIONS: Registry[str, Reader[CaptionSet]] = _readers("captions", {
    "karpathy": "captions:read_karpathy", "captions": "captions:read_captions",
})  # fmt: skip
PAIRS: Registry[str, Reader[PairSet]] = _readers("pairs", {"spair71k": "pairs:read_spair"})
VIDEOS: Registry[str, Reader[VideoSet]] = _readers("videos", {"davis": "videos:read_davis"})
INSTANCES: Registry[str, Reader[InstanceSet]] = _readers("instances", {"revisited": "revisited:read_revisited"})
VIEWS: Registry[str, Reader[MultiviewSet]] = _readers("views", {"navi": "navi:read_navi"})

NORMALS: Registry[str, Reader[NormalSet]] = _readers("normals", {
    "nyuv2-normals": "normals:read_nyuv2_normals", "normals": "normals:read_folders",
})  # fmt: skip
Depths: TypeAlias = Callable[[DataSpec, str, float, "int | None"], DepthSet]  # (specification, --data, scale, limit) -> a set
DEPTHS: Registry[str, Depths] = Registry("layout of depth maps", imported, {
    "nyuv2": f"{_HERE}.depth:read_nyuv2", "depth": f"{_HERE}.depth:read_folders",
    "kitti": f"{_HERE}.depth_lists:read_kitti", "sunrgbd": f"{_HERE}.depth_lists:read_sunrgbd",
})  # fmt: skip
CHOICES: Registry[str, Reader[ChoiceSet]] = _readers("choices", {
    "sugarcrepe": "choices:read_sugarcrepe", "winoground": "choices:read_winoground", "aro": "choices:read_aro",
    "mmvp-vlm": "choices:read_mmvp_vlm", "choices": "choices:read_own",
})  # fmt: skip


def _check(layouts: Container[str], expected: str, spec: DataSpec, data: str) -> None:
    """Raises UsageError for a layout of another kind, and for a field that is set and not read under ``--data``."""
    if spec.layout not in layouts:
        raise UsageError(f"field `data.layout`: {spec.layout!r} holds no {expected}")
    if unread := unread_field(spec, data):
        raise UsageError(f"field `data.{unread.field}`: {unread}")


def _ruled(dataset: S, spec: DataSpec) -> S:
    """The set with its images opened by the rules of its card, whichever reader found it;
    refused where more of it than allowed is broken."""
    check_skipped(dataset.images, spec)
    images = opened_by(dataset.images, rules_of(spec))
    return dataset if images is dataset.images else dataclasses.replace(dataset, images=images)


def read_questions(spec: DataSpec, data: str, limit: int | None = None) -> QuestionSet:
    """Questions with their images; ``limit`` keeps those about the first so many images. Raises UsageError: what is missing where."""
    _check(QUESTIONS, "questions", spec, data)
    if on_hub(spec, data):
        from levl_eval.data.hub import hub_questions

        return _ruled(hub_questions(spec, limit), spec)
    return _ruled(QUESTIONS.load(spec.layout)(spec, data, limit), spec)


def read_segmentation(spec: DataSpec, data: str, limit: int | None = None) -> SegmentationSet:
    """Images with masks; ``limit`` keeps the first so many. Raises UsageError."""
    _check(MASKS, "masks", spec, data)
    if on_hub(spec, data):
        from levl_eval.data.hub_dense import hub_segmentation

        return _ruled(check_masks(hub_segmentation(spec, limit)), spec)
    return _ruled(check_masks(MASKS.load(spec.layout)(spec, data, limit)), spec)


def read_classification(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Images with classes; ``limit`` keeps so many, spread over the classes. Raises UsageError."""
    _check(CLASSES, "classes", spec, data)
    if on_hub(spec, data):
        from levl_eval.data.hub import hub_classification

        return _ruled(hub_classification(spec, limit), spec)
    return _ruled(CLASSES.load(spec.layout)(spec, data, limit), spec)


def read_captions(spec: DataSpec, data: str, limit: int | None = None) -> CaptionSet:
    """Images with captions; ``limit`` keeps the first so many images. Raises UsageError."""
    _check(CAPTIONS, "captions", spec, data)
    if on_hub(spec, data):
        from levl_eval.data.hub_captions import hub_captions

        caption_set = hub_captions(spec, limit)
    else:
        caption_set = CAPTIONS.load(spec.layout)(spec, data, limit)
    if len(caption_set.images) == 1 and limit != 1:
        raise UsageError(f"{caption_set.images.source}: holds one image, which every caption finds; at least 2 are needed")
    from levl_eval.data.captions import check_copies

    return _ruled(check_copies(caption_set), spec)


def read_choices(spec: DataSpec, data: str, limit: int | None = None) -> ChoiceSet:
    """Choices by image-text score; ``limit`` keeps those about the first so many images. Raises UsageError."""
    _check(CHOICES, "pairs of captions", spec, data)
    if on_hub(spec, data):
        from levl_eval.data.hub_choices import hub_choices

        return _ruled(hub_choices(spec, limit), spec)
    return _ruled(CHOICES.load(spec.layout)(spec, data, limit), spec)


def read_depth(
    spec: DataSpec, data: str, scale: float, limit: int | None = None, caps: tuple[float, float] | None = None
) -> DepthSet:
    """Images with depth maps, integers divided by ``scale``; ``limit`` keeps the first so many.

    caps: smallest and largest depth of the card in metres, by which maps of another unit are told. Raises UsageError.
    """
    _check(DEPTHS, "depth maps", spec, data)
    if data == "hub" and spec.root is None and spec.images is None:
        raise UsageError(
            "--data hub: depth is read from files; use --data DIR, or set data.root, or data.images and data.annotations (depth)"
        )
    return _ruled(check_depth(DEPTHS.load(spec.layout)(spec, data, scale, limit), caps), spec)


def _of_files(readers: Registry[str, Reader[S]], holds: str, spec: DataSpec, data: str, limit: int | None) -> S:
    """A set of a kind that no copy on the hub is known of. Raises UsageError."""
    _check(readers, holds, spec, data)
    if on_hub(spec, data):
        raise UsageError(f"--data hub: {holds} are read from files; use --data DIR, or set data.root")
    return readers.load(spec.layout)(spec, data, limit)


def read_normals(spec: DataSpec, data: str, limit: int | None = None) -> NormalSet:
    """Images with surface normals; ``limit`` keeps the first so many. Raises UsageError."""
    return _ruled(check_normals(_of_files(NORMALS, "surface normals", spec, data, limit)), spec)


def read_pairs(spec: DataSpec, data: str, limit: int | None = None) -> PairSet:
    """Pairs of images with keypoints; ``limit`` keeps pairs, of all categories in turn, that need at most so many images.

    Raises UsageError.
    """
    return _ruled(_of_files(PAIRS, "pairs of images", spec, data, limit), spec)


def read_videos(spec: DataSpec, data: str, limit: int | None = None) -> VideoSet:
    """Videos with masks; ``limit`` keeps the first ones that have at most so many frames together. Raises UsageError."""
    return _ruled(_of_files(VIDEOS, "videos", spec, data, limit), spec)


def read_instances(spec: DataSpec, data: str, limit: int | None = None) -> InstanceSet:
    """Queries over a database of images; ``limit`` keeps the first queries with their images, so many together. Raises UsageError."""
    return _ruled(_of_files(INSTANCES, "queries of instances", spec, data, limit), spec)


def read_views(spec: DataSpec, data: str, limit: int | None = None) -> MultiviewSet:
    """Views of objects with cameras and depth; ``limit`` keeps the first so many images. Raises UsageError."""
    return _ruled(_of_files(VIEWS, "views with cameras", spec, data, limit), spec)
