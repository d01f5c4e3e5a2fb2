"""Cells and texts in odd forms: class labels,
lists written as text, floats of whole numbers, characters that are not seen, images twice."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import as_typed, same_text, written_value
from levl_eval.data import hub, hub_captions, hub_dense
from levl_eval.data.fingerprints import fingerprint_of
from levl_eval.data.hub_cells import with_images
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_captions, read_choices, read_classification, read_questions, read_segmentation
from levl_eval.pretrain.data import csv_rows
from tests.data import small_sets as small

N = 4
SET = HubSource(repo="someone/set", split="test")


def table(names: dict[str, list[str]] | None = None, pictures=range(N), **columns) -> datasets.Dataset:
    """N rows of an image and ``columns``; names: columns of class labels, or of lists of them."""
    out = small.table_of(
        [{"image": small.image_bytes(k), **{n: v[i] for n, v in columns.items()}} for i, k in enumerate(pictures)]
    )
    for name, classes in (names or {}).items():
        label = datasets.ClassLabel(names=classes)
        out = out.cast_column(name, datasets.List(label) if isinstance(columns[name][0], list) else label)
    return out


@pytest.fixture
def served(monkeypatch):
    """Tables in place of the hub's."""

    def serve(rows: datasets.Dataset) -> None:
        for module in (hub, hub_captions):
            monkeypatch.setattr(module, "load_split", lambda source, config: HubTable(rows))

    return serve


def answers(served, rows, layout="chartqa", **more) -> list[str]:
    served(rows)
    return [
        q.answers[0] if q.answers else q.answer for q in read_questions(DataSpec(layout=layout, hub=SET, **more), "hub").questions
    ]


CHART = {"question": ["what?"] * N, "type": ["human_test"] * N}
ASKED = {"question_id": list(range(N)), "image_id": list(range(N)), "question": ["what?"] * N}


def test_class_labels_are_read_as_their_names(served):
    assert answers(served, table({"answer": ["Yes", "No"]}, **CHART, answer=[0, 1, 1, 0])) == ["Yes", "No", "No", "Yes"]
    lists = table({"answers": ["yes", "no"]}, **ASKED, answers=[[0], [1], [0], [1]])
    assert answers(served, lists, "vqav2") == ["yes", "no", "yes", "no"]
    unnamed = table({"answer": ["0", "1", "2"]}, **CHART, answer=[0, 1, 2, 0])
    assert answers(served, unnamed) == ["0", "1", "2", "0"]
    served(table({"split": ["train", "test"]}, caption=list("abcd"), split=[0, 1, 1, 0]))
    assert read_captions(DataSpec(layout="captions", split="test", hub=SET), "hub").captions == ("b", "c")
    options = [["one", "two"]] * N
    numbers = table({"answer": ["A", "B"]}, question=["what?"] * N, choices=options, answer=[0, 1, 1, 0])
    assert answers(served, numbers, "scienceqa", split="test") == ["A", "B", "B", "A"]


def test_whole_numbers_that_a_table_holds_as_floats_are_whole(served):
    assert answers(served, table(**CHART, answer=[2.0, 0.5, 1e30, 3.0])) == ["2", "0.5", "1e+30", "3"]
    assert answers(served, table(**ASKED, answers=[[2.0], [0.5], [3.0], [4.0]]), "vqav2") == ["2", "0.5", "3", "4"]


@pytest.mark.parametrize(
    "text", ["['a', 'b']", '["a", "b"]', "[{'answer': 'a'}]", "['a' 'b']", ' [ "a" ] ', "{'en': 'a'}", '{"a": ["b"]}']
)
def test_a_list_written_as_text_is_no_answer_and_no_caption(text, served, tmp_path):
    assert written_value(text)
    with pytest.raises(
        UsageError, match="row 0: field `answers`: expected a text, or a list of texts, not a list or object written as one text"
    ):
        answers(served, table(**ASKED, answers=[text] * N), "vqav2")
    served(table(caption=[text] * N))
    with pytest.raises(UsageError, match="row 0: field `captions`: expected a caption, or a list of captions"):
        read_captions(DataSpec(layout="captions", hub=SET), "hub")
    quoted = text.replace('"', '""')
    file = small.write(tmp_path / "c.csv", f'image,caption\na.png,one\nb.png,"{quoted}"\n')
    with pytest.raises(UsageError, match=r"c\.csv: line 3: the caption is a list or object written as one text"):
        csv_rows(file)


@pytest.mark.parametrize("text", ["[1, 2]", "[sic]", "a [b] 'c'", "'a'", "[]", "(a)", "{a: b}", "{'a'}", "{}"])
def test_other_brackets_are_text(text):
    assert not written_value(text)


