"""`levl_eval.export_features`: what an encoder gives for a set's images, as the heads of a task read it, into a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from levl_eval.cards import AttentiveCard, ProbeCard, ZeroShotCard
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.runner.options import check_options

if TYPE_CHECKING:
    from levl_eval.data.types import ClassificationSet, ImageSet

Readout = Literal["pooled", "cls", "mean-patch", "patches"]
READOUTS: tuple[Readout, ...] = ("pooled", "cls", "mean-patch", "patches")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported.

    task: the name or file of a card whose head reads classified images; its test images, or with ``part`` "train" its training images.
    images: a folder instead, searched through its subfolders; there are no labels then. readout: None takes what the card's head
    reads, else pooled; "patches" gives [N, n, D] tokens. limit: at most so many images of either part. The rest as in ``evaluate``.
    """

    task: str | None = None
    images: str | Path | None = None
    part: Literal["test", "train"] = "test"
    readout: Readout | None = None
    data: str = "scenes"
    limit: int | None = None
    settings: tuple[str, ...] = ()
    device: str = "auto"
    batch_size: int = 64
    trust: bool = False


def export_features(
    backbone: str, out: str | Path, options: ExportOptions | None = None, progress: Progress | None = None
) -> Path:
    """Write the features of a backbone to ``out`` (.parquet or .safetensors) and return the path.

    backbone: a card's name, a checkpoint or a URI. Parquet has the columns id, features (float32, D), and for classified images label
    and class; safetensors the tensors features and labels, ids and classes as JSON in the metadata. Both hold what the numbers
    belong to under "levl_eval". Features come from the feature store, so that an encoder sees an image once.

    Raises UsageError: neither a task nor a folder, a task whose head reads no classified images, a suffix
    that is none of the two, tokens in parquet; LevlError: a read-out the encoder has not, images that cannot be read.
    """
    from levl_eval import __version__
    from levl_eval.backbones import load_backbone
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.device import pick_device
    from levl_eval.core.files import check_writable
    from levl_eval.core.paths import default_cache
    from levl_eval.data.fingerprints import fingerprint_of
    from levl_eval.engines.probes.common import blocks_to_read, global_features
    from levl_eval.engines.reads import OF_READOUT
    from levl_eval.features.export import FeatureTable, check_target, write_features
    from levl_eval.features.request import Reading
    from levl_eval.features.store import FeatureStore

    options, progress = options or ExportOptions(), progress or Progress()
    check_options(options.limit, options.batch_size, None)
    check_target(Path(out), options.readout == "patches")
    check_writable(out)
    card, images, classified = _read(options, progress)
    own = "patches" if isinstance(card, AttentiveCard) else getattr(card, "readout", "pooled")  # what the card's head reads
    readout = str(options.readout or own)
    check_target(Path(out), readout == "patches")
    named = backbone_card(backbone)
    device = pick_device(options.device)
    encoder = load_backbone(named.uri, card=named).to(device)
    layers = blocks_to_read(readout, getattr(card, "layers", None), encoder, "--readout")
    arrays = ("patches",) if readout == "patches" else OF_READOUT[readout]
    store = FeatureStore(default_cache() / "features")
    stored = store.get(
        encoder, images, arrays, Reading(layers=layers), device=device, batch_size=options.batch_size, progress=progress
    )
    values = stored.patches if readout == "patches" else global_features(stored, readout)
    identity = {
        "backbone": {"name": encoder.name, "uri": encoder.uri, "weights_sha256": encoder.weights_sha256, "code": dict(encoder.code)},
        "preprocess": encoder.preprocess.describe(), "readout": readout, "layers": "last" if layers is None else list(layers),
        "stored_as": str(values.dtype), "grid": list(stored.grid), "feature_keys": dict(stored.keys), "device": device.type,
        "data": {"images": fingerprint_of(images), "count": len(images), "part": options.part if card else "", "source": images.source},
        "task": card.name if card else None, "levl_eval": __version__,
    }  # fmt: skip
    labels, classes = (classified.labels, classified.classes) if classified is not None else (None, ())
    write_features(FeatureTable(stored.ids, values, labels, classes, identity), Path(out))
    return Path(out)


def _read(
    options: ExportOptions, progress: Progress
) -> tuple[ProbeCard | ZeroShotCard | None, ImageSet, ClassificationSet | None]:
    """The task's card, the images, and where they are classified the set."""
    from levl_eval.core.paths import default_cache
    from levl_eval.data.folder import folder_of_images
    from levl_eval.data.readers import read_classification
    from levl_eval.runner.plan import data_folder, resolve_tasks

    if (options.task is None) == (options.images is None):
        raise UsageError("features export: give either --task T or --images DIR")
    if options.images is not None:
        return None, folder_of_images(Path(options.images), options.limit), None
    assert options.task is not None
    card = next(iter(resolve_tasks([options.task], list(options.settings), options.data, options.trust).values()))
    if not isinstance(card, (ProbeCard, ZeroShotCard)):
        raise UsageError(
            f"features export: {card.name}: its engine ({card.engine}) reads no classified images; give --images DIR, which are read with "
            "the backbone's own preprocessing"
        )
    if options.part == "train" and isinstance(card, ZeroShotCard):
        raise UsageError(f"features export: {card.name}: trains nothing, so there is no training part; leave out --part")
    spec = card.train if options.part == "train" and isinstance(card, ProbeCard) else card.data
    data = data_folder(options.data, [card], [], default_cache(), progress)
    classified = read_classification(spec, data, options.limit)
    return card, classified.images, classified
