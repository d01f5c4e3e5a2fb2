"""`levl-eval report DIR`: the self-contained `report.html` of a run, with the pictures its questions are about."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from levl_eval.records import Record


def add(commands: Any) -> None:
    p = commands.add_parser("report", help="write report.html of a run directory")
    p.add_argument("dir", metavar="DIR")
    p.add_argument("--no-pictures", action="store_true", help="do not read the data sets again for their images")
    p.add_argument("--json", action="store_true")
    p.set_defaults(call=run)


def images_of(record: Record) -> Callable[[str], Image.Image] | None:
    """From image id to image, through the reader the record's task used; None where the data are not at hand."""
    from levl_eval.cards import parse_card
    from levl_eval.data.readers import read_classification, read_questions, read_segmentation
    from levl_eval.errors import LevlError
    from levl_eval.evaluation import default_cache

    readers: dict[str, Any] = {
        "vqa": read_questions,
        "segmentation": read_segmentation,
        "mmseg": read_segmentation,
        "linear": read_classification,
        "zeroshot": read_classification,
    }
    read = readers.get(record.engine)
    if read is None or not record.card:
        return None
    source = str(record.data.get("source", ""))
    folder = str(default_cache() / "scenes" / "seed0") if source == "scenes" else source
    if source != "hub" and not Path(folder).is_dir():
        return None
    try:
        return read(parse_card(record.card, record.key).data, folder, record.limit).images.open
    except LevlError:
        return None


def write(out: Path, pictures: bool = True) -> Path:
    """Write ``out/report.html`` from the records there."""
    from levl_eval.report.html import write_report
    from levl_eval.report.results import Results

    return write_report(out, Results.read([out]), images_of if pictures else None)


def run(args: argparse.Namespace) -> int:
    path = write(Path(args.dir), not args.no_pictures)
    print(json.dumps({"report": str(path), "bytes": path.stat().st_size}) if args.json else f"{path}: written")
    return 0
