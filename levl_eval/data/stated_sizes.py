"""Sizes that annotations state of their images, held against the images themselves: boxes and points of another size lie elsewhere."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.data.fingerprint_cache import active
from levl_eval.data.rgb import Rules, decoding, open_image, orientation, stored_size
from levl_eval.data.skipping import state_key

Size = tuple[int, int]  # width, height


def size_as_opened(path: Path, rules: Rules) -> Size:
    """(width, height) of the RGB image that ``rules`` make of a file, from its header alone. Raises LevlError naming the file."""
    try:
        with decoding(str(path)), open_image(path, rules.max_pixels) as image:
            width, height = stored_size(image)
            turned = rules.orientation == "exif" and orientation(image) >= 5  # by a quarter
    except FileNotFoundError:
        raise LevlError(f"{path}: no such image; put it there or correct the data set's file list") from None
    return (height, width) if turned else (width, height)


def check_stated_sizes(files: Mapping[str, Path], stated: Mapping[str, Size], source: object, rules: Rules) -> None:
    """Nothing where every file of ``files`` (id -> file) has the size that ``stated`` (id -> size) names for it.

    Headers are read once: sizes are remembered by the files' states. Raises UsageError naming the first that has another, and how many.
    """
    cache = active()
    kind = f"size {rules.orientation}"
    keys = {name: state_key(path, kind) for name, path in files.items()}
    known = cache.read("sets", [k for k in keys.values() if k is not None])
    rows, unlike = [], []
    for name, path in files.items():
        key = keys[name]
        if key is not None and key in known:
            width, height = struct.unpack("<qq", known[key])
        else:
            width, height = size_as_opened(path, rules)
            if key is not None:
                rows.append((key, struct.pack("<qq", width, height)))
        if (width, height) != stated[name]:
            unlike.append((name, (width, height)))
    cache.write("sets", rows)
    if unlike:
        name, (width, height) = unlike[0]
        turned = ", or its EXIF tag turns it: set `orientation: stored`" if (height, width) == stated[name] else ""
        raise UsageError(
            f"{source}: {len(unlike)} of {len(files)} images have another size than is stated there, first {files[name]}: "
            f"is {width}x{height}, stated is {stated[name][0]}x{stated[name][1]} (image {printable(name)[:200]}); "
            f"boxes would lie elsewhere: take the images as they were published{turned}"
        )
