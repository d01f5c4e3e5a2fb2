"""What readers give to the engines: image sets and annotated sets over them. Nothing here knows backbones or heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ImageSet:
    """An ordered set of distinct images.

    ids: unique, stable names of the images (file names below the root, or hub ids).
    open: id -> RGB ``PIL.Image``; raises LevlError naming the file where it is missing or unreadable.
    fingerprint: hex digest of (id, content) in order: the key of features, which are stored by row and id. The content alone, under
        any ids, is data.fingerprints.fingerprint_of.
    """

    ids: tuple[str, ...]
    open: Callable[[str], Image.Image]
    fingerprint: str
    source: str = ""  # where it comes from, for messages: a directory or a hub name
    content: Callable[[str], str] | None = None  # id -> hash of the image's bytes; equal for copies under other names
    whole: int | None = None  # of a set too large to be read whole: how many images ``content`` has read whole; None: all
    left_out: Mapping[str, int] = field(default_factory=dict)  # entries of its folders that are none of its images, by reason
    # id -> why, of images left out because they cannot be read (--skip-broken)
    skipped: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""  # of a hub repository: the commit that was read; "" where none is known
    remark: str = ""  # what a user must know of how it was read: another revision than the card's pin, labels taken for void

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)  # hundreds of thousands of them are held at once
class Question:
    """One question about one image. ``answer`` is the reference (mode of ten for VQAv2); ``answers`` all annotators' answers."""

    question_id: str
    image_id: str
    question: str
    answer: str
    answers: tuple[str, ...] = ()
    # GQA: types, entailed, steps...; POPE: split; VQAv2: question_type, answer_type; a choice among: options
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QuestionSet:
    """Questions over an image set. ``version`` says which release the files are (e.g. POPE with 2,910 or 3,000 random questions).

    failed: questions that cannot be asked, about ``images.skipped``; their rows fail, which counts as wrong answers.
    """

    name: str
    split: str
    questions: Sequence[Question]
    images: ImageSet
    fingerprint: str  # of questions and answers; the images have their own
    version: str = ""
    failed: tuple[Question, ...] = ()

    @property
    def rows(self) -> Sequence[Question]:
        """All questions, those that have failed last."""
        return [*self.questions, *self.failed] if self.failed else self.questions


@dataclass(frozen=True)
class SegmentationSet:
    """Images with one integer mask each. ``mask(id)`` gives [H, W] int64 at the original size, classes 0..C-1 and ignore_index."""

    name: str
    split: str
    images: ImageSet
    mask: Callable[[str], np.ndarray]
    classes: tuple[str, ...]
    ignore_index: int
    fingerprint: str  # of the masks
    palette: tuple[int, ...] | None = None  # red, green, blue of each class, where the mask files carry colours
    content: Callable[[str], str] | None = None  # id -> hash of the mask's encoded bytes; None: none are kept
    label_map: str = ""  # digest of the class that each value of the mask files stands for; "": ``content`` is None


@dataclass(frozen=True)
class ClassificationSet:
    """Images with one class each. ``labels`` is int64 [N] in the order of ``images.ids``."""

    name: str
    split: str
    images: ImageSet
    labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    names: tuple[str, ...] = ()  # of the classes as one would say them, where they differ from ``classes``


@dataclass(frozen=True)
class CaptionSet:
    """Images with captions. ``owner`` is int64 [M]: the row of each caption's image in ``images.ids``; every image has one."""

    name: str
    split: str
    images: ImageSet
    captions: tuple[str, ...]
    owner: np.ndarray
    fingerprint: str  # of captions and owners


@dataclass(frozen=True)
class KeypointPair:
    """Two images of one category with the places of the same parts in both, in pixels: the integer is a pixel's middle.

    points: float64 [K, 2] of (x, y), K at least 1, of one part by row; names: of the parts, distinct. boxes: the objects' (left, top,
    right, bottom). sizes: (width, height) of the images as the annotation says them, None where it does not.
    """

    pair_id: str
    category: str
    source: str
    target: str
    names: tuple[str, ...]
    source_points: np.ndarray
    target_points: np.ndarray
    source_box: tuple[float, float, float, float]
    target_box: tuple[float, float, float, float]
    source_size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PairSet:
    """Pairs of images with the places of the same parts in both."""

    name: str
    split: str
    images: ImageSet
    pairs: tuple[KeypointPair, ...]
    fingerprint: str  # of the annotations


