"""Label masks from files and tables: typed, ranged, and asked back where they look like a common mistake."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import blank, printable, same_text
from levl_eval.data.colours import ColourTable
from levl_eval.data.rgb import decoding, open_image, upright
from levl_eval.data.types import SegmentationSet

_NEVER, UNLISTED = -2, -3
_MODES = ("L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "1")
_SAMPLE = 16  # masks of a set that are looked at when it is read; all of them only where these look wrong
_VOID_NAMES = frozenset({"unlabeled", "unlabelled", "void", "ignore", "ignored"})
MAX_ID = 65_535  # of a JSON class list: what 16-bit masks hold


@dataclass(frozen=True)
class LabelMap:
    """Which class each value of a mask file stands for.

    table: class of each value, -1 for void, -2 for what the published files never hold
    (refused), -3 for ids that a class list leaves out (void, which is said); None: the value itself, or value - 1 with
    ``reduce_zero`` (0 is void). ignore: the value of the file that is void, always in the file's own ids; -1 and others that no
    file holds are none.
    """

    classes: int
    ignore: int = 255
    reduce_zero: bool = False
    table: np.ndarray | None = None
    colours: ColourTable | None = None  # by which RGB masks become values
    listed: bool = False  # whether ``table`` is a user's list of ids

    @property
    def void(self) -> int:
        """What stands for void in the masks given out: 255, which no class has (32767 for sets of more classes)."""
        return 255 if self.classes <= 255 else 32_767

    def apply(self, values: np.ndarray, what: str = "mask", strict: bool = True) -> np.ndarray:
        """Values as stored -> int64 classes 0..C-1 and void. Raises LevlError naming ``what`` for a label beyond the classes."""
        stored = values.astype(np.int64)
        if self.table is not None:
            inside = (stored >= 0) & (stored < len(self.table))
            out = np.where(inside, self.table[np.clip(stored, 0, len(self.table) - 1)], -1)
            out = np.where(out < 0, self.void, out)
        elif self.reduce_zero:
            out = np.where(stored == 0, self.void, stored - 1)
        else:
            out = stored
        known = stored != self.ignore
        if strict and self.table is not None:
            never = known & (np.where(inside, self.table[np.clip(stored, 0, len(self.table) - 1)], 0) == _NEVER)
            if never.any():
                raise LevlError(
                    f"{what}: label {int(stored[never][0])} stands for nothing in the published files: "
                    "are these labels numbered anew (training ids), or another set's?"
                )
        if strict:
            wrong = known & (out != self.void) & ((out < 0) | (out >= self.classes))
            if self.void == 255 and self.table is None:  # 255 itself is void only where the card says so
                wrong |= known & (stored == 255 + int(self.reduce_zero))
            if wrong.any():
                raise LevlError(f"{what}: {self._beyond(stored, int(stored[wrong][0]))}")
        return np.where(known, out, self.void)

    def _beyond(self, stored: np.ndarray, value: int) -> str:
        kept = np.unique(stored[stored != self.ignore])
        fix = "correct `classes`, `ignore_index` or `reduce_zero_label`"
        text = f"label {value} is beyond the {self.classes} classes"
        if kept.tolist() == [0, 255] and self.table is None:
            return f"{text}: labels are 0 and 255: did you mean classes 0 and 1? store them so"
        if kept.min() >= 1 and kept.max() == self.classes and not self.reduce_zero:
            fix = f"labels run from {kept.min()} to {kept.max()}: if they count from 1, set `reduce_zero_label`"
        return f"{text}; {fix}"

    def unlisted(self, stored: np.ndarray) -> set[int]:
        """Values of a mask that a class list of ids leaves out; none where the classes are no such list."""
        if self.table is None or not self.listed:
            return set()
        values = np.unique(stored)
        inside = (values >= 0) & (values < len(self.table))
        out = ~inside | (self.table[np.clip(values, 0, len(self.table) - 1)] == UNLISTED)
        return set(values[out & (values != self.ignore)].tolist())

    def digest(self) -> str:
        """Of the class that each value of a mask file stands for: how its bytes are read."""
        values = self.apply(np.arange(max(256, 0 if self.table is None else len(self.table))), strict=False)
        colours = b"" if self.colours is None else self.colours.rgb.tobytes() + self.colours.ids.astype("<i8").tobytes()
        beyond = b"ignore %d" % self.ignore if self.ignore >= len(values) else b""  # which the values above do not show
        return hashlib.sha256(values.astype("<i8").tobytes() + colours + beyond).hexdigest()


@dataclass(frozen=True)
class MaskReader:
    """id -> classes [H, W]. load: id -> the mask as stored; name: id -> what it is called in errors."""

    load: Callable[[str], np.ndarray]
    name: Callable[[str], str]
    labels: LabelMap

    def __call__(self, image_id: str) -> np.ndarray:
        return self.labels.apply(self.load(image_id), self.name(image_id))


def stored_mask(image: Image.Image, what: str, colours: ColourTable | None = None) -> np.ndarray:
    """An opened label image as int64 [H, W]: 8, 16, 32-bit integers, palette or bilevel, or RGB by a table of colours.

    Raises LevlError: colours without a table or that it does not have, floats.
    """
    with decoding(what):
        if image.format in ("JPEG", "MPO"):
            raise LevlError(f"{what}: a JPEG mask, whose labels its compression changes; take the original as PNG")
        if getattr(image, "n_frames", 1) > 1:
            raise LevlError(
                f"{what}: holds {getattr(image, 'n_frames', 1)} pages or frames, of which a mask has one; store that alone"
            )
        upright(image, what)
        if colours is not None and (image.mode == "RGB" or (colours.always and image.mode == "P")):
            return colours.labels(np.array(image.convert("RGB")), what)
        if colours is not None and colours.always:
            raise LevlError(
                f"{what}: a {image.mode} mask, but `classes` is a table of colours; give RGB masks, or a list of names"
            )
        if image.mode not in _MODES:
            raise LevlError(
                f"{what}: a {image.mode} mask; expected one label a pixel (8-bit, 16-bit or palette PNG); of RGB masks `classes` "
                "must be a text file with a line RED GREEN BLUE NAME a class, as CamVid's label_colors.txt"
            )
        return np.array(image).astype(np.int64)


def mask_file(path: Path, max_pixels: int = 0, colours: ColourTable | None = None) -> np.ndarray:
    """:func:`stored_mask` of a file; max_pixels as in rgb. Raises LevlError naming it."""
    try:
        with decoding(str(path)), open_image(path, max_pixels) as image:
            return stored_mask(image, str(path), colours)
    except FileNotFoundError:
        raise LevlError(f"{path}: no such mask; complete the pairs") from None


def check_palettes(ids: Sequence[str], opened: Callable[[str], Image.Image], called: Callable[[str], str]) -> None:
    """Raises UsageError where one label has two colours in the palettes of a sample of masks:
    a program gave each mask a palette of its own, and its indices are no labels.
    opened: id -> Pillow's opened mask. Grey ramps, which writers put where there is none, are passed over."""
    colour_of: dict[int, tuple[tuple[int, ...], str]] = {}
    for name in (ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(int))):
        try:
            with decoding(called(name)), opened(name) as image:
                flat, labels = (image.getpalette(), np.unique(np.array(image))) if image.mode == "P" else (None, np.zeros(0, int))
        except (LevlError, FileNotFoundError):  # told by whoever reads it
            continue
        colours = np.array(flat or [], np.int64).reshape(-1, 3)
        if (colours == colours[:, :1]).all():
            continue
        for label in labels[labels < len(colours)].tolist():
            colour: tuple[int, ...] = tuple(colours[label].tolist())
            first, other = colour_of.setdefault(label, (colour, name))
            if first != colour:
                raise UsageError(
                    f"{called(name)}: label {label} has the colour {colour} in its palette, "
                    f"{first} in that of {called(other)}: masks of colours whose palettes were made one by one? "
                    "Store labels as 8-bit grey, or give `classes` as a table of colours (RED GREEN BLUE NAME a line)"
                )


