"""Every metric an engine gives, as data: unit, direction, range, chance, decimals. Nothing is guessed from a name.

A metric is known under a plain name ("mean_iou") or by a family that is declared here ("top1_k{n}", "floor_{name}"). In a family
``{n}`` is a whole number, ``{name}`` any word without "/", ``{rest}`` anything; any of READOUT_METRICS may be followed by "/READOUT".
lmms-eval's tasks bring metrics of their own: their direction is what lmms-eval's task file says (a record's
``notes.lmms.higher_is_better``), their unit is in LMMS, and where it is not, the value is shown as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from levl_eval.core.json_types import object_at

Direction = Literal["higher", "lower", "none", "unknown"]  # none: neither end is the better one; unknown: nobody says
Bounds = tuple[float, float]  # of the values; infinite where there is no end

FRACTION: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)  # of two fractions
POSITIVE: Bounds = (0.0, math.inf)
ANY: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Metric:
    """name: as looked up. unit: "percent" of a fraction, else what the value is in ("" for pure numbers).

    bounds: the values it can have, before any scaling for people. chance: what guessing gives; "k/classes" for k of as many as
    there are classes; None where the metric alone does not say (a card may). digits: decimals in tables for people.
    """

    name: str
    unit: str = "percent"
    better: Direction = "higher"
    bounds: Bounds = FRACTION
    chance: float | str | None = None
    digits: int = 1
    meaning: str = ""

    @property
    def factor(self) -> float:
        """What a value is multiplied with in tables: 100 for fractions, 1 for what is none."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def lower_is_better(self) -> bool:
        return self.better == "lower"

    @property
    def ranked(self) -> bool:
        """Whether one of two values is the better one, and which is known."""
        return self.better in ("higher", "lower")

    @property
    def difference_bounds(self) -> Bounds:
        """The values a difference of two of it can have."""
        width = self.bounds[1] - self.bounds[0]
        return (-width, width) if math.isfinite(width) else ANY

    def chance_among(self, classes: int | None) -> float | None:
        """The chance level where there are so many classes."""
        if not isinstance(self.chance, str):
            return self.chance
        return min(1.0, int(self.chance.partition("/")[0]) / classes) if classes else None


def _fraction(name: str, meaning: str = "", better: Direction = "higher", chance: float | str | None = None) -> Metric:
    return Metric(name, better=better, chance=chance, meaning=meaning)


def _raw(name: str, unit: str, meaning: str, better: Direction = "lower", bounds: Bounds = POSITIVE) -> Metric:
    return Metric(name, unit, better, bounds, None, 3, meaning)


