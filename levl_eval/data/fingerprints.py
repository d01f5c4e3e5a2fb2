"""Content fingerprints of annotated sets: what is measured on, whatever it is called and wherever it lies.

The fingerprint of a set is the SHA-256 of its sorted item hashes and of the facts that hold for all items. An item hash is made of
the image's content and of its annotation in a normal form. No path, file name, id, repository or order enters, so that one set has
one fingerprint from files and from the hub. The order (it moves training batches) has a digest of its own.

  image          its encoded bytes; decoded RGB pixels where a set is published as arrays (CIFAR, STL-10, NYUv2's .mat) or a table has
                 no bytes. A re-encoded copy of equal pixels is therefore another image.
  mask, depth, normals
                 the encoded bytes too, with how their values are read as facts of the set (label map, ignore index, scale): a
                 changed pixel always shows; a re-encoded mask or another palette shows as well, although it moves no number.
  question       text, answer, all annotators' answers in order, and what of the metadata moves a number (see ``_meta``). GQA's
                 entailed questions are named by their hashes. Questions are grouped by image: intervals resample images.
  class          its number, and the names of all classes in order (as one says them, where they differ from the folders').
  instance       the query's content and box, and those of its easy, hard and junk images; the whole database as one more.
  video          the contents of its frames and masks, in order.
  pair           the contents of both images, category, boxes, and the parts' names and places in both.
  view           its name, which pairs are drawn by, and its camera; its image's content stands for its depth map too.
  caption        text; the order of an image's captions is part of the order.

Images that are left out because they cannot be read (--skip-broken) enter by their number, and questions about them by their texts.

Sets of more than ``SAMPLE_ABOVE`` images are hashed in part (``fingerprint_cache``); ``ImageSet.whole`` then says how many images were
hashed whole, and the fingerprint never equals that of a set hashed whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from levl_eval.data.types import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    DepthSet,
    ImageSet,
    InstanceSet,
    KeypointPair,
    MultiviewSet,
    NormalSet,
    PairSet,
    Question,
    QuestionSet,
    SegmentationSet,
    VideoSet,
    View,
)

FORM = 1  # of the normal forms below; raised when they change on purpose
AnnotatedSet = (
    QuestionSet
    | SegmentationSet
    | ClassificationSet
    | CaptionSet
    | DepthSet
    | PairSet
    | ChoiceSet
    | VideoSet
    | InstanceSet
    | NormalSet
    | MultiviewSet
)
AnySet = AnnotatedSet | ImageSet
_UNUSED = {"isBalanced", "entailed", "groups"}  # moves nothing; or has a form of its own


@dataclass(frozen=True)
class Content:
    """fingerprint: of the items, whatever their order; order: of their sequence as the reader gives it. Both hexadecimal."""

    fingerprint: str
    order: str


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of an array with its shape and type, for images and maps that have no encoded bytes."""
    a = np.ascontiguousarray(pixels)
    return hashlib.sha256(f"pixels {a.shape} {a.dtype.str}\0".encode() + a.tobytes()).hexdigest()


def image_content(images: ImageSet, name: str) -> str:
    """Content hash of one image: its encoded bytes, or its RGB pixels where the set has none. Raises LevlError: unreadable."""
    return images.content(name) if images.content is not None else pixel_hash(np.asarray(images.open(name)))


def content_of(dataset: AnySet) -> Content:
    """Fingerprint and order of a set, computed once an object. Raises LevlError for an image or map that cannot be read."""
    known = dataset.__dict__.get("_content")
    if known is None:
        known = _content(dataset)
        dataset.__dict__["_content"] = known  # beside the frozen fields; ``dataclasses.replace`` does not carry it over
    return known


def fingerprint_of(dataset: AnySet) -> str:
    """Content fingerprint of an annotated set, images included: what a record holds as its data's ``fingerprint``."""
    return content_of(dataset).fingerprint


