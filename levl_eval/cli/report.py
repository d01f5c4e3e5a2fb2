"""`levl-eval report DIR`: the self-contained `report.html` of a run, with the images its questions are about."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from levl_eval.cards import TaskCard
    from levl_eval.data.fingerprints import AnnotatedSet
    from levl_eval.data.types import ImageSet
    from levl_eval.records import Record
    from levl_eval.report.results import Results


def add(commands: Commands) -> None:
    p = commands.add_parser("report", help="write report.html of a run directory")
    p.add_argument("dir", metavar="DIR", help="run directory")
    p.add_argument("--data", metavar="DIR", help="folder of the data sets, if they have moved")
    p.add_argument("--reference", metavar="NAME", help="baseline of the gains (default: each backbone's own random twin)")
    p.add_argument(
        "--no-images",
        "--no-pictures",
        dest="no_images",
        action="store_true",
        help="do not read the data sets again for their images",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def images_of(record: Record, data: str | None = None) -> Callable[[str], Image.Image] | None:
    """From image id to image, through the reader the record's task used; None where that task's images cannot be shown.

    They are shown only where the set found has the fingerprint the record holds: names alone may be those of other images.
    What is left out, and why, is told on stderr.
    """
    from levl_eval.cards import DataSpec, TaskFields, parse_card
    from levl_eval.core.errors import LevlError, UsageError
    from levl_eval.core.paths import default_cache
    from levl_eval.data.sources import lies_elsewhere
    from levl_eval.scenes.export import world_folder

    if record.engine not in _WITH_IMAGES or not record.card:
        return None
    folder = data or (str(world_folder(default_cache())) if record.source == "scenes" else record.source)
    try:
        card = parse_card(record.card, record.key)
        if not isinstance(card, TaskFields):
            raise UsageError(f"{record.key}: field `card`: a task card was expected, found {card.kind}")
        spec = getattr(card, "data", None)
        own = isinstance(spec, DataSpec) and lies_elsewhere(spec)  # --data does not apply to a set whose card names its paths
        made = data is None and record.source == "scenes"  # by this program, in a cache that is no place for users
        if not own and folder != "hub" and not Path(folder).is_dir():
            where = "the synthetic scenes are not in the cache any more" if made else f"{folder} is not there"
            raise LevlError(f"{where}; {_SCENES_AGAIN if made else 'give --data DIR'}")
        images, fingerprint = _test_images(card, folder, record)
        if record.data.get("fingerprint") != fingerprint:
            if own:
                raise LevlError(f"{images.source} holds other data than those measured; put those back, or run the task again")
            where = "the cache's synthetic scenes are" if made else f"{folder} holds"
            raise LevlError(f"{where} other data than those measured; {_SCENES_AGAIN if made else 'give --data DIR'}")
    except LevlError as e:
        print(printable(f"report: no images of {record.task}: {e}"), file=sys.stderr)
        return None
    return images.open


_SCENES_AGAIN = "run the task again, or give --data DIR, a folder made by `levl-eval data make scenes`"
_WITH_IMAGES = (
    "vqa", "mcq", "segmentation", "incontext", "textseg", "mmseg", "linear", "linear-path", "knn", "attentive", "zeroshot",
    "retrieval", "choice", "shift", "backgrounds", "depth", "depth-recipe", "normals", "correspondence", "propagation", "instance",
    "multiview",
)  # fmt: skip


def _test_images(card: TaskCard, folder: str, record: Record) -> tuple[ImageSet, str]:
    """The images a record's samples are about, and the fingerprint of what was read with them. Raises UsageError."""
    from levl_eval.core.errors import UsageError
    from levl_eval.data import readers
    from levl_eval.data.images import fingerprint_of

    if card.engine == "backgrounds":  # samples are of the variant of the main metric
        from levl_eval.data.backgrounds import REFERENCE
        from levl_eval.engines.probes import backgrounds

        sets = backgrounds.variants_of(card, folder, record.limit)
        return sets.get(record.main_metric, sets[REFERENCE]).images, backgrounds.fingerprint_of_sets(sets)
    test_set: AnnotatedSet
    if card.engine == "retrieval":
        from levl_eval.engines.probes import retrieval

        test_set = retrieval.captions_of(card, folder, record.limit)
    elif card.engine == "choice":
        test_set = readers.read_choices(card.data, folder, record.limit)
    elif card.engine == "lmms":
        raise UsageError(f"{card.name}: lmms-eval reads its images itself")
    elif card.engine in ("depth", "depth-recipe"):
        test_set = readers.read_depth(card.data, folder, card.scale_of("test"), record.limit)
    elif card.engine == "normals":
        test_set = readers.read_normals(card.data, folder, record.limit)
    elif card.engine == "correspondence":
        test_set = readers.read_pairs(card.data, folder, record.limit)
    elif card.engine == "instance":
        test_set = readers.read_instances(card.data, folder, record.limit)
    elif card.engine == "multiview":
        test_set = readers.read_views(card.data, folder, record.limit)
    elif card.engine == "propagation":
        test_set = readers.read_videos(card.data, folder, record.limit)
    elif card.engine in ("vqa", "mcq"):
        test_set = readers.read_questions(card.data, folder, record.limit)
    elif card.engine in ("segmentation", "incontext", "textseg", "mmseg"):
        test_set = readers.read_segmentation(card.data, folder, record.limit)
    else:
        test_set = readers.read_classification(card.data, folder, record.limit)
    return test_set.images, fingerprint_of(test_set)


def write(out: Path, images: bool = True, data: str | None = None, results: Results | None = None) -> Path:
    """Write ``out/report.html`` from the records there. data: folder of the data sets, if they have moved.

    results: what is in ``out``, where it has been read already.
    """
    from levl_eval.report.html import write_report
    from levl_eval.report.results import Results

    return write_report(out, results or Results.read([out]), (lambda record: images_of(record, data)) if images else None)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all is in the report; 1: something is damaged and left out, as stderr and the report say."""
    from levl_eval.report.results import Results

    out = Path(args.dir)
    results = Results.read([out], say=lambda text: print(text, file=sys.stderr), reference=args.reference)
    path = write(out, not args.no_images, args.data, results)
    print(json.dumps({"report": str(path), "bytes": path.stat().st_size}) if args.json else f"{path}: written")
    return int(bool(results.damaged))
