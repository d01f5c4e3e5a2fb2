"""`levl-eval features export`: features of a set's or a folder's images as parquet or safetensors."""

from __future__ import annotations

import argparse

from levl_eval.cli.options import Commands
from levl_eval.core.text import printable
from levl_eval.runner.options import BATCH, LIMIT


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "features",
        help="write a backbone's features to a file",
        description="Features as the heads of a task read them, or of any folder of images, with ids, labels and what they belong to.",
    )
    p.add_argument("what", choices=["export"])
    p.add_argument("--backbone", required=True, metavar="B", help="a card's name, a checkpoint or a URI")
    p.add_argument(
        "--task", metavar="T", help="a task whose head reads classified images: linear, knn@pets, zeroshot@imagenet, ..."
    )
    p.add_argument("--images", metavar="DIR", help="a folder of images instead, searched through its subfolders; without labels")
    p.add_argument("--out", required=True, metavar="FILE", help="FILE.parquet or FILE.safetensors")
    p.add_argument("--part", default="test", choices=["test", "train"], help="of the task's images (default: test)")
    p.add_argument(
        "--readout", choices=["pooled", "cls", "mean-patch", "patches"], help="default: the task's; patches: all tokens"
    )
    p.add_argument(
        "--data", default="scenes", metavar="DIR|hub|scenes", help="folder of the data sets (default: the synthetic scenes)"
    )
    p.add_argument("--limit", type=LIMIT, metavar="N", help="at most N images")
    p.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="task.field=value", help="override a card's field"
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--batch-size", type=BATCH, default=64, metavar="N", help="images per batch in the encoder (default: 64)")
    p.add_argument("--trust", action="store_true", help="execute Python code that the card names: `py:` backbones")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    from levl_eval.core.progress import Progress
    from levl_eval.runner.exporting import ExportOptions, export_features

    options = ExportOptions(
        task=args.task, images=args.images, part=args.part, readout=args.readout, data=args.data, limit=args.limit,
        settings=tuple(args.settings), device=args.device, batch_size=args.batch_size, trust=args.trust,
    )  # fmt: skip
    path = export_features(args.backbone, args.out, options, Progress(quiet=args.quiet))
    print(printable(str(path)))
    return 0