def test_weights_of_answers_are_not_passed_over(tmp_path):
    entry = {"image": "0.png", "question": "what?", "answers": [{"answer": "a", "weight": 3}, {"answer": "b", "weight": 1}]}
    file = small.write(tmp_path / "q.jsonl", json.dumps(entry))
    with pytest.raises(
        UsageError, match=r"q\.jsonl: entry 1: field `answers`: an answer's `weight` is not read: give an answer as often"
    ):
        read_questions(DataSpec(layout="vqa", questions=str(file)), str(tmp_path))


def test_images_of_a_table_that_lost_its_features_are_images():
    whole = table({"label": ["cat", "dog"]}, label=[0, 1, 0, 1])
    plain = datasets.Dataset(whole.data.table.replace_schema_metadata(None))
    assert not isinstance(plain.features["image"], datasets.Image)
    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    cells = datasets.Dataset(pa.table({"image": plain.data.table["image"].cast(large)}))
    for rows in (plain, cells):
        assert isinstance(with_images(rows).features["image"], datasets.Image)
    assert with_images(whole) is whole


@pytest.mark.hub
def test_a_repository_without_features_has_the_fingerprint_of_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    whole = table(**ASKED, answers=[["a"]] * N)
    prints = []
    for name, rows in (("whole", whole), ("plain", datasets.Dataset(whole.data.table.replace_schema_metadata(None)))):
        repo = small.repository(tmp_path / name, {"default": ("test", rows)})
        prints.append(
            fingerprint_of(read_questions(DataSpec(layout="vqav2", hub=HubSource(repo=str(repo), split="test")), "hub"))
        )
    assert prints[0] == prints[1]


def test_a_label_that_is_no_class_label_is_told_with_what_it_is(served):
    served(table(label=["cat", "dog", "cat", "dog"]))
    with pytest.raises(
        UsageError, match=r"holds no class-label column; .*; column 'label' holds Value\('string'\): cast it to ClassLabel"
    ):
        read_classification(DataSpec(layout="imagefolder", hub=SET), "hub")


@pytest.mark.parametrize(
    ("names", "words"), [(["cat", " "], "class 1: the name is"), (["cat", "cat\u200b"], "is that of another class too")]
)
def test_class_labels_have_names_that_differ(names, words, served):
    served(table({"label": names}, label=[0, 1, 0, 1]))
    with pytest.raises(UsageError, match=f"someone/set: column 'label': .*{words}"):
        read_classification(DataSpec(layout="imagefolder", hub=SET), "hub")


def test_a_mask_that_is_missing_is_named_with_its_table(monkeypatch):
    rows = small.table_of([{"image": small.image_bytes(k), "mask": small.mask_bytes(k)} for k in range(2)], ("image", "mask"))
    cells = [c if k else None for k, c in enumerate(rows.data.column("mask").to_pylist())]
    rows = rows.remove_columns("mask").add_column("mask", cells).cast_column("mask", datasets.Image())
    monkeypatch.setattr(hub_dense, "load_split", lambda source, config: HubTable(rows))
    with pytest.raises(LevlError, match="someone/set: row 0: column 'mask' holds no image"):
        read_segmentation(DataSpec(layout="segmentation", classes=list("abcd"), hub=SET), "hub")


# ---- images that are one


def test_a_row_a_caption_is_no_set_of_images(served):
    served(table(caption=list("abcd"), pictures=[0, 0, 1, 1]))
    with pytest.raises(
        UsageError, match="someone/set: 2 of 4 images are copies of others .00000000 and 00000001 first.*a list of captions a row"
    ):
        read_captions(DataSpec(layout="captions", hub=SET), "hub")
    served(table(caption=list("abcd") * 10, pictures=[*range(38), 0, 1][:40]))
    assert len(read_captions(DataSpec(layout="captions", hub=SET), "hub").images) == 40  # as few as published sets have


def test_one_file_under_two_names_is_told(tmp_path):
    for k in range(2):
        small.write(tmp_path / f"{k}.png", small.image_bytes(k))
    for other in ("./0.png", str(tmp_path / "0.png"), "x/../0.png"):
        file = small.write(tmp_path / "c.csv", f"image,caption\n0.png,one\n{other},two\n1.png,three\n")
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=r"c\.csv: images .* and .* are one file; write one name throughout"):
            read_captions(DataSpec(layout="captions", annotations=str(file)), str(tmp_path))
        with pytest.raises(UsageError, match="are one file"):
            csv_rows(file)


# ---- texts that look alike

