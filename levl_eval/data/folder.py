"""A folder of images without annotations: what `health` and `features export` read."""

from __future__ import annotations

from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.data.images import image_set
from levl_eval.data.listing import list_images
from levl_eval.data.types import ImageSet


def folder_of_images(folder: Path, limit: int | None = None, least: int = 1) -> ImageSet:
    """The images below ``folder``, its subfolders included, in the order of their relative paths; at most ``limit``.

    Raises UsageError where there is no such folder, or fewer than ``least`` images in it.
    """
    root = folder.expanduser()
    if not root.is_dir():
        raise UsageError(f"--images {folder}: no such folder")
    names = sorted(p.relative_to(root).as_posix() for p in list_images(root, deep=True).files)
    if len(names) < least:
        many = "1 image is" if least == 1 else f"{least} images are"
        raise UsageError(f"--images {folder}: holds {len(names)} images; at least {many} needed")
    return image_set(names[:limit], lambda i: root / i, str(root), "")
