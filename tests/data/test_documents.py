"""ChartQA, DocVQA, InfographicVQA and OCRBench: small sets in the published layouts and the same as tables of the hub."""

from __future__ import annotations

import json

import datasets
import pytest

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.data import hub
from levl_eval.data.check import check
from levl_eval.data.fingerprints import fingerprint_of
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_questions
from tests.data import small_sets as small

DOCUMENTS = [
    {"questionId": 49153, "question": "Who?", "question_types": ["form", "layout"], "docId": 1, "image": "documents/xnbl0037_1.png",
     "ucsf_document_id": "xnbl0037", "ucsf_document_page_no": "1", "answers": ["Mr. Smith", "Smith"], "data_split": "val"},
    {"questionId": 49154, "question": "When?", "question_types": ["free_text"], "docId": 1, "image": "documents/xnbl0037_1.png",
     "ucsf_document_id": "xnbl0037", "ucsf_document_page_no": "1", "answers": ["1999"], "data_split": "val"},
    {"questionId": 7, "question": "What?", "question_types": ["form"], "docId": 2, "image": "documents/a_2.png",
     "ucsf_document_id": "a", "ucsf_document_page_no": "2", "answers": ["tar"], "data_split": "val"},
]  # fmt: skip
POSTERS = [
    {"questionId": 98313, "question": "How many?", "image_local_name": "70471.jpeg", "image_url": "https://x/70471.jpeg",
     "answers": ["3", "three"], "answer_type": ["non-extractive"], "operation/reasoning": ["counting"], "data_split": "val"},
    {"questionId": 98314, "question": "Which?", "image_local_name": "70471.jpeg", "image_url": "https://x/70471.jpeg",
     "answers": ["Facebook"], "answer_type": ["single span"], "operation/reasoning": [], "data_split": "val"},
]  # fmt: skip
CHARTS = {
    "human": [{"imgname": "a.png", "query": "How many?", "label": "14"}, {"imgname": "a.png", "query": "Is it?", "label": "Yes"}],
    "augmented": [{"imgname": "b.png", "query": "What share?", "label": "0.57"}],
}
SIGNS = [
    {"dataset_name": "IIIT5K", "id": 2843, "image_path": "IIIT5K/test/918_1.png", "question": "what is written in the image?",
     "answers": "CENTRE", "type": "Regular Text Recognition"},
    {"dataset_name": "docVQA", "id": 2843, "image_path": "docVQA/val/a.png", "question": "Who?",
     "answers": ["Smith", "Mr. Smith"], "type": "Doc-oriented VQA"},
    {"dataset_name": "docVQA", "id": 2844, "image_path": "docVQA/val/a.png",
     "question": "When?", "answers": ["1999"], "type": "Doc-oriented VQA"},
]  # fmt: skip
IMAGES = {
    "xnbl0037_1.png": 0,
    "a_2.png": 1,
    "70471.jpeg": 2,
    "a.png": 3,
    "b.png": 4,
    "IIIT5K/test/918_1.png": 5,
    "docVQA/val/a.png": 6,
}


def publish(root, files, folder, names):
    for name, content in files.items():
        small.write(root / name, json.dumps(content))
    for name in names:
        small.write(root / folder / name, small.image_bytes(IMAGES[name]))


@pytest.fixture
def data(tmp_path):
    """DIR with the four sets as they are published."""
    charts = {f"ChartQA Dataset/test/test_{k}.json": v for k, v in CHARTS.items()}
    publish(tmp_path / "chartqa", charts, "ChartQA Dataset/test/png", ["a.png", "b.png"])
    publish(
        tmp_path / "docvqa",
        {"spdocvqa_qas/val_v1.0_withQT.json": {"data": DOCUMENTS}},
        "spdocvqa_images",
        ["xnbl0037_1.png", "a_2.png"],
    )
    posters = {"infographicsvqa_qas/infographicsVQA_val_v1.0_withQT.json": {"data": POSTERS}}
    publish(tmp_path / "infovqa", posters, "infographicsvqa_images", ["70471.jpeg"])
    publish(tmp_path / "ocrbench", {"OCRBench.json": SIGNS}, "OCRBench_Images", ["IIIT5K/test/918_1.png", "docVQA/val/a.png"])
    return tmp_path


