"""One door to all readers: a data specification of a card and ``--data`` (a directory or "hub") -> an annotated set."""

from __future__ import annotations

from levl_eval.cards import DataSpec
from levl_eval.data import questions
from levl_eval.data.imagefolder import read_imagefolder
from levl_eval.data.segmentation import read_segmentation as _segmentation
from levl_eval.data.types import ClassificationSet, QuestionSet, SegmentationSet
from levl_eval.errors import UsageError

_QUESTIONS = {"gqa": questions.read_gqa, "vqav2": questions.read_vqav2, "pope": questions.read_pope, "vqa": questions.read_vqa}


def _wrong(spec: DataSpec, expected: str) -> UsageError:
    return UsageError(f"field `data.layout`: {spec.layout!r} holds no {expected}")


def _on_hub(spec: DataSpec, data: str) -> bool:
    """--data hub applies to sets without places of their own."""
    return data == "hub" and spec.root is None and spec.questions is None and spec.images is None


def read_questions(spec: DataSpec, data: str, limit: int | None = None) -> QuestionSet:
    """Questions with their images; ``limit`` keeps those about the first so many images. Raises UsageError: what is missing where."""
    if spec.layout not in _QUESTIONS:
        raise _wrong(spec, "questions")
    if _on_hub(spec, data):
        from levl_eval.data.hub import hub_questions

        return hub_questions(spec, limit)
    return _QUESTIONS[spec.layout](spec, data, limit)


def read_segmentation(spec: DataSpec, data: str, limit: int | None = None) -> SegmentationSet:
    """Images with masks; ``limit`` keeps the first so many. Raises UsageError."""
    if spec.layout not in ("ade20k", "segmentation"):
        raise _wrong(spec, "masks")
    if _on_hub(spec, data):
        from levl_eval.data.hub import hub_segmentation

        return hub_segmentation(spec, limit)
    return _segmentation(spec, data, limit)


def read_classification(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Images with classes; ``limit`` keeps so many, spread over the classes. Raises UsageError."""
    if spec.layout != "imagefolder":
        raise _wrong(spec, "classes")
    if _on_hub(spec, data):
        from levl_eval.data.hub import hub_classification

        return hub_classification(spec, limit)
    return read_imagefolder(spec, data, limit)
