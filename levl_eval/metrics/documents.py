"""Scores of questions about charts, documents and text in images, each as its authors' evaluation has it."""

from __future__ import annotations

from collections.abc import Sequence

ANLS_THRESHOLD = 0.5
RELATIVE_CHANGE = 0.05


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of single characters."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one question, in [0, 1] (Biten et al., ICCV 2019, equation 1; DocVQA, InfographicVQA).

    One minus the least distance to an answer as a share of the longer text, 0 below one half. Case and repeated spaces do not count in the
    distance; the lengths are those of the texts as they stand, as in the challenge's own script. Raises ValueError without
    reference answers.
    """
    if not answers:
        raise ValueError("anls: no reference answers")
    given = " ".join(prediction.strip().lower().split())
    shares = []
    for answer in answers:
        length = max(len(answer.upper()), len(prediction.upper()))
        shares.append(edit_distance(" ".join(answer.strip().lower().split()), given) / length if length else 0.0)
    similarity = 1 - min(shares)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def _number(text: str) -> float | None:
    """The number a text is, percent as a share of one; None where it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_correct(prediction: str, answer: str) -> bool:
    """ChartQA's relaxed accuracy (Masry et al., 2022, section 5.1): a number within 5 % of the right one; else the same text but for case.

    An answer of 0 has no relative change and is compared as text, as in the published evaluations.
    """
    given, right = _number(prediction), _number(answer)
    if given is not None and right:
        return abs(given - right) / abs(right) <= RELATIVE_CHANGE
    return prediction.lower() == answer.lower()


def ocrbench_correct(prediction: str, answers: Sequence[str], formula: bool) -> bool:
    """OCRBench's rule (Liu et al., 2023; example.py of its authors): whether an answer occurs in the prediction, but for case.

    formula: of a handwritten formula (data set HME100k), where spaces do not count and case does.
    """

    def form(text: str) -> str:
        return text.strip().replace("\n", " ").replace(" ", "") if formula else text.lower().strip().replace("\n", " ")

    return any(form(a) in form(prediction) for a in answers)
