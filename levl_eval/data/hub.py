"""The same data sets from the hub or its local cache, through `datasets`: --data hub.

Schemas as published. A repository name may also be a local directory in the hub's layout, and an offline machine with a filled cache
(HF_HUB_OFFLINE=1) works: data/hub_tables.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.ade20k import CLASSES as ADE20K_CLASSES
from levl_eval.data.benchmarks import mme_question, scienceqa_question, textvqa_question, vizwiz_question
from levl_eval.data.entries import checked_labels, spread
from levl_eval.data.formats import MME, HubPOPE, HubVizWiz, HubVQAv2, checked, unique_ids
from levl_eval.data.hub_contents import column_contents
from levl_eval.data.hub_tables import load_split
from levl_eval.data.images import fingerprint_contents, fingerprint_text
from levl_eval.data.masks import LabelMap, MaskReader, stored_mask
from levl_eval.data.pope import pope_version
from levl_eval.data.questions import Pool, gqa_question, limited, of_images
from levl_eval.data.rgb import DEFAULT, Rules, decode_rgb, decoding, open_rgb, rules_of, to_rgb
from levl_eval.data.segmentation import class_list
from levl_eval.data.skipping import named, why_broken
from levl_eval.data.types import ClassificationSet, ImageSet, Question, QuestionSet, SegmentationSet


def _need(spec: DataSpec) -> None:
    if spec.hub is None:
        raise UsageError(
            f"--data hub: field `data.hub` is not set for layout {spec.layout}; give repo and split, or use --data DIR"
        )


ARRAYS = ("cifar10", "cifar100", "stl10")  # published as arrays: their images' content is their pixels


@dataclass(frozen=True)
class TableOpener:
    """id -> RGB image of a table's row, decoded as files are."""

    table: Any
    column: str
    rows: dict[str, int]
    source: str
    rules: Rules = DEFAULT

    def __post_init__(self) -> None:
        import datasets

        table = self.table.select_columns([self.column])  # a row of it is decoded without its other columns
        if isinstance(table.features[self.column], datasets.Image):
            table = table.cast_column(self.column, datasets.Image(decode=False))
        object.__setattr__(self, "table", table)

    def __call__(self, name: str) -> Image.Image:
        cell, what = self.table[self.rows[name]][self.column], f"{self.source}: row {self.rows[name]} (image {name})"
        if isinstance(cell, Image.Image):
            return to_rgb(cell, what, self.rules)
        if not cell or (cell.get("bytes") is None and not cell.get("path")):
            raise LevlError(f"{what}: holds no image; correct or download the table again")
        if cell.get("bytes") is not None:
            return decode_rgb(cell["bytes"], what, self.rules)
        return open_rgb(cell["path"], self.rules)


def _images(table: Any, column: str, rows: dict[str, int], spec: DataSpec, skipped: Mapping[str, str] | None = None) -> ImageSet:
    """Images of a table by id, known by their encoded bytes (or pixels, for sets that are published as arrays)."""
    assert spec.hub is not None

    opener = TableOpener(table, column, rows, spec.hub.repo, rules_of(spec))
    broken = dict(skipped or {})
    if spec.skip_broken is not None:
        broken |= {
            n: why for n, r in rows.items() if (why := why_broken(partial(opener, n), f"{spec.hub.repo}: row {r} (image {n})"))
        }
        rows = {n: r for n, r in rows.items() if n not in broken}
        if not rows:
            raise UsageError(f"{spec.hub.repo}: none of its images can be used: {named(broken)}")
    contents, whole = column_contents(table, column, rows, pixels=spec.layout in ARRAYS)
    return ImageSet(tuple(rows), opener, fingerprint_contents(contents), spec.hub.repo, contents.__getitem__, whole, {}, broken)