@dataclass(frozen=True)
class Video:
    """A video's name and the ids of its frames, in order."""

    name: str
    frames: tuple[str, ...]


@dataclass(frozen=True)
class VideoSet:
    """Videos whose objects have a mask in every frame. mask: frame -> int64 [H, W], 0 the background, k the object of that number.

    The objects of a video are those that its first mask numbers, 1 to its largest label.
    """

    name: str
    split: str
    images: ImageSet
    videos: tuple[Video, ...]
    mask: Callable[[str], np.ndarray]
    fingerprint: str  # of the masks
    content: Callable[[str], str]  # frame -> hash of its mask's encoded bytes


@dataclass(frozen=True)
class InstanceQuery:
    """An image that others of the same place or thing are looked for with: which are easy and hard to find, and which do not count."""

    image: str
    easy: tuple[str, ...]
    hard: tuple[str, ...]
    junk: tuple[str, ...]


@dataclass(frozen=True)
class InstanceSet:
    """Queries over a database: all of ``images`` that are no query's."""

    name: str
    split: str
    images: ImageSet
    queries: tuple[InstanceQuery, ...]
    fingerprint: str  # of what is right for each query

    @property
    def database(self) -> tuple[str, ...]:
        """Ids of the images that are ranked, in order."""
        asked = {q.image for q in self.queries}
        return tuple(i for i in self.images.ids if i not in asked)


@dataclass(frozen=True)
class DepthSet:
    """Images with depth maps. depth: image id -> float32 metres [H, W]; 0 and what is not finite mean unknown."""

    name: str
    split: str
    images: ImageSet
    depth: Callable[[str], np.ndarray]
    fingerprint: str
    content: Callable[[str], str] | None = None  # id -> hash of the map's encoded bytes (or of its array); None: none are kept
    scale: float | None = None  # of integer maps, in a metre; None: ``content`` is of metres


@dataclass(frozen=True)
class NormalSet:
    """Images with surface normals. normals: image id -> float32 unit vectors [H, W, 3]; zeros mean unknown."""

    name: str
    split: str
    images: ImageSet
    normals: Callable[[str], np.ndarray]
    fingerprint: str
    content: Callable[[str], str] | None = None  # id -> hash of the map's encoded bytes; None: none are kept


@dataclass(frozen=True)
class View:
    """A photograph of an object by a known camera:
    rotation [3, 3] and translation [3] (metres) take the object's points into the camera's axes.

    scene: of which all views show one object in one frame of reference. focal: in pixels of an image of ``size`` (width, height).
    """

    image: str
    scene: str
    rotation: np.ndarray
    translation: np.ndarray
    focal: float
    size: tuple[int, int]


@dataclass(frozen=True)
class MultiviewSet:
    """Views of objects.

    points: (image id, side) -> float32 [side, side, 3], where the middles of a grid of so many cells on the image lie, in metres
    before its camera; z is 0 where no object is shown. The contents of the images stand for those of their depth maps too.
    """

    name: str
    split: str
    images: ImageSet
    views: tuple[View, ...]  # in the order of the images
    points: Callable[[str, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice by image-text score. One image: the first caption is right, the others are wrong.

    Two images: each caption is its own image's, in order.
    kind: what tells right from wrong (a swapped attribute, a relation); "" where the set does not say.
    """

    trial_id: str
    images: tuple[str, ...]
    captions: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class ChoiceSet:
    """Choices over an image set. trials: those about skipped images are left out."""

    name: str
    split: str
    images: ImageSet
    trials: tuple[Trial, ...]
    fingerprint: str  # of captions, kinds and which images
