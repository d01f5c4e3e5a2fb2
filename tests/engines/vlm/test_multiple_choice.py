"""Questions with options: scores against plain formulations, groups, files and tables of each layout, the scenes, an answering run."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, MultipleChoiceCard
from levl_eval.cards.registry import names, task_card
from levl_eval.core.errors import UsageError
from levl_eval.data.check import check
from levl_eval.data.multiple_choice import lettered, mmbench_question, realworldqa_question
from levl_eval.data.readers import read_questions
from levl_eval.data.types import ImageSet, QuestionSet
from levl_eval.engines.vlm import floors
from levl_eval.engines.vlm.main_scores import (
    Reading,
    likelihood_estimates,
    main_estimate,
    main_scores,
    parts_by_likelihood,
    reads,
)
from levl_eval.engines.vlm.options import by_length, chance_of, likeliest_right, with_instruction
from levl_eval.engines.vlm.scoring import estimates, score, scores_of, weights
from levl_eval.runner.plan import resolve_tasks

TASKS = [t for t in names("tasks") if isinstance(task_card(t), MultipleChoiceCard)]


def question(k: int, letter: str = "A", options: int = 4, **meta):
    return lettered(str(k), f"i{k}", f"what {k}?", [f"option {j}" for j in range(options)], letter, meta)


def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (colour, 0, 0)).save(path, "PNG")


def test_the_cards_ask_as_llava_does_and_share_the_connector_of_gqa():
    assert {"mmvp", "cv-bench-2d", "cv-bench-3d", "realworldqa", "seed-image", "mmbench", "ai2d", "blink-relative-depth"} <= set(
        TASKS
    )
    for task in TASKS:
        card = task_card(task)
        assert card.prompt == task_card("gqa").prompt and card.instruction.startswith("\nAnswer with the option's letter")


def test_a_perfect_and_a_blind_reader():
    questions = [question(k, "ABCD"[k % 4]) for k in range(8)]
    perfect = estimates("letter", questions, {q.question_id: q.answer for q in questions})
    assert perfect["accuracy"].value == 1.0 and perfect["unparsed"].value == 0.0
    assert perfect["floor_chance"].value == 0.25 and perfect["gain_over_chance"].value == 0.75
    blind = estimates("letter", questions, {q.question_id: "A" for q in questions})
    assert blind["accuracy"].value == 0.25 and blind["gain_over_chance"].value == 0.0
    silent = estimates("letter", questions, {q.question_id: "I see a dog" for q in questions})
    assert silent["accuracy"].value == 0.0 and silent["unparsed"].value == 1.0


def test_circular_evaluation_as_a_plain_loop_has_it():
    rng = np.random.default_rng(0)
    questions = [question(k, "ABCD"[k % 4], group=str(k // 4), type="x") for k in range(40)]
    answers = {q.question_id: q.answer if rng.random() < 0.8 else "B" for q in questions}
    whole = [all(answers[q.question_id] == q.answer for q in questions if q.meta["group"] == g) for g in map(str, range(10))]
    out = estimates("letter", questions, answers)
    assert out["accuracy"].value == pytest.approx(np.mean(whole)) and 0 < out["accuracy"].value < 1
    assert out["question_accuracy"].value == pytest.approx(np.mean([answers[q.question_id] == q.answer for q in questions]))
    assert out["floor_chance"].value == pytest.approx(0.25**4)
    scores = scores_of("letter", questions, answers)
    assert (scores * weights(questions)).mean() == pytest.approx(out["accuracy"].value)  # as tables pair samples


def test_groups_of_unequal_size_weigh_the_same():
    questions = [question(0, group="a"), question(1, group="a"), question(2, group="a"), question(3, "B", group="b")]
    answers = {"0": "A", "1": "A", "2": "A", "3": "C"}
    assert estimates("letter", questions, answers)["accuracy"].value == 0.5
    assert chance_of(questions).tolist() == [1 / 64] * 3 + [1 / 4]


def test_groups_of_unequal_size_weigh_the_same_in_their_category():
    """MMBench's categories are means over its questions, whatever number of options and so of rows each has."""
    qs = [question(k, "A", 2, group="g", split="g", type="scene") for k in range(2)]
    qs += [question(k, "A", 4, group="h", split="h", type="scene") for k in range(2, 6)]
    qs += [question(6, "B", 2, group="i", split="i", type="ocr"), question(7, "A", 2, group="i", split="i", type="ocr")]
    found = estimates("letter", qs, {q.question_id: "A" if q.question_id != "1" else "B" for q in qs})
    assert found["category/scene"].value == 0.5 and found["category/scene"].n == 2  # 4 of 6 rows
    assert found["category/ocr"].value == 0.0 and not any(k.startswith("type/") for k in found)
    likely = Reading(options={q.question_id: [0.0, -1.0] if q.question_id != "1" else [-1.0, 0.0] for q in qs})
    card = MultipleChoiceCard.model_validate({**task_card("mmbench").model_dump(), "main_metric": "option_likelihood_accuracy"})
    two = [q for q in qs if q.meta["options"] == 2]
    assert parts_by_likelihood(card, likely, two, ())["category/scene"].value == 0.0


