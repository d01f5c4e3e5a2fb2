"""Further question sets in their published layouts: TextVQA, VizWiz, ScienceQA with images, MME, and LLaVA's training files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import split_lines, text_of
from levl_eval.data.formats import HubVizWiz, LLaVA, ScienceQA, TextVQA, Turn, VizWiz, checked, majority, shown
from levl_eval.data.images import SUFFIXES, put_into, root_of, under
from levl_eval.data.listing import junk, one_of
from levl_eval.data.questions import About, Pool, finish_questions, first_of
from levl_eval.data.stream import stream, stream_rows
from levl_eval.data.types import Question, QuestionSet

LETTERS = "ABCDEFGHIJ"


def textvqa_question(q: object, pool: Pool, source: object, entry: str) -> Question:
    """An entry of TextVQA's files or table. Raises UsageError naming source and entry."""
    e = checked(TextVQA, q, source, entry)
    answers = [str(pool(a)) for a in e.answers]
    return Question(e.question_id, e.image_id, e.question, majority(answers), tuple(answers), {})


def _in_folder(about: About, questions: list[Question], folder: Path, spec: DataSpec, limit: int | None) -> QuestionSet:
    """A set whose image ids are paths below ``folder``."""
    about = about._replace(where=f"{put_into(folder)}; {about.where}")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_textvqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """TextVQA: TextVQA_0.5.1_SPLIT.json ({"data": [...]}), train_images/ID.jpg (also for val; test_images/ for test)."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get questions and images from textvqa.org/dataset"
    file = under(data, spec.questions) or first_of(
        root, [f"TextVQA_0.5.1_{split}.json", f"TextVQA_0.5_{split}.json"], "the question file", where
    )
    folder = under(data, spec.images) or root / ("test_images" if split == "test" else "train_images")
    pool = Pool()
    questions = [textvqa_question(q, pool, file, f"entry {k}") for k, (_, q) in enumerate(stream(file, "data"), 1)]
    version = f"{file.stem}, {len(questions)} questions"
    about = About("textvqa", split, file, f"{put_into(folder)}; {where}", version)
    return finish_questions(about, questions, lambda i: folder / f"{i}.jpg", spec, limit)


def vizwiz_question(name: str, e: VizWiz | HubVizWiz, pool: Pool) -> Question:
    """name: of the image, which is the question's id too."""
    kind = e.answer_type or e.category
    meta = {"answer_type": kind} if kind else {}
    return Question(name, name, e.question, pool(majority(e.answers)), tuple(map(pool, e.answers)), meta)