_DEPTH = (
    _raw("rmse", "m", "root of the mean squared error"), _raw("absrel", "", "mean of |error| over truth"),
    _raw("log10", "", "mean |log10 ratio|"), _raw("rmse_log", "", "root of the mean squared log ratio"),
    _raw("silog", "", "standard deviation of the log ratio"),
    *(_fraction(f"delta{k}", f"pixels within a factor of 1.25^{k}") for k in (1, 2, 3)),
)  # fmt: skip
_NORMALS = (
    *(_raw(f"angle_{m}", "°", f"{what} of the angles to the true normals", bounds=(0.0, 180.0)) for m, what in (
        ("mean", "mean"), ("median", "median"), ("rmse", "root of the mean square"),
    )),
    *(_fraction(f"within_{limit}", f"pixels whose normal is less than {limit} degrees off") for limit in ("11.25", "22.5", "30")),
)  # fmt: skip
_POPE = (
    _fraction("accuracy", "right answers"), _fraction("precision", "of the answers yes"), _fraction("recall", "of what is there"),
    _fraction("f1", "harmonic mean of precision and recall"), _fraction("yes_ratio", "answers yes", "none"),
    _fraction("unparsed", "answers that hold neither yes nor no", "lower"),
)  # fmt: skip
_CLASSES = (
    _fraction("top1", "images whose class comes first", chance="1/classes"),
    _fraction("top5", "images whose class is among the first five", chance="5/classes"),
    _fraction("mean_per_class", "mean of the classes' accuracies", chance="1/classes"),
    _fraction("calibration_error", "expected calibration error", "lower"),
)
_RETRIEVAL = (
    _fraction("mean_recall", "mean of both ways' recalls"),
    _fraction("image_to_text_r{n}", "images with a caption of theirs in the first n"),
    _fraction("text_to_image_r{n}", "captions with their image in the first n"),
)  # fmt: skip
_PCK = (
    *(
        _fraction(f"pck_per_{item}{ending}", f"keypoints found, mean over {over}{more}")
        for item, over in (("point", "all of them"), ("image", "pairs of images"))
        for ending, more in (("", ""), ("@{rest}", ", at another threshold"), ("/{rest}", ", of a category"))
    ),
    _fraction("pck_mean_of_categories", "keypoints found, mean over categories"),
)
_VIEWS = (
    _fraction("recall@{rest}", "matches less than this far off"),
    _fraction("recall/{rest}", "matches that are right, of pairs turned by so many degrees"),
    _fraction("recall_mean_of_bins", "matches that are right, mean over the ranges of angles"),
)
_CHOICES = (
    _fraction("text_score", "both images' captions told apart", chance=0.25),
    _fraction("image_score", "both captions' images told apart", chance=0.25),
    _fraction("group_score", "both", chance=1 / 6),
    *(_fraction(f"macro_{m}", "mean over the kinds of pairs") for m in ("accuracy", "text_score", "image_score", "group_score")),
)  # fmt: skip
_BOXES = (
    _fraction("accuracy@{rest}", "answers whose box overlaps the right one by this intersection over union"),
    _fraction("box_iou", "mean intersection over union of the answered boxes with the right ones"),
    _fraction("center_accuracy", "answered boxes whose centre lies in the right one"),
)
_VIDEO = (
    _fraction("j_and_f", "mean of J and F over objects"), _fraction("j_and_f/{rest}", "the same of a video"),
    *(m for k, what in (("j", "region similarity"), ("f", "boundary accuracy")) for m in (
        _fraction(f"{k}_mean", f"{what}, mean over objects of the mean over frames"),
        _fraction(f"{k}_recall", f"frames whose {what} is above one half"),
        Metric(f"{k}_decay", better="lower", bounds=DIFFERENCE, meaning=f"{what} in the first quarter of a video less that in the last"),
    )),
)  # fmt: skip
_INSTANCES = tuple(
    _fraction(f"{m}_{level}{ending}", f"{what}, {level} images{more}")
    for level in ("medium", "hard")
    for m, what in (
        ("map", "mean average precision"),
        ("mp1", "mean precision of the first"),
        ("mp5", "of the first 5"),
        ("mp10", "of the first 10"),
    )
    for ending, more in (("", ""), ("/{rest}", ", by another read-out"))
)
_VARIANTS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
_HEALTH = (
    Metric("effective_rank", "", "higher", (1.0, math.inf), None, 1, "exponential of the entropy of the singular values' shares"),
    _raw("epps_pulley", "", "distance from a Gaussian", "lower"), _raw("epps_pulley_gaussian", "", "the same of Gaussian noise", "none"),
    _raw("uniformity", "", "log mean potential of pairs on the sphere", "lower", (-math.inf, 0.0)),
    _raw("alignment", "", "mean squared distance of two views", "lower", (0.0, 4.0)),
    *(_raw(f"variance_{k}", "", "of the dimensions' variances", "none") for k in ("mean", "min", "median", "max")),
    *(Metric(k, "", "none", POSITIVE, None, 0, "a count") for k in ("images", "dimensions")),
    *(Metric(k, "", "lower", POSITIVE, None, 0, "a count") for k in ("dead_dimensions", "duplicates", "near_duplicates")),
)  # fmt: skip

METRICS: tuple[Metric, ...] = (
    *_POPE,
    *(_fraction(f"{m.name}_pooled", f"{m.meaning}, all splits together", m.better) for m in _POPE),
    *(_fraction(f"{m.name}_{s}", f"{m.meaning}, split {s}", m.better) for m in _POPE for s in ("random", "popular", "adversarial")),
    _fraction("likelihood_ap", "average precision of P(yes)"), _fraction("likelihood_ap_{name}", "the same of a split"),
    _fraction("likelihood_accuracy", "P(yes) above one half where yes is right", chance=0.5),
    _fraction("likelihood_calibration_error", "expected calibration error of P(yes)", "lower"),
    _fraction("question_accuracy", "questions answered right, each counted alone"),
    _fraction("letter_likelihood_accuracy", "questions whose right letter is the likeliest"),
    *(_fraction(f"option_likelihood_accuracy{e}", f"questions whose right option's text is the likeliest{w}")
      for e, w in (("", ""), ("_norm", " per character"))),
    _fraction("answered", "questions with an answer", "none"),
    _fraction("binary", "GQA: yes, no, and choices"), _fraction("open", "GQA: open questions"),
    *(_fraction(f"{kind}/{{rest}}", "accuracy of a kind of question") for kind in (
        "structural", "semantic", "steps", "words", "answer_type", "question_type", "type", "subject", "category", "kind", "operation",
    )),
    _fraction("consistency", "GQA: entailed questions answered right"), _fraction("validity", "GQA: answers of the asked kind"),
    _fraction("plausibility", "GQA: answers that occur"),
    _raw("distribution", "", "GQA: chi-square distance of answers from the truth"),
    _fraction("anls", "normalised edit similarity to the nearest answer, 0 below one half"),
    _fraction("recognition", "OCRBench: the six kinds of text recognition together"),
    _fraction("accuracy_plus", "MME: images with both answers right"),
    _fraction("perception", "MME: share of the maximum"), _fraction("cognition", "MME: share of the maximum"),
    _fraction("floor_{name}", "the main metric without sight", "none"),
    Metric("gain_over_{name}", bounds=DIFFERENCE, meaning="accuracy minus that of a floor, paired"),
    _fraction("mean_iou", "mean intersection over union"),
    _fraction("pixel_accuracy"), _fraction("mean_accuracy", "mean recall of classes"),
    *_DEPTH, *(replace(m, name=f"pixels/{m.name}", meaning=f"{m.meaning}, all pixels together") for m in _DEPTH),
    *_NORMALS, *(replace(m, name=f"pixels/{m.name}", meaning=f"{m.meaning}, all pixels together") for m in _NORMALS),
    *_CLASSES,
    _fraction("top1_all", "images whose class, or one it stands for, comes first of all classes trained on"),
    _fraction("top1_unleaked", "top1 without images that training has too", chance="1/classes"),
    _fraction("top1_best_epoch", "top1 of the epoch best on the test images", chance="1/classes"),
    _fraction("top1_k{n}", "of n neighbours", chance="1/classes"),
    _fraction("top1_{n}shot", "n training images a class", chance="1/classes"),
    *_RETRIEVAL,
    *_PCK,
    *_VIEWS,
    *_BOXES,
    *_VIDEO,
    *_INSTANCES,
    _fraction("ceiling_{name}", "the main metric with all that can be seen at the task's resolution", "none"),
    *_CHOICES, _fraction("tied", "choices in which two scores are equal", "none"),
    *(_fraction(v, "ImageNet-9: accuracy on this variant") for v in _VARIANTS),
    Metric("drop_{name}", better="lower", bounds=DIFFERENCE, meaning="accuracy on Original minus that on the variant, paired"),
    Metric("background_gap", better="lower", bounds=DIFFERENCE, meaning="accuracy on mixed_same minus that on mixed_rand, paired"),
    *_HEALTH,
)  # fmt: skip

