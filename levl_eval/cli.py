"""The `levl-eval` command. Heavy imports (torch, transformers) happen inside the commands that need them.

Exit codes: 0 all done; 1 something failed and is recorded as failed, the rest is there; 2 wrong usage or input, told in one
line; 130 interrupted, what was finished is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from levl_eval import __version__
from levl_eval.commands import ask, audit, claims, compare, doctor, health, leaderboard, plan, report, rerun, show_dense, verify
from levl_eval.errors import LevlError, UsageError
from levl_eval.processes import cores, place
from levl_eval.terminal import columns, print_rows, yaml_text
from levl_eval.workers import end_with_parent, workers

DEMO_BACKBONES = ["levljepa-nano", "clip-nano", "siglip-nano", "random-nano"]
DEMO_TASKS = ["gqa", "vqav2", "pope", "ade20k", "linear", "zeroshot"]


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong word is answered in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")


def _comma(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in _comma(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2") from None


def _run_options(p: argparse.ArgumentParser, out: str) -> None:
    p.add_argument(
        "--data", default="scenes", metavar="DIR|hub|scenes", help="where the data sets lie (default: the generated world)"
    )
    p.add_argument(
        "--llm", default="scenes-lm", metavar="NAME|DIR", help="frozen language model (default: the embedded scenes-lm)"
    )
    p.add_argument(
        "--seeds", type=_seeds, metavar="0,1,2", help="seeds of heads and connectors (default: the card's; 3 for probes)"
    )
    p.add_argument("--limit", type=int, metavar="N", help="at most N test images a task")
    p.add_argument(
        "--set", action="append", default=[], metavar="task.field=value", dest="settings", help="override a card's field"
    )
    p.add_argument("--out", default=out, metavar="DIR", help=f"where records and tables go (default: {out})")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a batch through the encoder")
    p.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine that share the work, each with its part of the cores"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("--json", action="store_true", help="what was found as JSON instead of tables")
    p.add_argument("--debug", action="store_true", help="show tracebacks")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="levl-eval", description="Evaluate frozen vision encoders under one stated protocol.")
    parser.add_argument("--version", action="version", version=f"levl-eval {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    run = commands.add_parser("run", help="evaluate backbones on tasks")
    run.add_argument("--backbone", type=_comma, required=True, metavar="B[,B...]", help="card names, checkpoints or URIs")
    run.add_argument(
        "--tasks", type=_comma, required=True, metavar="T[,T...]", help="card names, card files, or lmms:NAME of lmms-eval"
    )
    run.add_argument(
        "--grid", action="append", default=[], metavar="task.field=v1,v2", help="every combination of these values (repeatable)"
    )
    run.add_argument("--dry-run", action="store_true", help="show the resolved protocols, run nothing")
    _run_options(run, "runs/latest")
    run.set_defaults(call=_run)

    demo = commands.add_parser("demo", help="the embedded default: nano backbones on the generated world")
    _run_options(demo, "runs/demo")
    demo.set_defaults(call=_demo)

    lister = commands.add_parser("list", help="list backbones, tasks, sets (for HEAD@SET), llms or claims")
    lister.add_argument("what", choices=["backbones", "tasks", "sets", "llms", "claims"])
    lister.add_argument("--json", action="store_true")
    lister.set_defaults(call=_list)

    show = commands.add_parser("show", help="show a card, resolved")
    show.add_argument("name")
    show.add_argument("--json", action="store_true")
    show.set_defaults(call=_show)

    data = commands.add_parser("data", help="make or check data directories").add_subparsers(
        dest="data_command", metavar="make|check", parser_class=Parser, required=True
    )
    make = data.add_parser("make", help="write the generated world in the published layouts")
    make.add_argument("what", choices=["scenes"])
    make.add_argument("--out", required=True, metavar="DIR")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--size", type=int, default=96, help="side in pixels, 64 to 512")
    make.add_argument("--scale", type=float, default=1.0, help="multiplies the number of images of every set")
    make.add_argument("--json", action="store_true")
    make.set_defaults(call=_data_make)
    check = data.add_parser("check", help="verify counts, images, labels and ids of a data directory")
    check.add_argument("dir", metavar="DIR")
    check.add_argument("--json", action="store_true")
    check.set_defaults(call=_data_check)

    cache = commands.add_parser("cache", help="the feature store")
    cache.add_argument("what", choices=["ls", "verify", "clear"])
    cache.add_argument("--json", action="store_true")
    cache.set_defaults(call=_cache)

    # One command a module; importing them imports nothing heavy.
    for module in (ask, audit, health, leaderboard, compare, claims, plan, show_dense, report, verify, rerun, doctor):
        module.add(commands)
    return parser


def _print_plan(cards: dict[str, Any], args: argparse.Namespace) -> None:
    from levl_eval.card_base import plain
    from levl_eval.cards import protocol_hash
    from levl_eval.evaluation import _protocol

    plan = [(label, card, _protocol(card, args.llm, args.limit)) for label, card in cards.items()]
    if args.json:
        print(
            json.dumps(
                [
                    {"task": c.name, "variant": label, "protocol_hash": protocol_hash(p), "protocol": p, "card": plain(c)}
                    for label, c, p in plan
                ],
                indent=1,
            )
        )
        return
    for label, card, protocol in plan:
        print(f"# {label}: protocol {protocol_hash(protocol)[:12]}")
        print(yaml_text(plain(card), columns()) + "\n")


def _run(args: argparse.Namespace) -> int:
    from levl_eval.evaluation import resolve_tasks
    from levl_eval.registry import backbone_card

    cards = resolve_tasks(args.tasks, args.settings, args.data, args.grid)
    for name in args.backbone:
        backbone_card(name)
    if args.dry_run:
        _print_plan(cards, args)
        return 0
    return _shared(1, [(args.backbone, args.tasks)], args)


def _shared(count: int, work: list[tuple[list[str], list[str]]], args: argparse.Namespace) -> int:
    """``_evaluate`` by ``--workers`` processes, or ``count``."""
    from levl_eval.evaluation import default_cache, resolve_data
    from levl_eval.progress import Progress

    end_with_parent()
    count = count if args.workers is None else args.workers
    if count > 1:  # drawn by the process that shows how far it is
        resolve_data(args.data, default_cache(), Progress(quiet=args.quiet))
    with workers(count, args.words):
        return _evaluate(work, args)


def _evaluate(work: list[tuple[list[str], list[str]]], args: argparse.Namespace) -> int:
    """Run groups of (backbones, tasks) into one directory, then write and print its tables."""
    from levl_eval.evaluation import evaluate
    from levl_eval.progress import Progress
    from levl_eval.report.results import Results
    from levl_eval.report.tables import show, write_leaderboard

    out = Path(args.out)
    records: list[Any] = []
    for backbones, tasks in work:
        records += evaluate(
            backbones,
            tasks,
            data=args.data,
            llm=args.llm,
            seeds=args.seeds,
            limit=args.limit,
            settings=[s for s in args.settings if s.split(".")[0] in tasks] if len(work) > 1 else args.settings,
            grid=getattr(args, "grid", ()),
            out=out,
            device=args.device,
            batch_size=args.batch_size,
            progress=Progress(quiet=args.quiet),
            debug=args.debug,
        )
    failed = any(r.status != "done" for r in records)
    if place()[0] > 0:
        return 0  # one process writes the tables, speaks, and gives the exit code: a launcher ends all as soon as one ends with 1
    if not args.json:
        show(Results(records))  # before anything that a full disk might refuse
    board = write_leaderboard(out)
    page = report.write(
        out, pictures=args.data == "scenes"
    )  # reading large sets again for pictures is left to `levl-eval report`
    if args.json:
        found = {"out": str(out), "leaderboard": str(board), "report": str(page), "records": [_brief(r) for r in records]}
        print(json.dumps(found, indent=1))
    else:
        print(f"records, samples, {board} and {page}")
        if args.data != "scenes":
            print(f"`levl-eval report {out}` adds the samples' pictures to the report")
    return int(failed)


def _brief(record: Any) -> dict[str, Any]:
    """One record in a line of `--json`; the record's file holds all."""
    main = record.metrics.get(record.main_metric)
    return {
        "backbone": record.backbone["name"], "task": record.task, "seed": record.seed, "status": record.status, "reason": record.reason,
        "metric": record.main_metric, **({k: getattr(main, k) for k in ("value", "low", "high", "n")} if main else {}),
        "protocol_hash": record.protocol_hash, "record": str(record.home / "records" / f"{record.key}.json"),
    }  # fmt: skip


