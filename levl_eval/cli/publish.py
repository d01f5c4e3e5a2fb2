"""`levl-eval publish DIR...`: model card sections, Every Eval Ever, a leaderboard as a data set; offline unless --push."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "publish",
        help="write a run's results as model card, data set and Every Eval Ever files",
        description="Written into a folder, without a network: for each backbone a model card section with model-index, "
        "Every Eval Ever's JSON with samples, and the long table as parquet with a data set card.",
    )
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories")
    p.add_argument("--out", required=True, metavar="FOLDER", help="output folder; created, or added to")
    p.add_argument("--backbone", metavar="NAME", help="only this one")
    p.add_argument("--reference", metavar="NAME", help="baseline of the gains (default: each backbone's own random twin)")
    p.add_argument("--repo", metavar="ORG/NAME", help="the model's repository, where one backbone is published")
    p.add_argument("--organisation", default="unnamed", metavar="NAME", help="who measured, for Every Eval Ever")
    p.add_argument(
        "--benchmark", action="append", default=[], metavar="TASK=DATASET[:TASK_ID]",
        help="a benchmark registered on the hub: writes .eval_results for that task",
    )  # fmt: skip
    p.add_argument("--push", metavar="ORG/NAME", help="upload the backbone's folder to this model repository, as a pull request")
    p.add_argument("--no-pr", action="store_true", help="with --push: commit to the main branch instead")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all written; 1: something of the runs is damaged and was left out."""
    from levl_eval.report.publish import PublishOptions, model_folder, publish, push
    from levl_eval.report.results import Results

    benchmarks = {}
    for word in args.benchmark:
        task, eq, target = word.partition("=")
        if not eq or "/" not in target:
            raise UsageError(f"--benchmark {word!r}: expected TASK=ORG/DATASET or TASK=ORG/DATASET:TASK_ID")
        benchmarks[task] = target
    results = Results.read(args.dirs, say=lambda text: print(printable(text), file=sys.stderr), reference=args.reference)
    options = PublishOptions(benchmarks, args.backbone, args.repo or args.push, args.organisation)
    for path in publish(results, Path(args.out), options):
        print(printable(str(path)))
    if args.push:
        name = args.backbone or results.backbones[0]
        print(printable(push(model_folder(results, Path(args.out), name), args.push, create_pr=not args.no_pr)))
    return int(bool(results.damaged))
