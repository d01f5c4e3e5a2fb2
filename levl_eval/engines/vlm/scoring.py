"""From answers to the official metrics of each question task, every one with an interval clustered by image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.types import Question
from levl_eval.engines.vlm.boxes import box_estimates, overlap
from levl_eval.engines.vlm.options import chance, mean_of, means_of_types
from levl_eval.metrics.boxes import THRESHOLD
from levl_eval.metrics.calibration import calibration_of_sums
from levl_eval.metrics.documents import anls, ocrbench_correct, relaxed_correct
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.gqa import gqa_belongs, gqa_correct, weighted_gqa_distribution
from levl_eval.metrics.mme import COGNITION, PERCEPTION, mme_answer
from levl_eval.metrics.pope import is_unparsed, pope_answer, probability_counts, weighted_average_precision, yes_probability
from levl_eval.metrics.statistics import Z95, bootstrap_statistic, bootstrap_weighted, mean_estimate
from levl_eval.metrics.truth import truth_answer
from levl_eval.metrics.vqa import exact_match, soft_accuracy, textvqa_accuracy, vizwiz_accuracy, vqa_accuracy

_SOFT = {"vqav2": vqa_accuracy, "textvqa": textvqa_accuracy, "vizwiz": vizwiz_accuracy, "soft": soft_accuracy}  # by annotators
_ENOUGH = 4  # annotators
_TEN = ("vqav2", "textvqa", "vizwiz")  # scorers made for ten annotators a question
_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:[.:)\],].*|\s[-\u2013\u2014]\s.*)?$", re.DOTALL)
_NAMED = re.compile(
    r"\b(?i:answer|option|choice|it)\b(?i:\s+(?:is|would be|should be))?(?i:\s+(?:option|choice))?"
    r"\s*[:=]?\s*[(\[]?([A-Za-z])(?=[.:)\],]|\s*$|\s)"
)
_BRACKETS = re.compile(r"\(([A-Z])\)")


def chosen_letter(text: str) -> str:
    """The letter of a choice an answer gives, "" where it gives none or several; no word's first letter.

    "b", "(B) steam", "B. steam", "B - steam"; "The answer is B.", "Answer: (B)", "Option B"; one letter in brackets; also in
    Markdown's bold. LLaVA's official rule for ScienceQA knows the bare letter, "B. ..." and "The answer is B." alone.
    """
    plain = re.sub(r"[*_`]+", "", text).strip()
    match = _LETTER.match(plain)
    if match:
        return match[1].upper()
    for pattern in (_NAMED, _BRACKETS):
        # In running text "a" is an article: a small letter counts only where a mark or the end follows.
        letters = {
            m[1].upper() for m in pattern.finditer(plain) if m[1].isupper() or plain[m.end() : m.end() + 1] in ("", ".", ":", ")", "]", ",")
        }  # fmt: skip
        if letters:
            return letters.pop() if len(letters) == 1 else ""
    return ""


def check_scorer(scorer: str, questions: Sequence[Question]) -> None:
    """Raises UsageError where some of the questions have no answer,
    or a rule for ten annotators meets one with so few answers that it could never score 1:
    an answer counts whole where three of the others gave it, and each annotator is left out in turn."""
    bare = [q for q in questions if not q.answer.strip() and not any(a.strip() for a in q.answers)]
    if 0 < len(bare) < len(questions):
        raise UsageError(
            f"{len(bare)} of {len(questions)} questions have no answer, first {printable(bare[0].question_id)}: "
            "none given to them could be right; take the published file, or leave them out"
        )
    few = [q for q in questions if 0 < (len(q.answers) or bool(q.answer)) < _ENOUGH] if scorer in _TEN else []
    if few:
        count = len(few[0].answers) or 1
        words = "a single answer" if count == 1 else f"{count} answers"
        raise UsageError(
            f"scorer {scorer}: {len(few)} of {len(questions)} questions have fewer than {_ENOUGH} answers, "
            f"first {printable(few[0].question_id)} with {words}; its rule is made for ten annotators "
            "and could never score them 1: give all their answers, or set scorer to soft or exact"
        )


def score(scorer: str, question: Question, text: str) -> float:
    """Score of one answer in [0, 1] by the task's official rule."""
    if scorer == "gqa":
        return float(gqa_correct(text, question.answer))
    if scorer == "pope":
        return float(pope_answer(text) == question.answer)
    if scorer == "mme":
        return float(mme_answer(text) == question.answer)
    if scorer in _SOFT:
        return _SOFT[scorer](text, question.answers or (question.answer,))
    if scorer == "anls":
        return anls(text, question.answers or (question.answer,))
    if scorer == "truth":
        return float(truth_answer(text) == question.answer)
    if scorer == "box":
        return float(overlap(question, text) >= THRESHOLD)
    if scorer == "relaxed":
        return float(relaxed_correct(text, question.answer))
    if scorer == "ocrbench":
        return float(ocrbench_correct(text, question.answers, question.meta.get("dataset") == "HME100k"))
    if scorer == "letter" or (scorer == "letter-or-text" and "choices" in question.meta):
        return float(chosen_letter(text) == question.answer.upper())
    if scorer == "letter-or-text":  # lmms-eval's rule for RealWorldQA's open questions
        return float(text.lower().strip().rstrip(".") == question.answer.lower())
    return float(exact_match(text, question.answer))


