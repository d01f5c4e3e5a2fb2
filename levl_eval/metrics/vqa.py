"""VQA accuracy as the official evaluation computes it (Antol et al. 2015; Goyal et al. 2017; visualqa.org/evaluation.html)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})

# The official table of contractions, built from the words themselves: one typed without its apostrophe gets it back; of one with
# two apostrophes, the forms that lack either. (Rows of the table that no lower-cased word can match, such as "Im", do nothing
# there and are left out here.) "somebody'd", in the table the wrong way round, is kept as it is.
_ONE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd it'll ma'am "
    "mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd "
    "someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're they've 'twas wasn't we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've "
    "wouldn't y'all you'd you'll you're you've"
).split()
_TWO = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've there'd've "
    "they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've 'ow's'at"
).split()
_CONTRACTIONS: dict[str, str] = {w.replace("'", ""): w for w in _ONE}
_CONTRACTIONS |= {w[:i] + w[i + 1 :]: w for w in _TWO for i, c in enumerate(w) if c == "'"}
_CONTRACTIONS["somebody'd"] = "somebodyd"

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # as published: a period not followed by a digit goes
_COMMA = re.compile(r"(\d)(,)(\d)")


def _punctuation(text: str) -> str:
    """Marks are dropped where a space stands beside one of them (or a comma between digits), else replaced by a space."""
    out = text
    for mark in _PUNCTUATION:
        if mark + " " in text or " " + mark in text or _COMMA.search(text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    return _PERIOD.sub("", out, count=32)  # the published code passes a flag of value 32 where the count stands


@lru_cache(1 << 16)
def normalize_vqa_answer(answer: str) -> str:
    """An answer in the official form: line breaks to spaces, punctuation, lower case, number words, articles, contractions."""
    text = _punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = []
    for word in text.lower().split():
        word = _NUMBERS.get(word, word)
        if word not in _ARTICLES:
            words.append(_CONTRACTIONS.get(word, word))
    return " ".join(words)


def _key(normalized: str, raw: str) -> str:
    """What two answers are compared by: the normal form, and where nothing is left of it ("A", "the"), the bare word itself.

    "" where there is no word either; it equals nothing.
    """
    if normalized:
        return normalized
    bare = " ".join(re.sub(r"[^\w\s]", " ", raw).lower().split())
    return f"\0{bare}" if bare else ""


def exact_match(prediction: str, answer: str) -> bool:
    """Whether two answers are equal in the official form. What normalisation empties never matches what it empties of another."""
    key = _key(normalize_vqa_answer(prediction), prediction)
    return bool(key) and key == _key(normalize_vqa_answer(answer), answer)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy in [0, 1]: the mean over the annotators left out in turn of min(1, matches among the others / 3).

    As in the official code, answers are processed only where the annotators disagree, the prediction likewise. With a single
    reference answer it is an exact match of the processed strings.
    """
    given = prediction.replace("\n", " ").replace("\t", " ").strip()
    human = [a.replace("\n", " ").replace("\t", " ").strip() for a in answers]
    if not human:
        raise ValueError("vqa_accuracy: no reference answers")
    if len(human) == 1:
        return float(exact_match(given, human[0]))
    if len(set(human)) > 1:
        human = [_key(normalize_vqa_answer(a), a) for a in human]
        given = _key(normalize_vqa_answer(given), given)
    return _soft(given, human)


def _soft(given: str, human: Sequence[str], enough: int = 3) -> float:
    """Mean over the annotators left out in turn of min(1, matches among the others / ``enough``)."""
    equal = [a == given != "" for a in human]
    total = sum(equal)
    return sum(min(1.0, (total - e) / enough) for e in equal) / len(equal)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Our rule in [0, 1] for a user's own questions with any number of reference answers, everything processed.

    One: exact match. From four on VQA's leave-one-out mean; of two or three all the others must match, where VQA's rule, made for
    ten, would never give 1. Raises ValueError without reference answers.
    """
    if not answers:
        raise ValueError("soft_accuracy: no reference answers")
    given = _key(normalize_vqa_answer(prediction), prediction)
    human = [_key(normalize_vqa_answer(a), a) for a in answers]
    return float(given == human[0] != "") if len(human) == 1 else _soft(given, human, min(3, len(human) - 1))


def _textvqa_answer(text: str) -> str:
    return normalize_vqa_answer(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """TextVQA's soft accuracy in [0, 1] (Singh et al. 2019, as its authors' evaluator has it): everything is processed, also where
    all annotators agree, and commas, question marks and the space before 's are settled first.

    Raises ValueError without reference answers.
    """
    if not answers:
        raise ValueError("textvqa_accuracy: no reference answers")
    return _soft(_key(_textvqa_answer(prediction), prediction), [_key(_textvqa_answer(a), a) for a in answers])


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz's soft accuracy in [0, 1] (Gurari et al. 2018, as its authors' evaluator has it): the prediction is processed, the
    annotators' answers stand as they are in the file.

    Raises ValueError without reference answers.
    """
    if not answers:
        raise ValueError("vizwiz_accuracy: no reference answers")
    return _soft(normalize_vqa_answer(prediction), answers)
