"""Images that stand in two splits, found by their content: a test image seen in training measures memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from levl_eval.data.fingerprints import image_content
from levl_eval.data.types import ImageSet
from levl_eval.io import atomic_path
from levl_eval.progress import Progress


def content_hashes(images: ImageSet, cache: Path | None = None, progress: Progress | None = None) -> np.ndarray:
    """A 32-byte hash of each image's bytes, in order, as an array [N] of dtype S64 (hexadecimal).

    Sets without stored bytes are hashed by their decoded pixels. What had to be read is kept in ``cache``/content under the set's
    fingerprint. In a set hashed in part (``ImageSet.whole``), only images read whole can be found again in one hashed whole. Raises
    LevlError for an image that cannot be read.
    """
    known = images.content is not None  # the reader has hashed them all
    path = cache / "content" / f"{images.fingerprint}.npy" if cache and not known else None
    if path is not None and path.exists():
        return np.load(path)
    progress = progress or Progress(quiet=True)

    names = images.ids if known else progress.track(images.ids, "image hashes", unit="image")
    out = np.array([image_content(images, i) for i in names], "S64")
    if path is not None:
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            np.save(f, out)
    return out


def shared_images(
    test: ImageSet, train: ImageSet, cache: Path | None = None, progress: Progress | None = None
) -> list[tuple[str, str]]:
    """(test id, training id) of every test image whose bytes are also a training image's; the first such one of training."""
    if (test.content is None) != (train.content is None):
        return []  # bytes of files against decoded pixels: nothing to compare
    seen: dict[bytes, int] = {}
    for i, h in enumerate(content_hashes(train, cache, progress)):
        seen.setdefault(h, i)
    found = content_hashes(test, cache, progress)
    return [(test.ids[i], train.ids[seen[h]]) for i, h in enumerate(found) if h in seen]
