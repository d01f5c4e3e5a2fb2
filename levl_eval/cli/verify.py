"""`levl-eval verify`: measured results beside the paper's numbers, or the authors' own cosines computed again."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cards.fields import Between
from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean, printable
from levl_eval.runner.options import BATCH, Number

if TYPE_CHECKING:
    from levl_eval.report.published import Check, Published

NAMES = ("LeVLJEPA", "InfoNCE", "SigLIP")
PAGE = {"levljepa-vit-b-datacomp": "LeVLJEPA", "infonce-vit-b-datacomp": "InfoNCE"}  # backbones on the project page


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "verify",
        help="compare results with published numbers, or recompute the authors' cosines",
        description="--against paper DIR...: results of run directories beside the paper's tables. --against project-page: cosines of "
        "Imagenette images and prompts by the published weights beside those on the project page.",
    )
    p.add_argument("dirs", nargs="*", metavar="DIR", help="run directories (paper)")
    p.add_argument("--against", choices=["paper", "project-page"], required=True, help="what to compare with")
    p.add_argument(
        "--as", dest="named", action="append", default=[], metavar="BACKBONE=NAME",
        help=f"which of {', '.join(NAMES)} a backbone is (the cards *-vit-b-datacomp are known)",
    )  # fmt: skip
    p.add_argument("--data", metavar="DIR", help="Imagenette, or its validation split (project-page)")
    p.add_argument("--reference", metavar="FILE", help="the page's static/embedding-demo/data.json (project-page)")
    p.add_argument(
        "--tolerance",
        type=Number(Between(0, 2), of=float),
        default=0.002,
        help="largest difference of a cosine (project-page; default: 0.002)",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--batch-size", type=BATCH, default=32, metavar="N", help="images per batch in the encoder (default: 32)")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all that can be compared is within tolerance, 1: some is not, 2: nothing can be compared."""
    named = {}
    for word in args.named:
        left, eq, right = word.rpartition("=")  # a URI may hold the sign itself
        if not eq or not left or right not in NAMES:
            raise UsageError(f"--as {word!r}: expected BACKBONE=NAME with NAME one of {', '.join(NAMES)}")
        if left in named:
            raise UsageError(f"--as {word!r}: {left} is given twice; one backbone is one of {', '.join(NAMES)}")
        named[left] = right
    return _paper(args, named) if args.against == "paper" else _project_page(args, named)


def _paper(args: argparse.Namespace, named: dict[str, str]) -> int:
    """Raises UsageError where nothing can be compared; what is missing for each number has been printed then."""
    from levl_eval.report.published import against_paper
    from levl_eval.report.results import Results

    if not args.dirs:
        raise UsageError("verify --against paper: give the run directories whose results are to be compared")
    results = Results.read(args.dirs, say=lambda text: print(printable(text), file=sys.stderr))
    there = list(dict.fromkeys(r.backbone_name for r in results.records))
    if strange := [n for n in named if n not in there]:
        raise UsageError(f"--as {strange[0]}: no such backbone{did_you_mean(strange[0], there)}; there are {', '.join(there)}")
    checks, refused = against_paper(results, named)
    if not checks and not refused:
        raise UsageError("verify: no measured result has a published number; name the backbones with --as BACKBONE=LeVLJEPA")
    if args.json:
        compared = [{**asdict(c), "comparable": True, "difference": c.difference, "within": c.within} for c in checks]
        print(json.dumps(compared + [{**asdict(r), "comparable": False} for r in refused], indent=1))
    else:
        for c in checks:
            print("\n".join(map(printable, _described(c))))
        for r in refused:
            text = f"not comparable: {_of(r.published)}, {r.backbone} as {r.published.backbone}: {'; '.join(r.missing)}"
            print("\n".join(textwrap.wrap(printable(text), 80, subsequent_indent="  ")))
    if not checks:
        r = refused[0]
        raise UsageError(
            f"verify: not comparable: none of {len(refused)} results was measured as the paper's were (first: {r.published.task}, "
            f"{r.backbone}: {'; '.join(r.missing)})"
        )
    return 0 if all(c.within for c in checks) else 1


def _of(p: Published) -> str:
    return f"{p.task}, {p.metric}{' (gain)' if p.kind == 'gain' else ''}"


def _described(c: Check) -> list[str]:
    p = c.published
    ends = f" [{c.low:.1f}, {c.high:.1f}]" if c.low is not None and c.high is not None else ""
    verdict = "within" if c.within else "OUTSIDE"
    return [
        f"{_of(p)}, {c.backbone} as {p.backbone}",
        f"  measured {c.measured:.2f}{ends}, published {p.value:g} ({p.grade})",
        f"  difference {c.difference:+.2f}, {verdict} the tolerance of {p.tolerance:g}",
    ]


def _project_page(args: argparse.Namespace, named: dict[str, str]) -> int:
    from levl_eval.backbones import load_backbone
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.device import pick_device
    from levl_eval.core.progress import Progress
    from levl_eval.engines.probes.project_page import IMAGES, MODELS, choose, cosines, difference, read_reference

    if not args.data or not args.reference or args.dirs:
        raise UsageError(
            "verify --against project-page: give --data IMAGENETTE_DIR and --reference data.json, and no run directory"
        )
    wrong = [name for name in named.values() if name not in MODELS]
    if wrong:
        raise UsageError(f"--as: the project page shows {' and '.join(MODELS)}, not {wrong[0]}")
    if args.batch_size < 1 or not args.tolerance >= 0:
        raise UsageError(f"--batch-size {args.batch_size} --tolerance {args.tolerance}: at least 1 image, no negative tolerance")
    reference = read_reference(Path(args.reference).expanduser())
    data = Path(args.data).expanduser()
    files = choose(data, reference)
    progress, device = Progress(args.quiet), pick_device(args.device)
    there = sum(len(list(files[0].parents[1].joinpath(name).glob("*.JPEG"))) for name, _ in reference.classes)
    if there != IMAGES:
        progress.say(f"{data}: {there} images, Imagenette's validation split holds {IMAGES}; others are drawn than the page's")
    differences = []
    for name, model in (named or PAGE).items():
        card = backbone_card(name)
        backbone = load_backbone(card.uri, card=card)
        scores = cosines(backbone, files, [p for _, p in reference.classes], device, args.batch_size, progress)
        differences.append(difference(model, backbone, scores, reference))
        backbone.to("cpu")
    if args.json:
        print(json.dumps([{**asdict(d), "within": d.largest <= args.tolerance} for d in differences], indent=1))
    else:
        for d in differences:
            print(printable(f"{d.backbone} as {d.model}: {d.images} images, {len(reference.classes)} prompts"))
            print(f"  largest difference {d.largest:.6f} (image {d.image}, {d.prompt!r}), mean {d.mean:.6f}")
            print(f"  right class first: {d.accuracy:.1%} here, {d.published_accuracy:.1%} published")
            print(f"  {'within' if d.largest <= args.tolerance else 'OUTSIDE'} the tolerance of {args.tolerance:g}")
    return 0 if all(d.largest <= args.tolerance for d in differences) else 1