def check_masks(segmentation_set: SegmentationSet) -> SegmentationSet:
    """The set, where some pixel of its masks can be scored and its labels are no common mistake. Raises UsageError.

    A sample of the masks is looked at; all of them only where the sample could not tell.
    """
    read = segmentation_set.mask
    if len(segmentation_set.classes) < 2:
        raise UsageError(
            f"{segmentation_set.images.source}: has the one class {printable(segmentation_set.classes[0])[:60]!r}, "
            "of which every map is right; at least 2 are needed: name the background too"
        )
    if not isinstance(read, MaskReader):
        return segmentation_set
    unlisted: set[int] = set()
    ids = segmentation_set.images.ids
    sample = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(int))]
    for part in (sample, ids):
        values: set[int] = set()
        scorable = False
        for name in part:
            try:
                stored = read.load(name)
            except LevlError:  # told by whoever opens it
                return segmentation_set
            values |= set(np.unique(stored).tolist())
            unlisted |= read.labels.unlisted(stored)
            scorable |= bool((read.labels.apply(stored, strict=False) != segmentation_set.ignore_index).any())
        binary = values == {0, 255} and read.labels.table is None and not read.labels.reduce_zero
        if scorable and not binary:
            return _with_unlisted(segmentation_set, unlisted)
    first = read.name(ids[0])  # the masks may lie elsewhere than the set's source, its images
    if not scorable:
        raise UsageError(
            f"{first}: no pixel of the {len(ids)} masks belongs to a class (labels {_some(values)}), mIoU is not defined on "
            "this test set; correct `ignore_index`, `reduce_zero_label` or `classes`"
        )
    raise UsageError(
        f"{first}: labels are 0 and 255: did you mean classes 0 and 1? In all {len(ids)} masks 255 is void "
        f'(`ignore_index`); store 1 for 255, or set `classes` to a JSON file {{"0": ..., "255": ...}} and another `ignore_index`'
    )


