"""VQA accuracy as the official evaluation computes it (Antol et al. 2015; Goyal et al. 2017; visualqa.org/evaluation.html)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})

# Contractions typed without their apostrophe, and with one misplaced, are given it back. Built from stems rather than listed
# by hand; the right column is the only spelling an answer keeps.
_CONTRACTIONS: dict[str, str] = {
    w.replace("'", ""): w
    for w in (
        "ain't", "aren't", "can't", "could've", "couldn't", "didn't", "doesn't", "don't", "hadn't", "hasn't", "haven't", "he'd",
        "he's", "how'd", "how'll", "how's", "I'd've", "I'm", "I've", "isn't", "it'd", "it'll", "let's", "ma'am", "mightn't", "might've",
        "mustn't", "must've", "needn't", "not've", "o'clock", "oughtn't", "ow's'at", "'ow's'at", "'ow'sat", "shan't", "should've", "shouldn't",
        "somebody'd", "somebody'll", "somebody's", "someone'd", "someone'll", "someone's", "something'd", "something'll", "that'd",
        "that's", "there'd", "there're", "there's", "they'd", "they'll", "they're", "they've", "'twas", "wasn't", "we'd've", "we've",
        "weren't", "what'll", "what're", "what's", "what've", "when's", "where'd", "where's", "where've", "who'd", "who'll", "who's",
        "who've", "why'll", "why're", "why's", "won't", "would've", "wouldn't", "y'all", "y'all'll", "you'd", "you'll", "you're", "you've",
    )
}  # fmt: skip
_CONTRACTIONS |= {"couldn'tve": "couldn't've", "couldnt've": "couldn't've", "hadnt've": "hadn't've", "hadn'tve": "hadn't've"}
_CONTRACTIONS |= {
    "wouldnt've": "wouldn't've",
    "wouldn'tve": "wouldn't've",
    "shouldnt've": "shouldn't've",
    "shouldn'tve": "shouldn't've",
}
for _word in ("id", "im", "ive", "shell", "well", "were", "hell", "ill"):  # words of their own, or not in the official table
    _CONTRACTIONS.pop(_word, None)

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
    return _PERIOD.sub("", out)


def normalize_vqa_answer(answer: str) -> str:
    """An answer in the official form: line breaks to spaces, punctuation, lower case, number words, articles, contractions."""
    text = _punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = []
    for word in text.lower().split():
        word = _NUMBERS.get(word, word)
        if word not in _ARTICLES:
            words.append(_CONTRACTIONS.get(word, word))
    return " ".join(words)


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
        return float(normalize_vqa_answer(given) == normalize_vqa_answer(human[0]))
    if len(set(human)) > 1:
        human = [normalize_vqa_answer(a) for a in human]
        given = normalize_vqa_answer(given)
    equal = [a == given for a in human]
    total = sum(equal)
    return sum(min(1.0, (total - e) / 3) for e in equal) / len(equal)