def _content(dataset: AnySet) -> Content:
    if isinstance(dataset, QuestionSet):
        items = question_items(dataset)
        groups: dict[str, list[bytes]] = {}
        for q, item in zip(dataset.questions, items, strict=True):
            groups.setdefault(q.image_id, []).append(item)
        asked = {"failed": sorted(_hash(question_text(q)).hex() for q in dataset.failed)} if dataset.failed else {}
        return _finish("questions", [_hash(*sorted(g)) for g in groups.values()], asked, items, dataset.images)
    images = dataset if isinstance(dataset, ImageSet) else dataset.images
    contents = [bytes.fromhex(image_content(images, i)) for i in images.ids]
    facts: dict[str, object] = {}
    if isinstance(dataset, ClassificationSet):
        items = [_hash(c, b"%d" % y) for c, y in zip(contents, dataset.labels.tolist(), strict=True)]
        facts = {"classes": dataset.names or dataset.classes}
        return _finish("classes", items, facts, items, images)
    if isinstance(dataset, SegmentationSet):
        own = dataset.content or (lambda name: pixel_hash(dataset.mask(name)))
        items = [_hash(c, bytes.fromhex(own(i))) for c, i in zip(contents, images.ids, strict=True)]
        facts = {"classes": dataset.classes, "ignore": dataset.ignore_index, "labels": dataset.label_map}
        return _finish("masks", items, facts, items, images)
    if isinstance(dataset, DepthSet):
        own = dataset.content or (lambda name: pixel_hash(dataset.depth(name)))
        items = [_hash(c, bytes.fromhex(own(i))) for c, i in zip(contents, images.ids, strict=True)]
        return _finish("depth", items, {"scale": dataset.scale}, items, images)
    if isinstance(dataset, NormalSet):
        own = dataset.content or (lambda name: pixel_hash(dataset.normals(name)))
        items = [_hash(c, bytes.fromhex(own(i))) for c, i in zip(contents, images.ids, strict=True)]
        return _finish("normals", items, facts, items, images)
    if isinstance(dataset, InstanceSet):
        at = dict(zip(images.ids, contents, strict=True))
        items = [
            _hash(at[q.image], *(_hash(*sorted(at[i] for i in kind)) for kind in (q.easy, q.hard, q.junk)))
            for q in dataset.queries
        ]
        items.append(_hash(b"database", *sorted(at[i] for i in dataset.database)))
        return _finish("instances", items, facts, contents, images)
    if isinstance(dataset, VideoSet):
        at = dict(zip(images.ids, contents, strict=True))
        items = [_hash(*(part for i in v.frames for part in (at[i], bytes.fromhex(dataset.content(i))))) for v in dataset.videos]
        return _finish("videos", items, facts, items, images)
    if isinstance(dataset, PairSet):
        of_image = dict(zip(images.ids, contents, strict=True))
        items = [_hash(of_image[p.source], of_image[p.target], pair_text(p)) for p in dataset.pairs]
        return _finish("pairs", items, facts, items, images)
    if isinstance(dataset, MultiviewSet):
        items = [_hash(c, view_text(v)) for c, v in zip(contents, dataset.views, strict=True)]
        return _finish("views", items, facts, items, images)
    if isinstance(dataset, CaptionSet):
        texts: list[list[bytes]] = [[] for _ in contents]
        for caption, owner in zip(dataset.captions, dataset.owner.tolist(), strict=True):
            texts[owner].append(_hash(caption.encode()))
        items = [_hash(c, *sorted(t)) for c, t in zip(contents, texts, strict=True)]
        return _finish("captions", items, facts, [_hash(c, *t) for c, t in zip(contents, texts, strict=True)], images)
    if isinstance(dataset, ChoiceSet):
        of_image = dict(zip(images.ids, contents, strict=True))
        items = [
            _hash(*(of_image[i] for i in t.images), t.kind.encode(), *(c.encode() for c in t.captions)) for t in dataset.trials
        ]
        return _finish("choices", items, facts, items, images)
    return _finish("images", contents, facts, contents, images)


