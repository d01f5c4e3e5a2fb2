"""`levl-eval ask --backbone B --llm L IMAGE "question"`: what a frozen language model answers about one image."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.runner.options import SEED

if TYPE_CHECKING:
    from PIL import Image


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "ask",
        help="ask a frozen language model about an image",
        description="The connector is that of the recipe: reused where a run has trained it, trained first where not.",
    )
    p.add_argument("image", metavar="IMAGE", help="an image file")
    p.add_argument("questions", nargs="+", metavar="QUESTION", help="one or more questions about it")
    p.add_argument("--backbone", metavar="B", help="card name, checkpoint or URI")
    p.add_argument("--llm", default="scenes-lm", metavar="NAME|DIR", help="the language model (default: scenes-lm)")
    p.add_argument("--model", metavar="DIR", help="a model saved with levl_eval.vlm, instead of --backbone and --llm")
    p.add_argument("--recipe", metavar="R", help="recipe card (default: scenes for the synthetic scenes, else vqa-train)")
    p.add_argument("--data", default="scenes", metavar="DIR|hub|scenes", help="where the recipe's data lie")
    p.add_argument("--seed", type=SEED, default=0, help="seed of the connector (default: 0)")
    p.add_argument("--save", metavar="DIR", help="save the model there (levl_eval.vlm.load reads it)")
    p.add_argument("--trust", action="store_true", help="run the `py:` backbone that the saved model names")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def _image(name: str) -> Image.Image:
    """The image of the command line as RGB, opened as those of data sets are. Raises UsageError: to this command it is input, not data."""
    from levl_eval.data.images import open_rgb

    if not name:
        raise UsageError("levl-eval ask: IMAGE is empty; name a file")
    try:
        # a string: pathlib refuses an unknown user's home and shortens http:// to http:/
        return open_rgb(os.path.expanduser(name))
    except LevlError as e:
        raise UsageError(str(e)) from e


def run(args: argparse.Namespace) -> int:
    if bool(args.model) == bool(args.backbone):
        raise UsageError("levl-eval ask: give either --backbone (with --llm) or --model")
    image = _image(args.image)  # before the heavy imports
    from levl_eval.core.device import pick_device

    if args.model:
        from levl_eval.engines.vlm.api import load

        vlm = load(args.model, device=str(pick_device(args.device)), trust=args.trust)
    else:
        from levl_eval.core.paths import default_cache
        from levl_eval.core.progress import Progress
        from levl_eval.engines.vlm.api import assemble

        where, progress = pick_device(args.device), Progress(quiet=args.quiet)
        vlm = assemble(args.backbone, args.llm, args.recipe, args.data, args.seed, where, default_cache(), progress)
    texts = vlm.answers(image, args.questions)
    if args.json:
        print(json.dumps([{"question": q, "answer": a} for q, a in zip(args.questions, texts, strict=True)], indent=1))
    else:
        shown = map(printable, texts) if sys.stdout.isatty() else texts  # a program gets the answers as they are
        print("\n".join(shown))
    if args.save:
        vlm.save(args.save)
    return 0