def test_the_mean_of_sources():
    questions = [question(k, split="ADE20K" if k < 3 else "COCO") for k in range(4)]
    answers = {"0": "A", "1": "A", "2": "B", "3": "B"}
    out = estimates("letter", questions, answers)
    assert out["accuracy"].value == pytest.approx((2 / 3 + 0) / 2) and out["question_accuracy"].value == 0.5


def test_the_likeliest_option():
    questions = [question(0, "B", 2), question(1, "A", 3)]
    values = {"0": [-2.0, -1.0, 5.0], "1": [-1.0, -3.0, -2.0]}  # the third letter of a question with two options is passed over
    assert likeliest_right(values, questions, ()) == {"0": 1.0, "1": 1.0}
    assert likeliest_right({"0": [-1.0, -2.0], "1": [-1.0, -3.0, -2.0]}, questions, ()) == {"0": 0.0, "1": 1.0}
    assert likeliest_right({"0": [-1.0, -2.0], "1": [-1.0, -2.0]}, questions, ()) == {"0": 0.0}  # no likelihood of C
    assert likeliest_right({"0": [-1.0, -2.0]}, questions, {"1"}) == {"0": 0.0, "1": 0.0}  # a failed question is wrong
    assert likeliest_right({}, questions, ()) == {}
    long = [lettered("0", "i", "w", ["ab", "abcdefgh"], "B", {})]
    assert by_length({"0": [-1.0, -2.0]}, long) == {"0": [-0.5, -0.25]}


@pytest.mark.parametrize(
    "metric, needed, wanted",
    [
        ("accuracy", "texts", [1, 0, 1, 0]), ("letter_likelihood_accuracy", "letters", [0, 1, 1, 0]),
        ("option_likelihood_accuracy", "options", [0, 0, 1, 0]), ("option_likelihood_accuracy_norm", "options", [1, 0, 0, 0]),
    ],
)  # fmt: skip
def test_samples_and_floors_are_scored_as_the_main_metric(metric, needed, wanted):
    """Question 3 has failed, which is wrong under each of them; of question 0 the longer option is the likelier a character."""
    questions = [
        lettered("0", "i0", "w", ["a" * 9, "a"], "A", {}), question(1, "B", 2),
        lettered("2", "i2", "w", ["a", "a" * 9], "A", {}), question(3, "A", 2)
    ]  # fmt: skip
    reading = Reading(
        {"0": "A", "1": "no letter", "2": "(A)"}, {"0": [-2, -1], "1": [-2, -1], "2": [-1, -2]},
        {"0": [-3, -1], "1": [-1, -2], "2": [-1, -3]}
    )  # fmt: skip
    card = task_card("mmbench").model_copy(update={"main_metric": metric})
    assert reads(card) == needed
    scores = main_scores(card, reading, questions, {"3"})
    assert scores.values.tolist() == wanted and main_estimate(card, reading, scores).value == np.mean(wanted)
    if metric != "accuracy":
        assert likelihood_estimates(reading, questions, {"3"})[metric].value == np.mean(wanted)
    bare = realworldqa_question("4", "i4", "How many lanes?", "3")  # has no options: an answer alone can score it
    assert len(main_scores(card, reading, [*questions, bare], {"3"}).questions) == (5 if metric == "accuracy" else 4)