def read_vizwiz(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """VizWiz-VQA: Annotations/SPLIT.json (a list of image, question, answers), SPLIT/IMAGE. Each image has one question."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "val"
    where = "get annotations and images from vizwiz.org"
    file = under(data, spec.questions) or first_of(
        root, [f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json"], "the annotation file", where
    )
    folder, pool = under(data, spec.images) or root / split, Pool()
    questions = []
    for number, q in stream(file):
        e = checked(VizWiz, q, file, f"entry {number + 1}" if isinstance(number, int) else f"entry {shown(number)}")
        questions.append(vizwiz_question(e.image, e, pool))
    return _in_folder(About("vizwiz", split, file, where, f"{len(questions)} questions"), questions, folder, spec, limit)


def scienceqa_question(qid: str, image_id: str, q: object, source: object) -> Question:
    """Context, question and lettered choices as LLaVA asks them; the answer is the letter. Raises UsageError."""
    e = checked(ScienceQA, q, source, f"problem {shown(qid)}")
    choices = " ".join(f"({LETTERS[k]}) {c}" for k, c in enumerate(e.choices))
    text = (f"Context: {e.hint.strip()}\n" if e.hint.strip() else "") + f"{e.question.strip()}\n{choices}"
    meta: dict[str, object] = {"options": len(e.choices), **{k: v for k in ("subject", "topic") if (v := getattr(e, k))}}
    return Question(qid, image_id, text, LETTERS[e.answer], (), meta)


def read_scienceqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """ScienceQA, the questions with a image: problems.json, pid_splits.json, images/SPLIT/ID/image.png."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "test"
    where = "get problems, splits and images from scienceqa.github.io"
    file = under(data, spec.questions) or first_of(
        root, ["problems.json", "data/scienceqa/problems.json"], "problems.json", where
    )
    splits = first_of(file.parent, ["pid_splits.json"], "pid_splits.json", where)
    wanted = {str(v) for _, v in stream(splits, split)}
    there = set[str]()
    folder = under(data, spec.images) or next((d for d in (root / "images" / split, root / split) if d.is_dir()), root / split)
    questions = []
    for pid, q in stream(file):
        there.add(str(pid))
        if pid not in wanted or not isinstance(q, dict) or not q.get("image"):
            continue
        if not isinstance(q["image"], str):
            raise UsageError(
                f"{file}: problem {shown(pid)}: field `image`: expected a name, found {shown(q['image'])}; take the published file"
            )
        questions.append(scienceqa_question(pid, f"{pid}/{q['image']}", q, file))
    if lost := sorted(wanted - there):
        raise UsageError(
            f"{file}: lacks {len(lost)} problems that {splits.name} lists, first {shown(lost[0])}; take both of one release"
        )
    return _in_folder(About("scienceqa", split, file, where, f"{len(questions)} questions"), questions, folder, spec, limit)


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
    for category in sorted(p for p in root.glob("*") if p.is_dir() and not junk(p.name)):
        texts = category / "questions_answers_YN"
        images = category / "images" if texts.is_dir() else category
        for file in sorted(p for p in (texts if texts.is_dir() else category).glob("*.txt") if not junk(p.name)):
            image = one_of(images, file.stem, SUFFIXES)
            name = f"{category.name}/{image.name}"
            places[name] = image
            for number, line in enumerate(split_lines(text_of(file)), 1):
                text, tab, answer = line.strip().rpartition("\t")
                if line.strip() and (not tab or answer.strip().lower() not in ("yes", "no")):
                    raise UsageError(f"{file}: line {number}: expected a question, a tab, and Yes or No")
                if line.strip():
                    questions.append(mme_question(f"{category.name}/{file.stem}/{number}", name, text, answer, category.name))
    if not questions:
        raise UsageError(f"{root}: holds no MME category folders with question files; {where}")
    about = About("mme", "test", root, where, f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: places[i], spec, limit)


def read_llava(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """LLaVA's training files: an array (or JSON lines) of {id, image, conversations: [{from: human, value}, {from: gpt, value}, ...]}.

    Every turn is a question of its own (turns of one image do not see each other here). Entries without an image are left out, and counted.
    """
    file = under(data, spec.questions)
    if file is None:
        root = root_of(spec.root, spec.directory, data)
        patterns = [f"{spec.split}.json"] if spec.split else ["*.json"]
        file = first_of(root, patterns, "the conversation file", "get it from huggingface.co/liuhaotian, or set `questions`")
    folder = under(data, spec.images) or file.parent / "images"
    questions: list[Question] = []
    left_out: Counter[str] = Counter()
    for number, q in stream_rows(file):
        e = checked(LLaVA, q, file, f"entry {number}")
        if e.image is None:
            left_out[TEXT_ONLY] += 1
        else:
            questions += llava_turns(e.conversations, str(number), e.image, file, f"entry {number}", left_out)
    about = About("llava", spec.split, file, f"images are looked for in {folder}; set `images`", f"{len(questions)} turns")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit, +left_out)


TEXT_ONLY, UNANSWERED = "entries without an image", "last turns without an answer"


def llava_turns(turns: list[Turn], number: str, image: str, source: object, entry: str, left_out: Counter[str]) -> list[Question]:
    """The turns of a conversation as questions NUMBER/0, NUMBER/1, ... A last one of a human alone is left out, and counted.

    Raises UsageError: others than a human's followed by gpt's.
    """
    out = []
    for k in range(0, len(turns) - 1, 2):
        text, answer = turns[k].value.replace("<image>", "").strip(), turns[k + 1].value.strip()
        if turns[k].speaker != "human" or turns[k + 1].speaker != "gpt" or not answer:
            raise UsageError(
                f"{source}: {entry}: turns {k + 1} and {k + 2} are no question of a human with an answer of gpt; correct the entry"
            )
        out.append(Question(f"{number}/{k // 2}", image, text, answer, (), {}))
    left_out[UNANSWERED] += len(turns) % 2
    return out