ALIKE = [("cat", "cat\u200b"), ("my cat", "my\u00a0cat"), ("my cat", "my  cat"), ("café", "cafe\u0301"), ("\ufeffcat", "cat")]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_are_no_two_classes(one, other, tmp_path):
    assert same_text(one) == same_text(other)
    for name in (one, other):
        small.write(tmp_path / "set" / "test" / name / "0.png", small.image_bytes(len(name)))
    with pytest.raises(UsageError, match="differ in the case of letters, in blanks or in characters|two folders are named"):
        read_classification(DataSpec(layout="imagefolder", root=str(tmp_path / "set"), split="test"), "")
    if " " not in one:
        file = small.write(tmp_path / "l.txt", f"a.png {one}x\nb.png {other}x\nc.png dog\n".replace("\ufeffcat", "c\ufeffat"))
        with pytest.raises(UsageError, match="differ in the case or form of their letters alone"):
            read_classification(DataSpec(layout="labels", images=str(tmp_path), annotations=str(file)), "")


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_options_and_captions_that_look_alike_are_told(one, other, tmp_path):
    small.write(tmp_path / "0.png", small.image_bytes(0))
    entry = {"image": "0.png", "question": "what?", "options": [one, other], "answer": "A"}
    file = small.write(tmp_path / "q.jsonl", json.dumps(entry))
    with pytest.raises(UsageError, match="entry 1: option .* stands twice"):
        read_questions(DataSpec(layout="mcq", questions=str(file)), str(tmp_path))
    file = small.write(tmp_path / "c.jsonl", json.dumps({"images": ["0.png"], "captions": [one, other]}))
    with pytest.raises(UsageError, match="entry 1: .* is the right caption and a wrong one too"):
        read_choices(DataSpec(layout="choices", annotations=str(file)), str(tmp_path))


def test_two_images_of_a_pair_that_are_one_file(tmp_path):
    small.write(tmp_path / "0.png", small.image_bytes(0))
    file = small.write(tmp_path / "c.jsonl", json.dumps({"images": ["0.png", "./0.png"], "captions": ["a", "b"]}))
    with pytest.raises(UsageError, match='pair "1": both images are "0.png"'):
        read_choices(DataSpec(layout="choices", annotations=str(file)), str(tmp_path))


@pytest.mark.parametrize("answer", ["café", "cafe\u0301", "café\u200b", "\ufeffcafé", "\u202acafé\u202c"])
def test_own_answers_are_what_a_keyboard_gives(answer, tmp_path):
    assert as_typed(answer) == "café"
    small.write(tmp_path / "0.png", small.image_bytes(0))
    for form in ({"answer": answer}, {"answers": [answer]}):
        file = small.write(tmp_path / "q.jsonl", json.dumps({"image": "0.png", "question": "what?", **form}))
        (q,) = read_questions(DataSpec(layout="vqa", questions=str(file)), str(tmp_path)).questions
        assert (q.answer, q.answers) == ("café", ("café",) if "answers" in form else ())
    small.write(tmp_path / "q.jsonl", json.dumps({"image": "0.png", "question": "what?", "answer": "\u200b"}))
    with pytest.raises(UsageError, match="neither `answer` nor `answers` holds a word"):
        read_questions(DataSpec(layout="vqa", questions=str(file)), str(tmp_path))


# ---- lettered options


@pytest.mark.parametrize(
    ("options", "answer", "words"),
    [
        (["b", "a", "c"], "a", 'field `answer`: "a" is the text of option B, where a letter is expected'),
        (["cat", "dog"], "dog", 'field `answer`: "dog" is the text of option B'),
        (["B. x", "A. y"], "A", 'options begin with letters of their own, first "B. x"'),
        (["(a) x", "(b) y"], "A", "options begin with letters of their own"),
    ],
)
def test_an_answer_is_a_letter_and_options_have_none(options, answer, words, tmp_path):
    small.write(tmp_path / "0.png", small.image_bytes(0))
    file = small.write(
        tmp_path / "q.jsonl", json.dumps({"image": "0.png", "question": "?", "options": options, "answer": answer})
    )
    with pytest.raises(UsageError, match=f"entry 1: {words.replace('(', '.').replace(')', '.')}"):
        read_questions(DataSpec(layout="mcq", questions=str(file)), str(tmp_path))
    fine = {"image": "0.png", "question": "?", "options": ["A", "B", "A. Lincoln", "G. Washington"], "answer": "B"}
    small.write(file, json.dumps(fine))
    (q,) = read_questions(DataSpec(layout="mcq", questions=str(file)), str(tmp_path)).questions
    assert q.answer == "B"