def _finish(
    spec: DataSpec, questions: list[Question], table: Any, rows: dict[str, int], limit: int | None, version: str
) -> QuestionSet:
    """Questions over the images of ``table`` that they are about; rows: image id -> row."""
    assert spec.hub is not None
    unique_ids((q.question_id for q in questions), spec.hub.repo)
    questions = limited(questions, limit)
    if not questions:
        raise UsageError(f"{spec.hub.repo}: holds no questions")
    wanted = {q.image_id for q in questions}
    missing = sorted(wanted - set(rows))
    if missing and spec.skip_broken is None:
        raise UsageError(f"{spec.hub.repo}: {len(missing)} images are missing, first {missing[0]}")
    skipped = dict.fromkeys(missing, "is missing")
    images = _images(table, "image", {k: v for k, v in rows.items() if k in wanted}, spec, skipped)
    return of_images(spec.layout, spec.split, questions, images, version)


def hub_questions(spec: DataSpec, limit: int | None) -> QuestionSet:
    """GQA (two configurations), VQAv2 and POPE. Raises UsageError where the hub cannot be reached or a field is missing."""
    _need(spec)
    assert spec.hub is not None
    table = load_split(spec.hub, spec.hub.questions)
    columns = set(table.column_names)
    needed = {
        "gqa": {"id", "imageId", "question", "answer"},
        "vqav2": {"question_id", "image_id", "question", "answers"},
        "pope": {"question", "answer", "category"},
        "textvqa": {"question_id", "image_id", "question", "answers"},
        "vizwiz": {"question_id", "question", "answers"},
        "scienceqa": {"question", "choices", "answer"},
        "mme": {"question_id", "question", "answer", "category"},
    }
    lacking = needed.get(spec.layout, set()) - columns
    if lacking or spec.layout not in needed:
        raise UsageError(
            f"{spec.hub.repo}: field {sorted(lacking or {spec.layout})[0]!r} is missing; its columns are {', '.join(sorted(columns))}"
        )
    text = table.remove_columns([c for c in ("image",) if c in columns])
    out: list[Question] = []
    rows: dict[str, int] = {}
    if spec.layout == "gqa":
        pool = Pool()
        for q in text:
            if isinstance(q.get("entailed"), str):  # the hub keeps the lists as text
                q = {**q, "entailed": [w.strip(" '\"[]") for w in q["entailed"].split(",") if w.strip(" '\"[]")]}
            out.append(gqa_question(str(q["id"]), q, pool, spec.hub.repo))
        images = load_split(spec.hub, spec.hub.images)
        rows = {str(name): i for i, name in enumerate(images["id"])}
        return _finish(spec, out, images, rows, limit, f"{len(out)} questions")
    if spec.layout == "vqav2":
        for i, raw in enumerate(text):
            q = checked(HubVQAv2, raw, spec.hub.repo, f"row {i}")
            name = f"COCO_{raw['image_id']:012d}" if isinstance(raw["image_id"], int) else q.image_id
            rows.setdefault(name, i)
            meta = {k: v for k in ("question_type", "answer_type") if (v := getattr(q, k)) is not None}
            out.append(Question(q.question_id, name, q.question, q.multiple_choice_answer, tuple(q.answers), meta))
        return _finish(spec, out, table, rows, limit, f"{len(out)} questions")
    if spec.layout != "pope":
        pool = Pool()
        for i, q in enumerate(text):
            question = _further(spec.layout, i, q, pool, spec.hub.repo)
            out.append(question)
            rows.setdefault(question.image_id, i)
        return _finish(spec, out, table, rows, limit, f"{len(out)} questions")
    for i, raw in enumerate(text):
        p = checked(HubPOPE, raw, spec.hub.repo, f"row {i}")
        name = p.image_source or p.id or str(i)
        rows.setdefault(name, i)
        qid = str(i) if p.question_id is None else p.question_id
        out.append(Question(f"{p.category}/{qid}", name, p.question, p.answer, (), {"split": p.category}))
    return _finish(spec, out, table, rows, limit, pope_version(out))


