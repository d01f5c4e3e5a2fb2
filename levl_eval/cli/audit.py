"""`levl-eval audit`: one backbone under the candidate normalisations and resizes, with the paired difference to its card's choice.

Which statistics a checkpoint wants is often stated wrongly (docs/paper.md); a cheap head on the same images settles it.
"""

from __future__ import annotations

import argparse
import json
from statistics import NormalDist
from typing import TYPE_CHECKING, TypedDict

from levl_eval.cli.options import NEW, Commands, out_folder
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.runner.options import BATCH, LIMIT

if TYPE_CHECKING:
    from levl_eval.models.preprocess import Preprocess
    from levl_eval.records import Record


class Verdict(TypedDict):
    """A candidate's mean score and its paired difference to the card's choice, as fractions, with the interval's ends."""

    candidate: str
    value: float
    difference: float
    low: float
    high: float
    beats_the_card: bool


NORMALISATIONS: dict[str, dict[str, object]] = {
    "clip": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "none": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
}


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "audit",
        help="compare a backbone's preprocessing with the usual alternatives",
        description="Changes the normalisation or the resize, one at a time, and compares image by image. Exit code 0 even if "
        "an alternative is better, which a warning says.",
    )
    p.add_argument("--backbone", required=True, metavar="B", help="a card's name, a checkpoint or a URI")
    p.add_argument(
        "--task",
        default="knn",
        metavar="T",
        help="task whose main metric is compared, for example zeroshot@imagenet (default: knn)",
    )
    p.add_argument(
        "--data", default="scenes", metavar="DIR|hub|scenes", help="folder of the data sets (default: the synthetic scenes)"
    )
    p.add_argument("--limit", type=LIMIT, metavar="N", help="at most N test images")
    p.add_argument(
        "--set", action="append", default=[], metavar="task.field=value", dest="settings", help="override a card's field"
    )
    p.add_argument("--out", metavar="DIR", help=f"records and audit.json (default: {NEW})")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--batch-size", type=BATCH, default=64, metavar="N", help="images per batch in the encoder (default: 64)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.set_defaults(call=run)


def candidates(own: Preprocess) -> dict[str, dict[str, object]]:
    """Preprocessing overrides by name; ``own`` is the backbone's Preprocess, and what equals it is left out."""
    larger = round(own.size * 256 / 224)
    resizes: dict[str, dict[str, object]] = {
        "squash": {"resize": "squash", "resize_to": own.size},
        "shortest": {"resize": "shortest", "resize_to": own.size},
        "shortest, 256/224": {"resize": "shortest", "resize_to": larger},
        "bilinear": {"interpolation": "bilinear"},
        "bicubic": {"interpolation": "bicubic"},
    }
    described = own.settings()
    described["resize_to"] = described["resize_to"] or own.size

    def same(change: dict[str, object]) -> bool:
        if change.get("resize") == "squash" and described["resize"] == "squash":
            return True
        return all((list(v) if isinstance(v, tuple) else v) == described[k] for k, v in change.items())

    return {k: v for k, v in {**NORMALISATIONS, **resizes}.items() if not same(v)}


def verdicts(own: dict[str, float], others: dict[str, dict[str, float]]) -> list[Verdict]:
    """Each candidate's mean score and its paired difference to the card's, with an interval that holds for all of them at once."""
    import numpy as np

    from levl_eval.metrics.statistics import Z95, paired_difference

    ids = sorted(own)
    base = np.array([own[i] for i in ids])
    wider = NormalDist().inv_cdf(1 - 0.025 / max(1, len(others))) / Z95  # Bonferroni
    out: list[Verdict] = []
    for name, scores in others.items():
        if scores.keys() != own.keys():
            raise LevlError(f"audit: {name} was measured on other images; delete the run directory and try again")
        difference = paired_difference(np.array([scores[i] for i in ids]), base)
        half = (difference.stderr or 0.0) * Z95 * wider
        out.append(
            {
                "candidate": name, "value": float(base.mean() + difference.value), "difference": difference.value,
                "low": max(difference.value - half, -1.0), "high": min(difference.value + half, 1.0),
                "beats_the_card": difference.value - half > 0,
            }
        )  # fmt: skip
    return out


