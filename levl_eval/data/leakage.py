"""Images that stand in two splits, found by their content: a test image seen in training measures memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from levl_eval.core.hashing import digest
from levl_eval.core.kept import Damaged, mark_used, read_arrays, recall, write_arrays
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprints import image_content
from levl_eval.data.rgb import READING
from levl_eval.data.types import ImageSet
from levl_eval.records.identity import cache_key

CONTENT = 1  # version of the hashes below


def content_hashes(images: ImageSet, cache: Path | None = None, progress: Progress | None = None) -> np.ndarray:
    """A 32-byte hash of each image's bytes, in order, as an array [N] of dtype S64 (hexadecimal).

    Sets without stored bytes are hashed by their decoded pixels. What had to be read is kept in ``cache``/content under the set's
    fingerprint and the order of its ids. In a set hashed in part (``ImageSet.whole``), only images read whole can be found again in
    one hashed whole. Raises LevlError for an image that cannot be read.
    """
    known = images.content is not None  # the reader has hashed them all
    progress = progress or Progress(quiet=True)
    path = None
    if cache and not known:
        path = cache / "content" / f"{content_key(images)}.npz"
        kept = recall(lambda: _read(path, len(images)), progress)
        if kept is not None:
            return kept

    names = images.ids if known else progress.track(images.ids, "image hashes", unit="image")
    out = np.array([image_content(images, i) for i in names], "S64")
    if path is not None:
        write_arrays(path, path.stem, {"hashes": out})
    return out


def content_key(images: ImageSet) -> str:
    """Under what the hashes of a set are kept."""
    form = f"pixels {READING}" if images.content is None else "bytes"
    return cache_key("content", CONTENT, images={"fingerprint": images.fingerprint, "order": digest(list(images.ids))}, form=form)


def _read(path: Path, count: int) -> np.ndarray:
    """Kept hashes. Raises FileNotFoundError, Damaged."""
    out = read_arrays(path, path.stem).get("hashes")
    if out is None or out.shape != (count,) or out.dtype != np.dtype("S64"):
        raise Damaged(f"{path}: does not hold {count} hashes")
    mark_used(path)
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
    hashes = content_hashes(test, cache, progress)
    return [(test.ids[i], train.ids[seen[h]]) for i, h in enumerate(hashes) if h in seen]