# Metrics of which an encoder with several image-text read-outs gives one for each, as "top1/average".
READOUT_METRICS: tuple[Metric, ...] = (*_CLASSES, *_RETRIEVAL, *_CHOICES, _fraction("accuracy", "pairs told apart"))

# lmms-eval's own metrics (0.7.3) whose unit is known; their direction comes with the record.
LMMS: tuple[Metric, ...] = (
    *(_fraction(m) for m in (
        "acc", "exact_match", "anls", "relaxed_overall", "relaxed_human_split", "relaxed_augmented_split", "pope_accuracy",
        "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio", "mmmu_acc", "seed_image", "seed_all",
    )),
    Metric("mme_perception_score", "points", bounds=(0.0, 2000.0), meaning="MME's points"),
    Metric("mme_cognition_score", "points", bounds=(0.0, 800.0), meaning="MME's points"),
)  # fmt: skip

_HOLES = {"{n}": r"\d+", "{name}": r"[^/]+", "{rest}": r".+"}


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"(\{n\}|\{name\}|\{rest\})", name)
    return re.compile("".join(_HOLES.get(p) or re.escape(p) for p in parts))


_PLAIN = {m.name: m for m in METRICS if "{" not in m.name}
_FAMILIES = [(_pattern(m.name), m) for m in METRICS if "{" in m.name]
_FAMILIES += [(_pattern(f"{m.name}/{{rest}}"), m) for m in READOUT_METRICS]
_LMMS = {m.name: m for m in LMMS}


def unknown(name: str) -> Metric:
    """What is taken for a metric that is declared nowhere: a plain number, of which neither direction nor range is known."""
    return Metric(name, "", "unknown", ANY, None, 3)


@lru_cache(4096)
def metric(name: str) -> Metric:
    """The entry of a metric by its name; :func:`unknown` where there is none."""
    entry = _PLAIN.get(name) or next((m for pattern, m in _FAMILIES if pattern.fullmatch(name)), None)
    return replace(entry, name=name) if entry is not None else unknown(name)


def metric_of(name: str, engine: str = "", notes: Mapping[str, object] | None = None) -> Metric:
    """The entry of a metric of a record: engine and notes are the record's.

    lmms-eval's names are not ours: "accuracy" may be a percentage there. Their direction is what its task file says, unknown where
    it says nothing or its tasks disagree. The variants of engine "backgrounds" are named by its card, and accuracies all of them.
    """
    if engine != "lmms":
        entry = metric(name)
        return replace(_PLAIN["original"], name=name) if engine == "backgrounds" and entry.better == "unknown" else entry
    own = name.rpartition("/")[2].partition(",")[0]  # "TASK/metric,filter"
    stated = object_at(notes, "lmms", "higher_is_better")
    higher = {v[own] for v in stated.values() if isinstance(v, dict) and isinstance(v.get(own), bool)}
    better: Direction = "unknown" if len(higher) != 1 else "higher" if higher == {True} else "lower"
    return replace(_LMMS.get(own) or unknown(own), name=name, better=better)
