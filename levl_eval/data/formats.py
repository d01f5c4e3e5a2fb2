"""One model for each format of questions: which fields an entry has and of what type, alike for files, tables of the hub and users.

An entry that does not fit is refused in one line that names the file, the entry and the field. References may be a text, a list of
texts, or the official list of objects with `answer`; nothing else becomes text by being printed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from levl_eval.core.errors import UsageError
from levl_eval.core.text import as_typed, blank, spelled, written_value


def _unicode(value: str) -> str:
    """The text itself. Raises ValueError for half of a surrogate pair, which JSON can escape and no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or blank(value):
        raise ValueError("expected text that is not blank")
    return _unicode(value)


def _id(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise ValueError("expected a number or text")
    return _unicode(str(value))


def _word(value: object) -> object:
    if not _plain(value):
        raise ValueError("expected text")
    return _unicode(spelled(value))


def _plain(value: object) -> bool:
    """Whether a value reads as a word: text or a number; not true, false, NaN or an infinity, which JSON itself does not know."""
    return (
        isinstance(value, (str, int, float)) and not isinstance(value, bool) and (isinstance(value, str) or math.isfinite(value))
    )


def _label(value: object) -> object:
    word = value.strip().lower() if isinstance(value, str) else value
    if word not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return word


_WEIGHTS = frozenset({"weight", "count", "frequency", "votes"})  # of an answer, which count for nothing here


def _answers(value: object) -> object:
    """A text, a list of texts, or a list of objects with `answer`, as a list of texts."""
    if value is None:
        return []
    if isinstance(value, str) and written_value(value):
        raise ValueError("expected a text, or a list of texts, not a list or object written as one text")
    listed = value if isinstance(value, (list, tuple)) else [value]
    out = []
    for one in listed:
        word = one.get("answer") if isinstance(one, dict) else one
        if not _plain(word):
            raise ValueError("expected a text, a list of texts, or a list of objects with `answer`")
        if isinstance(one, dict) and (weighted := sorted(_WEIGHTS & set(one))):
            raise ValueError(f"an answer's `{weighted[0]}` is not read: give an answer as often as annotators gave it")
        out.append(_unicode(spelled(word)))
    return out


def _maybe_text(value: object) -> object:
    return "" if value is None else _unicode(value) if isinstance(value, str) else value


def _not_negative(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        raise ValueError("expected a number from 0, or text")
    return value


def _none_blank(answers: list[str]) -> list[str]:
    if not answers or any(map(blank, answers)):
        raise ValueError("expected answers that are not blank: a blank one occurs in every text")
    return answers


Text = Annotated[str, BeforeValidator(_text)]
Id = Annotated[str, BeforeValidator(_id)]
Word = Annotated[str, BeforeValidator(_word)]
Answers = Annotated[list[str], BeforeValidator(_answers)]
Typed = Annotated[Answers, AfterValidator(lambda answers: [as_typed(a) for a in answers])]
NoBlankAnswers = Annotated[Answers, AfterValidator(_none_blank)]
Label = Annotated[str, BeforeValidator(_label)]
MaybeText = Annotated[str, BeforeValidator(_maybe_text)]


class Entry(BaseModel):
    """What is known of an entry; other fields it has are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="after")
    def _every_text_can_be_written(self) -> Entry:
        for name, value in self.__dict__.items():
            for one in value if isinstance(value, list) else value.values() if isinstance(value, dict) else (value,):
                if isinstance(one, str):
                    try:
                        _unicode(one)
                    except ValueError as e:
                        raise ValueError(f"field `{name}`: {e}") from None
        return self


class GQA(Entry):
    imageId: Id
    question: Text
    answer: MaybeText = ""
    types: dict[str, str | None] | None = None
    groups: dict[str, str | None] | None = None
    entailed: list[str] | None = None
    isBalanced: bool | None = None
    semantic: list[dict[str, object]] | None = None


class VQAv2Question(Entry):
    question_id: Id
    image_id: Annotated[int, Field(ge=0, lt=10**12)]
    question: Text


class VQAv2Annotation(Entry):
    question_id: Id
    image_id: Annotated[int, Field(ge=0, lt=10**12)] | None = None
    question_type: str
    answer_type: str
    multiple_choice_answer: str
    answers: Annotated[Answers, Field(min_length=1)]


class POPE(Entry):
    question_id: Id
    image: Text
    text: Text
    label: Label


class Turn(Entry):
    speaker: str = Field(alias="from")
    value: str


class LLaVA(Entry):
    conversations: list[Turn]
    image: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_image(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("image"), list):
            raise ValueError(f"field `image`: a list of {len(value['image'])}; a connector is trained for one image an entry")
        return {**value, "image": None} if isinstance(value, dict) and value.get("image") == "" else value


class TextVQA(Entry):
    question_id: Id
    image_id: Id
    question: Text
    answers: Answers = []


class VizWiz(Entry):
    image: Text
    question: Text
    answers: Answers = []
    answer_type: str | None = None
    category: str | None = None


class ScienceQA(Entry):
    question: Text
    choices: Annotated[list[str], Field(min_length=2, max_length=10)]
    answer: Annotated[int, Field(ge=0)]
    hint: MaybeText = ""
    subject: str | None = None
    topic: str | None = None

    @model_validator(mode="after")
    def _inside(self) -> ScienceQA:
        if self.answer >= len(self.choices):
            raise ValueError(f"field `answer`: {self.answer} is none of the {len(self.choices)} choices, which count from 0")
        return self


class MME(Entry):
    question_id: Id
    question: Text
    answer: Label
    category: Text


class VQA(Entry):
    """A user's question; with both, ``answer`` is shown as the reference and ``answers`` are scored against."""

    image: Text
    question: Text
    answer: Typed = []
    answers: Typed = []
    question_id: Id | None = None
    type: Word | None = None

    @model_validator(mode="after")
    def _answered(self) -> VQA:
        if any(map(blank, (*self.answer, *self.answers))):
            raise ValueError("neither `answer` nor `answers` holds a word" if all(
                blank(a) for a in (*self.answer, *self.answers)) else "an answer is blank; fill it or leave it out")  # fmt: skip
        if not self.answer and not self.answers:
            raise ValueError("neither `answer` nor `answers` holds a word")
        alike = {a.strip().casefold() for a in self.answers}
        other = next((a for a in self.answer if alike and a.strip().casefold() not in alike), None)
        if other is not None:
            raise ValueError(f"`answer` {other[:60]!r} is none of `answers`, which are scored against")
        return self

    def references(self) -> tuple[str, tuple[str, ...]]:
        """The answer to show, and all that count."""
        answers = self.answers or (self.answer if len(self.answer) > 1 else [])
        shown = self.answer[0] if len(self.answer) == 1 else Counter(answers).most_common(1)[0][0]
        return shown, tuple(answers)


class HubPOPE(Entry):
    question: Text
    answer: Label
    category: Literal["random", "popular", "adversarial"]
    question_id: Id | None = None
    image_source: Id | None = None
    id: Id | None = None


class HubVQAv2(Entry):
    question_id: Id
    image_id: Annotated[Id, BeforeValidator(_not_negative)]
    question: Text
    answers: Answers = []
    multiple_choice_answer: MaybeText = ""
    question_type: str | None = None
    answer_type: str | None = None


class HubVizWiz(Entry):
    question_id: Id
    question: Text
    answers: Answers = []
    answer_type: str | None = None
    category: str | None = None


class ChartQA(Entry):
    imgname: Text
    query: Text
    label: Word = ""


class HubChartQA(Entry):
    question: Text
    type: Text
    answer: Word = ""


class DocVQA(Entry):
    questionId: Id
    question: Text
    image: Text
    answers: Answers = []
    question_types: list[str] | None = None


class HubDocVQA(Entry):
    questionId: Id
    question: Text
    answers: Answers = []
    question_types: list[str] | None = None
    ucsf_document_id: Id | None = None
    ucsf_document_page_no: Id | None = None


class InfoVQA(Entry):
    questionId: Id
    question: Text
    image_local_name: Text
    answers: Answers = []
    answer_type: list[str] | None = None
    operations: list[str] | None = Field(None, alias="operation/reasoning")


class HubInfoVQA(Entry):
    questionId: Id
    question: Text
    answers: Answers = []
    image_url: Text | None = None
    answer_type: list[str] | None = None
    operations: list[str] | None = Field(None, alias="operation/reasoning")


class OCRBench(Entry):
    dataset_name: Text
    image_path: Text
    question: Text
    answers: NoBlankAnswers
    type: Text


class HubOCRBench(Entry):
    dataset: Text
    question: Text
    question_type: Text
    answer: NoBlankAnswers


class TallyQA(Entry):
    question_id: Id
    image: Text
    question: Text
    answer: Annotated[int, Field(ge=0)]
    issimple: bool | None = None


class Counted(Entry):
    question: Text
    answer: Word
    is_simple: bool | None = None


class HubTallyQA(Entry):
    qa: list[Counted]


class VSR(Entry):
    image: Text
    caption: Text
    label: Annotated[int, Field(ge=0, le=1)]
    relation: Text
    image_link: MaybeText = ""


M = TypeVar("M", bound=Entry)


def checked(model: type[M], value: object, source: object, entry: str) -> M:
    """``value`` as a ``model``. Raises UsageError: ``source``, ``entry``, the first field that does not fit, and what it holds."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise UsageError(f"{source}: {entry}: {_first(e, value)}; correct the entry or take the published file") from None


def _first(error: ValidationError, value: object) -> str:
    if not isinstance(value, dict):
        return f"expected an object with fields, found {shown(value)}"
    one = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(p) for p in one["loc"])
    if one["type"] == "missing":
        return f"field `{field}` is missing"
    words = one["msg"].removeprefix("Value error, ")
    if not field:
        return words
    return f"field `{field}`: {words[:1].lower()}{words[1:]}, found {shown(one['input'])}"


def shown(value: object) -> str:
    """A value as JSON in printable ASCII, cut to 60 characters."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return (text if len(text) <= 60 else text[:57] + "...").replace("\x7f", r"\u007f")


def unique_ids(ids: Iterable[str], source: object) -> None:
    """Raises UsageError where a question id occurs twice: one answer would be scored for both."""
    repeated = [k for k, n in Counter(ids).items() if n > 1]
    if repeated:
        raise UsageError(f"{source}: question id {shown(repeated[0])} occurs twice ({len(repeated)} such); make ids unique")


def majority(answers: Sequence[str]) -> str:
    """The most frequent of several annotators' answers, the first of those where they tie; "" of none."""
    return Counter(answers).most_common(1)[0][0] if answers else ""