def _further(layout: str, row: int, q: dict[str, Any], pool: Pool, source: str) -> Question:
    """A row of the TextVQA, VizWiz, ScienceQA (its configuration with images only) or MME tables."""
    if layout == "textvqa":
        return textvqa_question(q, pool, source, f"row {row}")
    if layout == "vizwiz":
        e = checked(HubVizWiz, q, source, f"row {row}")
        return vizwiz_question(e.question_id, e, pool)
    if layout == "scienceqa":
        return scienceqa_question(f"{row:06d}", f"{row:06d}", q, source)
    m = checked(MME, q, source, f"row {row}")
    return mme_question(f"{m.question_id}/{row}", m.question_id, m.question, m.answer, m.category)


def _ids(table: Any, limit: int | None) -> dict[str, int]:
    return {f"{i:08d}": i for i in range(len(table) if limit is None else min(limit, len(table)))}


def hub_segmentation(spec: DataSpec, limit: int | None) -> SegmentationSet:
    """A table of image and annotation (merve/scene_parse_150: 0 is void)."""
    _need(spec)
    assert spec.hub is not None
    table = load_split(spec.hub, spec.hub.questions)
    if "annotation" not in table.column_names:
        raise UsageError(f"{spec.hub.repo}: field 'annotation' is missing; its columns are {', '.join(table.column_names)}")
    rows = _ids(table, limit)
    names, ids = (ADE20K_CLASSES, None) if spec.layout == "ade20k" and not spec.classes else class_list(spec, "", None)
    labels, source = LabelMap(len(names), spec.ignore_index, spec.reduce_zero_label, ids), spec.hub.repo

    def called(name: str) -> str:
        return f"{source}: row {rows[name]}"

    def stored(name: str) -> np.ndarray:
        with decoding(called(name)):
            cell = table[rows[name]]["annotation"]
        if not isinstance(cell, Image.Image):
            raise LevlError(f"{called(name)}: column 'annotation' holds no image; correct or download the table again")
        return stored_mask(cell, called(name))

    skipped: dict[str, str] = {}
    if spec.skip_broken is not None:
        skipped = {n: f"mask: {why}" for n in rows if (why := why_broken(partial(stored, n), called(n)))}
    images = _images(table, "image", {n: r for n, r in rows.items() if n not in skipped}, spec, skipped)
    contents, _ = column_contents(table, "annotation", {n: rows[n] for n in images.ids}, pixels=False)
    return SegmentationSet(
        spec.layout, spec.split, images, MaskReader(stored, called, labels), names, labels.void, fingerprint_contents(contents), None,
        contents.__getitem__, labels.digest(),
    )  # fmt: skip


def hub_classification(spec: DataSpec, limit: int | None) -> ClassificationSet:
    """A table of image and a class-label column."""
    _need(spec)
    assert spec.hub is not None
    table = load_split(spec.hub, spec.hub.questions)
    named = (spec.hub.label,) if spec.hub.label else ("label", "labels", "fine_label", *((spec.level,) if spec.level else ()))
    label = next((c for c in named if c in table.column_names and hasattr(table.features[c], "names")), None)
    image = next((c for c in ("image", "img") if c in table.column_names), None)
    if label is None or image is None:
        lacking = "class-label" if label is None else "image"
        raise UsageError(f"{spec.hub.repo}: holds no {lacking} column; its columns are {', '.join(table.column_names)}")
    labels = checked_labels(table[label], len(table.features[label].names), f"{spec.hub.repo} ({spec.hub.split})")
    rows = {f"{i:08d}": i for i in spread(labels, limit)}
    images = _images(table, image, rows, spec)
    kept = labels[[rows[i] for i in images.ids]]
    classes, said = tuple(table.features[label].names), ()
    if spec.layout == "places365":  # copies write /a/abbey, abbey, or spaces; training and validation come from different ones
        classes = tuple(re.sub("^/?[a-z]/", "", c.strip()).replace(" ", "_") for c in classes)
        said = tuple(c.replace("/", " ").replace("_", " ") for c in classes)
    digest = fingerprint_text([*classes, *map(str, kept)])
    return ClassificationSet(spec.hub.repo, spec.split, images, kept, classes, digest, said)