def _demo(args: argparse.Namespace) -> int:
    """All four on every task, but zero-shot only for those that have a text encoder."""
    with_text = [b for b in DEMO_BACKBONES if not b.startswith("random")]
    work = [(DEMO_BACKBONES, [t for t in DEMO_TASKS if t != "zeroshot"]), (with_text, ["zeroshot"])]
    return _shared(1 if place()[1] > 1 else min(cores(), len(DEMO_BACKBONES)), work, args)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _list(args: argparse.Namespace) -> int:
    from levl_eval.claims import claim_card, claim_files
    from levl_eval.registry import backbone_card, language_models, llm_cards, names, set_card, set_names, task_card

    if args.what == "tasks":
        rows = [(n, task_card(n)) for n in names("tasks")]
        table = [
            {"name": n, "engine": c.engine, "metric": c.main_metric, "description": _one_line(c.description)} for n, c in rows
        ]
    elif args.what == "backbones":
        cards = [backbone_card(n) for n in names("backbones")]
        table = [{"name": c.name, "uri": c.uri, "description": _one_line(c.description)} for c in cards]
    elif args.what == "sets":  # any classification head runs on them: knn@pets, few-shot@cifar10, zeroshot@imagenet
        table = [{"name": n, "description": _one_line(set_card(n).description)} for n in set_names()]
    elif args.what == "claims":
        table = [{"name": c.name, "description": _one_line(c.statement)} for c in map(claim_card, claim_files())]
    else:
        table = [{"name": n, "description": "embedded, shipped with the package"} for n in language_models()]
        table += [{"name": n, "description": c.description} for n, c in llm_cards().items()]
        table.append(
            {"name": "NAME or DIR", "description": "any causal language model of transformers, by hub name or directory"}
        )
    if args.json:
        print(json.dumps(table, indent=1))
        return 0
    print_rows([[str(v) for v in row.values()] for row in table])
    return 0


