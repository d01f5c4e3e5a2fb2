"""Further question sets in their published layouts: TextVQA, VizWiz, ScienceQA with images, MME, and LLaVA's training files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.images import SUFFIXES, root_of, under
from levl_eval.data.questions import Pool, finish_questions, first_of
from levl_eval.data.stream import stream, stream_rows
from levl_eval.data.types import Question, QuestionSet

LETTERS = "ABCDEFGHIJ"


def majority(answers: list[str]) -> str:
    """The most frequent of several annotators' answers, the first of those where they tie."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def textvqa_question(q: dict[str, Any], pool: Pool, image_id: str) -> Question:
    answers = [str(pool(a)) for a in q.get("answers") or ()]
    return Question(str(q["question_id"]), image_id, q["question"], majority(answers), tuple(answers), {})


def _in_folder(
    name: str, split: str, questions: list[Question], folder: Path, file: Path, where: str, limit: int | None
) -> QuestionSet:
    """A set whose image ids are paths below ``folder``."""
    said = f"put the images into {folder}; {where}"
    return finish_questions(name, split, questions, lambda i: folder / i, file, said, limit, f"{len(questions)} questions")


def read_textvqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """TextVQA: TextVQA_0.5.1_SPLIT.json ({"data": [...]}), train_images/ID.jpg (also for val; test_images/ for test)."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get questions and images from textvqa.org/dataset"
    file = under(data, spec.questions) or first_of(root, [f"TextVQA_*_{split}.json"], "the question file", where)
    folder = under(data, spec.images) or root / ("test_images" if split == "test" else "train_images")
    pool = Pool()
    questions = [
        textvqa_question(q, pool, str(q["image_id"])) for _, q in _fields(file, "data", ("question_id", "image_id", "question"))
    ]
    version = f"{file.stem}, {len(questions)} questions"
    return finish_questions(
        "textvqa", split, questions, lambda i: folder / f"{i}.jpg", file, f"put the images into {folder}; {where}", limit, version
    )


def vizwiz_question(qid: str, image_id: str, q: dict[str, Any], answers: list[str], pool: Pool) -> Question:
    kind = q.get("answer_type") or q.get("category")
    return Question(
        qid, image_id, q["question"], pool(majority(answers)), tuple(map(pool, answers)), {"answer_type": kind} if kind else {}
    )


def read_vizwiz(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """VizWiz-VQA: Annotations/SPLIT.json (a list of image, question, answers), SPLIT/IMAGE. Each image has one question."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get annotations and images from vizwiz.org"
    file = under(data, spec.questions) or first_of(
        root, [f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json"], "the annotation file", where
    )
    folder, pool = under(data, spec.images) or root / split, Pool()
    questions = []
    for _, q in _fields(file, None, ("image", "question")):
        answers = [a["answer"] for a in q.get("answers") or ()]
        questions.append(vizwiz_question(q["image"], q["image"], q, answers, pool))
    return _in_folder("vizwiz", split, questions, folder, file, where, limit)


def scienceqa_question(qid: str, image_id: str, q: dict[str, Any]) -> Question:
    """Context, question and lettered choices as LLaVA asks them; the answer is the letter."""
    hint = (q.get("hint") or "").strip()
    choices = " ".join(f"({LETTERS[k]}) {c}" for k, c in enumerate(q["choices"]))
    text = (f"Context: {hint}\n" if hint else "") + f"{q['question'].strip()}\n{choices}"
    meta = {"options": len(q["choices"]), **{k: q[k] for k in ("subject", "topic") if q.get(k)}}
    return Question(qid, image_id, text, LETTERS[int(q["answer"])], (), meta)


def read_scienceqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """ScienceQA, the questions with a image: problems.json, pid_splits.json, images/SPLIT/ID/image.png."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "test"
    where = "get problems, splits and images from scienceqa.github.io"
    file = under(data, spec.questions) or first_of(
        root, ["problems.json", "data/scienceqa/problems.json"], "problems.json", where
    )
    splits = first_of(file.parent, ["pid_splits.json"], "pid_splits.json", where)
    wanted = {str(v) for _, v in stream(splits, split)}
    folder = under(data, spec.images) or next((d for d in (root / "images" / split, root / split) if d.is_dir()), root / split)
    questions = []
    for pid, q in stream(file):
        if pid in wanted and q.get("image"):
            try:
                questions.append(scienceqa_question(pid, f"{pid}/{q['image']}", q))
            except (KeyError, ValueError, IndexError, TypeError) as e:
                raise UsageError(f"{file}: problem {pid}: {e}; this is not ScienceQA's problems.json") from e
    return _in_folder("scienceqa", split, questions, folder, file, where, limit)


def mme_question(qid: str, image_id: str, text: str, answer: str, category: str) -> Question:
    return Question(
        qid, image_id, text.replace("Please answer yes or no.", "").strip(), answer.strip().lower(), (), {"category": category}
    )


def read_mme(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """MME: one folder a category; for each image a text file of its stem with two lines "question<TAB>Yes|No".

    Images and texts lie side by side, or in images/ and questions_answers_YN/.
    """
    root = root_of(spec.root, spec.directory, data)
    where = "get MME_Benchmark_release_version from its authors (github.com/BradyFU/Awesome-Multimodal-Large-Language-Models)"
    questions, places = [], {}
    for category in sorted(p for p in root.glob("*") if p.is_dir()):
        texts = category / "questions_answers_YN"
        images = category / "images" if texts.is_dir() else category
        for file in sorted((texts if texts.is_dir() else category).glob("*.txt")):
            image = next((p for p in (images / f"{file.stem}{s}" for s in SUFFIXES) if p.exists()), images / f"{file.stem}.jpg")
            name = f"{category.name}/{image.name}"
            places[name] = image
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                text, tab, answer = line.strip().rpartition("\t")
                if line.strip() and (not tab or answer.strip().lower() not in ("yes", "no")):
                    raise UsageError(f"{file}: line {number}: expected a question, a tab, and Yes or No")
                if line.strip():
                    questions.append(mme_question(f"{category.name}/{file.stem}/{number}", name, text, answer, category.name))
    if not questions:
        raise UsageError(f"{root}: holds no MME category folders with question files; {where}")
    return finish_questions("mme", "test", questions, lambda i: places[i], root, where, limit, f"{len(questions)} questions")


def read_llava(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """LLaVA's training files: an array (or JSON lines) of {id, image, conversations: [{from: human, value}, {from: gpt, value}, ...]}.

    Every turn is a question of its own (turns of one image do not see each other here). Entries without a image are left out.
    """
    file = under(data, spec.questions)
    if file is None:
        root = root_of(spec.root, spec.directory, data)
        patterns = [f"{spec.split}.json"] if spec.split else ["*.json"]
        file = first_of(root, patterns, "the conversation file", "get it from huggingface.co/liuhaotian, or set `questions`")
    folder = under(data, spec.images) or file.parent / "images"
    questions = []
    for number, q in stream_rows(file):
        if not isinstance(q, dict) or not isinstance(q.get("conversations"), list):
            raise UsageError(f"{file}: entry {number}: field `conversations` is missing; this is not one of LLaVA's files")
        if not q.get("image"):
            continue
        turns = q["conversations"]
        for k in range(0, len(turns) - 1, 2):
            text = str(turns[k].get("value", "")).replace("<image>", "").strip()
            answer = str(turns[k + 1].get("value", "")).strip()
            if turns[k].get("from") != "human" or turns[k + 1].get("from") != "gpt" or not answer:
                raise UsageError(
                    f"{file}: entry {number}: turns {k + 1} and {k + 2} are no question of a human with an answer of gpt"
                )
            questions.append(Question(f"{number}/{k // 2}", q["image"], text, answer, (), {}))
    return finish_questions(
        "llava",
        spec.split,
        questions,
        lambda i: folder / i,
        file,
        f"images are looked for in {folder}; set `images`",
        limit,
        f"{len(questions)} turns",
    )


def _fields(file: Path, field: str | None, needed: tuple[str, ...]):
    """Entries of a file, each with the fields it needs."""
    for number, (_, q) in enumerate(stream(file, field), 1):
        missing = [k for k in needed if not isinstance(q, dict) or k not in q]
        if missing:
            raise UsageError(f"{file}: entry {number}: field `{missing[0]}` is missing")
        yield number, q
