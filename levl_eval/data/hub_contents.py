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
_READ = 2  # of what is remembered of a table. 2: images that are read anew (fingerprint_cache) have other contents


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
    """Raises UsageError where rows of one image id hold other images, in any byte: answers about one would be given to the other.

    of_row: image id of each row. Rows are compared with the first of their id where they lie (large tables hold an image once a question:
    nothing is decoded or copied), once for a table's files as they are.
    """
    if column not in table.column_names:
        return
    key = _table_key(table, column, [], False, False, ["same images", *of_row])
    if key and key in active().read("sets", [key]):
        return
    first_of: dict[str, int] = {}
    repeated = [(row, first) for row, name in enumerate(of_row) if (first := first_of.setdefault(name, row)) != row]
    cells = _Cells(table, column)
    for row, first in repeated:
        if not cells.equal(row, first):
            raise UsageError(
                f"{source}: rows {first} and {row} are about image {printable(of_row[row])[:200]}, but hold other images; correct the table"
            )
    if key and cells.inside:
        active().write("sets", [(key, b"same")])


class _Cells:
    """An image column's cells as they are stored, {bytes, path}, by row."""

    def __init__(self, table: Dataset, column: str) -> None:
        self.stored = table.data.column(column)
        chosen = getattr(table, "_indices", None)  # of a table whose rows were chosen or put in another order
        self.places = None if chosen is None else chosen.column(0)
        self.inside = True  # whether all that was compared lay in the table, whose state says whether it is the same

    def equal(self, row: int, other: int) -> bool:
        """Whether two cells hold the same bytes, or name files that do."""
        one, two = (self.stored[r if self.places is None else self.places[r].as_py()] for r in (row, other))
        if not one.is_valid or not two.is_valid:
            return bool(one.is_valid == two.is_valid)
        if one["bytes"].is_valid and two["bytes"].is_valid:
            equal: bool = one["bytes"].as_buffer().equals(two["bytes"].as_buffer())
            return equal
        return self._content(one.as_py()) == self._content(two.as_py())

    def _content(self, cell: dict[str, object]) -> str:
        data, path = cell.get("bytes"), cell.get("path")
        if isinstance(data, bytes):
            return bytes_hash(data)[0]
        self.inside = False
        return active().sha256(path) if isinstance(path, str) else ""


def _table_key(
    table: Dataset, column: str, rows: list[int], pixels: bool, sampled: bool, more: Sequence[str] = ()
) -> bytes | None:
    """What is known of a table's contents is remembered under this: its files as they are now, its own fingerprint, the rows, and ``more``.

    None for tables in memory and for files that were written just now.
    """
    files = [f["filename"] for f in getattr(table, "cache_files", None) or []]
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(["table", _READ, table._fingerprint, column, pixels, sampled, files]).encode())
    for name in files:
        s, ends = ends_of(name)
        if not settled(s):
            return None
        digest.update(stat_mark(s) + ends)
    digest.update(np.asarray(rows, np.int64).tobytes())
    for text in more:
        digest.update(text.encode() + b"\0")
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
