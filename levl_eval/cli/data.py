"""`levl-eval data make` and `levl-eval data check`: data directories."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from levl_eval.cards.fields import Between
from levl_eval.cli.options import Commands
from levl_eval.core.command import Parser
from levl_eval.core.errors import UsageError
from levl_eval.core.terminal import print_rows
from levl_eval.core.text import printable
from levl_eval.runner.options import SEED, Number


def add(commands: Commands) -> None:
    """Add the subparsers to ``levl-eval``'s."""
    data = commands.add_parser("data", help="make or check data directories").add_subparsers(
        dest="data_command", metavar="make|check", parser_class=Parser, required=True
    )
    make = data.add_parser("make", help="write the synthetic scenes in the layouts of the published data sets")
    make.add_argument("what", choices=["scenes"], help="the synthetic scenes")
    make.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    make.add_argument("--seed", type=SEED, default=0, help="seed of the scenes (default: 0)")
    make.add_argument("--size", type=Number(Between(64, 512), int), default=96, help="side in pixels, 64 to 512")
    make.add_argument(
        "--scale",
        type=Number(Between(0, 1_000, above=True), of=float),
        default=1.0,
        help="multiplies the number of images of every set",
    )
    make.add_argument("--json", action="store_true", help="print JSON")
    make.set_defaults(call=_data_make)
    check_data = data.add_parser("check", help="verify counts, images, labels and ids of a data directory")
    check_data.add_argument("dir", metavar="DIR", help="folder of the data sets")
    check_data.add_argument("--json", action="store_true", help="print JSON")
    check_data.set_defaults(call=_data_check)


def _data_make(args: argparse.Namespace) -> int:
    from levl_eval.core.progress import Progress
    from levl_eval.scenes.export import make_scenes

    done = make_scenes(Path(args.out), seed=args.seed, size=args.size, scale=args.scale, progress=Progress())
    if args.json:
        print(json.dumps({"out": args.out, **json.loads((Path(args.out) / "scenes.json").read_text())}, indent=1))
        return 0
    state = "there already, whole" if done == "there" else done
    print(printable(f"{args.out}: {state}; check it with `levl-eval data check {args.out}`"))
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