def verdict(name: str, rows: list[Verdict]) -> str:
    """What follows for the card, in one sentence: who is clearly better, or how much better one could still be."""
    better = sorted((r for r in rows if r["beats_the_card"]), key=lambda r: -r["difference"])
    if better:
        return f"the preprocessing of {name} is to be corrected: {', '.join(r['candidate'] for r in better)}, best first, beat it clearly"
    most = max(rows, key=lambda r: r["high"])
    return (
        f"the preprocessing of {name} stands: no candidate is clearly better; {most['candidate']} could be by "
        f"{100 * max(0.0, most['high']):.2f} points at most"
    )


def _scores(record: Record, task: str) -> dict[str, float]:
    """Image id -> score. Raises LevlError for a failed record, UsageError for a metric that is no mean over images."""
    from levl_eval.records import read_samples

    if record.status != "done":
        raise LevlError(f"audit: {record.backbone_name} on {task}: {record.reason}")
    by_id = {s.id: float(s.score or 0.0) for s in read_samples(record.home, record)}
    if not by_id or abs(sum(by_id.values()) / len(by_id) - record.metrics[record.main_metric].value) > 1e-6:
        raise UsageError(
            f"audit: {record.main_metric} of {task} is no mean over images; take a head such as knn, linear or zeroshot"
        )
    return by_id


def run(args: argparse.Namespace) -> int:
    from levl_eval.backbones import load_backbone
    from levl_eval.cards import PreprocessOverride
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.files import atomic_write
    from levl_eval.core.progress import Progress
    from levl_eval.runner.evaluate import evaluate

    card = backbone_card(args.backbone)
    if card.uri.startswith("oracle:"):
        raise UsageError(f"audit: {card.uri} knows images by their pixels and has no preprocessing to vary; take an encoder")
    own = load_backbone(card.uri, card=card).preprocess
    given = card.preprocess.model_dump(exclude_none=True) if card.preprocess else {}
    changes = candidates(own)
    cards = [card] + [
        card.model_copy(update={"name": f"{card.name} [{n}]", "preprocess": PreprocessOverride.model_validate({**given, **c})})
        for n, c in changes.items()
    ]
    with out_folder(args) as out:
        records = evaluate(
            cards, [args.task], data=args.data, seeds=[0], limit=args.limit, settings=args.settings, out=out, device=args.device,
            batch_size=args.batch_size, progress=Progress(quiet=args.json), debug=args.debug,
        )  # fmt: skip
    scores = [_scores(r, args.task) for r in records]
    rows = verdicts(scores[0], dict(zip(changes, scores[1:], strict=True)))
    metric, value = records[0].main_metric, records[0].metrics[records[0].main_metric].value
    result = {
        "backbone": card.name, "task": args.task, "metric": metric, "images": len(scores[0]), "card": own.settings(),
        "card_value": value, "candidates": rows, "verdict": verdict(card.name, rows),
    }  # fmt: skip
    atomic_write(out / "audit.json", json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(
        printable(
            f"{card.name} on {args.task}, {metric}, {len(scores[0])} images, percent; the card's preprocessing: {100 * value:.2f}"
        )
    )
    width = max(len(row["candidate"]) for row in rows)
    for row in rows:
        interval = f"[{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
        print(f"  {row['candidate']:{width}}  {100 * row['value']:6.2f}  {100 * row['difference']:+6.2f} {interval}")
    print("differences to the card's, paired by image, 95% intervals for all candidates together")
    for row in rows:
        if row["beats_the_card"]:
            sentence = f"{row['candidate']} is clearly better than what the card of {card.name} says; correct its `preprocess`"
            print(printable(f"warning: {sentence}"))
    print(printable(f"verdict: {result['verdict']}"))
    return 0
