"""Images of a hub table: opened as files are, known by their bytes as stored."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.cards.base import HubSource
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.data.hub_contents import column_contents
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.images import fingerprint_contents
from levl_eval.data.rgb import DEFAULT, Rules, decode_rgb, open_image, open_rgb, rules_of, to_rgb
from levl_eval.data.skipping import named, why_broken
from levl_eval.data.types import ImageSet

if TYPE_CHECKING:
    from datasets import Dataset

ARRAYS = ("cifar10", "cifar100", "stl10")  # published as arrays: their images' content is their pixels


def source_of(spec: DataSpec) -> HubSource:
    """Where ``--data hub`` finds a card's set. Raises UsageError: the card names no place."""
    if spec.hub is None:
        raise UsageError(
            f"--data hub: field `data.hub` is not set for layout {spec.layout}; give repo and split, or use --data DIR"
        )
    return spec.hub


@dataclass(frozen=True)
class TableOpener:
    """id -> RGB image of a table's row, decoded as files are."""

    table: Dataset
    column: str
    rows: dict[str, int]
    source: str
    rules: Rules = DEFAULT

    def __post_init__(self) -> None:
        import datasets

        table = self.table.select_columns([self.column])  # a row of it is decoded without its other columns
        if isinstance(table.features[self.column], datasets.Image):
            table = table.cast_column(self.column, datasets.Image(decode=False))
        object.__setattr__(self, "table", table)

    def __call__(self, name: str) -> Image.Image:
        cell, what = self._cell(name)
        if isinstance(cell, Image.Image):
            return to_rgb(cell, what, self.rules)
        return decode_rgb(cell, what, self.rules) if isinstance(cell, bytes) else open_rgb(cell, self.rules)

    def opened(self, name: str) -> Image.Image:
        """Pillow's lazily opened image of a row, as it is stored. Raises what Pillow raises, and LevlError for a row that holds none."""
        cell, _ = self._cell(name)
        return cell if isinstance(cell, Image.Image) else open_image(io.BytesIO(cell) if isinstance(cell, bytes) else cell)

    def _cell(self, name: str) -> tuple[Image.Image | bytes | str, str]:
        """What a row holds, decoded, encoded or the path of a file, and what it is called in messages. Raises LevlError: nothing."""
        row = self.rows[name]
        cell = self.table[row][self.column]
        if not isinstance(cell, Image.Image):
            data, path = (cell.get(k) for k in ("bytes", "path")) if cell else (None, None)
            cell = data if data is not None else path
        if not cell and not isinstance(cell, (bytes, Image.Image)):
            raise LevlError(
                f"{self.source}: row {row}: column {self.column!r} holds no image; correct or download the table again"
            )
        return cell, f"{self.source}: row {row} (image {printable(name)[:200]})"


def check_image_column(table: Dataset, column: str, source: str) -> None:
    """Raises UsageError: the table has no such column, or one of something else than encoded images."""
    import datasets

    if column not in table.column_names:
        raise UsageError(
            f"{source}: field {column!r} is missing; its columns are {', '.join(map(printable, table.column_names))}"
        )
    feature = table.features[column]
    if not isinstance(feature, datasets.Image):
        kind = str(getattr(feature, "dtype", None) or type(feature).__name__)
        raise UsageError(
            f"{source}: column {column!r} holds no images but {printable(kind)[:60]}; correct or download the table again"
        )


def table_images(
    got: HubTable, column: str, rows: dict[str, int], spec: DataSpec, skipped: Mapping[str, str] | None = None
) -> ImageSet:
    """Images of a table by id (id -> row), known by their encoded bytes (or pixels, for sets that are published as arrays).

    Raises LevlError naming the row that holds none, UsageError where all are broken.
    """
    assert spec.hub is not None
    table = got.rows
    check_image_column(table, column, spec.hub.repo)
    opener = TableOpener(table, column, rows, spec.hub.repo, rules_of(spec))
    broken = dict(skipped or {})
    if spec.skip_broken is not None:
        broken |= {
            n: why
            for n, r in rows.items()
            if (why := why_broken(partial(opener, n), f"{spec.hub.repo}: row {r} (image {printable(n)[:200]})"))
        }
        rows = {n: r for n, r in rows.items() if n not in broken}
    if not rows:
        raise UsageError(
            f"{spec.hub.repo}: " + (f"none of its images can be used: {named(broken)}" if broken else "holds no rows")
        )
    try:
        contents, whole = column_contents(table, column, rows, pixels=spec.layout in ARRAYS)
    except LevlError as e:
        raise LevlError(f"{spec.hub.repo}: {e}") from e
    return ImageSet(
        tuple(rows),
        opener,
        fingerprint_contents(contents),
        spec.hub.repo,
        contents.__getitem__,
        whole,
        {},
        broken,
        got.revision,
        got.remark,
    )


def rows_with_image(table: Dataset, column: str = "image") -> list[bool]:
    """Of each row, whether it holds an image; nothing is decoded."""
    import pyarrow.compute as pc

    if not len(table):
        return []
    cells = (
        table.flatten_indices().data.column(column) if getattr(table, "_indices", None) is not None else table.data.column(column)
    )
    there = pc.or_(pc.is_valid(pc.struct_field(cells, "bytes")), pc.is_valid(pc.struct_field(cells, "path")))
    return [bool(x) for x in there.to_pylist()]
