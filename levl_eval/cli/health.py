"""`levl-eval health`: effective rank, isotropy, uniformity, alignment, variances and duplicates of backbones' embeddings, no labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.terminal import columns, numbers, print_rows
from levl_eval.core.text import printable
from levl_eval.runner.options import BATCH, LIMIT

if TYPE_CHECKING:
    from levl_eval.data.types import ImageSet

COLUMNS = {  # figure -> heading
    "dimensions": "D", "effective_rank": "rank", "epps_pulley": "E-P", "epps_pulley_gaussian": "of noise", "uniformity": "unif.",
    "alignment": "align.", "dead_dimensions": "dead", "near_duplicates": "near",
}  # fmt: skip


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "health",
        help="statistics of a backbone's embeddings without labels: rank, uniformity, duplicates",
        description="Reads any folder of images (--images) or the test images of a set (--on; default: the synthetic scenes).",
    )
    p.add_argument("--backbone", required=True, metavar="B[,B...]", help="card names, checkpoints or URIs")
    p.add_argument("--images", metavar="DIR", help="a folder of images, searched through its subfolders")
    p.add_argument("--on", default="scenes", metavar="SET", help="a set of tasks/sets instead (default: scenes)")
    p.add_argument("--data", default="scenes", metavar="DIR|hub|scenes", help="where the sets lie")
    p.add_argument("--limit", type=LIMIT, default=2000, metavar="N", help="at most N images (default: 2000)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--batch-size", type=BATCH, default=64, metavar="N", help="images per batch in the encoder (default: 64)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--out", metavar="FILE", help="also write the figures there, as JSON")
    p.set_defaults(call=run)


def image_set_read(args: argparse.Namespace, cache: Path) -> ImageSet:
    """The images to look at. Raises UsageError for none."""
    from levl_eval.cards.registry import task_card
    from levl_eval.core.progress import Progress
    from levl_eval.data.folder import folder_of_images
    from levl_eval.data.readers import read_classification
    from levl_eval.runner.plan import data_folder

    if args.limit < 2:
        raise UsageError(f"--limit {args.limit}: at least 2 images")
    if args.images is None:
        card = task_card(f"knn@{args.on}")
        assert card.engine == "knn"
        return read_classification(
            card.data, data_folder(args.data, [card], [], cache, Progress(quiet=args.json)), args.limit
        ).images
    return folder_of_images(Path(args.images), args.limit, least=2)


def run(args: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from levl_eval.backbones import load_backbone
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.device import pick_device
    from levl_eval.core.files import atomic_write, check_writable
    from levl_eval.core.paths import default_cache
    from levl_eval.core.progress import Progress
    from levl_eval.data.leakage import content_hashes
    from levl_eval.engines.probes.common import global_features
    from levl_eval.engines.probes.health import health, second_views
    from levl_eval.engines.probes.texts import image_embeddings
    from levl_eval.features.store import FeatureStore

    cache, device, progress = default_cache(), pick_device(args.device), Progress(quiet=args.json)
    cards = [backbone_card(b.strip()) for b in args.backbone.split(",") if b.strip()]
    if args.out:
        check_writable(args.out)
    images = image_set_read(args, cache)
    content = content_hashes(images, cache, progress)
    store = FeatureStore(cache / "features")
    table: list[dict[str, object]] = []
    warnings: list[str] = []
    for card in cards:
        backbone = load_backbone(card.uri, card=card).to(device)
        sets = [
            store.get(backbone, s, ("pooled", "mean"), device=device, batch_size=args.batch_size, progress=progress)
            for s in (images, second_views(images))
        ]
        spaces = {r: [torch.from_numpy(np.array(global_features(f, r))) for f in sets] for r in ("pooled", "mean-patch")}
        if backbone.has_text:
            both = [image_embeddings(backbone, f.pooled, device) for f in sets]
            spaces |= {k: [b[k] for b in both] for k in both[0] if not k.startswith("cross-")}
        for space, (x, y) in spaces.items():
            figures = health(x, y, content)
            table.append({"backbone": card.name, "space": space, **figures})
            warnings += [f"warning: {card.name}, {space}: {w}" for w in figures["warnings"]]
        backbone.to("cpu")
    text = json.dumps(table, indent=1)
    if args.out:
        atomic_write(args.out, text + "\n")
    if args.json:
        print(text)
        return 0
    cells = [
        [str(r["backbone"]), str(r["space"]), *(f"{v:.3g}" if isinstance(v := r[c], float) else str(v) for c in COLUMNS)]
        for r in table
    ]
    print(printable(f"{len(images)} images of {images.source}"))
    print("\n".join(numbers(["backbone", "space", *COLUMNS.values()], cells, columns())))
    print_rows([["rank: effective rank; E-P: Epps-Pulley statistic, beside Gaussian noise of that shape; near: near duplicates"]])
    for warning in warnings:
        print_rows([[warning]])
    return 0
