"""`levl-eval show-dense`: images of a segmentation or depth task, all backbones side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from levl_eval.cards import BackboneCard, DepthCard, InContextCard, SegmentationCard, TextSegmentationCard
from levl_eval.cards.fields import Between
from levl_eval.cli.options import Commands, comma_list, run_options
from levl_eval.runner.options import Number

if TYPE_CHECKING:
    from levl_eval.backbones.base import Backbone
    from levl_eval.engines.contract import Context

Task = TypeVar("Task", SegmentationCard, InContextCard, TextSegmentationCard, DepthCard)


class Contexts(Protocol):
    """A task's card on every backbone, by name."""

    def __call__(self, task: Task) -> list[tuple[str, Context[Task]]]: ...


def add(commands: Commands) -> None:
    """Add the subparser to ``levl-eval``'s."""
    p = commands.add_parser("show-dense", help="draw predictions beside the truth, errors and the PCA of patch tokens")
    p.add_argument("--backbone", type=comma_list, required=True, metavar="B[,B...]", help="card names, checkpoints or URIs")
    p.add_argument("--task", default="ade20k", help="a segmentation or depth task's card (default: ade20k)")
    p.add_argument(
        "--images", type=comma_list, metavar="ID[,ID...]", help="test images (default: --count of them, evenly spread)"
    )
    p.add_argument("--count", type=Number(Between(1, 1_000), int), default=6, metavar="N", help="how many images (default: 6)")
    p.add_argument(
        "--side",
        type=Number(Between(16, 4_096), int),
        default=128,
        metavar="PX",
        help="side of each image in the sheet (default: 128)",
    )
    run_options(p, "runs/dense")
    p.set_defaults(call=show_dense)


def show_dense(args: argparse.Namespace) -> int:
    """Write OUT/TASK.png. Raises UsageError for wrong names, and whatever the task raises for its data."""
    from levl_eval.backbones import load_backbone
    from levl_eval.backbones.deferred import DeferredBackbone, Known
    from levl_eval.backbones.execution import Execution, check_execution
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.device import pick_device
    from levl_eval.core.errors import UsageError
    from levl_eval.core.files import atomic_write
    from levl_eval.core.paths import default_cache
    from levl_eval.core.precision import check_precision
    from levl_eval.core.progress import Progress
    from levl_eval.engines.contract import Context
    from levl_eval.features.store import FeatureStore
    from levl_eval.runner.plan import data_folder, resolve_tasks

    if args.count < 1 or args.side < 16:
        raise UsageError(f"--count {args.count} --side {args.side}: at least 1 image of 16 pixels")
    card = resolve_tasks([args.task], args.settings, args.data)[args.task]
    if card.engine not in ("segmentation", "incontext", "textseg", "depth"):
        raise UsageError(f"--task {args.task}: its engine is {card.engine}; show-dense draws segmentation and depth tasks")
    cards = [backbone_card(b) for b in args.backbone]
    progress, cache, device = Progress(args.quiet), default_cache(), pick_device(args.device)
    precision = check_precision(args.precision, device.type)
    execution = check_execution(Execution(args.compile, args.channels_last, args.cuda_graphs), device.type)
    data = data_folder(args.data, [card], cards, cache, progress)

    def loaded(c: BackboneCard) -> Backbone:
        backbone = load_backbone(c.uri, card=c)
        backbone.open_data(data)
        return DeferredBackbone(Known.of(backbone), lambda: backbone, precision, execution).to(device)  # encodes as a run's does

    def contexts(task: Task) -> list[tuple[str, Context[Task]]]:
        return [
            (
                c.name,
                Context(
                    task, loaded(c), data, (args.seeds or [0])[0], FeatureStore(cache / "features"), cache,
                    device, limit=args.limit, batch_size=args.batch_size, progress=progress,
                ),
            )
            for c in cards
        ]  # fmt: skip

    if card.engine == "depth":
        from levl_eval.engines.depth.images import show_depth

        content = show_depth(contexts(card), args.images, args.count, args.side)
    elif card.engine == "segmentation":
        from levl_eval.engines.segmentation.images import show_dense as show_segmentation

        content = show_segmentation(contexts(card), args.images, args.count, args.side)
    else:
        content = untrained(card, contexts, args)
    path = Path(args.out) / f"{card.name}.png"
    atomic_write(path, content)
    print(json.dumps({"sheet": str(path)}) if args.json else path)
    return 0


def untrained(card: InContextCard | TextSegmentationCard, contexts: Contexts, args: argparse.Namespace) -> bytes:
    """The sheet of a task that trains no head."""
    from levl_eval.engines.dense_images import side_by_side

    if card.engine == "incontext":
        from levl_eval.engines.incontext.task import show_incontext

        return side_by_side(contexts(card), show_incontext, args.images, args.count, args.side)
    from levl_eval.engines.textseg.task import show_textseg

    return side_by_side(contexts(card), show_textseg, args.images, args.count, args.side)
