"""Captions of the hub: a table of an image and its captions a row (Flickr30k and COCO as Karpathy split them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable, written_value
from levl_eval.data.captions import caption_set
from levl_eval.data.formats import Entry, Text, checked
from levl_eval.data.hub_cells import named_rows
from levl_eval.data.hub_images import source_of, table_images
from levl_eval.data.hub_tables import load_split
from levl_eval.data.images import check_image_name
from levl_eval.data.types import CaptionSet

_CAPTIONS = ("caption", "captions", "text", "sentences")  # `hub.label` names another column
_NAMES = ("filename", "image_id", "img_id", "cocoid")  # what an image is called; else its row


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _none_a_list(captions: list[str]) -> list[str]:
    if any(map(written_value, captions)):
        raise ValueError("expected a caption, or a list of captions, not a list or object written as one text")
    return captions


class Captions(Entry):
    captions: Annotated[list[Text], BeforeValidator(_listed), AfterValidator(_none_a_list), Field(min_length=1)]


def hub_captions(spec: DataSpec, limit: int | None) -> CaptionSet:
    """A table with a column of images and one of captions, a text or a list of texts a row; of a column `split`, where there
    is one, the rows of the card's split. Raises UsageError naming the row: no caption, a blank one, an image named twice."""
    hub = source_of(spec)
    got = load_split(hub, hub.questions)
    columns, source = got.rows.column_names, hub.repo
    column = hub.label or next((c for c in _CAPTIONS if c in columns), _CAPTIONS[0])
    for wanted in ("image", column):
        if wanted not in columns:
            raise UsageError(f"{source}: field {wanted!r} is missing; its columns are {', '.join(columns)}")
    name = next((c for c in _NAMES if c in columns), "")
    cells = got.rows.select_columns([c for c in (column, name, "split") if c in columns])
    rows: dict[str, int] = {}
    captions: list[Sequence[str]] = []
    splits: set[str] = set()
    for row, cell in enumerate(named_rows(cells)):
        splits.add(str(cell.get("split")))
        if "split" in columns and spec.split and cell["split"] != spec.split:
            continue
        if limit is not None and len(rows) >= limit:
            break
        image = str(cell[name]) if name and cell[name] is not None else f"{row:08d}"
        if image in rows:
            raise UsageError(
                f"{source}: rows {rows[image]} and {row} are both about image {printable(image)[:200]}; correct the table"
            )
        entry = checked(Captions, {"captions": cell[column]}, source, f"row {row}")
        rows[check_image_name(image, source)] = row
        captions.append([c.strip() for c in entry.captions])
    if not rows:
        has = f"; it has {', '.join(map(printable, sorted(splits)))}" if "split" in columns and splits else ""
        raise UsageError(f"{source}: holds no images of split {spec.split!r}{has}")
    of_image = dict(zip(rows, captions, strict=True))
    return caption_set(spec, spec.directory or source, table_images(got, "image", rows, spec), of_image)
