"""Referring expressions with the box of what they mean: RefCOCO, RefCOCO+ and RefCOCOg, asked for the box, or for its place in words.

The sets (github.com/lichengunc/refer; Yu et al., ECCV 2016; Mao et al., CVPR 2016) are published as pickles, which run whatever
they hold and are not read here. Read are the same splits as MDETR publishes them (mdetr_annotations of zenodo.org/record/4729015,
COCO's form), as Shikra does (JSON lines), and as tables of the hub (lmms-lab's). UNC's splits of RefCOCO and RefCOCO+, UMD's of RefCOCOg.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.data.benchmarks import LETTERS
from levl_eval.data.formats import Answers, Entry, Id, MaybeText, Text, checked, shown
from levl_eval.data.images import put_into, root_of, under
from levl_eval.data.multiple_choice import lettered
from levl_eval.data.questions import About, FileNames, finish_questions, first_of
from levl_eval.data.rgb import decoding, open_image, rules_of, upright
from levl_eval.data.stated_sizes import check_stated_sizes
from levl_eval.data.stream import stream, stream_rows
from levl_eval.data.types import Question, QuestionSet
from levl_eval.metrics.boxes import Box, box_text

if TYPE_CHECKING:
    from datasets import Dataset

SETS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}  # and whose split
# LLaVA-1.5's wording of its training on these sets.
ASKED = "Please provide the bounding box coordinate of the region this sentence describes: {}"
WHERE = "Where is {}?"
COLUMNS, ROWS = ("left", "middle", "right"), ("top", "center", "bottom")
_ROW_ENDS = (0.40, 0.64)  # of the height, as the scenes' language has them; columns end at thirds
EXACT = 5  # decimals of a coordinate in the reference that answers are scored against: a hundredth of a pixel of 640 is 1.6e-5
_SLACK = 1.0  # pixels by which COCO's own boxes may reach beyond their image
BLANK, ALONE = "expressions that are blank", "expressions whose image has all its boxes at one place"
_FROM = "get mdetr_annotations from zenodo.org/record/4729015 (or Shikra's REC_*.jsonl), and COCO 2014's train images"

Finite = Annotated[float, Field(allow_inf_nan=False)]
FourNumbers = Annotated[list[Finite], Field(min_length=4, max_length=4)]
Side = Annotated[int, Field(ge=1)]  # of an image, in pixels


class ReferredImage(Entry):
    """An expression in MDETR's form, where each has an ``image`` of its own."""

    id: Id
    file_name: Text
    width: Side
    height: Side
    caption: MaybeText = ""


class COCOBox(Entry):
    """An annotation in COCO's form: left, top, width, height."""

    image_id: Id
    bbox: FourNumbers


class ShikraReferred(Entry):
    """A line of Shikra's files: left, top, right, bottom."""

    img_path: Text
    bbox: FourNumbers
    width: Side
    height: Side
    expression: MaybeText = ""
    dataset_name: MaybeText = ""


class HubReferred(Entry):
    """A row of lmms-lab's tables: an object with its expressions."""

    answer: Answers
    bbox: FourNumbers
    file_name: Text


class Referred(NamedTuple):
    """An expression and what it means. image: the image's file name. box: in shares of width and height.

    size: of the image as the annotation says it, in pixels.
    """

    name: str
    image: str
    expression: str
    box: Box
    size: tuple[int, int]


def set_of(spec: DataSpec) -> str:
    """Which of the three sets a card names. Raises UsageError."""
    level = spec.level or "refcoco"
    if level not in SETS:
        raise UsageError(f"field `data.level`: {shown(level)}: expected {', '.join(SETS)}")
    return level


def share_box(corners: Sequence[float], size: tuple[int, int], where: str) -> Box:
    """A box (left, top, right, bottom) in pixels as shares of an image of ``size`` (width, height). where: file and entry, for messages.

    Pixels are rounded to hundredths, as COCO gives them, so that sums and differences of two forms of one file agree. Raises
    UsageError: a box without area, or beyond its image by more than a pixel.
    """
    left, top, right, bottom = (round(float(v), 2) for v in corners)
    width, height = size
    if not (left < right and top < bottom):
        raise UsageError(
            f"{where}: field `bbox`: {shown([left, top, right, bottom])} (left, top, right, bottom) has no area; "
            "correct the entry or take the published file"
        )
    if min(left, top) < -_SLACK or right > width + _SLACK or bottom > height + _SLACK:
        raise UsageError(
            f"{where}: field `bbox`: {shown([left, top, right, bottom])} (left, top, right, bottom) "
            f"lies beyond its image of {width} x {height}; take the published file and COCO's images as they are"
        )
    return max(left, 0.0) / width, max(top, 0.0) / height, min(right / width, 1.0), min(bottom / height, 1.0)


