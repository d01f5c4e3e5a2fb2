"""Questions with lettered options in their published layouts: MMVP, CV-Bench, SEED-Bench's images, MMBench, AI2D, RealWorldQA, BLINK.

Every question holds its text with the options below it, a letter each, as it is asked; in its metadata the text alone (``stem``), the
``choices`` without letters, how many there are (``options``), its kind (``type``), and where questions only count together (MMVP's pairs,
MMBench's rows with their options turned round) their ``group``. A group is a ``split`` too: an accuracy is the mean over groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from levl_eval.core.errors import UsageError
from levl_eval.core.text import blank, plain_digits, same_text
from levl_eval.data.benchmarks import LETTERS
from levl_eval.data.formats import Entry, Id, MaybeText, Text, checked, shown
from levl_eval.data.types import Question

_OPTION = re.compile(r"\(([a-z])\)\s*", re.I)
_LETTERED = re.compile(r"\s*\(?([a-j])[.):]\s", re.I)
_NO_OPTION = ("", "nan", "none")  # what tables write where a question has fewer options
CIRCLE = 1_000_000  # MMBench: rows whose indices differ by a multiple of it are one question
OLD_INSTRUCTION = (
    "Please answer directly with only the letter of the correct option and nothing else."  # in RealWorldQA's questions
)


def _letter(value: object) -> object:
    """ "(B)", "b" or 1 as "B"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LETTERS):
        return LETTERS[value]
    return value.strip().strip("().").upper() if isinstance(value, str) else value


Letter = Annotated[str, BeforeValidator(_letter), Field(pattern=r"^[A-J]$")]
Options = Annotated[list[Text], Field(min_length=2, max_length=len(LETTERS))]


class CVBenchEntry(Entry):
    idx: Id
    type: Text
    task: Text
    question: Text
    choices: Options
    answer: Letter
    source: Text
    filename: MaybeText = ""


class SEEDEntry(Entry):
    question_id: Id
    data_id: Id
    data_type: Text
    question: Text
    choice_a: Text
    choice_b: Text
    choice_c: Text
    choice_d: Text
    answer: Letter
    question_type_id: int | None = None


class MCQEntry(Entry):
    """A user's question. group: questions that count together."""

    image: Text
    question: Text
    options: Options
    answer: Letter
    question_id: Id | None = None
    type: MaybeText = ""
    group: MaybeText = ""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Options without letters of their own, and an answer that is a letter and no option's text."""
        fields = value if isinstance(value, dict) else {}
        options, answer = fields.get("options"), fields.get("answer")
        if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
            return value
        marks = [m[1].upper() for o in options if (m := _LETTERED.match(o))]
        if len(options) > 1 and sorted(marks) == list(LETTERS[: len(options)]):
            raise ValueError(
                f"options begin with letters of their own, first {shown(options[0])}: they are given letters in order; leave theirs out"
            )
        texts = list(map(same_text, options))
        if isinstance(answer, str) and (text := same_text(answer)) in texts:
            right = LETTERS[texts.index(text)] if texts.index(text) < len(LETTERS) else ""
            if right != _letter(answer):
                raise ValueError(
                    f"field `answer`: {shown(answer)} is the text of option {right}, "
                    "where a letter is expected; give the right option's letter"
                )
        return value


class OpenEntry(Entry):
    image: Text
    question: Text
    answer: Text
    question_id: Id | None = None


class AI2DQuestion(Entry):
    answerTexts: Options
    correctAnswer: Annotated[int, Field(ge=0)]
    questionId: Text


def lettered(name: str, image: str, stem: str, options: Sequence[str], letter: str, meta: Mapping[str, object]) -> Question:
    """A question as it is asked. Raises ValueError: the letter is none of the options'."""
    if LETTERS.index(letter) >= len(options):
        raise ValueError(f"answer {letter} is none of the {len(options)} options")
    text = "\n".join([stem.strip(), *(f"{LETTERS[k]}. {o.strip()}" for k, o in enumerate(options))])
    own = {k: v for k, v in meta.items() if v not in ("", None)}
    if "group" in own:
        own["split"] = own["group"]
    return Question(
        name,
        image,
        text,
        letter,
        (),
        {"stem": stem.strip(), "choices": [o.strip() for o in options], "options": len(options), **own},
    )


