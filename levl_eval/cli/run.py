"""`levl-eval run` and `levl-eval demo`: evaluate backbones on tasks, then write and print the tables."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cards import trust
from levl_eval.cli.claims import add_roles, named_roles
from levl_eval.cli.dry_run import print_plan
from levl_eval.cli.launching import check_words, launched_run, launcher_options
from levl_eval.cli.options import Commands, comma_list, out_folder, run_options
from levl_eval.cli.report import write as write_report_of_run
from levl_eval.cli.suites import Verdicts, verdicts
from levl_eval.core.device import visible_gpus
from levl_eval.core.distributed import cores, launched_rank
from levl_eval.core.text import printable
from levl_eval.runner.shared_folders import check_shared, copy_of_a_launch
from levl_eval.runner.workers import USABLE, default_workers, end_with_parent, workers

if TYPE_CHECKING:
    from levl_eval.records import Record
    from levl_eval.runner.slurm_options import SlurmOptions

DEMO_BACKBONES = ["levljepa-nano", "clip-nano", "siglip-nano", "random-nano"]
DEMO_TASKS = ["suite:demo"]


def add(commands: Commands) -> None:
    """Add the subparsers to ``levl-eval``'s."""
    run = commands.add_parser("run", help="evaluate backbones on tasks")
    run.add_argument("--backbone", type=comma_list, required=True, metavar="B[,B...]", help="card names, checkpoints or URIs")
    run.add_argument(
        "--tasks",
        type=comma_list,
        required=True,
        metavar="T[,T...]",
        help="card names, card files, HEAD@SET (linear@pets), suite:NAME, or lmms:NAME of lmms-eval",
    )
    run.add_argument(
        "--grid", action="append", default=[], metavar="task.field=v1,v2", help="every combination of these values (repeatable)"
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="show resolved protocols and the images, disk space and hours they need; run nothing",
    )
    run.add_argument(
        "--budget",
        metavar="x2[,x4]",
        help="also train heads and connectors 2 (4) times as long, to see whether training length limits the result",
    )
    run.add_argument(
        "--floors",
        type=comma_list,
        default=[],
        metavar="random-twin",
        help="also evaluate each backbone's random twin (same architecture, random weights), the baseline of its gains",
    )
    run.add_argument("--trust", action="store_true", help=trust.HELP)
    add_roles(run)
    run_options(run, None)
    launcher_options(run)
    run.set_defaults(call=_run)

    demo = commands.add_parser("demo", help="evaluate the four embedded backbones on the synthetic scenes")
    run_options(demo, "runs/demo")
    demo.set_defaults(call=_demo)


def _run(args: argparse.Namespace) -> int:
    from levl_eval.cards.budget import budget_words, parse_budgets
    from levl_eval.cards.registry import backbone_card
    from levl_eval.cards.twins import with_floors
    from levl_eval.core.paths import default_cache
    from levl_eval.data.sources import check_complete
    from levl_eval.report.trackers import check_trackers
    from levl_eval.runner.plan import resolve_tasks

    options = check_words(args)
    named_roles(args.roles)
    if args.budget:
        plain = resolve_tasks(args.tasks, args.settings, args.data, args.trust)
        args.grid = [*args.grid, *budget_words(plain, parse_budgets(args.budget))]
    cards = resolve_tasks(args.tasks, args.settings, args.data, args.trust, args.grid, args.llm)
    for card in cards.values():  # before jobs are sent to other machines, where the plan is made
        check_complete(card, card.name, args.data)
    for name in args.backbone:
        backbone_card(name)
    args.backbone = with_floors(args.backbone, args.floors)  # from here on they are backbones like others
    check_trackers(args.log)
    if args.dry_run:
        print_plan(cards, args)
        return 0
    if options is not None:
        return _launched(args, options)
    if launch := copy_of_a_launch():
        check_shared(launch, default_cache())
    return shared_run(1 if copy_of_a_launch() else default_workers(args.device), args)


def _launched(args: argparse.Namespace, options: SlurmOptions) -> int:
    """The run in copies elsewhere, and its tables here; 1 where jobs are left without a record."""
    records = launched_run(args, options)
    if not records:
        return int(records is None)
    return _show(records, args, Path(args.out))


def shared_run(count: int, args: argparse.Namespace) -> int:
    """``_evaluate`` of ``args.backbone`` on ``args.tasks`` by ``--workers`` processes, or ``count``."""
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.paths import default_cache
    from levl_eval.core.progress import Progress
    from levl_eval.runner.plan import data_folder, resolve_tasks

    end_with_parent()
    progress = Progress(quiet=args.quiet)
    gpus = len(visible_gpus()) if args.device in ("auto", "cuda") else 0
    if args.workers is None and gpus > 1 and count > 1:
        progress.say(f"{gpus} GPUs: {count} processes, each with one of them; --workers 1 uses one alone")
    elif gpus and (args.workers or 1) > gpus:
        progress.say(
            f"{args.workers} processes on {gpus} GPU(s): "
            f"each may take its share of {USABLE:.0%} of the memory, language model and encoder together"
        )
    count = count if args.workers is None else args.workers
    if count > 1:  # drawn by the process that shows how far it is
        cards = resolve_tasks(args.tasks, args.settings, args.data, getattr(args, "trust", False), getattr(args, "grid", ()))
        data_folder(args.data, cards.values(), map(backbone_card, args.backbone), default_cache(), progress)
    with out_folder(args) as out, workers(count, [*args.words, "--out", str(out)], args.device):
        return _evaluate(args, out)


