"""The same data sets from the hub or its local cache, through `datasets`: --data hub.

Schemas as published. A repository name may also be a local directory in the hub's layout, and an offline machine with a filled cache
(HF_HUB_OFFLINE=1) works: data/hub_tables.py.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data import documents, multiple_choice
from levl_eval.data.benchmarks import TEXT_ONLY, llava_turns, mme_question, scienceqa_question, textvqa_question, vizwiz_question
from levl_eval.data.counting import tallyqa_row
from levl_eval.data.documents import UNNAMED_IMAGES
from levl_eval.data.entries import checked_labels, spread_over_classes
from levl_eval.data.fine_grained import bird_names
from levl_eval.data.formats import MME, HubPOPE, HubVizWiz, HubVQAv2, LLaVA, checked, shown, unique_ids
from levl_eval.data.hub_cells import named_rows
from levl_eval.data.hub_contents import check_same_images, column_contents
from levl_eval.data.hub_images import check_image_column, rows_with_image, source_of, table_images
from levl_eval.data.hub_tables import HubTable, load_split
from levl_eval.data.images import fingerprint_text
from levl_eval.data.masks import checked_names
from levl_eval.data.multiple_choice import IMAGE_COLUMNS
from levl_eval.data.pope import pope_version
from levl_eval.data.questions import Pool, gqa_question, limited, of_images
from levl_eval.data.referring import hub_referring_questions, image_name, set_of
from levl_eval.data.types import ClassificationSet, Question, QuestionSet


def _finish(
    spec: DataSpec, questions: list[Question], got: HubTable, rows: dict[str, int], limit: int | None, version: str
) -> QuestionSet:
    """Questions over the images of ``got`` that they are about; rows: image id -> row."""
    assert spec.hub is not None
    unique_ids((q.question_id for q in questions), spec.hub.repo)
    questions = limited(questions, limit)
    if not questions:
        raise UsageError(f"{spec.hub.repo}: holds no questions")
    wanted = {q.image_id for q in questions}
    missing = sorted(wanted - set(rows))
    if missing and spec.skip_broken is None:
        raise UsageError(f"{spec.hub.repo}: {len(missing)} images are missing, first {printable(missing[0])[:200]}")
    skipped = dict.fromkeys(missing, "is missing")
    images = table_images(
        got, IMAGE_COLUMNS.get(spec.layout, "image"), {k: v for k, v in rows.items() if k in wanted}, spec, skipped
    )
    return of_images(spec.layout, spec.split, questions, images, version)


# Columns that a layout's table must have.
_NEEDED = {
    "gqa": {"id", "imageId", "question", "answer"}, "vqav2": {"question_id", "image_id", "question", "answers"},
    "pope": {"question", "answer", "category"}, "textvqa": {"question_id", "image_id", "question", "answers"},
    "vizwiz": {"question_id", "question", "answers"}, "scienceqa": {"question", "choices", "answer"},
    "llava": {"image", "conversations"}, "mme": {"question_id", "question", "answer", "category"},
    "tallyqa": {"qa"}, **{k: {"answer", "bbox", "file_name"} for k in ("refcoco", "refcoco-places")},
    **multiple_choice.HUB_COLUMNS, **documents.HUB_COLUMNS,
}  # fmt: skip
_ROWS = {**multiple_choice.HUB_ROWS, **documents.HUB_ROWS}


def hub_questions(spec: DataSpec, limit: int | None) -> QuestionSet:
    """GQA (two configurations), VQAv2, POPE, TextVQA, VizWiz, ScienceQA, MME, ChartQA, DocVQA, InfographicVQA, OCRBench, TallyQA,
    RefCOCO and its like.

    Raises UsageError where the hub cannot be reached, a column is missing, or a row does not fit.
    """
    hub = source_of(spec)
    got, source = load_split(hub, hub.questions), hub.repo
    table = got.rows
    lacking = _NEEDED.get(spec.layout, set()) - set(table.column_names)
    if lacking or spec.layout not in _NEEDED:
        columns = ", ".join(sorted(table.column_names))
        raise UsageError(f"{source}: field {sorted(lacking or {spec.layout})[0]!r} is missing; its columns are {columns}")
    column = IMAGE_COLUMNS.get(spec.layout, "image")
    if spec.layout != "gqa":  # whose images are a table of their own
        check_image_column(table, column, source)
    pool, rows = Pool(), {}
    text = table.remove_columns([c for c in (column,) if c in table.column_names])
    if spec.layout == "llava":
        return _conversations(spec, got, limit)
    rows_of_text = named_rows(text, ("answer",) if spec.layout == "scienceqa" else ())  # whose answer is a number in any case
    if spec.layout == "tallyqa":
        counts = [q for i, row in enumerate(rows_of_text) for q in tallyqa_row(i, row, source)]
        return _finish(spec, counts, got, {f"{i:06d}": i for i in range(len(table))}, limit, f"{len(counts)} questions")
    if spec.layout in ("refcoco", "refcoco-places"):
        return _referring(spec, got, limit)
    out = [_question(spec.layout, i, row, pool, source) for i, row in enumerate(rows_of_text)]
    if spec.layout == "gqa":
        images = load_split(hub, hub.images)
        rows = {str(name): i for i, name in enumerate(images.rows["id"])}
        if len(rows) < len(images.rows):
            raise UsageError(f"{source}: {len(images.rows) - len(rows)} image ids occur twice in {hub.images}; correct the table")
        return _finish(spec, out, images, rows, limit, f"{len(out)} questions")
    if spec.layout in UNNAMED_IMAGES:
        out = _named_by_content(out, got)
    for i, q in enumerate(out):
        rows.setdefault(q.image_id, i)
    check_same_images(table, column, [q.image_id for q in out], source)
    return _finish(spec, out, got, rows, limit, pope_version(out) if spec.layout == "pope" else f"{len(out)} questions")


def _referring(spec: DataSpec, got: HubTable, limit: int | None) -> QuestionSet:
    """A table of objects with expressions, of which an image has several rows."""
    source, column = source_of(spec).repo, IMAGE_COLUMNS.get(spec.layout, "image")
    names = [image_name(str(n)) for n in got.rows["file_name"]]
    check_same_images(got.rows, column, names, source)
    rows: dict[str, int] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, i)
    questions = hub_referring_questions(spec, got.rows, column, source)
    return _finish(spec, questions, got, rows, limit, f"{set_of(spec)}, {len(questions)} expressions")


def _named_by_content(questions: list[Question], got: HubTable) -> list[Question]:
    """One question a row, each about the first row that holds the same image: intervals resample images, not rows."""
    contents, _ = column_contents(got.rows, "image", {q.image_id: row for row, q in enumerate(questions)}, False)
    first: dict[str, str] = {}
    return [replace(q, image_id=first.setdefault(contents[q.image_id], q.image_id)) for q in questions]


def _conversations(spec: DataSpec, got: HubTable, limit: int | None) -> QuestionSet:
    """A table in LLaVA's form (lmms-lab's LLaVA-NeXT-Data, LLaVA-ReCap): an image and its conversation a row;
    rows of text alone are left out."""
    source, questions = source_of(spec).repo, []
    there = rows_with_image(got.rows)
    left_out = Counter({TEXT_ONLY: there.count(False)})
    for row, cells in enumerate(got.rows.select_columns(["conversations"])):
        if there[row]:
            e = checked(LLaVA, cells, source, f"row {row}")
            questions += llava_turns(e.conversations, str(row), f"{row:08d}", source, f"row {row}", left_out)
    rows = {f"{row:08d}": row for row, is_there in enumerate(there) if is_there}
    out = _finish(spec, questions, got, rows, limit, f"{len(questions)} turns")
    return replace(out, images=replace(out.images, left_out=dict(+left_out)))


def _question(layout: str, row: int, cells: dict[str, object], pool: Pool, source: str) -> Question:
    """A row of a layout's table (ScienceQA: of its configuration with images only). Raises UsageError naming the row."""
    entry = f"row {row}"
    if layout in _ROWS:
        try:
            return _ROWS[layout](row, cells, source)
        except ValueError as error:
            raise UsageError(f"{source}: {entry}: {error}; correct the table") from None
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