def pair_text(pair: KeypointPair) -> bytes:
    """What is annotated to a pair, without its images and its id, in a normal form."""
    points = sorted(zip(pair.names, pair.source_points.tolist(), pair.target_points.tolist(), strict=True))
    form = [pair.category, list(map(float, pair.source_box)), list(map(float, pair.target_box)), points]
    return json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()


def view_text(view: View) -> bytes:
    """What is annotated to a view, in a normal form: its name, by which pairs are drawn, and its camera."""
    form = [view.image, view.rotation.tolist(), view.translation.tolist(), float(view.focal), list(view.size)]
    return json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()


def _finish(
    kind: str, items: Iterable[bytes], facts: Mapping[str, object], sequence: Iterable[bytes], images: ImageSet
) -> Content:
    if images.whole is not None:
        facts = {**facts, "sampled": True}
    if images.skipped:
        facts = {**facts, "skipped": len(images.skipped)}
    head = json.dumps([FORM, kind, facts], sort_keys=True, ensure_ascii=False).encode()
    return Content(_hash(head, *sorted(items)).hex(), _hash(b"order", head, *sequence).hex())


def _hash(*parts: bytes) -> bytes:
    """SHA-256 of parts, each with its length, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.digest()


def _plain(value: object) -> object:
    """A metadata value without what is empty: a table fills absent fields with None, files leave them out."""
    if isinstance(value, dict):
        return {str(k): w for k, v in value.items() if (w := _plain(v)) not in (None, "", [], {})}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _meta(q: Question) -> object:
    """What of a question's metadata moves numbers.

    GQA's types, number of steps, group (distribution), valid and plausible answers; POPE's split; the types of VQAv2 and VizWiz;
    subject, topic and number of choices of ScienceQA; MME's category; a user's ``type``.
    """
    out = {k: v for k, v in q.meta.items() if k not in _UNUSED}
    for key in ("valid", "plausible"):  # sets: an answer is among them or not
        if key in out:
            out[key] = sorted(map(str, out[key]))
    group = (q.meta.get("groups") or {}).get("global")
    return _plain({**out, "group": group})


def question_text(q: Question) -> bytes:
    """A question without its image and its ids, in the normal form that files and hub share."""
    form = [q.question, q.answer, list(q.answers), _meta(q)]
    return json.dumps(form, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def question_items(question_set: QuestionSet) -> list[bytes]:
    """A 32-byte hash of each question with its image, in order; the questions it entails enter by theirs."""
    contents = {i: bytes.fromhex(image_content(question_set.images, i)) for i in question_set.images.ids}
    plain = [_hash(contents[q.image_id], question_text(q)) for q in question_set.questions]
    return _linked(question_set.questions, plain)


def _linked(questions: Sequence[Question], plain: list[bytes]) -> list[bytes]:
    if not any(q.meta.get("entailed") for q in questions):
        return plain
    of_id = {q.question_id: item for q, item in zip(questions, plain, strict=True)}
    out = []
    for q, item in zip(questions, plain, strict=True):
        inferred = sorted(of_id[e] for e in q.meta.get("entailed") or () if e != q.question_id and e in of_id)
        out.append(_hash(item, *inferred) if inferred else item)
    return out


def stem_of(image_id: str) -> str:
    """An image's name without folder and ending."""
    name = image_id.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if "." in name else name


def questions_digest(questions: Sequence[Question]) -> str:
    """Digest of what questions ask, in any order: texts, answers, POPE's splits, GQA's types, and which image (by name) each is about.

    The images' pixels do not enter: this is how published question files are recognised where their images are not at hand.
    """

    def item(q: Question) -> bytes:
        kept = _plain({k: q.meta.get(k) for k in ("split", "types")})
        form = [stem_of(q.image_id), q.question, q.answer, list(q.answers), kept]
        return _hash(json.dumps(form, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())

    return _hash(b"published", b"%d" % FORM, *sorted(map(item, questions))).hex()
