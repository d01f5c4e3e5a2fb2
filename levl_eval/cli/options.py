"""Options that several commands take."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from levl_eval.core.command import Parser
from levl_eval.core.precision import PRECISIONS
from levl_eval.runner.options import BATCH, LIMIT, seed_list, size_of, skip_option

Commands: TypeAlias = (
    "argparse._SubParsersAction[Parser]"  # the type of add_subparsers' result; each command's `add` registers itself
)


def comma_list(text: str) -> list[str]:
    """`a,b` as its parts, an argparse type."""
    return [part.strip() for part in text.split(",") if part.strip()]


NEW = "a new folder runs/DATE-TIME, to which runs/latest is a link"


@contextlib.contextmanager
def out_folder(args: argparse.Namespace) -> Iterator[Path]:
    """The folder of ``--out``, or a new one; an interrupt within it names the command that resumes."""
    from levl_eval.runner.folders import run_folder

    with run_folder(args.out) as out:
        try:
            yield out
        except KeyboardInterrupt as e:
            again = ["levl-eval", *args.words, *([] if args.out is not None else ["--out", str(out)])]
            raise type(e)(f"`{shlex.join(again)}` resumes from here") from None


def run_options(p: argparse.ArgumentParser, out: str | None) -> None:
    """Options of every command that computes. out: the default of --out, None for a new folder each time."""
    p.add_argument(
        "--data", default="scenes", metavar="DIR|hub|scenes", help="folder of the data sets (default: the synthetic scenes)"
    )
    p.add_argument(
        "--llm", default="scenes-lm", metavar="NAME|DIR", help="frozen language model (default: the embedded scenes-lm)"
    )
    p.add_argument(
        "--seeds", type=seed_list, metavar="0,1,2", help="seeds of heads and connectors (default: the card's; 3 for probes)"
    )
    p.add_argument("--limit", type=LIMIT, metavar="N", help="at most N test images per task")
    p.add_argument(
        "--skip-broken", type=skip_option, metavar="N|P%", dest="skip_broken",
        help="leave out at most this many unreadable items per set; a question left out counts as wrong (default: the task fails)",
    )  # fmt: skip
    p.add_argument(
        "--set", action="append", default=[], metavar="task.field=value", dest="settings", help="override a card's field"
    )
    p.add_argument("--reference", metavar="NAME", help="baseline of the gains (default: each backbone's own random twin)")
    p.add_argument(
        "--log",
        type=comma_list,
        default=[],
        metavar="wandb,trackio,tensorboard",
        help="also log the final table to these trackers",
    )
    p.add_argument("--out", default=out, metavar="DIR", help=f"where records and tables are written (default: {out or NEW})")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--batch-size", type=BATCH, default=64, metavar="N", help="images per batch in the encoder (default: 64)")
    p.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision of the image encoders (default: float32; tf32 needs an NVIDIA GPU)",
    )
    p.add_argument("--compile", action="store_true", help="run image encoders through torch.compile (part of the identity)")
    p.add_argument(
        "--channels-last", action="store_true", dest="channels_last",
        help="run image encoders in channels-last memory format (part of the identity; for convolutional encoders)",
    )  # fmt: skip
    p.add_argument(
        "--cuda-graphs", action="store_true", dest="cuda_graphs",
        help="with --compile on an NVIDIA GPU: run image encoders as CUDA graphs (part of the identity; for small batches)",
    )  # fmt: skip
    p.add_argument(
        "--store-limit", type=size_of, metavar="SIZE", dest="store_limit",
        help="disk limit of stored features, for example 200GB; tokens beyond it are encoded again each time they are read",
    )  # fmt: skip
    p.add_argument("--workers", type=int, metavar="N", help="processes on this machine; they share the jobs and the cores")
    p.add_argument("--rehash", action="store_true", help="hash all data again, unchanged files too")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.add_argument("--json", action="store_true", help="print JSON instead of tables")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
