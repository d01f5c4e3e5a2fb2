"""The same data sets from the hub or its local cache, through `datasets`: --data hub.

Schemas as published (DESIGN, "Hub data sets the readers know"). A repository name may also be a local directory in the hub's
layout, and an offline machine with a filled cache (HF_HUB_OFFLINE=1) works.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.data.benchmarks import mme_question, scienceqa_question, textvqa_question, vizwiz_question
from levl_eval.data.classification import spread
from levl_eval.data.images import fingerprint_text
from levl_eval.data.questions import POPE_SPLITS, Pool, _limited, gqa_question, pope_version
from levl_eval.data.types import ClassificationSet, ImageSet, Question, QuestionSet, SegmentationSet
from levl_eval.errors import UsageError
from levl_eval.hub import hub
from levl_eval.io import sha256_file


@lru_cache(64)
def _digest(folder: Path, listed: tuple[tuple[str, int, int], ...]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256_file(folder / name)}\n" for name, _, _ in listed).encode()).hexdigest()


def local_digest(folder: Path) -> str:
    """SHA-256 of a local repository: names and bytes of its files, hidden ones left out. Read again only where they have changed."""
    names = sorted(
        p for p in folder.rglob("*") if p.is_file() and not any(w.startswith(".") for w in p.relative_to(folder).parts)
    )
    stats = [(p.relative_to(folder).as_posix(), p.stat()) for p in names]
    return _digest(folder.resolve(), tuple((n, s.st_size, s.st_mtime_ns) for n, s in stats))


def local_cache(folder: Path, parent: str | os.PathLike[str] | None = None) -> str:
    """The folder where `datasets` is to keep its tables of a local repository, below ``parent`` (its own cache by default).

    Left to itself it (5.2) keeps those of every local repository of one name and one list of configurations in one place, and
    takes what lies there, whatever the files of this one hold.
    """
    import datasets

    return str(Path(parent or datasets.config.HF_DATASETS_CACHE) / "local" / local_digest(folder)[:32])


def _load(spec: DataSpec, name: str | None) -> Any:
    """One configuration's split as a map-style data set."""
    import datasets

    assert spec.hub is not None
    here = Path(spec.hub.repo).expanduser()
    path, more = (str(here), {"cache_dir": local_cache(here)}) if here.is_dir() else (spec.hub.repo, {})
    with hub(f"--data hub: {spec.hub.repo}"):
        return datasets.load_dataset(path, name, split=spec.hub.split, revision=spec.hub.revision, **more)


def _need(spec: DataSpec) -> None:
    if spec.hub is None:
        raise UsageError(
            f"--data hub: field `data.hub` is not set for layout {spec.layout}; give repo and split, or use --data DIR"
        )


def _images(table: Any, column: str, rows: dict[str, int], source: str) -> ImageSet:
    """Images of a table by id. Fingerprint: the table's own, which changes with the revision, or a local repository's; with the ids."""

    def opened(name: str) -> Image.Image:
        return table[rows[name]][column].convert("RGB")

    ids, here = tuple(rows), Path(source).expanduser()
    own = [local_digest(here)] if here.is_dir() else []
    return ImageSet(ids, opened, fingerprint_text([str(table._fingerprint), *own, *ids]), source)


def _finish(spec: DataSpec, questions: list[Question], images: ImageSet, limit: int | None, version: str) -> QuestionSet:
    questions = _limited(questions, limit)
    wanted = {q.image_id for q in questions}
    if limit is not None:
        ids = tuple(i for i in images.ids if i in wanted)
        images = ImageSet(ids, images.open, fingerprint_text([images.fingerprint, *ids]), images.source)
    missing = wanted - set(images.ids)
    if missing:
        raise UsageError(f"{images.source}: {len(missing)} images are missing, first {sorted(missing)[0]}")
    digest = fingerprint_text(json.dumps([q.question_id, q.image_id, q.question, q.answer, list(q.answers)]) for q in questions)
    return QuestionSet(spec.layout, spec.split, questions, images, digest, version)