def _show(args: argparse.Namespace) -> int:
    from levl_eval.card_base import plain
    from levl_eval.cards import near
    from levl_eval.claims import claim_card, claim_files
    from levl_eval.registry import backbone_card, names, task_card

    card: Any
    if (
        args.name.startswith("lmms:")
        or args.name.partition("@")[0] in names("tasks")
        or (args.name.endswith(".yaml") and "tasks" in Path(args.name).parts and "claims" not in Path(args.name).parts)
    ):
        card = task_card(args.name)
    elif args.name in names("backbones"):
        card = backbone_card(args.name)
    elif args.name in claim_files() or (args.name.endswith(".yaml") and "claims" in Path(args.name).parts):
        card = claim_card(args.name)
    else:
        known = names("tasks") + names("backbones") + list(claim_files())
        raise UsageError(f"no card named {args.name!r}{near(args.name, known)}; there are {', '.join(known)}")
    print(json.dumps(plain(card), indent=1, ensure_ascii=False) if args.json else yaml_text(plain(card), columns()))
    return 0


def _data_make(args: argparse.Namespace) -> int:
    from levl_eval.progress import Progress
    from levl_eval.scenes.export import make_scenes

    if not 64 <= args.size <= 512:
        raise UsageError(f"--size {args.size}: from 64 to 512")
    if args.scale <= 0:
        raise UsageError(f"--scale {args.scale}: more than 0")
    make_scenes(Path(args.out), seed=args.seed, size=args.size, scale=args.scale, progress=Progress())
    if args.json:
        print(json.dumps({"out": args.out, **json.loads((Path(args.out) / "scenes.json").read_text())}, indent=1))
        return 0
    print(f"{args.out}: written; check it with `levl-eval data check {args.out}`")
    return 0


def _data_check(args: argparse.Namespace) -> int:
    from levl_eval.data.check import check

    directory = Path(args.dir)
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory")
    findings = check(directory)
    if args.json:
        print(json.dumps([vars(f) for f in findings], indent=1))
    else:
        print_rows([[f.level, f.set, f.message] for f in findings])
    if not findings:
        raise UsageError(
            f"{directory}: holds no data set that is known here (gqa/, pope/, ade20k/, classification/, cifar10/, ...)"
        )
    return 1 if any(f.level == "error" for f in findings) else 0


def _cache(args: argparse.Namespace) -> int:
    from levl_eval.evaluation import default_cache
    from levl_eval.features import FeatureStore

    store = FeatureStore(default_cache() / "features")
    if args.what == "ls":
        if args.json:
            print(json.dumps(store.table(), indent=1))
            return 0
        print_rows(store.ls())
        return 0
    if args.what == "verify":
        broken = store.verify()
        print(json.dumps({"broken": broken}, indent=1) if args.json else "\n".join([*broken, f"{len(broken)} broken"]))
        return 1 if broken else 0
    removed = store.clear()
    print(json.dumps({"removed": removed}) if args.json else f"{removed} entries removed")
    return 0


def guard(call: Callable[[], int], debug: bool, program: str) -> int:
    """Run a command; a LevlError becomes its one line on stderr, Ctrl-C a word on how to go on."""
    try:
        return call()
    except LevlError as e:
        if debug:
            raise
        print(f"{program}: {e}", file=sys.stderr)
        return 2 if isinstance(e, UsageError) else 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``levl-eval``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words

    def call() -> int:
        parser = build_parser()
        args = parser.parse_args(words)
        args.words = words
        if args.command is None:
            parser.print_help()
            return 0
        return args.call(args)

    return guard(call, debug, "levl-eval")


if __name__ == "__main__":
    sys.exit(main())