def test_a_floor_with_an_image_reads_the_options_behind_that_image(monkeypatch, tmp_path):
    """Of exchanged images the likelihoods are those that the other image gives, and without an image those of none."""
    questions = [question(k, "A", 2) for k in range(4)]
    data = QuestionSet("t", "", questions, ImageSet(tuple(q.image_id for q in questions), lambda i: None, "f"), "fingerprint")
    card = task_card("mmbench", {"floors": "[text-only,shuffled-images]", "main_metric": "option_likelihood_accuracy"})
    shown = {None: [-2.0, -1.0], "exchanged": [-1.0, -2.0]}
    monkeypatch.setattr(floors, "floor_key", lambda *a: "0" * 64)
    monkeypatch.setattr(floors, "visual_reader", lambda *a: "exchanged")
    monkeypatch.setattr(
        floors,
        "option_likelihoods",
        lambda language, prompt, visual_of, asked, *a: {q.question_id: shown[visual_of] for q in asked},
    )
    resources = SimpleNamespace(cache=tmp_path, language=None, progress=None)
    reading = Reading(options={q.question_id: [-1.0, -2.0] if k else [-2.0, -1.0] for k, q in enumerate(questions)})
    out = floors.measure(resources, card, None, data, None, reading, 0)
    wanted = {
        "floor_text_only": 0.0,
        "gain_over_text_only": 0.75,
        "floor_shuffled_images": 1.0,
        "gain_over_shuffled_images": -0.25,
    }
    assert {k: e.value for k, e in out.items()} == wanted


def test_question_accuracy_is_of_questions_each_alone():
    questions = [question(k, "A", group="0") for k in range(2)]
    card = task_card("mmvp").model_copy(update={"main_metric": "question_accuracy"})
    scores = main_scores(card, Reading({"0": "A", "1": "B"}), questions, ())
    assert scores.values.tolist() == [1.0, 0.0] and main_estimate(card, Reading(), scores).value == 0.5


def test_letters_count_where_the_language_model_reads_them():
    """The shipped one has never seen lettered options, so that the likeliest text counts; a choice of the user's stays."""

    def main(llm: str, settings=()) -> str:
        return resolve_tasks(["mmbench"], settings, "scenes", llm=llm)["mmbench"].main_metric

    assert main("scenes-lm") == "option_likelihood_accuracy" and main("Qwen/Qwen2.5-1.5B-Instruct") == "accuracy"
    assert main("scenes-lm", ["mmbench.main_metric=accuracy"]) == "accuracy"
    assert main("scenes-lm", ["mmbench.option_texts=false"]) == "accuracy"


def test_open_questions_of_realworldqa():
    question = (
        "Which way?\n\nA. left\nB. right\nPlease answer directly with only the letter of the correct option and nothing else."
    )
    with_options = realworldqa_question("0", "i", question, "B")
    assert (
        with_options.meta["choices"] == ["left", "right"]
        and with_options.meta["stem"] == "Which way?"
        and with_options.answer == "B"
    )
    bare = realworldqa_question("1", "i", "How many lanes?", "3")
    assert "choices" not in bare.meta
    assert score("letter-or-text", bare, "3.") == 1.0 and score("letter-or-text", bare, "4") == 0.0
    assert score("letter-or-text", with_options, "(B)") == 1.0 and score("letter-or-text", with_options, "right") == 0.0
    out = estimates("letter-or-text", [with_options, bare], {"0": "B", "1": "3"})
    assert out["accuracy"].value == 1.0
    reading = Reading(letters={"0": [-2, -1], "1": [-1, -2]})
    assert likelihood_estimates(reading, [with_options, bare], ())["letter_likelihood_accuracy"].n == 1


def test_the_instruction_stands_behind_the_options_and_moves_no_fingerprint():
    q = question(0, "A", 2)
    data = QuestionSet("t", "", [q], ImageSet(("i0",), lambda i: Image.new("RGB", (4, 4)), "f"), "fingerprint")
    put = with_instruction(data, "\nAnswer.")
    assert put.questions[0].question == "what 0?\nA. option 0\nB. option 1\nAnswer." and put.fingerprint == "fingerprint"


def test_a_letter_that_no_option_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="answer D is none of the 2 options"):
        question(0, "D", 2)
    file = tmp_path / "q.jsonl"
    picture(tmp_path / "a.png")
    file.write_text(json.dumps({"image": "a.png", "question": "w?", "options": ["x", "y"], "answer": "C"}))
    spec = DataSpec(layout="mcq", questions=str(file))
    with pytest.raises(UsageError, match="entry 1: answer C is none of the 2 options"):
        read_questions(spec, str(tmp_path))
    file.write_text(json.dumps({"image": "a.png", "question": "w?", "options": ["x", "y"], "answer": 1, "type": "colour"}))
    (q,) = read_questions(spec, str(tmp_path)).questions
    assert q.answer == "B" and q.question == "w?\nA. x\nB. y" and q.meta["type"] == "colour"