def asked(source: object, entry: str, *args: object) -> Question:
    """:func:`lettered` of what follows. Raises UsageError naming source and entry."""
    try:
        return lettered(*args)  # type: ignore[arg-type]
    except ValueError as e:
        raise UsageError(f"{source}: {entry}: {e}; correct the entry or take the published file") from None


def cv_bench_question(row: object, source: object, entry: str, image: str = "") -> Question:
    """A row of CV-Bench, files or table. image: the image's id where it is not the row's file name."""
    e = checked(CVBenchEntry, row, source, entry)
    meta = {"type": e.task, "split": e.source}
    return asked(source, entry, f"{e.type}/{e.idx}", image or e.filename, e.question, e.choices, e.answer, meta)


def mmvp_question(index: str, text: str, options: str, answer: str, image: str, source: object) -> Question:
    """A line of MMVP: options "(a) Open (b) Closed", two questions a pair that count together."""
    entry = f"question {shown(index)}"
    parts = _options(options)
    letter = _letter(answer)
    if not plain_digits(index) or len(parts) < 2 or not all(parts) or letter not in tuple(LETTERS):
        raise UsageError(
            f"{source}: {entry}: expected an index, options (a) ... (b) ..., and the letter of one; take the published file"
        )
    return asked(source, entry, index, image, text, parts, letter, {"group": str((int(index) + 1) // 2)})


def _options(text: str) -> list[str]:
    """What stands behind (a), (b), ... of a text, in this order: an "(s)" within an option is none of them."""
    starts: list[tuple[int, int]] = []
    for m in _OPTION.finditer(text):
        if m[1].upper() == LETTERS[len(starts) : len(starts) + 1]:
            starts.append(m.span())
    ends = [begin for begin, _ in starts[1:]] + [len(text)]
    return [text[begin:end].strip() for (_, begin), end in zip(starts, ends, strict=False)]  # none, where nothing starts


def mmbench_question(row: Mapping[str, object], source: object, entry: str, image: str = "") -> Question:
    """A row of MMBench: index, question, hint, A to E, answer, category."""
    index, question, answer = (row.get(k) for k in ("index", "question", "answer"))
    text = str(index).strip()
    options = [str(row.get(c) if row.get(c) is not None else "").strip() for c in "ABCDE"]
    while options and options[-1].lower() in _NO_OPTION:
        options.pop()
    letter = _letter(answer)
    if (
        not plain_digits(text)
        or "" in options
        or not isinstance(question, str)
        or len(options) < 2
        or not isinstance(letter, str)
        or letter not in tuple(LETTERS)
    ):
        raise UsageError(
            f"{source}: {entry}: expected index, question, options A, B, ... and the letter of one; take a split with answers (dev)"
        )
    hint = str(row.get("hint") or "").strip()
    stem = question if hint.lower() in _NO_OPTION else f"{hint}\n{question}"
    group = str(int(text) % CIRCLE)
    meta = {"type": str(row.get("category") or ""), "group": group}
    return asked(source, entry, text, image or group, stem, options, letter, meta)


def ai2d_question(name: str, image: str, text: str, options: Sequence[str], answer: object, source: object) -> Question:
    """answer: the option's number from 0, as a number or as text."""
    number = int(answer) if isinstance(answer, str) and plain_digits(answer) else answer
    letter = _letter(number)
    if not isinstance(letter, str) or letter not in tuple(LETTERS):
        raise UsageError(
            f"{source}: question {shown(name)}: answer {shown(answer)} is no option's number; take the published file"
        )
    return asked(source, f"question {shown(name)}", name, image, text, list(options), letter, {})


def realworldqa_question(name: str, image: str, text: str, answer: str) -> Question:
    """A question with or without lettered options in its text; the options are read off it where it has them."""
    stem = text.replace(OLD_INSTRUCTION, "").strip()
    parts = re.split(r"\n\s*([A-J])[.)]\s+", "\n" + stem)
    options = [p.strip() for p in parts[2::2]]
    if (
        len(options) >= 2
        and parts[1::2] == list(LETTERS[: len(options)])
        and answer.strip().upper() in tuple(LETTERS[: len(options)])
    ):
        return lettered(name, image, parts[0], options, answer.strip().upper(), {})
    return Question(name, image, stem, answer.strip(), (), {})


def blink_question(row: Mapping[str, object], name: str, image: str, source: object) -> Question:
    """A row of BLINK about one image: its question and choices; several images a row are not asked here."""
    if any(row.get(f"image_{k}") is not None for k in (2, 3, 4)):
        raise UsageError(
            f"{source}: row {name} is about several images; the connector reads one, take a task with one image a question"
        )
    choices = row.get("choices")
    letter = _letter(row.get("answer"))
    if (
        not isinstance(choices, list)
        or not all(isinstance(c, str) and not blank(c) for c in choices)
        or not isinstance(row.get("question"), str)
        or not isinstance(letter, str)
        or letter not in tuple(LETTERS)
    ):
        raise UsageError(
            f"{source}: row {name}: expected question, choices and an answer (A), (B), ...; take split val, whose answers are public"
        )
    return asked(
        source,
        f"row {name}",
        name,
        image,
        row["question"],
        [str(c) for c in choices],
        letter,
        {"type": str(row.get("sub_task") or "")},
    )


Rows = Callable[[int, Mapping[str, object], str], Question]
# Layout -> a row of its hub table as a question. Images of a layout not named in IMAGE_COLUMNS stand in column image.
HUB_ROWS: dict[str, Rows] = {
    "cv-bench": lambda row, cells, source: cv_bench_question(cells, source, f"row {row}", f"{row:06d}"),
    "mmvp": lambda row, cells, source: mmvp_question(
        str(cells.get("Index") or row + 1), _cell(cells, "Question", row, source), _cell(cells, "Options", row, source),
        _cell(cells, "Correct Answer", row, source), f"{row:06d}", source
    ),
    "mmbench": lambda row, cells, source: mmbench_question(cells, source, f"row {row}", f"{row:06d}"),
    "ai2d": lambda row, cells, source: ai2d_question(
        str(row), f"{row:06d}", _cell(cells, "question", row, source),
        _texts(cells["options"], "options", row, source), cells["answer"], source
    ),
    "realworldqa": lambda row, cells, source: realworldqa_question(
        str(row), f"{row:06d}", _cell(cells, "question", row, source), _cell(cells, "answer", row, source)
    ),
    "blink": lambda row, cells, source: blink_question(cells, str(cells.get("idx") or row), f"{row:06d}", source),
}  # fmt: skip
HUB_COLUMNS: dict[str, set[str]] = {
    "cv-bench": {"idx", "type", "task", "question", "choices", "answer", "source"}, "mmvp": {"Question", "Options", "Correct Answer"},
    "mmbench": {"index", "question", "A", "B", "answer"}, "ai2d": {"question", "options", "answer"}, "realworldqa": {"question", "answer"},
    "blink": {"question", "choices", "answer"},
}  # fmt: skip
IMAGE_COLUMNS = {"blink": "image_1"}


def _cell(cells: Mapping[str, object], column: str, row: int, source: str) -> str:
    """A cell's text. Raises UsageError naming the row: none, blank, or of another kind, which is not printed as if it were text."""
    value = cells[column]
    if not isinstance(value, str) or blank(value):
        raise UsageError(
            f"{source}: row {row}: field `{column}`: expected text that is not blank, found {shown(value)}; correct the table"
        )
    return value


def _texts(value: object, column: str, row: int, source: str) -> list[str]:
    listed = list(value) if isinstance(value, (list, tuple)) else []
    return [_cell({column: v}, column, row, source) for v in listed]
