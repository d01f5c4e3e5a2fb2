"""`levl-eval verify DIR... --against paper`: measured results beside published numbers, with difference and tolerance."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from levl_eval.errors import UsageError

NAMES = ("LeVLJEPA", "InfoNCE", "SigLIP")


def add(commands: Any) -> None:
    p = commands.add_parser("verify", help="measured results beside published numbers")
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories")
    p.add_argument("--against", choices=["paper"], required=True)
    p.add_argument(
        "--as", dest="named", action="append", default=[], metavar="BACKBONE=NAME",
        help=f"which of {', '.join(NAMES)} a measured backbone is (the cards *-vit-b-datacomp are known)",
    )  # fmt: skip
    p.add_argument("--json", action="store_true")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all within tolerance, 1: some are not."""
    from levl_eval.report.published import against_paper
    from levl_eval.report.results import Results

    named = {}
    for word in args.named:
        left, eq, right = word.partition("=")
        if not eq or right not in NAMES:
            raise UsageError(f"--as {word!r}: expected BACKBONE=NAME with NAME one of {', '.join(NAMES)}")
        named[left] = right
    checks = against_paper(Results.read(args.dirs), named)
    if not checks:
        raise UsageError("verify: no measured result has a published number; name the backbones with --as BACKBONE=LeVLJEPA")
    if args.json:
        print(json.dumps([{**asdict(c), "difference": c.difference, "within": c.within} for c in checks], indent=1))
    else:
        for c in checks:
            p = c.published
            ends = f" [{c.low:.1f}, {c.high:.1f}]" if c.low is not None and c.high is not None else ""
            print(f"{p.task}, {p.metric}{' (gain)' if p.kind == 'gain' else ''}, {c.backbone} as {p.backbone}")
            print(f"  measured {c.measured:.2f}{ends}, published {p.value:g} ({p.grade})")
            verdict = "within" if c.within else "OUTSIDE"
            print(f"  difference {c.difference:+.2f}, {verdict} the tolerance of {p.tolerance:g}")
    return 0 if all(c.within for c in checks) else 1