def test_mmvps_files(tmp_path):
    root = tmp_path / "mmvp"
    lines = [
        "Index,Question,Options,Correct Answer",
        '1,Is it open?,"(a) Open (b) Closed, or so",(a)',
        "2,Is it open?,(a) Open (b) Closed,(b)",
    ]
    for k in (1, 2):
        picture(root / "MMVP Images" / f"{k}.jpg", k * 90)
    (root / "Questions.csv").write_text("\n".join(lines))
    data = read_questions(DataSpec(layout="mmvp", directory="mmvp"), str(tmp_path))
    one, two = data.questions
    assert one.meta["choices"] == ["Open", "Closed, or so"] and (one.answer, two.answer) == ("A", "B")
    assert one.meta["group"] == two.meta["group"] == "1" and one.image_id == "1.jpg"
    (root / "Questions.csv").write_text("\n".join([lines[0], "1,Is it open?,Open,(a)"]))
    with pytest.raises(UsageError, match=r'question "1": expected an index, options'):
        read_questions(DataSpec(layout="mmvp", directory="mmvp"), str(tmp_path))


def test_seedbenchs_file(tmp_path):
    root = tmp_path / "seed_bench"
    row = {"question_id": "1", "data_id": "a_1", "data_type": "image", "question": "w?", "answer": "C", "question_type_id": 2}
    row |= {f"choice_{c}": f"option {c}" for c in "abcd"}
    content = {"questions": [row, {**row, "question_id": "2", "data_type": "video"}], "question_type": {"Instance Identity": 2}}
    root.mkdir()
    (root / "SEED-Bench.json").write_text(json.dumps(content))
    picture(root / "SEED-Bench-image" / "a_1")  # without an ending, as the archive has them
    data = read_questions(DataSpec(layout="seedbench", directory="seed_bench"), str(tmp_path))
    (q,) = data.questions
    assert q.answer == "C" and q.meta["type"] == "Instance Identity" and data.images.left_out == {"questions about videos": 1}
    assert data.images.open("a_1").size == (12, 10)


def test_ai2ds_files(tmp_path):
    root = tmp_path / "ai2d"
    for k in (1, 2):
        picture(root / "images" / f"{k}.png")
        one = {"answerTexts": ["a", "b", "c", "d"], "correctAnswer": 2, "questionId": f"{k}.png-0"}
        (root / "questions").mkdir(exist_ok=True)
        (root / "questions" / f"{k}.png.json").write_text(json.dumps({"questions": {"What is it?": one}}))
    (root / "ai2d_test_ids.csv").write_text("2\n")
    (q,) = read_questions(DataSpec(layout="ai2d", directory="ai2d"), str(tmp_path)).questions
    assert q.image_id == "2.png" and q.answer == "C" and q.question.startswith("What is it?\nA. a\nB. b")
    assert [(f.set, f.level, f.message) for f in check(tmp_path)] == [
        ("ai2d/all", "ok", "1 questions about 1 images"),
        ("ai2d/all", "note", "is not the published release (3,088 questions)"),
    ]


def test_data_check_reads_cv_benchs_two_files_apart(tmp_path):
    """Both ask about one image, which is no leak between them; a broken line is told as the reader tells it."""
    row = {"idx": 1, "type": "2D", "task": "Count", "source": "COCO", "filename": "img/a.png", "question": "How many?"}
    row |= {"choices": ["1", "2"], "answer": "(A)"}
    picture(tmp_path / "cv_bench" / "img" / "a.png")
    for k in ("2d", "3d"):
        (tmp_path / "cv_bench" / f"test_{k}.jsonl").write_text(json.dumps(row))
    told = [(f.set, f.level, f.message) for f in check(tmp_path)]
    assert told == [
        (f"cv-bench/{k}", *rest)
        for k, n in (("2D", "1,438"), ("3D", "1,200"))
        for rest in (("ok", "1 questions about 1 images"), ("note", f"is not the published release ({n} questions)"))
    ]
    (tmp_path / "cv_bench" / "test_3d.jsonl").write_text(json.dumps({**row, "answer": "(Z)"}))
    assert [(f.set, f.level) for f in check(tmp_path)][2:] == [("cv-bench-3d", "error")]


def mmbench(root, rows, head="index question hint A B C D answer category image"):
    root.mkdir(parents=True, exist_ok=True)
    (root / "mmbench_dev_en_20231003.tsv").write_text("\n".join(["\t".join(head.split()), *("\t".join(r) for r in rows)]))


