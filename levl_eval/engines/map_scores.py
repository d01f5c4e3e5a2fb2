"""What predictions of a number or a vector a pixel are worth: estimates over images and over all pixels, gain over the floor, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from levl_eval.cards import TaskFields
from levl_eval.data.images import fingerprint_of
from levl_eval.data.types import DepthSet, NormalSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.floors import of_means
from levl_eval.metrics import catalogue
from levl_eval.metrics.statistics import bootstrap_statistic, mean_estimate
from levl_eval.records import Sample


@dataclass(frozen=True)
class MapScores:
    """Scores of N test images. names: their ids; empty: images without a scored pixel, which are not among them.

    by_image, floor: metric -> [N], of the head and of what needs no image; sums: [N, K], of all pixels of an image, their number first.
    """

    names: Sequence[str]
    empty: Sequence[str]
    by_image: Mapping[str, np.ndarray]
    floor: Mapping[str, np.ndarray]
    sums: np.ndarray


def _one(over_pixels: Callable[[np.ndarray], Mapping[str, np.ndarray]], metric: str, sums: np.ndarray) -> np.ndarray:
    return over_pixels(sums)[metric]


def outcome_of(
    context: Context[TaskFields], sets: tuple[DepthSet, DepthSet] | tuple[NormalSet, NormalSet], scores: MapScores,
    over_pixels: Callable[[np.ndarray], Mapping[str, np.ndarray]], notes: Mapping[str, object], seconds: dict[str, float], default: str,
) -> Outcome:  # fmt: skip
    """The outcome of a task.

    sets: training and test set; over_pixels: sums [..., K] -> metric -> [...];
    default: the main metric where the card names none of these.
    """
    (train, test), by_image = sets, scores.by_image
    metrics = {m: mean_estimate(v, bounds=catalogue.metric(m).bounds) for m, v in by_image.items()}
    # Over all pixels together, as some papers average; their intervals are over images too.
    metrics |= {f"pixels/{m}": bootstrap_statistic(scores.sums, partial(_one, over_pixels, m)) for m in by_image}
    main = context.card.main_metric if context.card.main_metric in by_image else default
    metrics |= of_means("mean_map", by_image[main], scores.floor[main], f"/{main}")
    samples = [
        Sample(
            id=n, image_id=n, score=float(by_image[main][k]),
            meta={"pixels": int(scores.sums[k, 0]), **{m: round(float(v[k]), 6) for m, v in by_image.items()}},
        )
        for k, n in enumerate(scores.names)
    ]  # fmt: skip
    data = {
        "fingerprint": fingerprint_of(test),
        "counts": {"images": len(test.images), "train_images": len(train.images)},
        "train": fingerprint_of(train), "split": test.split,
    }  # fmt: skip
    return Outcome(metrics, samples, data, {"images_without_scored_pixels": list(scores.empty), **notes}, seconds, context.counts)
