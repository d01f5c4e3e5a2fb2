"""Questions about charts, documents and text in images, in their published layouts and as tables of the hub.

ChartQA (github.com/vis-nlp/ChartQA), DocVQA and InfographicVQA (tasks 1 and 3 of rrc.cvc.uab.es/?ch=17), OCRBench
(github.com/Yuliang-Liu/MultimodalOCR).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from levl_eval.cards import DataSpec
from levl_eval.core.text import blank
from levl_eval.data.formats import (
    ChartQA,
    DocVQA,
    HubChartQA,
    HubDocVQA,
    HubInfoVQA,
    HubOCRBench,
    InfoVQA,
    OCRBench,
    checked,
    majority,
)
from levl_eval.data.images import put_into, root_of, under
from levl_eval.data.places import TOPS
from levl_eval.data.questions import About, FileNames, finish_questions, first_of
from levl_eval.data.stream import stream, stream_rows
from levl_eval.data.types import Question, QuestionSet

KINDS = ("human", "augmented")  # ChartQA's questions: written by people, and made from summaries


def _lists(**values: list[str] | None) -> dict[str, object]:
    """Labels of which a question may have several, without those it has none of."""
    return {k: tuple(v) for k, v in values.items() if v}


def _given(answers: Sequence[str]) -> tuple[str, ...]:
    """Without blank ones: an answer of nothing would be right by them, and no other is nearer to one of them than half its length."""
    return tuple(a for a in answers if not blank(a))


def read_chartqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """ChartQA: SPLIT/SPLIT_human.json and SPLIT/SPLIT_augmented.json (lists of imgname, query, label), SPLIT/png/IMAGE."""
    home, split = root_of(spec.root, spec.directory, data), spec.split or "test"
    where = "get the data set from huggingface.co/datasets/ahmed-masry/ChartQA (ChartQA Dataset.zip)"
    tops = [home, *(home / t for t in TOPS["chartqa"]), *(Path(data) / t for t in TOPS["chartqa"] if not spec.root)]
    root = next((t for t in tops if (t / split).is_dir()), home)
    given = under(data, spec.questions)
    files = [given] if given else [
        first_of(root, [f"{split}/{split}_{kind}.json"], f"the file of {kind} questions", where) for kind in KINDS
    ]  # fmt: skip
    folder, questions = under(data, spec.images) or root / split / "png", []
    for file in files:
        kind = next((k for k in KINDS if k in file.stem), "")
        for number, raw in stream_rows(file):
            e = checked(ChartQA, raw, file, f"entry {number}")
            meta: dict[str, object] = {"type": kind} if kind else {}
            questions.append(Question(f"{kind or file.stem}/{number}", e.imgname, e.query, e.label, (), meta))
    about = About("chartqa", split, files[0], f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def _hub_chartqa(row: int, cells: Mapping[str, object], source: str) -> Question:
    e = checked(HubChartQA, cells, source, f"row {row}")
    kind = e.type.partition("_")[0]
    return Question(f"{kind}/{row}", f"{row:06d}", e.question, e.answer, (), {"type": kind})


def read_docvqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """DocVQA: SPLIT_v1.0_withQT.json or SPLIT_v1.0.json ({"data": [...]}), spdocvqa_images/IMAGE or [SPLIT/]documents/IMAGE."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get task 1 (single page) from rrc.cvc.uab.es/?ch=17&com=downloads"
    names = [f"{folder}{split}_v1.0{ending}.json" for folder in ("", "spdocvqa_qas/") for ending in ("_withQT", "")]
    file = under(data, spec.questions) or first_of(root, names, "the question file", where)
    folders = [root / name for name in ("spdocvqa_images", "documents", f"{split}/documents")]
    folder = under(data, spec.images) or next((f for f in folders if f.is_dir()), folders[0])
    questions, names_of = [], FileNames("image")
    for number, (_, raw) in enumerate(stream(file, "data"), 1):
        e = checked(DocVQA, raw, file, f"entry {number}")
        questions.append(_docvqa(e, names_of(e.image, f"{file}: entry {number}")))
    about = About("docvqa", split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def _docvqa(e: DocVQA | HubDocVQA, name: str) -> Question:
    answers = _given(e.answers)
    return Question(e.questionId, name, e.question, majority(answers), answers, _lists(question_types=e.question_types))


def _hub_docvqa(row: int, cells: Mapping[str, object], source: str) -> Question:
    e = checked(HubDocVQA, cells, source, f"row {row}")
    page = (e.ucsf_document_id, e.ucsf_document_page_no)
    return _docvqa(e, f"{page[0]}_{page[1]}.png" if all(page) else f"{row:06d}")


def read_infovqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """InfographicVQA: infographicsVQA_SPLIT_v1.0_withQT.json or infographicsVQA_SPLIT_v1.0.json, infographicsvqa_images/IMAGE."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get task 3 (infographics) from rrc.cvc.uab.es/?ch=17&com=downloads"
    names = [
        f"{folder}infographic{s}VQA_{split}_v1.0{ending}.json"
        for folder in ("", "infographicsvqa_qas/") for s in ("s", "") for ending in ("_withQT", "")
    ]  # fmt: skip
    file = under(data, spec.questions) or first_of(root, names, "the question file", where)
    folders = [root / name for name in ("infographicsvqa_images", "images")]
    folder = under(data, spec.images) or next((f for f in folders if f.is_dir()), folders[0])
    questions = []
    for number, (_, raw) in enumerate(stream(file, "data"), 1):
        e = checked(InfoVQA, raw, file, f"entry {number}")
        questions.append(_infovqa(e, e.image_local_name))
    about = About("infovqa", split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def _infovqa(e: InfoVQA | HubInfoVQA, name: str) -> Question:
    answers, labels = _given(e.answers), _lists(answer_types=e.answer_type, operations=e.operations)
    return Question(e.questionId, name, e.question, majority(answers), answers, labels)


def _hub_infovqa(row: int, cells: Mapping[str, object], source: str) -> Question:
    e = checked(HubInfoVQA, cells, source, f"row {row}")
    return _infovqa(e, e.image_url or f"{row:06d}")


def read_ocrbench(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """OCRBench: OCRBench.json (a list of dataset_name, image_path, question, answers, type), OCRBench_Images/IMAGE."""
    root = root_of(spec.root, spec.directory, data)
    where = "get OCRBench.json and OCRBench_Images.zip from github.com/Yuliang-Liu/MultimodalOCR"
    names = ["OCRBench.json", "OCRBench/OCRBench.json", "json_files/OCRBench.json"]
    file = under(data, spec.questions) or first_of(root, names, "the question file", where)
    folder, questions = under(data, spec.images) or root / "OCRBench_Images", []
    for number, raw in stream_rows(file):
        e = checked(OCRBench, raw, file, f"entry {number}")
        meta: dict[str, object] = {"type": e.type, "dataset": e.dataset_name}
        questions.append(Question(str(number), e.image_path, e.question, e.answers[0], tuple(e.answers), meta))
    about = About("ocrbench", spec.split, file, f"{put_into(folder)}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def _hub_ocrbench(row: int, cells: Mapping[str, object], source: str) -> Question:
    e = checked(HubOCRBench, cells, source, f"row {row}")
    meta: dict[str, object] = {"type": e.question_type, "dataset": e.dataset}
    return Question(str(row), f"{row:06d}", e.question, e.answer[0], tuple(e.answer), meta)


# Of the hub's tables (as lmms-eval's task files name them): columns that must be there, and how a row is read.
HUB_COLUMNS: dict[str, set[str]] = {
    "chartqa": {"question", "answer", "type"}, "docvqa": {"questionId", "question", "answers"},
    "infovqa": {"questionId", "question", "answers"}, "ocrbench": {"dataset", "question", "question_type", "answer"},
}  # fmt: skip
HUB_ROWS: dict[str, Callable[[int, Mapping[str, object], str], Question]] = {
    "chartqa": _hub_chartqa, "docvqa": _hub_docvqa, "infovqa": _hub_infovqa, "ocrbench": _hub_ocrbench,
}  # fmt: skip
# Tables that do not name their images: rows of equal images are about one image.
UNNAMED_IMAGES = frozenset({"chartqa", "ocrbench"})
