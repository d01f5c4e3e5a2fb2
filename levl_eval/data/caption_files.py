"""Captions from tables and published files: a row or entry that cannot be read surely is refused by its line.

csv, tsv     a header that names the image's and the caption's column; one caption a row
*.json       COCO's captions_*.json ({"images": [...], "annotations": [{"image_id", "caption"}]})
*.token      Flickr's token file: IMAGE#NUMBER, a tab, the caption
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from levl_eval.core.errors import UsageError
from levl_eval.core.files import split_lines, text_of
from levl_eval.core.text import blank, printable, written_value
from levl_eval.data.formats import Entry, Text, checked, shown
from levl_eval.data.places import SUFFIXES

_TOKEN = re.compile(r"([^\t#]+)#(\d+)\t(.*)")
_WIDE = 10_000_000  # characters of a field; csv's own limit is 131,072


@dataclass(frozen=True)
class Caption:
    """line: where it stands, counted from 1; of JSON files the entry's number."""

    image: str
    caption: str
    line: int
    split: str = ""


class CocoImage(Entry):
    id: int
    file_name: Text


class CocoCaption(Entry):
    image_id: int
    id: int | None = None
    caption: Annotated[Text, Field()]


def read_caption_file(
    path: Path, image: str = "image", captions: Sequence[str] = ("caption",), split: str = "", delimiter: str | None = None,
    left_out: Counter[str] | None = None,
) -> list[Caption]:  # fmt: skip
    """The captions of a file in order; captions: names of the column, the first that the header has is read. split: "" or the column.
    left_out: counts what the file holds besides (COCO's images without a caption).

    Raises UsageError naming file and line: no header, another number of fields, unclosed quotes, blanks, other encodings.
    """
    text = text_of(path, "save it as UTF-8 csv or tsv")
    if path.suffix.lower() == ".json":
        return list(_coco(path, left_out))
    if path.suffix.lower() == ".token":
        return list(_token(path, text))
    mark = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    return list(_table(path, text, image, captions, split, mark))


def _table(path: Path, text: str, image: str, captions: Sequence[str], split: str, mark: str) -> Iterator[Caption]:
    records = csv_records(path, text, mark)
    number, header = next(records, (1, []))
    caption = next((c for c in captions if c in header), None)
    wanted = [image, captions[0], *([split] if split else [])]
    if image not in header or caption is None or (split and split not in header):
        guess = ""
        if any(f.split("#")[0].lower().endswith(SUFFIXES) for f in header):
            guess = f": line {number} is a row already; put the line `{printable(mark.join(wanted))}` above it"
        elif any(c in header[0] for c in "\t;|") if header else False:
            guess = ": are its fields separated by something else?"
        raise UsageError(f"{path}: the header is {shown(header)}; expected columns {', '.join(sorted(wanted))}{guess}")
    if len(set(header)) < len(header):
        raise UsageError(f"{path}: the header names a column twice ({shown(header)}); make them differ")
    at, text_at, split_at = header.index(image), header.index(caption), header.index(split) if split else -1
    for number, row in records:
        if len(row) != len(header):
            more = (
                f"; a caption that holds {'a tab' if mark == chr(9) else 'a comma'} must stand in quotes"
                if len(row) > len(header)
                else ""
            )
            raise UsageError(f"{path}: line {number}: {len(row)} fields, the header has {len(header)}{more}")
        if blank(row[at]) or blank(row[text_at]):
            raise UsageError(f"{path}: line {number}: image or caption is empty; fill it or remove the line")
        if written_value(row[text_at]):
            raise UsageError(
                f"{path}: line {number}: the caption is a list or object written as one text, {shown(row[text_at])}; "
                "write a line for each caption, its words alone"
            )
        yield Caption(row[at], row[text_at], number, row[split_at] if split else "")


def csv_records(path: Path, text: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """(line it begins at, fields) of each record that is not blank. Raises UsageError for quotes that do not close."""
    csv.field_size_limit(_WIDE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    start = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as e:
            raise UsageError(
                f"{path}: line {start}: not a table ({e}); does a quote there never close, or lack its double?"
            ) from None
        if row is None:
            return
        swallowed = next((f for f in row if any(_begins_row(line, mark) for line in split_lines(f)[1:])), None)
        if swallowed is not None:
            raise UsageError(f"{path}: line {start}: a quote that opens there closes in a later row; close it, or double it")
        if row:
            yield start, row
        start = reader.line_num + 1


def rows_below(path: Path, head: Sequence[str]) -> list[list[str]]:
    """The records of a csv file below its head.

    Raises UsageError where the first line is another one: a row would be lost, or columns mixed up.
    """
    rows = [row for _, row in csv_records(path, text_of(path), ",")]
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    if first != [cell.lower() for cell in head]:
        raise UsageError(
            f"{path}: the head is {shown(rows[0] if rows else '')}; expected {', '.join(head)}: take the published file"
        )
    return rows[1:]


def _begins_row(line: str, mark: str) -> bool:
    """Whether a line inside a field looks like a row of its own: IMAGE.SUFFIX and a separator."""
    first, separator, _ = line.partition(mark)
    return bool(separator) and first.strip().strip('"').lower().endswith(SUFFIXES)


def _token(path: Path, text: str) -> Iterator[Caption]:
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            match = _TOKEN.fullmatch(line)
            if not match or blank(match[3]):
                raise UsageError(f"{path}: line {number}: expected IMAGE#NUMBER, a tab and a caption; take the published file")
            if (match[1], match[2]) in seen:
                raise UsageError(f"{path}: line {number}: {shown(match[1])} has a caption of number {match[2]} already; keep one")
            seen.add((match[1], match[2]))
            yield Caption(match[1], match[3].strip(), number)


def _coco(path: Path, left_out: Counter[str] | None = None) -> Iterator[Caption]:
    from levl_eval.data.questions import read_json

    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list) or not isinstance(raw.get("annotations"), list):
        raise UsageError(
            f"{path}: holds no lists `images` and `annotations`; expected COCO's captions_*.json (Karpathy's files: layout karpathy)"
        )
    names: dict[int, str] = {}
    files: dict[str, int] = {}
    ids: set[int] = set()
    for k, one in enumerate(raw["images"], 1):
        e = checked(CocoImage, one, path, f"image {k}")
        if e.id in names:
            raise UsageError(f"{path}: image {k}: id {e.id} is listed twice; keep one")
        if e.file_name in files:
            raise UsageError(
                f"{path}: image {k}: file {shown(e.file_name)} is listed twice, under ids {files[e.file_name]} and {e.id}; keep one"
            )
        names[e.id], files[e.file_name] = e.file_name, e.id
    bare = set(names)
    for k, one in enumerate(raw["annotations"], 1):
        c = checked(CocoCaption, one, path, f"annotation {k}")
        if c.image_id not in names:
            raise UsageError(f"{path}: annotation {k}: image_id {c.image_id} is none of its images; take the published file")
        if c.id is not None and c.id in ids:
            raise UsageError(f"{path}: annotation {k}: id {c.id} is listed twice; keep one")
        ids |= set() if c.id is None else {c.id}
        bare.discard(c.image_id)
        yield Caption(names[c.image_id], c.caption, k)
    if bare and left_out is not None:
        left_out["images without a caption"] += len(bare)
