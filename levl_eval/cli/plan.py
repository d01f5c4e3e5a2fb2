"""`levl-eval plan CLAIM DIR...`: estimate how many images and seeds decide a claim, from what a finished run shows of their spread."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import TYPE_CHECKING

from levl_eval.cli.claims import add_roles, named_roles
from levl_eval.cli.options import Commands

if TYPE_CHECKING:
    from levl_eval.claims.plan import Plan

WIDTH = 80


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "plan",
        help="estimate how many images and seeds decide a claim",
        description="The spread between images and between seeds is taken from a finished run of the claim's tasks.",
    )
    p.add_argument("claim", metavar="CLAIM", help="name of a claim card, or its file")
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories")
    add_roles(p)
    p.add_argument(
        "--margin", type=float, metavar="POINTS",
        help="true difference that must be found, or be excluded by an equivalence (default: the claim's)",
    )  # fmt: skip
    p.add_argument("--power", type=float, default=0.8, help="chance to find it (default: 0.8)")
    p.add_argument("--alpha", type=float, default=0.05, help="level of the test (default: 0.05)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 2 where nothing of the claim was run."""
    from levl_eval.cards.registry import claim_card
    from levl_eval.claims import finished_records, judge
    from levl_eval.claims.plan import plan

    card = claim_card(args.claim)
    judged = judge([card], finished_records(args.dirs), named_roles(args.roles), args.alpha)[0]
    planned = plan(judged, args.margin, args.power)
    print(json.dumps(planned.as_dict(), indent=1) if args.json else "\n".join(lines(planned)))
    return 0


def _images(n: int | None) -> str:
    return "no number of images is enough" if n is None else f"{n:,} images"


def lines(planned: Plan) -> list[str]:
    """A plan as lines of at most 80 characters."""

    def wrapped(words: str, indent: int = 2) -> list[str]:
        return textwrap.wrap(
            words, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False
        )

    what = "lies within" if planned.relation == "equivalent" else "is"
    out = [
        f"{planned.claim}:",
        *wrapped(
            f"to be decided with a chance of {planned.power:.0%} "
            f"where the true difference {what} {planned.margin:g} (alpha {planned.alpha:g}"
            + (f"; {planned.each:.1%} for each of its differences" if planned.each != planned.power else "")
            + ")"
        ),
    ]
    if planned.relation == "equivalent":
        out[1:] = wrapped(
            f"to be shown equivalent within {planned.margin:g} with a chance "
            f"of {planned.power:.0%} where there is no difference (alpha {planned.alpha:g})"
        )
    for p in planned.differences:
        chosen = "".join(f", {k}={v}" for k, v in p.choices)
        out += wrapped(f"{p.task} {p.metric} against {p.against}{chosen}:", 2)
        spread = f"between images {p.deviations[1]:.3g}"
        if p.seeds:
            spread = f"between {p.seeds} {p.deviations[0]:.3g}, {spread}, the rest {p.deviations[2]:.3g}"
        out += wrapped(f"standard deviations: {spread}", 4)
        out += wrapped(f"this run, {p.now[0]:,} images and {p.now[1]} seed{'s' if p.now[1] > 1 else ''}: {p.now[2]:.0%}", 4)
        for s, n in p.needs:
            out += wrapped(f"{s} {p.seeds or 'seed'}: {_images(n)}", 4)
        if not p.seeds:
            out += wrapped(
                "one seed was run, so the spread between seeds is not known and the plan is about these checkpoints and heads", 4
            )
        elif p.now[1] < 5:
            out += wrapped(f"the spread between seeds is known from {p.now[1]} of them only, so this is rough", 4)
    if len(planned.differences) > 1 and planned.needs:
        out += wrapped("all of them: " + "; ".join(f"{s} seeds, {_images(n)}" if s > 1 else _images(n) for s, n in planned.needs))
    for reason in planned.missing:
        out += wrapped(f"not in this plan: {reason}")
    return out