def table(task):
    """The set of a task as the hub's repository has it."""
    if task == "chartqa":
        rows = [
            {"type": f"{k}_test", "question": r["query"], "answer": r["label"], "image": r["imgname"]}
            for k, v in CHARTS.items()
            for r in v
        ]
    elif task == "docvqa":
        rows = [{**r, "questionId": str(r["questionId"]), "image": r["image"].removeprefix("documents/")} for r in DOCUMENTS]
    elif task == "infovqa":
        rows = [{**{k: v for k, v in r.items() if k != "image_local_name"}, "questionId": str(r["questionId"]),
                 "image": r["image_local_name"], "ocr": "{}"} for r in POSTERS]  # fmt: skip
    else:
        rows = [{"dataset": r["dataset_name"], "question": r["question"], "question_type": r["type"], "image": r["image_path"],
                 "answer": r["answers"] if isinstance(r["answers"], list) else [r["answers"]]} for r in SIGNS]  # fmt: skip
    rows = [{**r, "image": {"bytes": small.image_bytes(IMAGES[r["image"]]), "path": None}} for r in rows]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def test_charts(data):
    charts = read_questions(task_card("chartqa").data, str(data))
    assert [(q.question_id, q.image_id, q.answer, q.meta) for q in charts.questions] == [
        ("human/1", "a.png", "14", {"type": "human"}),
        ("human/2", "a.png", "Yes", {"type": "human"}),
        ("augmented/1", "b.png", "0.57", {"type": "augmented"}),
    ]
    (data / "chartqa" / "ChartQA Dataset").rename(data / "ChartQA Dataset")  # the archive unpacked beside
    assert fingerprint_of(read_questions(task_card("chartqa").data, str(data))) == fingerprint_of(charts)
    (data / "ChartQA Dataset" / "test" / "test_augmented.json").unlink()
    with pytest.raises(UsageError, match=r"the file of augmented questions is missing.*ChartQA Dataset.zip"):
        read_questions(task_card("chartqa").data, str(data))


def test_documents_and_posters(data):
    pages = read_questions(task_card("docvqa").data, str(data))
    first = pages.questions[0]
    assert (first.question_id, first.image_id, first.answers) == ("49153", "xnbl0037_1.png", ("Mr. Smith", "Smith"))
    assert first.meta == {"question_types": ("form", "layout")} and len(pages.images) == 2
    (data / "docvqa" / "spdocvqa_images").rename(data / "docvqa" / "documents")  # the older archive
    assert fingerprint_of(read_questions(task_card("docvqa").data, str(data))) == fingerprint_of(pages)
    one, two = read_questions(task_card("infovqa").data, str(data)).questions
    assert one.meta == {"answer_types": ("non-extractive",), "operations": ("counting",)} and two.meta == {
        "answer_types": ("single span",)
    }
    assert one.answers == ("3", "three") and one.image_id == "70471.jpeg"


def test_signs(data):
    signs = read_questions(task_card("ocrbench").data, str(data))
    assert [(q.image_id, q.answers) for q in signs.questions[:2]] == [
        ("IIIT5K/test/918_1.png", ("CENTRE",)),
        ("docVQA/val/a.png", ("Smith", "Mr. Smith")),
    ]
    assert signs.questions[0].meta == {"type": "Regular Text Recognition", "dataset": "IIIT5K"} and len(signs.images) == 2


@pytest.mark.parametrize("task", ["chartqa", "docvqa", "infovqa", "ocrbench"])
def test_the_hubs_table_is_the_same_set(task, data, monkeypatch):
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(table(task)))
    files, rows = read_questions(task_card(task).data, str(data)), read_questions(task_card(task).data, "hub")
    assert fingerprint_of(rows) == fingerprint_of(files)
    assert len(rows.images) == len(files.images)  # rows of one image are one cluster, also where the table does not name it


@pytest.mark.parametrize(
    ("layout", "file", "content", "words"),
    [
        ("ocrbench", "OCRBench.json", [{**SIGNS[0], "answers": ["CENTRE", " "]}],
         "entry 1: field `answers`: expected answers that are not blank"),
        ("ocrbench", "OCRBench.json", [{**SIGNS[0], "answers": []}], "entry 1: field `answers`"),
        ("docvqa", "val_v1.0.json", {"data": [{**DOCUMENTS[0], "image": "documents/.."}]},
         "entry 1: field `image`: expected a file's path"),
        ("docvqa", "val_v1.0.json", {"data": [DOCUMENTS[0], DOCUMENTS[0]]}, 'question id "49153" occurs twice'),
        ("docvqa", "val_v1.0.json", {}, "field `data` is missing"),
        ("infovqa", "infographicsVQA_val_v1.0.json", {"data": [{**POSTERS[0], "answer_type": "x"}]}, "entry 1: field `answer_type`"),
        ("chartqa", "val/val_human.json", [{"imgname": "a.png", "query": "?", "label": True}], "entry 1: field `label`: expected text"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, layout, file, content, words):
    small.write(tmp_path / layout / file, json.dumps(content))
    small.write(tmp_path / layout / "val/val_augmented.json", "[]")
    with pytest.raises(UsageError, match=words) as e:
        read_questions(DataSpec(layout=layout, directory=layout, split="" if layout == "ocrbench" else "val"), str(tmp_path))
    assert str(e.value).isprintable()


def test_data_check_counts_them(data):
    told = {f.set: (f.level, f.message) for f in check(data) if "release" in f.message}
    assert told["chartqa/test"] == ("note", "is not the published release (2,500 questions)")
    assert told["infovqa/val"] == ("note", "is not the published release (2,801 questions, 500 images)")
    assert told["docvqa/val"][1].endswith("(5,349 questions)") and told["ocrbench/all"][1].endswith("(1,000 questions)")
    assert not [f for f in check(data) if f.level == "error"]