_FIRST_LEVEL = {"aircraft": "variant", "cifar100": "fine"}


def hub_classification(spec: DataSpec, limit: int | None) -> ClassificationSet:
    """A table of image and a class-label column."""
    hub = source_of(spec)
    got = load_split(hub, hub.questions)
    table = got.rows
    # A level is a column of its own; the plain one is that of the layout's first level.
    of_level = (f"{spec.level}_label", spec.level) if spec.level else ()
    plain = (hub.label,) if hub.label else ("label", "labels", "fine_label")
    named = (*of_level, *(plain if spec.level in (None, _FIRST_LEVEL.get(spec.layout)) else ()))
    label = next((c for c in named if c in table.column_names and hasattr(table.features[c], "names")), None)
    image = next((c for c in ("image", "img") if c in table.column_names), None)
    if label is None or image is None:
        of = f" of level {shown(spec.level)}" if spec.level else ""
        lacking = f"class-label column{of}" if label is None else "image column"
        other = next((c for c in named if c in table.column_names), "") if label is None else ""
        more = (
            f"; column {other!r} holds {table.features[other]!s:.60}: "
            "cast it to ClassLabel (`datasets`: class_encode_column), or name another by `hub.label`"
            if other
            else ""
        )
        raise UsageError(f"{hub.repo}: holds no {lacking}; its columns are {', '.join(map(printable, table.column_names))}{more}")
    if len(table.features[label].names) < 2:
        raise UsageError(f"{hub.repo}: column {label!r} names {len(table.features[label].names)} classes; at least 2 are needed")
    labels = checked_labels(table[label], len(table.features[label].names), f"{hub.repo} ({hub.split})")
    rows = {f"{i:08d}": i for i in spread_over_classes(labels, limit)}
    images = table_images(got, image, rows, spec)
    kept = labels[[rows[i] for i in images.ids]]
    classes = checked_names(table.features[label].names, f"{hub.repo}: column {label!r}")
    spoken: tuple[str, ...] = ()
    if spec.layout == "places365":  # copies write /a/abbey, abbey, or spaces; training and validation come from different ones
        classes = tuple(re.sub("^/?[a-z]/", "", c.strip()).replace(" ", "_") for c in classes)
        spoken = tuple(c.replace("/", " ").replace("_", " ") for c in classes)
    elif spec.layout == "cub":
        spoken = bird_names(classes)
    digest = fingerprint_text([*classes, *map(str, kept)])
    return ClassificationSet(hub.repo, spec.split, images, kept, classes, digest, spoken)