def _mdetr(file: Path) -> Iterator[Referred]:
    """Entries of MDETR's form: one ``image`` an expression, with one annotation."""
    boxes: dict[str, list[float]] = {}
    for number, (_, raw) in enumerate(stream(file, "annotations"), 1):
        a = checked(COCOBox, raw, file, f"annotation {number}")
        if a.image_id in boxes:
            raise UsageError(
                f"{file}: annotation {number}: expression {shown(a.image_id)} has two boxes; take the published file"
            )
        boxes[a.image_id] = a.bbox
    for number, (_, raw) in enumerate(stream(file, "images"), 1):
        e = checked(ReferredImage, raw, file, f"image {number}")
        if e.id not in boxes:
            raise UsageError(f"{file}: image {number}: expression {shown(e.id)} has no annotation; take the published file")
        x, y, w, h = boxes[e.id]
        box = share_box((x, y, x + w, y + h), (e.width, e.height), f"{file}: image {number}")
        yield Referred(e.id, e.file_name, e.caption, box, (e.width, e.height))


def _shikra(file: Path, level: str) -> Iterator[Referred]:
    """Entries of Shikra's form; its training file holds all three sets."""
    names = FileNames("img_path")
    for number, raw in stream_rows(file):
        e = checked(ShikraReferred, raw, file, f"entry {number}")
        if e.dataset_name in ("", level):
            where, size = f"{file}: entry {number}", (e.width, e.height)
            yield Referred(str(number), names(e.img_path, where), e.expression, share_box(e.bbox, size, where), size)


def _entries(spec: DataSpec, data: str) -> tuple[list[Referred], Path, str]:
    """Entries of the set of a card, the file they stand in, and what to do about images that are missing."""
    root, level, split = root_of(spec.root, spec.directory, data), set_of(spec), spec.split or "val"
    names = [f"{top}finetune_{level}_{split}.json" for top in ("", "mdetr_annotations/")]
    names.append("REC_ref3_train.jsonl" if split == "train" else f"REC_{level}_{SETS[level]}_{split}.jsonl")
    file = under(data, spec.questions) or first_of(root, names, f"the file of {level}'s {split} split", _FROM)
    entries = list(_shikra(file, level) if file.suffix == ".jsonl" else _mdetr(file))
    return entries, file, _FROM


def _folder(spec: DataSpec, data: str) -> Path:
    given = under(data, spec.images)
    places = [root_of(spec.root, spec.directory, data) / "train2014", Path(data) / "coco" / "train2014"]
    return given or next((p for p in places if p.is_dir()), places[0])


def box_questions(entries: Sequence[Referred], left_out: Counter[str]) -> list[Question]:
    """One question an expression: its answer is the box as text, ``answers`` the same with all digits it is scored by."""
    out = []
    for e in entries:
        if not e.expression.strip():
            left_out[BLANK] += 1
            continue
        text = ASKED.format(e.expression.strip())
        out.append(Question(e.name, e.image, text, box_text(e.box), (box_text(e.box, EXACT),)))
    return out