def mean_name(scorer: str) -> str:
    """What the mean of a scorer's scores is called among the metrics."""
    return "anls" if scorer == "anls" else "accuracy"


def weights(questions: Sequence[Question]) -> np.ndarray:
    """Factors that turn the mean over questions into the mean over POPE's splits; all 1 where there are no splits."""
    splits = [str(q.meta.get("split", "")) for q in questions]
    counts = {s: splits.count(s) for s in set(splits)}
    return np.array([len(splits) / (len(counts) * counts[s]) for s in splits])


def together(values: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """Scores [questions], each question of a group (meta ``group``)
    scored 1 only where all of the group's are: pairs, circular evaluation."""
    groups = [q.meta.get("group") for q in questions]
    if not any(groups):
        return values
    least: dict[object, float] = {}
    for g, v in zip(groups, values.tolist(), strict=True):
        least[g] = min(v, least.get(g, v))
    return np.array([v if g is None else least[g] for g, v in zip(groups, values.tolist(), strict=True)])


def scores_of(scorer: str, questions: Sequence[Question], answers: Mapping[str, str]) -> np.ndarray:
    """[questions] scores; a question without an answer (one that failed) scores 0, whatever its scorer makes of an empty text."""
    values = [score(scorer, q, answers[q.question_id]) if q.question_id in answers else 0.0 for q in questions]
    return together(np.array(values), questions)


def estimates(
    scorer: str,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    likelihoods: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Estimate]:
    """The metrics of a task by name. ``answers`` and ``likelihoods`` (of yes and no) by question id.

    A question without an answer has failed and counts as answered wrongly: under POPE's rule, which reads everything as yes or no, with
    the opposite of its label. Metrics of likelihoods leave it out.
    """
    check_scorer(scorer, questions)
    texts = [answers.get(q.question_id, "") for q in questions]
    scores = scores_of(scorer, questions, answers)
    images = np.array([q.image_id for q in questions])
    if scorer == "pope":
        opposite = {"yes": "no", "no": "yes"}
        given = [answers[q.question_id] if q.question_id in answers else opposite[q.answer] for q in questions]
        out = _pope(questions, given, images)
        if likelihoods:
            asked = [q for q in questions if q.question_id in likelihoods]
            out |= _likelihood(asked, likelihoods, np.array([q.image_id for q in asked]))
        return out
    if any("choices" in q.meta for q in questions):
        return lettered_estimates(questions, answers, scores)
    out = {mean_name(scorer): mean_estimate(scores, images)}
    if scorer == "gqa":
        out |= _gqa(questions, texts, scores, images)
    elif scorer == "mme":
        out |= _mme(questions, scores, images)
    elif scorer == "truth":
        out["unparsed"] = mean_estimate(np.array([float(truth_answer(t) == "other") for t in texts]), images)
    elif scorer == "box":
        out |= box_estimates(questions, answers, scores)
    elif scorer == "ocrbench":
        kinds = np.array([str(q.meta.get("type", "")).endswith("Recognition") for q in questions])
        formulas = np.array(["Expression" in str(q.meta.get("type", "")) for q in questions])
        out["recognition"] = mean_estimate(scores[kinds & ~formulas], images[kinds & ~formulas])
    for key in ("answer_type", "question_type", "type", "subject"):
        out |= parts_of_kinds(key, [str(q.meta.get(key) or "") for q in questions], scores, images)
    for key, plural in (("question_type", "question_types"), ("answer_type", "answer_types"), ("operation", "operations")):
        out |= parts_of_labels(key, [q.meta.get(plural) or () for q in questions], scores, images)
    return {k: e for k, e in out.items() if e.n}


def lettered_estimates(questions: Sequence[Question], answers: Mapping[str, str], scores: np.ndarray) -> dict[str, Estimate]:
    """Of questions with options: accuracy over their splits, by question, by kind, chance, and unparsed answers."""
    images = np.array([q.image_id for q in questions])
    out = {"accuracy": mean_of(scores, questions)}
    if any("split" in q.meta for q in questions):
        alone = [float(q.question_id in answers and chosen_letter(answers[q.question_id]) == q.answer.upper()) for q in questions]
        out["question_accuracy"] = mean_estimate(np.array(alone), images)
    unparsed = [float("choices" in q.meta and not chosen_letter(answers.get(q.question_id, ""))) for q in questions]
    out["unparsed"] = mean_estimate(np.array(unparsed), images)
    out |= chance(scores, questions, weights(questions))
    return out | means_of_types(scores, questions)


def parts_of_labels(name: str, labels: Sequence[Sequence[str]], scores: np.ndarray, images: np.ndarray) -> dict[str, Estimate]:
    """Means over the questions that have a label, of which each may have several."""
    out = {}
    for label in sorted({v for of in labels for v in of}):
        chosen = np.array([label in of for of in labels])
        out[f"{name}/{label}"] = mean_estimate(scores[chosen], images[chosen])
    return out


def parts_of_kinds(name: str, values: Sequence[str], scores: np.ndarray, images: np.ndarray) -> dict[str, Estimate]:
    """Means within the groups of ``values``; '' belongs to none."""
    array = np.array(values)
    return {f"{name}/{v}": mean_estimate(scores[array == v], images[array == v]) for v in sorted(set(values) - {""})}


def clusters(images: np.ndarray) -> tuple[np.ndarray, int]:
    names, index = np.unique(images, return_inverse=True)
    return index, len(names)


_Cells = Callable[[np.ndarray], np.ndarray]  # [..., 5] sums of (true yes, false yes, missed yes, true no, unparsed) -> [...]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is, as published."""
    return np.where(b > 0, a / np.maximum(b, 1e-12), 0.0)


POPE_METRICS: dict[str, _Cells] = {
    "accuracy": lambda c: _ratio(c[..., 0] + c[..., 3], c[..., :4].sum(-1)),
    "precision": lambda c: _ratio(c[..., 0], c[..., 0] + c[..., 1]),
    "recall": lambda c: _ratio(c[..., 0], c[..., 0] + c[..., 2]),
    "f1": lambda c: _ratio(2 * c[..., 0], 2 * c[..., 0] + c[..., 1] + c[..., 2]),
    "yes_ratio": lambda c: _ratio(c[..., 0] + c[..., 1], c[..., :4].sum(-1)),
    "unparsed": lambda c: _ratio(c[..., 4], c[..., :4].sum(-1)),
}


def _pope(questions: Sequence[Question], texts: Sequence[str], images: np.ndarray) -> dict[str, Estimate]:
    """Each of POPE's metrics as mean over the splits (its plain name), pooled (_pooled), and by split (_random, ...)."""
    index, k = clusters(images)
    splits = np.array([q.meta.get("split", "") for q in questions])
    names = list(dict.fromkeys(splits.tolist()))
    yes = np.array([pope_answer(t) == "yes" for t in texts])
    true = np.array([q.answer == "yes" for q in questions])
    cells = (yes & true, yes & ~true, ~yes & true, ~yes & ~true, np.array([is_unparsed(t) for t in texts]))
    counts = np.zeros((k, len(names), 5))
    for s, name in enumerate(names):
        mask = splits == name
        for c, cell in enumerate(cells):
            counts[:, s, c] = np.bincount(index[mask], cell[mask].astype(float), k)
    out: dict[str, Estimate] = {}
    for metric, of in POPE_METRICS.items():
        n = len(questions)
        out[metric] = bootstrap_statistic(counts, lambda c, of=of: of(c).mean(-1), n=n)  # type: ignore[misc]
        if len(names) > 1:
            out[f"{metric}_pooled"] = bootstrap_statistic(counts.sum(1), of, n=n)
            for s, name in enumerate(names):
                there = counts[:, s, :4].sum(-1) > 0
                out[f"{metric}_{name}"] = bootstrap_statistic(counts[there, s], of, n=int((splits == name).sum()))
    return out


def _likelihood(
    questions: Sequence[Question], likelihoods: Mapping[str, Sequence[float]], images: np.ndarray
) -> dict[str, Estimate]:
    """Average precision of P(yes) by split and pooled, and its calibration error: beside the answers, never instead of them."""
    p = np.array([yes_probability(*likelihoods[q.question_id][:2]) for q in questions])
    y = np.array([q.answer == "yes" for q in questions])
    splits = np.array([q.meta.get("split", "") for q in questions])

    def ap(mask: np.ndarray) -> Estimate:
        return bootstrap_weighted(lambda w: weighted_average_precision(p[mask], y[mask], w), images[mask])

    everything = np.ones(len(p), bool)
    out = {
        "likelihood_ap": ap(everything),
        "likelihood_calibration_error": bootstrap_statistic(
            probability_counts(p, y.astype(float), clusters(images)[0]), calibration_of_sums, n=len(p)
        ),
        "likelihood_accuracy": mean_estimate(((p > 0.5) == y).astype(float), images),
    }
    names = list(dict.fromkeys(splits.tolist()))
    return out | ({f"likelihood_ap_{s}": ap(splits == s) for s in names} if len(names) > 1 else {})


def _gqa(questions: Sequence[Question], texts: Sequence[str], scores: np.ndarray, images: np.ndarray) -> dict[str, Estimate]:
    """What the official evaluation reports, as far as the metadata allows (grounding needs attention maps)."""
    types = [q.meta.get("types") or {} for q in questions]
    out: dict[str, Estimate] = {}
    structural = [str(t.get("structural") or "") for t in types]
    if any(structural):
        kind = ["" if not s else "open" if s == "query" else "binary" for s in structural]
        out |= {k.removeprefix("kind/"): e for k, e in parts_of_kinds("kind", kind, scores, images).items()}
    out |= parts_of_kinds("structural", structural, scores, images)
    out |= parts_of_kinds("semantic", [str(t.get("semantic") or "") for t in types], scores, images)
    out |= parts_of_kinds("steps", [str(q.meta.get("steps", "")) for q in questions], scores, images)
    out |= parts_of_kinds("words", [str(len(q.question.split())) for q in questions], scores, images)

    right = {q.question_id: bool(s) for q, s in zip(questions, scores, strict=True)}
    index, k = clusters(images)
    shares = np.zeros((k, 2))
    for i, q in enumerate(questions):
        inferred = [e for e in q.meta.get("entailed") or () if e != q.question_id and e in right]
        if scores[i] and inferred:
            shares[index[i]] += sum(right[e] for e in inferred) / len(inferred), 1
    if shares[:, 1].sum():
        out["consistency"] = bootstrap_statistic(shares, lambda c: _ratio(c[..., 0], c[..., 1]), n=int(shares[:, 1].sum()))
    for name, key in (("validity", "valid"), ("plausibility", "plausible")):
        known = np.array([key in q.meta for q in questions])
        if known.any():
            hits = [gqa_belongs(t, q.meta[key], q.meta) for q, t in zip(questions, texts, strict=True) if key in q.meta]
            out[name] = mean_estimate(np.array(hits, float), images[known])
    groups = [(q.meta.get("groups") or {}).get("global") for q in questions]
    kept = [i for i, g in enumerate(groups) if g]
    if kept:
        out["distribution"] = _distribution(
            [questions[i].answer for i in kept], [texts[i] for i in kept], [str(groups[i]) for i in kept], images[kept]
        )
    return out


def _distribution(gold: Sequence[str], given: Sequence[str], groups: Sequence[str], images: np.ndarray) -> Estimate:
    """GQA's distribution distance, lower is better; its interval is centred on the value.

    Resampling adds noise to every count, and a distance only grows by noise: the draws' percentiles would lie above the value.
    Their spread is the standard error all the same.
    """
    e = bootstrap_weighted(lambda w: weighted_gqa_distribution(gold, given, groups, w), images)
    if e.stderr is None:
        return e
    half = Z95 * e.stderr
    return e.model_copy(
        update={"low": max(0.0, e.value - half), "high": e.value + half, "method": f"normal, standard error by {e.method}"}
    )


def _mme(questions: Sequence[Question], scores: np.ndarray, images: np.ndarray) -> dict[str, Estimate]:
    """MME's scores as shares of their maximum: (accuracy + accuracy of image pairs) / 2, a category and their means.

    The published points are 2000 times ``perception`` and 800 times ``cognition``.
    """
    index, k = clusters(images)
    category = {int(i): str(q.meta.get("category", "")) for i, q in zip(index, questions, strict=True)}
    names = sorted(set(category.values()))
    where = np.array([names.index(category[i]) for i in range(k)])
    asked, right = np.bincount(index, minlength=k), np.bincount(index, scores, k)
    counts = np.zeros((k, len(names), 4))
    counts[np.arange(k), where] = np.stack([right, asked, (right == asked).astype(float), np.ones(k)], -1)

    def of(c: np.ndarray) -> np.ndarray:
        points: np.ndarray = (_ratio(c[..., 0], c[..., 1]) + _ratio(c[..., 2], c[..., 3])) / 2
        return points

    out = {"accuracy_plus": mean_estimate((right == asked).astype(float))}
    for s, name in enumerate(names):
        out[f"category/{name}"] = bootstrap_statistic(counts[where == s, s], of, n=int(asked[where == s].sum()))
    for title, members in (("perception", PERCEPTION), ("cognition", COGNITION)):
        chosen = [s for s, name in enumerate(names) if name in members]
        if chosen:
            out[title] = bootstrap_statistic(counts[:, chosen], lambda c: of(c).mean(-1), n=int(counts[:, chosen, 1].sum()))
    return out