def test_mmbenchs_table(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (90, 0, 0)).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    rows = [
        ["7", "w?", "look", "x", "y", "nan", "", "A", "colour", image],
        ["1000007", "w?", "look", "y", "x", "", "", "B", "colour", "7"],
        ["8", "v?", "", "x", "y", "z", "", "C", "count", "7"],
    ]
    mmbench(tmp_path / "mmbench", rows)
    spec = DataSpec(layout="mmbench", directory="mmbench", split="dev_en")
    data = read_questions(spec, str(tmp_path))
    assert [q.meta["group"] for q in data.questions] == ["7", "7", "8"] and [q.meta["options"] for q in data.questions] == [
        2,
        2,
        3,
    ]
    assert data.questions[0].question == "look\nw?\nA. x\nB. y" and len(data.images) == 2
    assert data.images.open("8").getpixel((0, 0)) == (90, 0, 0)
    mmbench(tmp_path / "mmbench", [[*rows[0][:-1], "7"]])
    with pytest.raises(UsageError, match="its image is that of question 7, which has none"):
        read_questions(spec, str(tmp_path))
    mmbench(tmp_path / "mmbench", [[*rows[0][:-1], "no base64!"]])
    with pytest.raises(UsageError, match="image 7 is no base64 text"):
        read_questions(spec, str(tmp_path))
    mmbench(tmp_path / "mmbench", [[*rows[0][:7], "", *rows[0][8:]]])
    with pytest.raises(UsageError, match="line 2: expected index, question, options"):
        read_questions(spec, str(tmp_path))


def test_mmbenchs_rows_of_the_hub():
    row = {
        "index": 3_000_012,
        "question": "w?",
        "hint": "nan",
        "A": "x",
        "B": "y",
        "C": "nan",
        "D": None,
        "answer": "B",
        "category": "c",
    }
    q = mmbench_question(row, "repo", "row 0", "000000")
    assert q.meta["group"] == "12" and q.meta["choices"] == ["x", "y"] and q.image_id == "000000" and q.question_id == "3000012"