def _evaluate(args: argparse.Namespace, out: Path) -> int:
    """Run every backbone on every task, then write and print the tables."""
    from levl_eval.core.files import locked
    from levl_eval.core.progress import Progress
    from levl_eval.runner.evaluate import evaluate

    if args.reference is not None:  # before hours of work, not after
        _check_reference(args.reference, args.backbone, out)
    records = evaluate(
        args.backbone,
        args.tasks,
        data=args.data,
        llm=args.llm,
        seeds=args.seeds,
        limit=args.limit,
        skip_broken=args.skip_broken,
        settings=args.settings,
        grid=getattr(args, "grid", ()),  # the demo has none
        out=out,
        device=args.device,
        batch_size=args.batch_size,
        precision=args.precision,
        compile=args.compile,
        channels_last=args.channels_last,
        cuda_graphs=args.cuda_graphs,
        store_limit=args.store_limit,
        progress=Progress(quiet=args.quiet),
        rehash=args.rehash,
        debug=args.debug,
        trust=getattr(args, "trust", False),  # the demo uses shipped cards only
    )
    if copy_of_a_launch():  # every copy writes the tables, as any may finish last; the submitting process sets the exit code
        with locked(out / ".locks" / "tables"):
            _show(records, args, out)
        return 0
    if launched_rank()[0] > 0:
        return 0  # only the main process writes, prints and sets the exit code: a launcher stops all processes as soon as one exits with 1
    return _show(records, args, out)


def _show(records: list[Record], args: argparse.Namespace, out: Path) -> int:
    """Write and print the tables of a run, and the verdicts on the claims of its suites; 1 where a job has failed."""
    from levl_eval.cards.suites import suite_cards, suites_of
    from levl_eval.report.averages import groups_of
    from levl_eval.report.current import show_and_write
    from levl_eval.report.results import Results
    from levl_eval.report.tables import show, write_leaderboard
    from levl_eval.report.trackers import log_results

    suites = suites_of(getattr(args, "tasks", ()))
    named = named_roles(getattr(args, "roles", ()))
    judged = verdicts(suites, records, args.data, named) if suites and not copy_of_a_launch() else Verdicts()

    @functools.cache
    def results() -> Results:  # what terminal and files show is one: the run's records among all that the directory holds
        return Results.read([out], lambda line: print(printable(line), file=sys.stderr), reference=args.reference, also=records)

    board, page = show_and_write(
        out,
        records,
        {"json": args.json, "data": args.data, "reference": args.reference, "groups": [str(g) for g in groups_of(suite_cards())]},
        lambda stream: None if args.json else show(results(), stream, of=records),
        # reading large sets again for their images is left to `levl-eval report`
        lambda: [write_leaderboard(out, results()), write_report_of_run(out, images=args.data == "scenes", results=results())],
    )
    if args.json:
        summary: dict[str, object] = {
            "out": str(out),
            "leaderboard": str(board),
            "report": str(page),
            "records": [_brief(r) for r in records],
        }
        if suites:
            summary |= {"claims": judged.as_list(), "claims_left": judged.left}
        print(json.dumps(summary, indent=1))
    else:
        for line in judged.lines():
            print(printable(line))
        print(printable(f"results: {board}, {page}, and records and samples beside them"))
        if args.data != "scenes":
            print(f"`levl-eval report {printable(str(out))}` adds the samples' images to the report")
    if args.log and not copy_of_a_launch():
        log_results(results(), args.log, out)  # last, so that a failing service hides no results
    return int(any(r.status != "done" for r in records))


def _check_reference(name: str, backbones: Sequence[str], out: Path) -> None:
    """Raises UsageError where ``--reference`` is neither run nor already among the records of ``out``."""
    from levl_eval.cards.registry import backbone_card
    from levl_eval.report.reading import read_directory
    from levl_eval.report.reference import resolve_reference
    from levl_eval.report.results import Results

    there = Results(read_directory(out).records)
    columns = {there.label(r): r.backbone_name for r in there.records}
    names = {backbone_card(b).name for b in backbones}
    if name not in names:
        resolve_reference(name, [*columns, *(n for n in names if n not in columns)], columns | {n: n for n in names})


def _brief(record: Record) -> dict[str, object]:
    """One record in a line of `--json`; the record's file holds all."""
    main = record.metrics.get(record.main_metric)
    return {
        "backbone": record.backbone_name, "task": record.task, "seed": record.seed, "status": record.status, "reason": record.reason,
        "metric": record.main_metric, **({k: getattr(main, k) for k in ("value", "low", "high", "n")} if main else {}),
        "protocol_hash": record.protocol_hash, "record": str(record.home / "records" / f"{record.key}.json"),
    }  # fmt: skip


def _demo(args: argparse.Namespace) -> int:
    """All four embedded backbones on suite demo, less what the suite leaves out and zero-shot of random-nano, which has no text encoder."""
    from levl_eval.report.trackers import check_trackers

    check_trackers(args.log)
    args.backbone, args.tasks = DEMO_BACKBONES, DEMO_TASKS
    return shared_run(1 if launched_rank()[1] > 1 else min(cores(), len(DEMO_BACKBONES)), args)
