"""Streamed JSON against the whole, and further question layouts."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data import stream as streaming
from levl_eval.data.readers import read_questions
from levl_eval.data.stream import stream, stream_rows


@pytest.mark.parametrize("chunk", [1, 3, 7, 1 << 20])
def test_streaming_equals_loading(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    value = {"info": {"x": [1, 2, {"y": "a, ]}"}]}, "list": [1, 23.5, 'é"\\', None, {"k": []}, -7], "last": "end"}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(value, indent=1) + "\n\n")
    assert dict(stream(file)) == value
    assert [v for _, v in stream(file, "list")] == value["list"]
    file.write_text(json.dumps(value["list"]))
    assert [v for _, v in stream_rows(file)] == value["list"]
    file.write_text("\n".join(map(json.dumps, value["list"])))
    assert [v for _, v in stream_rows(file)] == value["list"]
    for text, words in (
        ('{"a": 1', "ends too early"),
        ('{"a" 1}', "expected ':'"),
        ('{"a": 1} x', "more text"),
        ("[1, }", "not valid JSON"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=words) as e:
            list(stream(file))
        assert str(file) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UsageError, match="field `questions` is missing"):
        file.write_text("{}")
        list(stream(file, "questions"))


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def read(layout, tmp_path, **more):
    return read_questions(DataSpec(layout=layout, directory=layout, **more), str(tmp_path))


def test_textvqa_and_vizwiz(tmp_path):
    image(tmp_path / "textvqa" / "train_images" / "ab.jpg")
    rows = [{"question_id": 3, "image_id": "ab", "question": "what?", "answers": ["pepsi"] * 6 + ["coke"] * 4}]
    (tmp_path / "textvqa" / "TextVQA_0.5.1_val.json").write_text(json.dumps({"dataset_type": "val", "data": rows}))
    (q,) = read("textvqa", tmp_path).questions
    assert (q.question_id, q.image_id, q.answer, len(q.answers)) == ("3", "ab", "pepsi", 10)
    image(tmp_path / "vizwiz" / "val" / "v.jpg")
    rows = [{"image": "v.jpg", "question": "what?", "answers": [{"answer": "unanswerable"}] * 10, "answer_type": "unanswerable"}]
    (tmp_path / "vizwiz" / "Annotations").mkdir()
    (tmp_path / "vizwiz" / "Annotations" / "val.json").write_text(json.dumps(rows))
    (q,) = read("vizwiz", tmp_path).questions
    assert q.answer == "unanswerable" and q.meta == {"answer_type": "unanswerable"}


def test_scienceqa_and_mme(tmp_path):
    root = tmp_path / "scienceqa"
    image(root / "images" / "test" / "7" / "image.png")
    problem = {"question": "Which?", "choices": ["sun", "moon"], "answer": 1, "hint": "Look.", "image": "image.png"}
    (root / "problems.json").write_text(json.dumps({"7": problem, "8": {**problem, "image": None}, "9": problem}))
    (root / "pid_splits.json").write_text(json.dumps({"train": ["9"], "test": ["7", "8"]}))
    (q,) = read("scienceqa", tmp_path).questions
    assert q.question == "Context: Look.\nWhich?\n(A) sun (B) moon" and q.answer == "B" and q.meta["options"] == 2
    for category, name in (("OCR", "a"), ("color", "b")):
        image(tmp_path / "mme" / category / f"{name}.jpg")
        (tmp_path / "mme" / category / f"{name}.txt").write_text("Is it red? Please answer yes or no.\tYes\nIs it blue?\tNo\n")
    found = read("mme", tmp_path)
    assert [q.answer for q in found.questions] == ["yes", "no"] * 2 and found.questions[0].question == "Is it red?"
    (tmp_path / "mme" / "OCR" / "a.txt").write_text("Is it red? Yes\n")
    with pytest.raises(UsageError, match=r"a\.txt: line 1: expected a question, a tab"):
        read("mme", tmp_path)


def test_llava_turns(tmp_path):
    image(tmp_path / "llava" / "images" / "x.jpg")
    turns = [
        {"from": w, "value": v} for w, v in (("human", "<image>\nWhat?"), ("gpt", "A dog."), ("human", "Why?"), ("gpt", "So."))
    ]
    file = tmp_path / "llava" / "mine.json"
    file.write_text(json.dumps([{"id": "1", "image": "x.jpg", "conversations": turns}, {"id": "2", "conversations": turns}]))
    found = read("llava", tmp_path, split="mine")
    assert [(q.question, q.answer) for q in found.questions] == [("What?", "A dog."), ("Why?", "So.")]
    file.write_text(json.dumps([{"id": "1", "image": "x.jpg", "conversations": turns[1:]}]))
    with pytest.raises(UsageError, match="entry 1: turns 1 and 2"):
        read("llava", tmp_path, split="mine")
