"""Which fields of a data specification each layout reads: one declaration, by which a field that nobody reads is refused.

A field that is set and passed over would be the worst kind of fault: a row would state an input that its number was not computed from.
``tests/data/test_layout_fields.py`` holds the declaration to what the readers do, field by field, on a small whole set of every layout.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# Read for every layout: how images are opened, and what may be left out of the set.
OPENING = ("orientation", "background", "max_pixels", "skip_broken")
_PLACE = ("directory", "root")
_REPOSITORY = tuple(f"hub.{name}" for name in ("repo", "questions", "split", "revision", "pinned", "files"))


@dataclass(frozen=True)
class Layout:
    """Fields of the card's data that a layout reads besides OPENING.

    files: of its files. required: those without which files cannot be found. hub: under ``--data hub``; (): it is read from files alone.
    names: what a card may state of it that only names it, as another field chooses it. hub_names: the same under ``--data hub``, where
    the repository's own split is in ``hub.split``.
    """

    files: tuple[str, ...]
    hub: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    hub_names: tuple[str, ...] = ("directory", "split")

    def reads(self, on_hub: bool) -> tuple[str, ...]:
        """Fields that are read from files or under ``--data hub``, as a card writes them."""
        return (*(self.hub if on_hub else self.files), *OPENING)

    def may_state(self) -> frozenset[str]:
        """Fields that a card may set: which of files and hub is read is known only with ``--data``."""
        return frozenset((*self.files, *self.hub, *OPENING, *self.names))

    def named(self, on_hub: bool) -> frozenset[str]:
        """Fields that a card may hold although this source does not read them: they name the set, or are the other source's places."""
        other = [f for f in self.hub if f.startswith("hub.")]
        return frozenset((*self.hub_names, *self.names) if on_hub else (*other, *self.names))


def _questions(*more: str, hub: tuple[str, ...] | None = (), hub_names: tuple[str, ...] = ("directory", "split")) -> Layout:
    return Layout((*_PLACE, "questions", *more), () if hub is None else (*_REPOSITORY, *hub), hub_names=hub_names)


_SPLIT = _questions("split", "images")
_WHOLE = _questions("images")  # one file of questions, without splits
_OF_LEVELS = _questions("split", "images", "level", hub=("level",))
# A column of the hub's table may hold the classes of another level, whatever the layout's files have.
_CLASS_TABLE = (*_REPOSITORY, "hub.label", "level")
_CLASSES = Layout((*_PLACE, "split"), _CLASS_TABLE)
_UNSPLIT = Layout(_PLACE, _CLASS_TABLE)
_LEVELS = Layout((*_PLACE, "split", "level"), _CLASS_TABLE)
_MASK_FILES = (*_PLACE, "split", "images", "annotations", "ignore_index")
_MASK_TABLE = (*_REPOSITORY, "hub.label", "ignore_index")
_MASKS = Layout((*_MASK_FILES, "reduce_zero_label"), (*_MASK_TABLE, "reduce_zero_label"))
_MAPS = Layout(("images", "annotations"), required=("images", "annotations"))
_CAPTION_TABLE = (*_REPOSITORY, "hub.label", "split")