def place_of(box: Box) -> str:
    """Where a box's centre lies, "top left" to "bottom right"."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return f"{ROWS[sum(y >= end for end in _ROW_ENDS)]} {COLUMNS[sum(x >= end for end in (1 / 3, 2 / 3))]}"


def place_questions(entries: Sequence[Referred], left_out: Counter[str]) -> list[Question]:
    """One question an expression: at which of the places where this set's expressions mean something
    in its image, in an order of chance."""
    places: dict[str, set[str]] = {}
    for e in entries:
        places.setdefault(e.image, set()).add(place_of(e.box))
    out = []
    for e in entries:
        text, options = e.expression.strip(), sorted(places[e.image])
        if not text or len(options) < 2:
            left_out[ALONE if text else BLANK] += 1
            continue
        random.Random(digest([e.image, text, e.box])).shuffle(options)
        letter = LETTERS[options.index(place_of(e.box))]
        out.append(lettered(e.name, e.image, WHERE.format(text), options, letter, {}))
    return out


_FORMS = {"refcoco": box_questions, "refcoco-places": place_questions}


def read_refcoco(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """[mdetr_annotations/]finetune_LEVEL_SPLIT.json or REC_LEVEL_{unc,umd}_SPLIT.jsonl (training: REC_ref3_train.jsonl);
    train2014/IMAGE or DIR/coco/train2014/IMAGE."""
    entries, file, where = _entries(spec, data)
    sizes = _sizes(entries, file)
    left_out: Counter[str] = Counter()
    questions = _FORMS[spec.layout](entries, left_out)
    folder, level = _folder(spec, data), set_of(spec)
    about = About(
        _set_name(spec), spec.split or "val", file, f"{put_into(folder)}; {where}", f"{level}, {len(questions)} expressions"
    )
    out = finish_questions(about, questions, lambda i: folder / i, spec, limit, left_out)
    check_stated_sizes({i: folder / i for i in out.images.ids}, sizes, file, rules_of(spec))
    return out


def _sizes(entries: Sequence[Referred], file: Path) -> dict[str, tuple[int, int]]:
    """Image -> its size as stated. Raises UsageError: an image of two sizes."""
    out: dict[str, tuple[int, int]] = {}
    for e in entries:
        if out.setdefault(e.image, e.size) != e.size:
            (w, h), (width, height) = out[e.image], e.size
            raise UsageError(
                f"{file}: image {shown(e.image)} is stated to be {w}x{h} and, of expression {shown(e.name)}, {width}x{height}; "
                "take the published file"
            )
    return out


def _set_name(spec: DataSpec) -> str:
    return set_of(spec) + spec.layout.removeprefix("refcoco")


def hub_referred(table: Dataset, column: str, source: str) -> list[Referred]:
    """Entries of a table of the hub: a row an object, with its expressions, box (left, top, width, height) and the image in ``column``."""
    import datasets

    encoded = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    rows = table.remove_columns([column])
    out = []
    for row, (cells, cell) in enumerate(zip(rows, encoded, strict=True)):
        where = f"row {row}"
        e = checked(HubReferred, cells, source, where)
        x, y, w, h = e.bbox
        size = _size(cell[column], f"{source}: {where}")
        box = share_box((x, y, x + w, y + h), size, f"{source}: {where}")
        out += [Referred(f"{row}/{k}", image_name(e.file_name), text, box, size) for k, text in enumerate(e.answer)]
    return out


def image_name(name: str) -> str:
    """Of the image an annotation's ``file_name`` stands for: COCO_train2014_000000581857_16.jpg without its number."""
    stem, dot, ending = name.rpartition(".")
    return stem.rpartition("_")[0] + dot + ending if stem.count("_") > 2 else name


def _size(cell: Mapping[str, object] | None, where: str) -> tuple[int, int]:
    """Width and height of an encoded image, from its head. Raises UsageError."""
    content, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    try:
        with decoding(where), open_image(io.BytesIO(content) if isinstance(content, bytes) else str(path)) as image:
            upright(image, where)  # whether its box is of the image as stored or as turned nobody could tell
            return image.size
    except FileNotFoundError:
        raise UsageError(f"{where}: its image is missing; correct or download the table again") from None


def hub_referring_questions(spec: DataSpec, table: Dataset, column: str, source: str) -> list[Question]:
    """The questions of a table. Raises UsageError naming the row, or a split that mixes two."""
    refuse_mixed(spec, len(table), source)
    return _FORMS[spec.layout](hub_referred(table, column, source), Counter())


# Objects of splits that lmms-lab's tables put together: UNC's or UMD's validation and Google's 5,000 (TFDS's ref_coco lists both).
MIXED = {("refcoco", "val"): (8_811, 3_811), ("refcocog", "val"): (7_573, 2_573)}


def refuse_mixed(spec: DataSpec, rows: int, source: str) -> None:
    """Raises UsageError where a table holds another split's objects beside those of the split."""
    level = set_of(spec)
    split = (spec.hub.split if spec.hub is not None else None) or spec.split
    mixed, own = MIXED.get((level, {"validation": "val"}.get(split, split)), (0, 0))
    if rows == mixed:
        raise UsageError(
            f"{source}: split {split}: holds {rows:,} objects, those of {SETS[level].upper()}'s split ({own:,}) and of Google's "
            "(5,000) together; read the split from files (--data DIR), or take one that is whole: testA, testB, test"
        )
