"""Questions in every format: typed, with unique ids, in readable encodings; what does not fit is one line naming file and entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import lines_of
from levl_eval.data import formats
from levl_eval.data.readers import read_questions
from levl_eval.data.types import Question
from levl_eval.engines.vlm.scoring import check_scorer, chosen_letter, score
from levl_eval.metrics.gqa import gqa_belongs, gqa_correct
from levl_eval.metrics.vqa import exact_match, soft_accuracy, textvqa_accuracy, vizwiz_accuracy, vqa_accuracy
from tests.data import small_sets as small

ROW = {"image": "a.png", "question": "Is it?", "answer": "yes"}


def own(tmp_path: Path, *rows: Any, text: str | bytes | None = None):
    small.write(tmp_path / "a.png", small.image_bytes(0))
    small.write(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)) if text is None else text)
    return read_questions(DataSpec(layout="vqa", questions=str(tmp_path / "q.jsonl")), "")


@pytest.mark.parametrize(
    ("fields", "answer", "answers"),
    [
        ({"answers": "yes"}, "yes", ("yes",)),
        ({"answer": ["yes", "yeah"]}, "yes", ("yes", "yeah")),
        ({"answers": [{"answer": "yes"}]}, "yes", ("yes",)),
        (
            {"answers": [{"answer": "no", "answer_id": 1}, {"answer": "no", "answer_id": 2}, {"answer": "yes"}]},
            "no",
            ("no", "no", "yes"),
        ),
        ({"answers": ["a b", "c"]}, "a b", ("a b", "c")),
        ({"answer": "two", "answers": ["2", "two"]}, "two", ("2", "two")),
        ({"answer": {"answer": "yes"}}, "yes", ()),
        ({"answer": 2}, "2", ()),
        ({"answer": "yes", "answers": None}, "yes", ()),
    ],
)
def test_references_are_typed(fields, answer, answers, tmp_path):
    (q,) = own(tmp_path, {"image": "a.png", "question": "Is it?", **fields}).questions
    assert (q.answer, q.answers) == (answer, answers)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROW, "answer": True}, "`answer`: expected a text, a list of texts"),
        ({**ROW, "answer": [["yes"]]}, "`answer`: expected a text"),
        ({**ROW, "answers": [{"text": "yes"}]}, "`answers`: expected a text"),
        ({**ROW, "answer": {"yes": 1}}, "`answer`: expected"),
        ({**ROW, "answer": None}, "neither `answer` nor `answers` holds a word"),
        ({**ROW, "answer": []}, "neither `answer` nor `answers` holds a word"),
        ({**ROW, "answers": ["yes", " "]}, "an answer is blank"),
        ({**ROW, "answer": "yes", "answers": ["no", "nope"]}, "`answer` 'yes' is none of `answers`, which are scored against"),
        ({**ROW, "image": ["a.png"]}, r"`image`: expected text that is not blank, found \[\"a.png\"\]"),
        ({**ROW, "image": ""}, "`image`: expected text that is not blank"),
        ({**ROW, "image": "a\0.png"}, "null character"),
        ({**ROW, "image": "x" * 5000}, "1 of 2 images are missing"),
        ({**ROW, "image": "\ud800.png"}, "`image`"),
        ({**ROW, "question": "\ud800?"}, "`question`"),
        ({**ROW, "question": 7}, "`question`: expected text"),
        ({**ROW, "question_id": [1]}, "`question_id`: expected a number or text"),
        ({**ROW, "question_id": True}, "`question_id`: expected a number or text"),
        ({"question": "x?", "answer": "y"}, "field `image` is missing"),
        ([ROW], "expected an object with fields"),
        (5, "expected an object with fields, found 5"),
        (None, "expected an object with fields, found null"),
    ],
)
def test_own_questions_that_are_refused(row, words, tmp_path):
    with pytest.raises(UsageError, match=words) as e:
        own(tmp_path, {**ROW, "question_id": "first"}, row)
    assert "q.jsonl" in str(e.value) and str(e.value).isprintable()
    assert "entry 2" in str(e.value) or "image" in words or "null" in words


def test_encodings_and_line_separators(tmp_path):
    row = {**ROW, "question": "one\u2028two\x85three\x0c?"}
    plain = json.dumps(row, ensure_ascii=False)
    for text in (plain, "\ufeff" + plain, plain + "\r\n", f"[{plain}]", "\ufeff" + f"[{plain}]"):
        assert [q.question for q in own(tmp_path, text=text).questions] == [row["question"]]
    two = "\n".join(json.dumps({**row, "question_id": i}, ensure_ascii=False) for i in range(2))
    assert len(own(tmp_path, text=two).questions) == 2
    latin = json.dumps({**ROW, "answer": "caf\u00e9"}, ensure_ascii=False)
    for content, words in [
        (("\n" + latin).encode("latin-1"), "line 2: not UTF-8 text .byte 0xe9; is it Latin-1"), (latin.encode("utf-16"), "is UTF-16"),
        (latin.encode("utf-16-le"), "is UTF-16"), (latin.encode("utf-32"), "UTF-32"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=words) as e:
            own(tmp_path, text=content)
        assert "q.jsonl" in str(e.value)
    small.write(tmp_path / "classes.txt", "\ufeffcat\r\ndog\u2028house\n")
    assert lines_of(tmp_path / "classes.txt", "") == ["cat", "dog\u2028house"]


def test_the_large_readers_take_a_mark_and_name_encodings(tmp_path):
    root = small.gqa_files(tmp_path)
    file = root / "gqa" / "questions" / "testdev_balanced_questions.json"
    text = file.read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read_questions(small.gqa_spec(), str(root)).questions) == 2 * small.N
    for content, words in [
        (text.encode("utf-16"), "is UTF-16"), (text.replace("Is it", "\u00c9t\u00e9").encode("latin-1"), "not UTF-8 text"),
        (("[" * 100_000).encode(), "not valid JSON|expected GQA"), (('{"a": ' + "[" * 100_000).encode(), "nested too deeply"),
        (b"{1: 2}", "not valid JSON|field's name"), (b'{"a": ' + b"1" * 5000 + b"}", "4300 digits"),
    ]:  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(UsageError, match=words) as e:
            read_questions(small.gqa_spec(), str(root))
        assert file.name in str(e.value)


def changed(file: Path, change: Any) -> None:
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def test_published_formats_name_file_and_entry(tmp_path):
    vqa = small.vqav2_files(tmp_path)
    spec = DataSpec(layout="vqav2", directory="vqav2", split="val2014")
    questions, notes = (
        vqa / "vqav2" / f"v2_{n}.json" for n in ("OpenEnded_mscoco_val2014_questions", "mscoco_val2014_annotations")
    )
    before = questions.read_text(), notes.read_text()
    for file, change, words in [
        (questions, lambda r: r["questions"][1].update(image_id="7"), "question 2: field `image_id`.*found \"7\""),
        (questions, lambda r: r["questions"][1].update(image_id=-7), "question 2: field `image_id`"),
        (questions, lambda r: r["questions"].append(dict(r["questions"][0])), "occurs twice"),
        (questions, lambda r: r["questions"][0].pop("question"), "question 1: field `question` is missing"),
        (notes, lambda r: r["annotations"][2].update(answers="yes", question_type=3), "annotation 3: field `question_type`"),
        (notes, lambda r: r["annotations"][2].update(answers=[]), "annotation 3: field `answers`"),
        (notes, lambda r: r["annotations"].pop(0), "has no annotation"),
        (notes, lambda r: r.update(annotations=[]), "has no annotation"),
        (notes, lambda r: r["annotations"][0].pop("multiple_choice_answer"), "annotation 1: field `multiple_choice_answer` is missing"),
    ]:  # fmt: skip
        questions.write_text(before[0]), notes.write_text(before[1])
        changed(file, change)
        with pytest.raises(UsageError, match=words) as e:
            read_questions(spec, str(vqa))
        assert "v2_" in str(e.value) and str(e.value).isprintable()


def test_pope_and_gqa_entries(tmp_path):
    pope = small.pope_files(tmp_path)
    file = pope / "pope" / "coco_pope_random.json"
    row = json.loads(file.read_text().splitlines()[0])
    for rows, words in [
        ([{**row, "label": "maybe"}], 'line 1: field `label`: expected yes or no, found "maybe"'),
        ([{**row, "image": ["x"]}], "line 1: field `image`"),
        ([row, {k: v for k, v in row.items() if k != "text"}], "line 2: field `text` is missing"),
        ([row, row], "occurs twice"), ([7], "line 1: expected an object"),
    ]:  # fmt: skip
        file.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(UsageError, match=words):
            read_questions(DataSpec(layout="pope", directory="pope"), str(pope))
    file.write_text(json.dumps(row))  # a file of one line
    assert len(read_questions(DataSpec(layout="pope", directory="pope", split="random"), str(pope)).questions) == 1
    gqa = small.gqa_files(tmp_path)
    file = gqa / "gqa" / "questions" / "testdev_balanced_questions.json"
    text = file.read_text()
    for more, words in [
        ({"types": "verify"}, "field `types`"), ({"entailed": "q1"}, "field `entailed`"),
        ({"semantic": [{"x": 1}]}, "`semantic`: a step has no"), ({"question": 3}, "field `question`"),
        ({"answer": ["yes"]}, "field `answer`"), ({"imageId": None}, "field `imageId`"),
    ]:  # fmt: skip
        file.write_text(text)
        changed(file, lambda r, more=more: r["q0"].update(more))
        with pytest.raises(UsageError, match=f'question "q0": .*{words}'):
            read_questions(small.gqa_spec(), str(gqa))


@pytest.mark.parametrize("scorer", ["vqav2", "textvqa", "vizwiz"])
@pytest.mark.parametrize("count", [2, 3])
def test_too_few_annotators_for_the_rule_to_give_a_whole_point_are_refused(scorer, count):
    few = Question("7", "a.png", "q", "red", ("red",) * count)
    assert score(scorer, few, "red") < 1
    with pytest.raises(
        UsageError, match=f"1 of 1 questions have fewer than 4 answers, first 7 with {count} answers; .*could never score them 1"
    ):
        check_scorer(scorer, [few])
    enough = Question("7", "a.png", "q", "red", ("red",) * 4)
    check_scorer(scorer, [enough])
    assert score(scorer, enough, "red") == 1


def test_a_question_without_an_answer_among_others_is_refused():
    some = [Question("1", "i", "?", "a"), Question("2", "i", "?", " ", ("", " "))]
    for scorer in ("gqa", "exact", "vqav2"):
        with pytest.raises(UsageError, match="1 of 2 questions have no answer, first 2: none given to them could be right"):
            check_scorer(scorer, some)
    check_scorer("vqav2", [Question("2", "i", "?", "")])  # a split without public answers, which is told by itself


def test_what_a_llava_file_leaves_out_is_counted(tmp_path):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}, {"from": "human", "value": "And?"}]
    small.write(tmp_path / "images" / "a.png", small.image_bytes(0))
    entries = [{"image": "a.png", "conversations": turns}, {"conversations": turns[:2]}]
    spec = DataSpec(
        layout="llava", questions=str(small.write(tmp_path / "l.json", json.dumps(entries))), images=str(tmp_path / "images")
    )
    found = read_questions(spec, "")
    assert len(found.questions) == 1
    assert dict(found.images.left_out) == {"entries without an image": 1, "last turns without an answer": 1}
    small.write(tmp_path / "l.json", json.dumps(entries[1:]))
    with pytest.raises(UsageError, match="holds no questions .left out: 1 entries without an image."):
        read_questions(spec, "")


def test_llava_vizwiz_textvqa_scienceqa(tmp_path):
    turns = [{"from": "human", "value": "What? <image>"}, {"from": "gpt", "value": "A dog."}]
    small.write(tmp_path / "images" / "a.png", small.image_bytes(0))
    spec = DataSpec(layout="llava", questions=str(tmp_path / "l.json"), images=str(tmp_path / "images"))
    small.write(tmp_path / "l.json", json.dumps([{"image": "a.png", "conversations": turns}, {"conversations": turns}]))
    assert len(read_questions(spec, "").questions) == 1
    for entry, words in [
        ({"image": ["a.png", "b.png"], "conversations": turns}, "entry 1: field `image`: a list of 2"),
        ({"image": 3, "conversations": turns}, "field `image`"), ({"image": "a.png", "conversations": [turns]}, "field `conversations.0`"),
        ({"image": "a.png", "conversations": turns[::-1]}, "no question of a human"),
        ({"image": "a.png"}, "field `conversations` is missing"),
        ({"image": "a.png", "conversations": [{"from": "human", "value": None}, turns[1]]}, "conversations.0.value"),
    ]:  # fmt: skip
        small.write(tmp_path / "l.json", json.dumps([entry]))
        with pytest.raises(UsageError, match=words) as e:
            read_questions(spec, "")
        assert "l.json" in str(e.value)
    small.write(
        tmp_path / "v.json",
        json.dumps([{"image": "a.png", "question": "Which?", "answers": [{"answer": 4}, {"answer": "four"}]}]),
    )
    vizwiz = DataSpec(layout="vizwiz", questions=str(tmp_path / "v.json"), images=str(tmp_path / "images"))
    assert read_questions(vizwiz, "").questions[0].answers == ("4", "four")
    small.write(tmp_path / "v.json", json.dumps([{"image": "a.png", "question": "Which?", "answers": [{"text": 4}]}]))
    with pytest.raises(UsageError, match=r"v\.json: entry 1: field `answers`"):
        read_questions(vizwiz, "")
    for more, words in [
        ({"answer": 2}, "2 is none of the 2 choices"),
        ({"answer": "0"}, "field `answer`"),
        ({"choices": "ab"}, "field `choices`"),
    ]:
        with pytest.raises(UsageError, match=words):
            formats.checked(formats.ScienceQA, {"question": "x?", "choices": ["a", "b"], "answer": 0, **more}, "f", "problem 1")


def test_a_question_id_twice_in_a_table_is_refused(tmp_path, monkeypatch):
    import datasets

    from levl_eval.cards import HubSource

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    row = {
        "id": "1",
        "question_id": "1",
        "question": "Is it?",
        "answer": "yes",
        "image_source": "c",
        "category": "random",
        "image": small.image_bytes(0),
    }
    for k, (rows, words) in enumerate(
        [
            ([row, row], 'question id "random/1" occurs twice'),
            ([{**row, "answer": "maybe"}], "row 0: field `answer`: expected yes or no"),
        ]
    ):
        repo = small.repository(tmp_path / f"r{k}", {"default": ("test", small.table_of(rows))})
        with pytest.raises(UsageError, match=words):
            read_questions(DataSpec(layout="pope", hub=HubSource(repo=str(repo), split="test")), "hub")


@pytest.mark.parametrize("prediction", ["", "the", "an", "?", " ... ", "The."])
def test_what_normalisation_empties_scores_nothing(prediction):
    q = Question("1", "i", "?", "A")
    assert vqa_accuracy(prediction, ["A"]) == soft_accuracy(prediction, ["A"]) == score("exact", q, prediction) == 0.0
    assert vqa_accuracy(prediction, ["A"] * 5 + ["b"] * 5) == soft_accuracy(prediction, ["A", "A", "b", "A"]) == 0.0
    assert textvqa_accuracy(prediction, ["A"] * 10) == vizwiz_accuracy(prediction, ["", "b", "", ""]) == 0.0
    assert not gqa_correct("?", "!") and not gqa_correct("", "") and not gqa_belongs("", ["?"], {})
    assert exact_match("a.", "A") and vqa_accuracy("A", ["A"]) == 1.0 and not exact_match("", "")


@pytest.mark.parametrize(
    ("text", "letter"),
    [("The answer is B.", "B"), ("Answer: B", "B"), ("**B**", "B"), ("(B)", "B"), ("B. steam", "B"), ("b", "B"), ("**Answer:** (B)", "B"),
     ("The correct answer is (B) because it is hot", "B"), ("I think (B)", "B"),
     ("B - steam", "B"), ("the answer is b", "B"), ("Option B", "B"),
     ("a dog", ""), ("The answer is a dog", ""), ("boat", ""), ("Because", ""), ("", ""), ("I see (A), or maybe (B)", "")],
)  # fmt: skip
def test_letters_in_the_forms_models_use(text, letter):
    assert chosen_letter(text) == letter


def test_single_answers_under_a_rule_for_ten_are_refused():
    ten, one = Question("1", "i", "?", "a", ("a",) * 10), Question("2\x1b", "i", "?", "a", ("a",))
    check_scorer("vqav2", [ten])
    check_scorer("soft", [one])
    for scorer in ("vqav2", "textvqa", "vizwiz"):
        with pytest.raises(UsageError, match="1 of 2 questions have fewer than 4 answers, first 2.* with a single answer") as e:
            check_scorer(scorer, [ten, one])
        assert str(e.value).isprintable()


MODELS = [m for m in vars(formats).values() if isinstance(m, type) and issubclass(m, formats.Entry) and m is not formats.Entry]
FIELDS = sorted({f.alias or n for m in MODELS for n, f in m.model_fields.items()})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), x, max_size=4), max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.sampled_from(MODELS), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8) | VALUES)
def test_any_value_as_an_entry(model, value):
    try:
        formats.checked(model, value, "file", "entry 1")
    except LevlError as e:
        assert str(e).isprintable() and len(str(e)) < 400


@settings(
    max_examples=60,
    deadline=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    st.sampled_from(["vqa", "llava", "vizwiz", "pope", "gqa", "textvqa"]),
    st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()),
)
def test_any_bytes_as_a_question_file(tmp_path, layout, content):
    path = tmp_path / ("coco_pope_random.json" if layout == "pope" else "q.json")
    path.write_bytes(content)
    questions = str(tmp_path) if layout == "pope" else str(path)
    try:
        read_questions(DataSpec(layout=layout, questions=questions, split="random" if layout == "pope" else ""), str(tmp_path))
    except LevlError as e:
        assert str(e).isprintable()
