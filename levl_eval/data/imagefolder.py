"""Classification sets as class folders: ROOT/SPLIT/CLASS/IMAGE, or ROOT/CLASS/IMAGE where the split is not named."""

from __future__ import annotations

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.entries import Entry, labelled_set
from levl_eval.data.images import root_of
from levl_eval.data.listing import list_classes, list_images
from levl_eval.data.tiny_imagenet import tiny_imagenet
from levl_eval.data.types import ClassificationSet


def read_imagefolder(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Class folders in order of name. ``limit`` takes images from all classes in turn. Raises UsageError for an empty set."""
    if not spec.root and not spec.directory:
        raise UsageError(
            "classification: field `root` is not set; give the folder of class folders (task.train.root and task.data.root)"
        )
    root = root_of(spec.root, spec.directory, data)
    archive = tiny_imagenet(spec, root, limit) if spec.split in ("train", "val") else None
    if archive is not None:
        return archive
    folder = root / spec.split if spec.split and (root / spec.split).is_dir() else root
    if not folder.is_dir() or (spec.split and folder == root and not spec.root):
        raise UsageError(f"{root / spec.split}: no such folder; put class folders there (CLASS/IMAGE.jpg), or set `root`")
    classes, left_out = list_classes(folder)
    if len(classes) < 2:
        raise UsageError(f"{folder}: holds {len(classes)} class folders; at least 2 are needed")
    entries: list[Entry] = []
    for k, name in enumerate(classes.values()):
        listed = list_images(folder / name)
        left_out += listed.left_out
        if not listed.files:
            more = f" ({listed.words()})" if listed.left_out else ""
            raise UsageError(f"{folder / name}: holds no images{more}; remove the folder or fill it")
        entries += [(f"{name}/{p.name}", p, k) for p in listed.files]
    return labelled_set(spec, root.name, entries, list(classes), limit, folder, "", left_out=left_out)
