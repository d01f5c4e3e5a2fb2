"""`levl-eval import FILE`: predictions of another system, scored on a task and kept as a record marked external."""

from __future__ import annotations

import argparse

from levl_eval.cli.options import Commands
from levl_eval.core.text import printable
from levl_eval.runner.options import LIMIT


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "import",
        help="score predictions of another system",
        description='Answers by question id, classes by image id (JSON lines: {"id": ..., "prediction": ...}; also result files of the VQA '
        "server and lmms-eval's sample logs), or a folder of masks.",
    )
    p.add_argument("source", metavar="FILE|DIR", help="predictions.jsonl, or a folder of masks")
    p.add_argument("--task", required=True, metavar="T", help="a task of questions, classes or masks")
    p.add_argument("--name", required=True, metavar="NAME", help="what the system is called in tables")
    p.add_argument(
        "--data", default="scenes", metavar="DIR|hub|scenes", help="folder of the data sets (default: the synthetic scenes)"
    )
    p.add_argument("--limit", type=LIMIT, metavar="N", help="at most N test images per task")
    p.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="task.field=value", help="override a card's field"
    )
    p.add_argument("--out", metavar="DIR", help="where the record goes (default: the newest run, runs/latest, or a new folder)")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    from levl_eval.core.progress import Progress
    from levl_eval.report.results import entry_of
    from levl_eval.report.units import interval
    from levl_eval.runner.importing import ImportOptions, import_predictions

    options = ImportOptions(data=args.data, settings=tuple(args.settings), limit=args.limit, out=args.out)
    record = import_predictions(args.source, args.task, args.name, options, Progress(quiet=args.quiet))
    main, kind = record.metrics[record.main_metric], entry_of(record, record.main_metric)
    value = interval(main.value, main.low, main.high, kind)
    print(printable(f"{args.name} on {record.task}, {record.main_metric} {value}: {record.home}/records/{record.key}.json"))
    return 0