def _with_unlisted(segmentation_set: SegmentationSet, values: set[int]) -> SegmentationSet:
    """The set, which says of the labels that its class list leaves out that they are void."""
    if not values:
        return segmentation_set
    remark = f"labels {_some(values)} of its masks are not in `classes`: they are void"
    images = segmentation_set.images
    return replace(segmentation_set, images=replace(images, remark="; ".join(r for r in (images.remark, remark) if r)))


def _some(values: set[int]) -> str:
    listed = sorted(values)
    return ", ".join(map(str, listed[:6])) + (", ..." if len(listed) > 6 else "")


def json_classes(path: Path, text: str, ignore: int) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of a JSON class list, and for {id: name} the table id -> class (-1: void).

    Every id is a class, 0 too, except ``ignore`` and ids whose name says that they are none (_VOID_NAMES). Raises UsageError
    naming the entry: negative or other keys, nested values.
    """
    try:
        raw = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except ValueError as e:
        raise UsageError(f"{path}: not valid JSON ({e}); give a list of names, or {{id: name}}") from e
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; give a list of names, or {{id: name}}") from None
    if isinstance(raw, list):
        return checked_names(raw, str(path)), None
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: is neither a list of names nor an object {{id: name}}")
    of_id: dict[int, object] = {}
    for key, name in raw.items():
        if not (key.isascii() and key.isdigit() and int(key) <= MAX_ID):
            raise UsageError(f"{path}: id {printable(key)[:40]!r} is no number from 0 to {MAX_ID}; give {{id: name}}")
        if int(key) in of_id:
            raise UsageError(f"{path}: id {int(key)} is listed twice; keep one")
        of_id[int(key)] = name
    return named_ids(of_id, str(path), ignore)


def named_ids(of_id: Mapping[int, object], source: str, ignore: int = -1) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of classes by id: the names in order of id, and the table id -> class; -1 (void) of ``ignore`` and of names of
    _VOID_NAMES, -3 of ids between that are not listed.

    Raises UsageError as checked_names.
    """
    ids = sorted(i for i, n in of_id.items() if i != ignore and not (isinstance(n, str) and n.strip().lower() in _VOID_NAMES))
    names = checked_names([of_id[i] for i in ids], source, ids)
    table = np.full(max(of_id, default=0) + 1, UNLISTED, np.int64)
    table[list(of_id)] = -1
    table[ids] = np.arange(len(ids))
    return names, table


def _unique(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [k for k, _ in pairs]
        raise UsageError(f"{path}: id {printable(next(k for k in keys if keys.count(k) > 1))!r} is listed twice; keep one")
    return out


def checked_names(names: Sequence[object], source: str, ids: Sequence[int] | None = None) -> tuple[str, ...]:
    """Class names as text. Raises UsageError naming the entry: none, no text, blank, or twice."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        entry = f"id {ids[number]}" if ids is not None else f"class {number}"
        if not isinstance(name, str) or blank(name):
            raise UsageError(
                f"{source}: {entry}: the name is {printable(json.dumps(name))[:60]}; expected text that is not blank"
            )
        if (known := same_text(name)) in seen:
            raise UsageError(
                f"{source}: {entry}: the name {printable(name)[:60]!r} is that of another class too; make them differ"
            )
        seen[known] = number
    if not seen:
        raise UsageError(f"{source}: holds no class")
    return tuple(seen)
