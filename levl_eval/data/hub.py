"""The same data sets from the hub or its local cache, through `datasets`: --data hub.

Schemas as published. A repository name may also be a local directory in the hub's layout, and an offline machine with a filled cache
(HF_HUB_OFFLINE=1) works: data/hub_tables.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.ade20k import CLASSES as ADE20K_CLASSES
from levl_eval.data.benchmarks import mme_question, scienceqa_question, textvqa_question, vizwiz_question
from levl_eval.data.entries import checked_labels, spread_over_classes
from levl_eval.data.formats import MME, HubPOPE, HubVizWiz, HubVQAv2, checked, unique_ids
from levl_eval.data.hub_contents import check_same_images, column_contents
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


if TYPE_CHECKING:
    from datasets import Dataset

ARRAYS = ("cifar10", "cifar100", "stl10")  # published as arrays: their images' content is their pixels


@dataclass(frozen=True)
class TableOpener:
    """id -> RGB image of a table's row, decoded as files are."""

    table: Dataset
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


def _images(
    table: Dataset, column: str, rows: dict[str, int], spec: DataSpec, skipped: Mapping[str, str] | None = None
) -> ImageSet:
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
    try:
        contents, whole = column_contents(table, column, rows, pixels=spec.layout in ARRAYS)
    except LevlError as e:
        raise LevlError(f"{spec.hub.repo}: {e}") from e
    return ImageSet(tuple(rows), opener, fingerprint_contents(contents), spec.hub.repo, contents.__getitem__, whole, {}, broken)


def _finish(
    spec: DataSpec, questions: list[Question], table: Dataset, rows: dict[str, int], limit: int | None, version: str
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


# Columns that a layout's table must have.
_NEEDED = {
    "gqa": {"id", "imageId", "question", "answer"}, "vqav2": {"question_id", "image_id", "question", "answers"},
    "pope": {"question", "answer", "category"}, "textvqa": {"question_id", "image_id", "question", "answers"},
    "vizwiz": {"question_id", "question", "answers"}, "scienceqa": {"question", "choices", "answer"},
    "mme": {"question_id", "question", "answer", "category"},
}  # fmt: skip


def hub_questions(spec: DataSpec, limit: int | None) -> QuestionSet:
    """GQA (two configurations), VQAv2, POPE, TextVQA, VizWiz, ScienceQA, MME.

    Raises UsageError where the hub cannot be reached, a column is missing, or a row does not fit.
    """
    _need(spec)
    assert spec.hub is not None
    table, source = load_split(spec.hub, spec.hub.questions), spec.hub.repo
    lacking = _NEEDED.get(spec.layout, set()) - set(table.column_names)
    if lacking or spec.layout not in _NEEDED:
        columns = ", ".join(sorted(table.column_names))
        raise UsageError(f"{source}: field {sorted(lacking or {spec.layout})[0]!r} is missing; its columns are {columns}")
    pool, rows = Pool(), {}
    text = table.remove_columns([c for c in ("image",) if c in table.column_names])
    out = [_question(spec.layout, i, row, pool, source) for i, row in enumerate(text)]
    if spec.layout == "gqa":
        images = load_split(spec.hub, spec.hub.images)
        rows = {str(name): i for i, name in enumerate(images["id"])}
        if len(rows) < len(images):
            raise UsageError(f"{source}: {len(images) - len(rows)} image ids occur twice in {spec.hub.images}; correct the table")
        return _finish(spec, out, images, rows, limit, f"{len(out)} questions")
    for i, q in enumerate(out):
        rows.setdefault(q.image_id, i)
    check_same_images(table, "image", [q.image_id for q in out], source)
    return _finish(spec, out, table, rows, limit, pope_version(out) if spec.layout == "pope" else f"{len(out)} questions")


def _question(layout: str, row: int, cells: dict[str, object], pool: Pool, source: str) -> Question:
    """A row of a layout's table (ScienceQA: of its configuration with images only). Raises UsageError naming the row."""
    entry = f"row {row}"
    if layout == "gqa":
        entailed = cells.get("entailed")
        if isinstance(entailed, str):  # the hub keeps the lists as text
            cells = {**cells, "entailed": [w.strip(" '\"[]") for w in entailed.split(",") if w.strip(" '\"[]")]}
        return gqa_question(str(cells["id"]), cells, pool, source)
    if layout == "vqav2":
        v = checked(HubVQAv2, cells, source, entry)
        number = cells["image_id"]
        name = f"COCO_{number:012d}" if isinstance(number, int) else v.image_id
        meta = {k: w for k in ("question_type", "answer_type") if (w := getattr(v, k)) is not None}
        return Question(v.question_id, name, v.question, v.multiple_choice_answer, tuple(v.answers), meta)
    if layout == "pope":
        p = checked(HubPOPE, cells, source, entry)
        name, qid = p.image_source or p.id or str(row), str(row) if p.question_id is None else p.question_id
        return Question(f"{p.category}/{qid}", name, p.question, p.answer, (), {"split": p.category})
    if layout == "textvqa":
        return textvqa_question(cells, pool, source, entry)
    if layout == "vizwiz":
        e = checked(HubVizWiz, cells, source, entry)
        return vizwiz_question(e.question_id, e, pool)
    if layout == "scienceqa":
        return scienceqa_question(f"{row:06d}", f"{row:06d}", cells, source)
    m = checked(MME, cells, source, entry)
    return mme_question(f"{m.question_id}/{row}", m.question_id, m.question, m.answer, m.category)


def _ids(table: Dataset, limit: int | None) -> dict[str, int]:
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
    rows = {f"{i:08d}": i for i in spread_over_classes(labels, limit)}
    images = _images(table, image, rows, spec)
    kept = labels[[rows[i] for i in images.ids]]
    classes, spoken = tuple(table.features[label].names), ()
    if spec.layout == "places365":  # copies write /a/abbey, abbey, or spaces; training and validation come from different ones
        classes = tuple(re.sub("^/?[a-z]/", "", c.strip()).replace(" ", "_") for c in classes)
        spoken = tuple(c.replace("/", " ").replace("_", " ") for c in classes)
    digest = fingerprint_text([*classes, *map(str, kept)])
    return ClassificationSet(spec.hub.repo, spec.split, images, kept, classes, digest, spoken)