@pytest.mark.slow
def test_tables_of_the_hub(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "0.png"
    picture(path, 90)

    def table(layout: str, columns: dict, image: str = "image", split: str = ""):
        folder = tmp_path / layout
        folder.mkdir()
        made = datasets.Dataset.from_dict({image: [str(path)], **{k: [v] for k, v in columns.items()}}).cast_column(
            image, datasets.Image()
        )
        made.to_parquet(str(folder / "test-00000-of-00001.parquet"))
        hub = {"repo": str(folder), "split": "test", "files": "test-*"}
        (q,) = read_questions(DataSpec.model_validate({"layout": layout, "split": split, "hub": hub}), "hub").questions
        return q

    row = {"idx": 3, "type": "2D", "task": "Count", "question": "w?", "choices": ["1", "2"], "answer": "(B)", "source": "COCO"}
    q = table("cv-bench", row, split="2D")
    assert (q.answer, q.meta["split"], q.meta["type"], q.question_id) == ("B", "COCO", "Count", "2D/3")
    q = table("mmvp", {"Index": 4, "Question": "w?", "Options": "(a) x (b) y", "Correct Answer": "(b)"})
    assert (q.answer, q.meta["group"]) == ("B", "2")
    q = table("ai2d", {"question": "w?", "options": ["x", "y", "z", "v"], "answer": "3"})
    assert q.answer == "D"
    q = table("realworldqa", {"question": "w?\nA. x\nB. y", "answer": "A"})
    assert q.meta["choices"] == ["x", "y"]
    q = table("blink", {"idx": "v1", "question": "w?", "choices": ["x", "y"], "answer": "(A)", "sub_task": "Counting"}, "image_1")
    assert (q.answer, q.meta["type"]) == ("A", "Counting")


@pytest.mark.parametrize("task", ["cv-bench-2d", "cv-bench-3d", "mmbench"])
def test_the_scenes_questions_have_right_answers(task, world):
    card = task_card(task, default_recipe="scenes")
    data = read_questions(card.data, str(world))
    assert len(data.questions) > 10 and all(q.answer in "ABCD"[: q.meta["options"]] for q in data.questions)
    assert {q.meta["type"] for q in data.questions} == ({"Depth", "Size"} if task == "cv-bench-3d" else {"Count", "Relation"})
    if task == "mmbench":
        rights: dict[str, set[str]] = {}
        for q in data.questions:
            rights.setdefault(q.meta["group"], set()).add(q.meta["choices"]["ABCD".index(q.answer)])
        assert all(len(r) == 1 for r in rights.values())  # the right text is the same however the options are turned
    assert data.images.open(data.images.ids[0]).size == (64, 64)


@pytest.mark.parametrize(
    ("task", "options", "kinds"),
    [
        ("mmvp", {2}, {""}),
        ("realworldqa", {0, 2, 3}, {""}),
        ("seed-image", {4}, {"Scene Understanding", "Instance Attributes", "Instances Counting", "Spatial Relation"}),
        ("ai2d", {4}, {""}),
        *((f"blink-{k.replace('_', '-').lower()}", {4 if k == "Counting" else 2}, {k})
          for k in ("Counting", "Relative_Depth", "Spatial_Relation", "Object_Localization")),
    ],
)  # fmt: skip
def test_every_set_with_one_image_a_question_has_a_twin_that_its_own_reader_reads(task, options, kinds, world):
    data = read_questions(task_card(task, default_recipe="scenes").data, str(world))
    assert len(data.questions) >= 12 and len(data.images) == (24 if task == "mmvp" else 12)
    assert {q.meta.get("options", 0) for q in data.questions} == options
    assert kinds <= {q.meta.get("type", "") for q in data.questions}
    if task == "realworldqa":
        assert {q.answer for q in data.questions if "options" not in q.meta} & {"Yes", "No", "0", "1", "2"}
    if task == "mmvp":  # the same question, the other answer
        for one, other in zip(data.questions[::2], data.questions[1::2], strict=True):
            assert one.meta["group"] == other.meta["group"] and one.question == other.question and one.answer != other.answer
    assert data.images.open(data.images.ids[0]).size == (64, 64)


def test_data_check_counts_the_twins(world):
    levels = {f.set: f.level for f in check(world) if f.level != "note"}
    assert {n: levels[n] for n in ("mmvp/all", "realworldqa/all", "seedbench/all", "ai2d/all")} == dict.fromkeys(
        ("mmvp/all", "realworldqa/all", "seedbench/all", "ai2d/all"), "ok"
    )
    assert sum(n.startswith("mcq/") for n in levels) == 4 and "error" not in levels.values()


@pytest.mark.slow
def test_a_run_on_the_scenes_measures_letters_and_likelihoods(world, tmp_path, monkeypatch):
    from levl_eval import evaluate
    from levl_eval.core.progress import Progress
    from levl_eval.records import read_samples

    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    tasks = ("cv-bench-2d", "mmbench")
    settings = [w for t in tasks for w in (f"{t}.recipe.steps=2", f"{t}.recipe=scenes", f"{t}.floors=[text-only,blank-image]")]
    records = evaluate(
        ["random-nano"], list(tasks), data=str(world), limit=6, settings=settings, out=tmp_path / "run", device="cpu",
        progress=Progress(quiet=True),
    )  # fmt: skip
    assert [r.status for r in records] == ["done", "done"], [r.reason for r in records]
    for r in records:
        wanted = {"accuracy", "unparsed", "letter_likelihood_accuracy", "option_likelihood_accuracy",
                  "option_likelihood_accuracy_norm", "floor_chance", "floor_text_only"}  # fmt: skip
        assert wanted <= r.metrics.keys()
        # Rows, floors and gains are of the main metric: the shipped language model answers no letter, whatever it sees or not.
        assert r.main_metric == "option_likelihood_accuracy" and r.metrics["accuracy"].value == 0.0
        samples = [s for s in read_samples(tmp_path / "run", r) if s.score is not None]
        value = r.metrics[r.main_metric]
        assert len(samples) == value.n or r.task == "mmbench"
        if r.task == "cv-bench-2d":
            assert np.mean([s.score for s in samples]) == pytest.approx(value.value)
        for floor in ("chance", "text_only", "blank_image"):
            assert r.metrics[f"floor_{floor}"].value + r.metrics[f"gain_over_{floor}"].value == pytest.approx(value.value)
        assert r.metrics["floor_text_only"].value > 0.2
        kinds = [e for k, e in r.metrics.items() if k.startswith("category/" if r.task == "mmbench" else "type/")]
        assert kinds and max(e.value for e in kinds) >= value.value >= min(e.value for e in kinds)
    assert "question_accuracy" in records[1].metrics
