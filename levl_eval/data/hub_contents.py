"""Content hashes of a hub table's images and masks: their encoded bytes as stored, nothing decoded, remembered by table file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import settled, stat_mark
from levl_eval.core.text import printable
from levl_eval.data.fingerprint_cache import FingerprintCache, active, bytes_hash, ends_of
from levl_eval.data.fingerprints import pixel_hash
from levl_eval.data.rgb import to_rgb

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 256  # read at once


def column_contents(table: Dataset, column: str, rows: dict[str, int], pixels: bool) -> tuple[dict[str, str], int | None]:
    """id -> content hash of ``rows`` (id -> row) of an image column; and how many were hashed whole, None for all.

    pixels: of the decoded RGB pixels, for sets that are published as arrays. Raises LevlError naming the row without an image.
    """
    cache = active()
    sampled = len(rows) > cache.sample_above and not pixels
    key = _table_key(table, column, list(rows.values()), pixels, sampled)
    known = cache.read("sets", [key]).get(key) if key else None
    if known is None:
        hashes, inside = _hash_rows(cache, table, column, list(rows.values()), pixels, sampled)
        known = b"".join(bytes.fromhex(h) for h, _ in hashes) + bytes(whole for _, whole in hashes)
        if key and inside:
            cache.write("sets", [(key, known)])
    n = len(rows)
    whole = known[32 * n :].count(1) if sampled else None
    return {name: known[32 * k : 32 * k + 32].hex() for k, name in enumerate(rows)}, whole


def check_same_images(table: Dataset, column: str, of_row: Sequence[str], source: str) -> None:
    """Raises UsageError where rows of one image id hold other images (by their size in bytes and their end): answers about one would be given to
    the other. of_row: image id of each row. Images are not read whole: large tables hold one once a question."""
    import pyarrow.compute as pc

    data = getattr(table, "data", None)
    if data is None or getattr(table, "_indices", None) is not None or column not in table.column_names:
        return
    try:
        stored = pc.struct_field(data.column(column), "bytes")
        marks = list(zip(pc.binary_length(stored).to_pylist(), pc.binary_slice(stored, -24).to_pylist(), strict=True))
    except Exception:  # another form of column: its rows are not compared
        return
    seen: dict[str, tuple[int, object]] = {}
    for row, (name, mark) in enumerate(zip(of_row, marks, strict=True)):
        first, known = seen.setdefault(name, (row, mark))
        if known != mark:
            raise UsageError(
                f"{source}: rows {first} and {row} are about image {printable(name)[:200]}, but hold other images; correct the table"
            )


def _table_key(table: Dataset, column: str, rows: list[int], pixels: bool, sampled: bool) -> bytes | None:
    """What a table's contents are remembered under: its files as they are now, its own fingerprint and the rows.

    None for tables in memory and for files that were written just now.
    """
    files = [f["filename"] for f in getattr(table, "cache_files", None) or []]
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(["table", 1, table._fingerprint, column, pixels, sampled, files]).encode())
    for name in files:
        s, ends = ends_of(name)
        if not settled(s):
            return None
        digest.update(stat_mark(s) + ends)
    digest.update(np.asarray(rows, np.int64).tobytes())
    return digest.digest()


def _hash_rows(
    cache: FingerprintCache, table: Dataset, column: str, rows: list[int], pixels: bool, sampled: bool
) -> tuple[list[tuple[str, bool]], bool]:
    """(content hash, whether hashed whole) of each row; and whether all bytes lie in the table, not in files that it names."""
    import datasets

    if pixels or not isinstance(table.features[column], datasets.Image):
        encoded = isinstance(table.features[column], datasets.Image)
        return [(pixel_hash(np.asarray(to_rgb(table[r][column], f"row {r}"))), True) for r in rows], encoded
    stored = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    out: list[tuple[str, bool]] = []
    inside = True
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        for r, cell in zip(part, stored[part][column], strict=True):
            if cell is None or (cell.get("bytes") is None and not cell.get("path")):
                raise LevlError(f"row {r}: column {column!r} holds no image; correct or download the table again")
            if cell.get("bytes") is not None:
                out.append(bytes_hash(cell["bytes"], sampled))
            else:
                inside = False
                out += cache.hash_files([cell["path"]], sampled)
    return out, inside
