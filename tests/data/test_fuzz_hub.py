"""Any table of the hub as questions, conversations, captions, masks or classes:
a set, or one line without control characters, within a second."""

from __future__ import annotations

import unicodedata
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError
from levl_eval.data import hub, hub_captions, hub_dense
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_captions, read_classification, read_questions, read_segmentation
from tests.data import small_sets as small

FUZZ = settings(
    max_examples=12, deadline=1000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], derandomize=True
)  # fmt: skip
WORDS = st.sampled_from(
    ["yes", "no", "a", "1", "", " ", "test", "random", "\x1b[31m", "\n", "\u2028", "\ud7ff", "../a", "9" * 30]
)
NUMBERS = st.sampled_from([0, 1, 2, -1, 10**12, 2**62])
TURNS = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "\x1b"]), "value": WORDS})
# What the cells of a column may be: a table's column is of one type, any of them may be missing.
CELLS = [WORDS, NUMBERS, st.booleans(), st.floats(), st.lists(WORDS, max_size=3), st.lists(TURNS, max_size=3),
         st.lists(st.fixed_dictionaries({"answer": WORDS}), max_size=3), st.lists(NUMBERS, max_size=2)]  # fmt: skip
ENCODED = st.sampled_from(
    [small.image_bytes(0), small.image_bytes(1), small.mask_bytes(0), small.mask_bytes(1), b"", b"junk", b"\x89PNG\r\n\x1a\n"]
)
# Layout -> the cells that fit each of its columns.
FITTING = {
    "vqav2": {"question_id": NUMBERS, "image_id": NUMBERS, "question": WORDS, "answers": CELLS[4]},
    "pope": {"question": WORDS, "answer": WORDS, "category": WORDS},
    "gqa": {"id": WORDS, "imageId": WORDS, "question": WORDS, "answer": WORDS},
    "textvqa": {"question_id": NUMBERS, "image_id": WORDS, "question": WORDS, "answers": CELLS[4]},
    "vizwiz": {"question_id": WORDS, "question": WORDS, "answers": CELLS[4]},
    "scienceqa": {"question": WORDS, "choices": CELLS[4], "answer": NUMBERS},
    "mme": {"question_id": WORDS, "question": WORDS, "answer": WORDS, "category": WORDS}, "llava": {"conversations": CELLS[5]},
    "tallyqa": {"qa": st.lists(st.fixed_dictionaries({"question": WORDS, "answer": WORDS}), max_size=3)},
    **{k: {"answer": CELLS[4], "file_name": WORDS, "bbox": st.lists(st.floats(-2, 14), min_size=4, max_size=4)}
       for k in ("refcoco", "refcoco-places")},
    "chartqa": {"type": WORDS, "question": WORDS, "answer": WORDS},
    "ocrbench": {"dataset": WORDS, "question": WORDS, "question_type": WORDS, "answer": CELLS[4]},
    "docvqa": {"questionId": WORDS, "question": WORDS, "answers": CELLS[4], "question_types": CELLS[4], "ucsf_document_id": WORDS},
    "karpathy": {"caption": CELLS[4], "filename": WORDS, "split": WORDS}, "captions": {"caption": WORDS},
    "segmentation": {"annotation": ENCODED}, "voc": {"mask": ENCODED}, "coco-stuff": {"mask": ENCODED}, "ade20k": {"annotation": ENCODED},
    "imagefolder": {"label": st.sampled_from([0, 1, -1])},
}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, layout: str) -> datasets.Dataset:
    """A table of up to three rows: every column fits, is of another type, or is not there; every cell may be missing."""
    count = draw(st.integers(0, 3))
    columns: dict[str, list[Any]] = {}
    masks = []
    for name, fitting in {"image": ENCODED, **FITTING[layout]}.items():
        kind = draw(st.sampled_from(["fits", "fits", "fits", "fits", "other", "none"]))
        if kind == "none":
            continue
        cells = fitting if kind == "fits" else draw(st.sampled_from(CELLS))
        columns[name] = [draw(cells if draw(st.integers(0, 9)) else st.none()) for _ in range(count)]
        if kind == "fits" and fitting is ENCODED:
            masks.append(name)
            columns[name] = [None if c is None else {"bytes": c, "path": None} for c in columns[name]]
    table = datasets.Dataset.from_dict(columns)
    for name in masks:
        table = table.cast_column(name, datasets.Image())
    if layout == "imagefolder" and "label" in columns and table.features["label"] == datasets.Value("int64"):
        table = table.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    return table


def read(layout: str, spec: DataSpec) -> None:
    """The set and the first thing in it. Raises LevlError."""
    if layout in ("karpathy", "captions"):
        assert all(c.strip() for c in read_captions(spec, "hub").captions)
    elif layout in ("segmentation", "voc", "coco-stuff", "ade20k"):
        masks = read_segmentation(spec, "hub")
        masks.images.open(masks.images.ids[0])
        masks.mask(masks.images.ids[0])
    elif layout == "imagefolder":
        assert set(read_classification(spec, "hub").labels.tolist()) <= {0, 1}
    else:
        questions = read_questions(spec, "hub")
        assert all(q.question.strip() for q in questions.questions)
        questions.images.open(questions.images.ids[0])


@pytest.mark.parametrize("layout", FITTING)
@FUZZ
@given(data=st.data())
def test_any_table_of_the_hub(layout, data, monkeypatch):
    table = data.draw(tables(layout))
    for module in (hub, hub_captions, hub_dense):
        monkeypatch.setattr(module, "load_split", lambda source, config: HubTable(table))
    skip = data.draw(st.sampled_from([None, None, "50%"]))
    classes = ["a", "b", "c", "d"] if layout == "segmentation" else None
    split = "" if layout in ("mme", "ocrbench", "segmentation") else "test"
    spec = DataSpec(
        layout=layout, split=split, classes=classes, skip_broken=skip, hub=HubSource(repo="someone/set", split="test")
    )
    try:
        read(layout, spec)
    except LevlError as e:
        assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in str(e)) and len(str(e)) < 1500


@pytest.mark.parametrize(
    ("layout", "columns", "words"),
    [
        ("llava", {"image": ["a.png"], "conversations": [[]]}, "column 'image' holds no images but string"),
        ("voc", {"image": ["a.png"], "mask": ["a.png"]}, "column 'image' holds no images but string"),
        ("llava", {"image": [], "conversations": []}, "column 'image' holds no images but null"),
    ],
)
def test_columns_that_hold_no_images(layout, columns, words, monkeypatch):
    for module in (hub, hub_dense):
        monkeypatch.setattr(module, "load_split", lambda source, config: HubTable(datasets.Dataset.from_dict(columns)))
    with pytest.raises(LevlError, match=words):
        read(layout, DataSpec(layout=layout, split="test", hub=HubSource(repo="someone/set", split="test")))
