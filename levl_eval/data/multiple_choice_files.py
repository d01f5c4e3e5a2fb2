"""Readers of questions with lettered options, from files as they are published (data/multiple_choice.py has the questions' form)."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import lines_of, text_of
from levl_eval.core.text import plain_digits, printable, same_text
from levl_eval.data.caption_files import csv_records, rows_below
from levl_eval.data.fingerprint_cache import bytes_hash
from levl_eval.data.formats import checked, shown, unique_ids
from levl_eval.data.images import fingerprint_contents, put_into, root_of, under
from levl_eval.data.listing import junk
from levl_eval.data.multiple_choice import (
    CIRCLE,
    AI2DQuestion,
    MCQEntry,
    OpenEntry,
    SEEDEntry,
    ai2d_question,
    asked,
    cv_bench_question,
    mmbench_question,
    mmvp_question,
    realworldqa_question,
)
from levl_eval.data.questions import About, finish_questions, first_of, limited, of_images, read_json
from levl_eval.data.rgb import DEFAULT, Rules, decode_rgb
from levl_eval.data.types import ImageSet, QuestionSet


def read_cv_bench(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """test_2d.jsonl or test_3d.jsonl (split 2D or 3D): a line a row of the published table, images below the folder by ``filename``."""
    root, split = root_of(spec.root, spec.directory, data), spec.split.upper()
    where = "get huggingface.co/datasets/nyu-visionx/CV-Bench; test_2d.jsonl holds its table's rows without the image"
    if split not in ("2D", "3D"):
        raise UsageError(f"field `data.split`: expected 2D or 3D, found {spec.split!r}")
    file = under(data, spec.questions) or first_of(root, [f"test_{split.lower()}.jsonl"], "the question file", where)
    rows = read_json(file)
    questions = [cv_bench_question(r, file, f"entry {k}") for k, r in enumerate(rows if isinstance(rows, list) else [rows], 1)]
    folder = under(data, spec.images) or root
    about = About("cv-bench", split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_mmvp(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """Questions.csv (Index, Question, Options, Correct Answer) and "MMVP Images/INDEX.jpg"."""
    root = root_of(spec.root, spec.directory, data)
    where = "get huggingface.co/datasets/MMVP/MMVP"
    file = under(data, spec.questions) or first_of(root, ["Questions.csv"], "Questions.csv", where)
    folder = under(data, spec.images) or root / "MMVP Images"
    rows = rows_below(file, ("Index", "Question", "Options", "Correct Answer"))
    if not rows or any(len(r) != 4 for r in rows):
        raise UsageError(
            f"{file}: expected lines of Index, Question, Options, Correct Answer below a head; take the published file"
        )
    questions = [mmvp_question(r[0].strip(), r[1], r[2], r[3], f"{r[0].strip()}.jpg", file) for r in rows]
    about = About("mmvp", spec.split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_seedbench(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """SEED-Bench.json (questions, question_type) and SEED-Bench-image/DATA_ID: the questions about images, videos left out and counted."""
    root = root_of(spec.root, spec.directory, data)
    where = "get SEED-Bench.json and SEED-Bench-image.zip from huggingface.co/datasets/AILab-CVC/SEED-Bench"
    file = under(data, spec.questions) or first_of(root, ["SEED-Bench.json"], "SEED-Bench.json", where)
    folder = under(data, spec.images) or root / "SEED-Bench-image"
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("questions"), list):
        raise UsageError(f"{file}: field `questions` is missing; take the published file")
    kinds = content.get("question_type")
    names = {v: k for k, v in kinds.items()} if isinstance(kinds, dict) else {}
    questions, others = [], 0
    for k, row in enumerate(content["questions"], 1):
        e = checked(SEEDEntry, row, file, f"entry {k}")
        if e.data_type != "image":
            others += 1
            continue
        options = [e.choice_a, e.choice_b, e.choice_c, e.choice_d]
        meta = {"type": str(names.get(e.question_type_id, ""))}
        questions.append(asked(file, f"entry {k}", e.question_id, e.data_id, e.question, options, e.answer, meta))
    about = About("seedbench", spec.split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(
        about, questions, lambda i: folder / i, spec, limit, {"questions about videos": others} if others else None
    )


def read_ai2d(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """ai2d-all: questions/IMAGE.json, images/IMAGE, and ai2d_test_ids.csv, the test images' numbers, where it is there."""
    root = root_of(spec.root, spec.directory, data)
    root = next((r for r in (root / "ai2d", root) if (r / "questions").is_dir()), root)
    where = "get ai2d-all.zip and ai2d_test_ids.csv from prior.allenai.org/projects/diagram-understanding"
    if not (root / "questions").is_dir():
        raise UsageError(f"{root / 'questions'}: no such folder; {where}")
    listed = root / "ai2d_test_ids.csv"
    test = {line.strip() for line in lines_of(listed, "an image's number a line")} if listed.is_file() else None
    questions = []
    for file in sorted(p for p in (root / "questions").glob("*.json") if not junk(p.name)):
        image = file.stem
        if test is not None and Path(image).stem not in test:
            continue
        content = read_json(file)
        listed_there = content.get("questions") if isinstance(content, dict) else None
        if not isinstance(listed_there, dict):
            raise UsageError(f"{file}: field `questions` is missing; take the published file")
        for text, one in listed_there.items():
            e = checked(AI2DQuestion, one, file, f"question {shown(text)}")
            questions.append(ai2d_question(e.questionId, image, str(text), e.answerTexts, e.correctAnswer, file))
    folder = under(data, spec.images) or root / "images"
    about = About("ai2d", spec.split, root / "questions", f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_mcq(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """A user's questions (`questions`, or questions.jsonl in the set's folder): JSON lines of image, question, options,
    answer (a letter, or a number from 0), and optionally question_id, type, group. Images by `images`, or beside the file."""
    file = under(data, spec.questions)
    if file is None and not (spec.root or spec.directory):
        raise UsageError("layout mcq: field `questions` must be set to a JSON-lines file of image, question, options and answer")
    if file is None:
        root = root_of(spec.root, spec.directory, data)
        where = "write its rows there (docs: multiple choice), or read it from the hub"
        file = first_of(root, ["questions.jsonl"], "the question file", where)
    folder = under(data, spec.images) or file.parent
    rows = read_json(file)
    questions = []
    for k, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        e = checked(MCQEntry, row, file, f"entry {k}")
        repeated = Counter(map(same_text, e.options)).most_common(1)[0]
        if repeated[1] > 1:
            raise UsageError(
                f"{file}: entry {k}: option {shown(repeated[0])} stands twice, of which one letter would be right; correct the entry"
            )
        meta = {"type": e.type, "group": e.group}
        questions.append(asked(file, f"entry {k}", e.question_id or str(k), e.image, e.question, e.options, e.answer, meta))
    about = About("mcq", spec.split, file, f"images are looked for in {folder}; set `data.images`", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_realworldqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """RealWorldQA as JSON lines of image, question and answer, as its table has them (its archive is Parquet);
    options stand in the question."""
    root = root_of(spec.root, spec.directory, data)
    where = "get huggingface.co/datasets/xai-org/RealworldQA; annotations.jsonl holds its table's rows with the images' names"
    file = under(data, spec.questions) or first_of(root, ["annotations.jsonl", "annotations.json"], "the question file", where)
    folder = under(data, spec.images) or root / "images"
    rows = read_json(file)
    questions = []
    for k, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        e = checked(OpenEntry, row, file, f"entry {k}")
        questions.append(realworldqa_question(e.question_id or str(k), e.image, e.question, e.answer))
    about = About("realworldqa", spec.split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


@dataclass(frozen=True)
class EncodedOpener:
    """id -> RGB image of base64 text."""

    texts: Mapping[str, str]
    source: str
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        return decode_rgb(self.content(name), f"{self.source}: image {printable(name)[:200]}", self.rules)

    def content(self, name: str) -> bytes:
        """Raises UsageError for text that is no base64."""
        try:
            return base64.b64decode(self.texts[name], validate=True)
        except (binascii.Error, ValueError):
            raise UsageError(f"{self.source}: image {printable(name)[:200]} is no base64 text; download the file again") from None


def encoded_images(texts: Mapping[str, str], source: str) -> ImageSet:
    """Images that stand in a table as base64 text, known by their bytes."""
    opener = EncodedOpener(texts, source)
    contents = {name: bytes_hash(opener.content(name))[0] for name in texts}
    return ImageSet(tuple(texts), opener, fingerprint_contents(contents), source, contents.__getitem__)


def read_mmbench(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """A tab-separated table (mmbench_dev_en*.tsv, MMBench_DEV_EN*.tsv) with index, question, hint, A to D, answer, category and image.

    The image is base64 text, or the index of the row that holds it. Rows whose indices differ by a million are one question with its
    options turned round. Raises UsageError naming the line.
    """
    root, split = root_of(spec.root, spec.directory, data), spec.split or "dev_en"
    where = "get the file from github.com/open-compass/MMBench (dev, whose answers are public)"
    names = [f"mmbench_{split}*.tsv", f"MMBench_{split.upper()}*.tsv", f"{split}.tsv"]
    file = under(data, spec.questions) or first_of(root, names, "the table", where)
    rows = csv_records(file, text_of(file), "\t")
    _, head = next(iter(rows), (0, list[str]()))
    if not {"index", "question", "A", "B", "answer", "image"} <= set(head):
        raise UsageError(
            f"{file}: columns index, question, A, B, answer and image are expected; it has {', '.join(map(printable, head))[:200]}"
        )
    questions, texts, refers = [], dict[str, str](), dict[str, str]()
    for number, row in rows:
        if len(row) != len(head):
            raise UsageError(f"{file}: line {number}: {len(row)} fields, the head has {len(head)}; download the file again")
        cells = dict(zip(head, row, strict=True))
        q = mmbench_question(cells, file, f"line {number}")
        questions.append(q)
        image = cells["image"].strip()
        if plain_digits(image) and len(image) < 12:
            refers[q.image_id] = str(int(image) % CIRCLE)
        elif texts.setdefault(q.image_id, image) != image:
            raise UsageError(
                f"{file}: line {number}: another image than in the other rows of question {q.image_id}; take the published file"
            )
    for name, other in refers.items():
        if name not in texts:
            if other not in texts:
                raise UsageError(
                    f"{file}: question {name}: its image is that of question {other}, which has none; take the published file"
                )
            texts[name] = texts[other]
    if not questions:
        raise UsageError(f"{file}: holds no questions")
    unique_ids((q.question_id for q in questions), file)
    kept = limited(questions, limit)
    images = encoded_images({i: texts[i] for i in dict.fromkeys(q.image_id for q in kept)}, str(file))
    return of_images("mmbench", split, kept, images, f"{len(questions)} questions")