LAYOUTS: dict[str, Layout] = {
    "gqa": _questions("split", "images", "choices", hub=("hub.images",)),
    "vqav2": _questions("split", "images", "annotations"),
    "pope": _questions("split", "images", "level", hub_names=("directory",)),
    "vqa": Layout(("questions", "images"), required=("questions",)),
    **dict.fromkeys(("llava", "textvqa", "vizwiz", "scienceqa", "cv-bench", "chartqa", "docvqa", "infovqa", "tallyqa"), _SPLIT),
    "mme": Layout(_PLACE, _REPOSITORY),
    **dict.fromkeys(("mmvp", "realworldqa", "ocrbench"), _WHOLE),
    "seedbench": _questions("images", hub=None),
    "mmbench": _questions("split"),
    "ai2d": Layout((*_PLACE, "images"), _REPOSITORY),
    "mcq": _questions("images", hub=None),
    "blink": Layout((*_PLACE, "questions", "images"), _REPOSITORY, names=("split",)),
    "vsr": _questions("split", "images", "level", hub=None),
    **dict.fromkeys(("refcoco", "refcoco-places"), _OF_LEVELS),
    **dict.fromkeys(
        ("imagefolder", "imagenet", "pets", "cifar10", "stl10", "sun397", "tiny-imagenet", "food101", "dtd", "cub", "gtsrb", "flowers102",
         "stanford-cars"), _CLASSES,
    ),
    "labels": Layout(("images", "annotations", "classes"), _CLASS_TABLE, required=("images", "annotations")),
    "places365": Layout((*_PLACE, "split", "images"), _CLASS_TABLE),
    **dict.fromkeys(("aircraft", "cifar100"), _LEVELS),
    **dict.fromkeys(("imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch", "objectnet"), _UNSPLIT),
    "ade20k": Layout((*_MASK_FILES, "reduce_zero_label", "classes"), (*_MASK_TABLE, "reduce_zero_label", "classes")),
    "voc": _MASKS,
    "coco-stuff": Layout((*_MASK_FILES, "reduce_zero_label"), _MASK_TABLE),  # whose files may hold training ids, tables never
    "coco-stuff-27": Layout(_MASK_FILES, _MASK_TABLE),
    "cityscapes": Layout(_MASK_FILES, (*_MASK_TABLE, "reduce_zero_label", "classes")),
    "pascal-context": Layout((*_MASK_FILES, "reduce_zero_label"), (*_MASK_TABLE, "reduce_zero_label", "classes")),
    "pascal-context-59": Layout(_MASK_FILES, (*_MASK_TABLE, "reduce_zero_label", "classes")),
    "segmentation": Layout(
        ("images", "annotations", "classes", "ignore_index", "reduce_zero_label"), (*_MASK_TABLE, "reduce_zero_label", "classes"),
        required=("images", "annotations", "classes"),
    ),
    "karpathy": Layout((*_PLACE, "split", "annotations", "images"), _CAPTION_TABLE),
    "captions": Layout(("annotations", "images", "split"), _CAPTION_TABLE, required=("annotations",)),
    "nyuv2": Layout((*_PLACE, "split", "annotations")),
    "kitti": Layout((*_PLACE, "split", "annotations", "level")),
    "sunrgbd": Layout((*_PLACE, "split", "annotations")),
    "nyuv2-normals": Layout((*_PLACE, "split")),
    **dict.fromkeys(("depth", "normals"), _MAPS),
    **dict.fromkeys(("spair71k", "davis"), Layout((*_PLACE, "split", "annotations", "images"))),
    "revisited": Layout((*_PLACE, "annotations", "images")),
    "navi": Layout((*_PLACE, "split")),
    "sugarcrepe": Layout((*_PLACE, "split", "images"), _REPOSITORY, hub_names=("directory",)),
    "winoground": Layout((*_PLACE, "annotations", "images"), _REPOSITORY, hub_names=("directory",)),
    "aro": Layout((*_PLACE, "split", "annotations", "images"), (*_REPOSITORY, "split")),
    "mmvp-vlm": Layout((*_PLACE, "annotations", "images")),
    "choices": Layout(("annotations", "images"), required=("annotations",)),
}  # fmt: skip


# Fields that name the parts of a set, and layouts that read `directory` beside `root` too, as a name: of a file, or of a task.
_PARTS = ("questions", "annotations", "images", "classes", "choices")
_NAMED_BY_DIRECTORY = ("karpathy", "revisited", "blink")


def passed_over_place(layout: str, stated: Collection[str]) -> tuple[str, str] | None:
    """A place among the stated fields of a set that is not looked at because of more specific ones,
    and those in words; None: there is none.

    `root` takes the place of `directory`; where every part of a layout has a place of its own, nothing of either is left to be read.
    """
    if layout not in LAYOUTS:
        return None
    if {"directory", "root"} <= set(stated) and layout not in _NAMED_BY_DIRECTORY:
        return "directory", "`root`, which takes its place"
    parts = [f for f in LAYOUTS[layout].files if f in _PARTS]
    if parts and set(parts) <= set(stated) and layout not in _NAMED_BY_DIRECTORY:
        least = next((f for f in ("root", "directory") if f in stated), None)
        return None if least is None else (least, f"{' and '.join(f'`{f}`' for f in parts)}, which name every part of the set")
    return None


def in_words(fields: tuple[str, ...]) -> str:
    """Fields as a sentence lists them, those of ``hub`` together: "directory, root, hub (repo, split)"."""
    plain = [f for f in fields if not f.startswith("hub.") and f not in OPENING]
    inside = [f.removeprefix("hub.") for f in dict.fromkeys(fields) if f.startswith("hub.")]
    words = [*dict.fromkeys(plain), *([f"hub ({', '.join(inside)})"] if inside else [])]
    return f"{', '.join(words)}, and as every layout {', '.join(OPENING)}"


class UnreadField(ValueError):
    """A field is set that its layout does not read. field: as a card writes it, "hub.label" of a mapping inside."""

    def __init__(self, layout: str, field: str, fields: tuple[str, ...], where: str = "") -> None:
        super().__init__(f"layout {layout} does not read `{field}`{where}; take it out, or set what it reads: {in_words(fields)}")
        self.field = field