def hub_questions(spec: DataSpec, limit: int | None) -> QuestionSet:
    """GQA (two configurations), VQAv2 and POPE. Raises UsageError where the hub cannot be reached or a field is missing."""
    _need(spec)
    assert spec.hub is not None
    table = _load(spec, spec.hub.questions)
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
        pictures = _load(spec, spec.hub.images)
        rows = {str(name): i for i, name in enumerate(pictures["id"])}
        used = {q.image_id for q in out}
        rows = {k: v for k, v in rows.items() if k in used}
        return _finish(spec, out, _images(pictures, "image", rows, spec.hub.repo), limit, f"{len(out)} questions")
    if spec.layout == "vqav2":
        for i, q in enumerate(text):
            answers = tuple(a["answer"] for a in q["answers"] or ())
            name = f"COCO_{q['image_id']:012d}" if isinstance(q["image_id"], int) else str(q["image_id"])
            rows.setdefault(name, i)
            meta = {k: q[k] for k in ("question_type", "answer_type") if k in q}
            out.append(Question(str(q["question_id"]), name, q["question"], q.get("multiple_choice_answer") or "", answers, meta))
        return _finish(spec, out, _images(table, "image", rows, spec.hub.repo), limit, f"{len(out)} questions")
    if spec.layout != "pope":
        pool = Pool()
        for i, q in enumerate(text):
            question = _further(spec.layout, i, q, pool)
            if question is not None:
                out.append(question)
                rows.setdefault(question.image_id, i)
        return _finish(spec, out, _images(table, "image", rows, spec.hub.repo), limit, f"{len(out)} questions")
    counts = dict.fromkeys(POPE_SPLITS, 0)
    for i, q in enumerate(text):
        name = str(q.get("image_source") or q.get("id"))
        rows.setdefault(name, i)
        counts[q["category"]] = counts.get(q["category"], 0) + 1
        out.append(
            Question(
                f"{q['category']}/{q.get('question_id', i)}",
                name,
                q["question"],
                q["answer"].lower(),
                (),
                {"split": q["category"]},
            )
        )
    return _finish(spec, out, _images(table, "image", rows, spec.hub.repo), limit, pope_version(counts))


def _further(layout: str, row: int, q: dict[str, Any], pool: Pool) -> Question | None:
    """A row of the TextVQA, VizWiz, ScienceQA (its configuration with images only) or MME tables."""
    if layout == "textvqa":
        return textvqa_question(q, pool, str(q["image_id"]))
    if layout == "vizwiz":
        answers = [a["answer"] if isinstance(a, dict) else str(a) for a in q["answers"] or ()]
        return vizwiz_question(str(q["question_id"]), str(q["question_id"]), q, answers, pool)
    if layout == "scienceqa":
        return scienceqa_question(f"{row:06d}", f"{row:06d}", q)
    return mme_question(f"{q['question_id']}/{row}", str(q["question_id"]), q["question"], q["answer"], q["category"])


def _ids(table: Any, limit: int | None) -> dict[str, int]:
    return {f"{i:08d}": i for i in range(len(table) if limit is None else min(limit, len(table)))}


def hub_segmentation(spec: DataSpec, limit: int | None) -> SegmentationSet:
    """A table of image and annotation (merve/scene_parse_150: 0 is void)."""
    _need(spec)
    assert spec.hub is not None
    table = _load(spec, spec.hub.questions)
    if "annotation" not in table.column_names:
        raise UsageError(f"{spec.hub.repo}: field 'annotation' is missing; its columns are {', '.join(table.column_names)}")
    rows = _ids(table, limit)
    names = tuple(spec.classes) if isinstance(spec.classes, list) else tuple(f"class {i}" for i in range(1, 151))

    def mask(name: str) -> np.ndarray:
        m = np.array(table[rows[name]]["annotation"]).astype(np.int64)
        return np.where(m == 0, spec.ignore_index, m - 1) if spec.reduce_zero_label else m

    images = _images(table, "image", rows, spec.hub.repo)
    return SegmentationSet(spec.layout, spec.split, images, mask, names, spec.ignore_index, images.fingerprint)


def hub_classification(spec: DataSpec, limit: int | None) -> ClassificationSet:
    """A table of image and a class-label column."""
    _need(spec)
    assert spec.hub is not None
    table = _load(spec, spec.hub.questions)
    named = (spec.hub.label,) if spec.hub.label else ("label", "labels", "fine_label", *((spec.level,) if spec.level else ()))
    label = next((c for c in named if c in table.column_names and hasattr(table.features[c], "names")), None)
    picture = next((c for c in ("image", "img") if c in table.column_names), None)
    if label is None or picture is None:
        lacking = "class-label" if label is None else "image"
        raise UsageError(f"{spec.hub.repo}: holds no {lacking} column; its columns are {', '.join(table.column_names)}")
    labels = np.array(table[label], np.int64)
    rows = {f"{i:08d}": i for i in spread(labels, limit)}
    images = _images(table, picture, rows, spec.hub.repo)
    kept = labels[list(rows.values())]
    classes, said = tuple(table.features[label].names), ()
    if spec.layout == "places365":  # copies write /a/abbey, abbey, or spaces; training and validation come from different ones
        classes = tuple(re.sub("^/?[a-z]/", "", c.strip()).replace(" ", "_") for c in classes)
        said = tuple(c.replace("/", " ").replace("_", " ") for c in classes)
    return ClassificationSet(spec.hub.repo, spec.split, images, kept, classes, images.fingerprint, said)
