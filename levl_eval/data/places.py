"""Where data sets lie, and what their readers may look at: published folders, places that a card names, tables of the hub."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from levl_eval.cards.base import DataSpec

# Every suffix of a format that Pillow decodes to pixels by itself (rgb.FORMATS); the most frequent first.
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif", ".jpe", ".jfif", ".apng", ".avif", ".avifs", ".jp2",
    ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pgm", ".pbm", ".pnm", ".pfm", ".dib", ".tga", ".icb", ".vda", ".vst", ".ico", ".icns",
    ".cur", ".psd", ".pcx", ".dcx", ".dds", ".blp", ".ftc", ".ftu", ".fit", ".fits", ".fli", ".flc", ".gbr", ".iim", ".im", ".mpo", ".msp",
    ".pcd", ".pxr", ".qoi", ".ras", ".bw", ".rgb", ".rgba", ".sgi", ".xbm", ".xpm",
)  # fmt: skip
COMMIT = re.compile("[0-9a-f]{40}")  # a revision of a hub repository that never changes
# The folder in which a set's published archive unpacks itself: below its root, or directly below --data DIR.
TOPS: dict[str, tuple[str, ...]] = {
    "imagenet": ("ILSVRC/Data/CLS-LOC", "imagenet", "ILSVRC2012"),
    "places365": ("places365_standard", "places365standard_easyformat/places365_standard"),
    "aircraft": ("fgvc-aircraft-2013b/data", "data"), "pets": ("oxford-iiit-pet",), "sun397": ("SUN397",),
    "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py"), "cifar100": ("cifar-100-binary", "cifar-100-python"),
    "stl10": ("stl10_binary",), "tiny-imagenet": ("tiny-imagenet-200",),
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val",), "imagenet-a": ("imagenet-a",), "imagenet-r": ("imagenet-r",),
    "imagenet-sketch": ("sketch", "imagenet-sketch"), "objectnet": ("objectnet-1.0",),
    "food101": ("food-101",), "dtd": ("dtd",), "cub": ("CUB_200_2011",), "gtsrb": ("gtsrb",), "flowers102": ("flowers-102",),
    "stanford-cars": ("stanford_cars",), "spair71k": ("SPair-71k",),
    "davis": ("DAVIS",), "navi": ("navi_v1.0", "navi_v1", "navi_v1.5", "navi"),
    "nyuv2-normals": ("dsine_eval/nyuv2",), "chartqa": ("ChartQA Dataset",),
}  # fmt: skip
# In ImageNet's folder or up to three above it.
IMAGENET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "LOC_val_solution.csv")
_PATHS = ("root", "questions", "annotations", "images", "classes", "choices")  # fields of a DataSpec that name a place
# folders of --data DIR where a set's images may lie too
_SHARED = {
    "pope": ("coco", "vqav2", "gqa/images"),
    "vqav2": ("coco",),
    "sugarcrepe": ("coco",),
    "vsr": ("coco",),
    "refcoco": ("coco",),
    "refcoco-places": ("coco",),
    "tallyqa": ("visual_genome", "coco"),
}


def on_hub(spec: DataSpec, data: str) -> bool:
    """--data hub applies to sets without places of their own."""
    own = (spec.root, spec.questions, spec.images, spec.annotations)
    return data == "hub" and all(place is None for place in own)


@dataclass(frozen=True)
class Scope:
    """trees: folders looked at with all below; folders: only their entries; files: looked at if there.

    whole: images of trees count as other files (a local repository), the reader's images need not be listed apart.
    """

    trees: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    whole: bool = False

    def covers(self, path: str) -> bool:
        """Whether a file's state is part of its state, so that it need not be listed as an image."""
        image = path.lower().endswith(SUFFIXES) and not self.whole
        return not image and any(path.startswith(t.rstrip(os.sep) + os.sep) for t in self.trees)


def absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _below(data: str, path: str) -> str:
    """A path of a card as the readers take it: relative to here if it is there, else below --data DIR."""
    p = Path(path).expanduser()
    return absolute(p if p.is_absolute() or p.exists() else Path(data) / p)


def places_of(spec: DataSpec, data: str) -> dict[str, str]:
    """Absolute place of every field of the card that names one."""
    given = {name: getattr(spec, name) for name in _PATHS if isinstance(getattr(spec, name), str)}
    return {name: absolute(v) if name == "root" else _below(data, v) for name, v in given.items()}


def scope_of(spec: DataSpec, data: str) -> Scope | None:
    """What the reader of ``spec`` may look at; None where that cannot be told, so that nothing is remembered."""
    places = places_of(spec, data)
    if on_hub(spec, data):
        trees = _hub_trees(spec)
        files = [places["classes"]] if "classes" in places else []
        return None if trees is None else Scope(trees, [], files, whole=True)
    trees, folders, files = [], [absolute(data)], []
    if spec.root or spec.directory:
        trees.append(places.get("root") or absolute(Path(data) / spec.directory))
    for name, place in places.items():
        if os.path.isdir(place):
            trees.append(place)
        elif name == "classes":
            files.append(place)
        elif name != "root":  # other files beside it belong to it: choices, splits, lists of classes
            folders.append(os.path.dirname(place))
            files += [place, *_others(os.path.dirname(place))]
    if spec.layout == "pope":
        folders += [os.path.dirname(t) for t in trees]
    if not spec.root:
        trees += [absolute(Path(data) / top) for top in TOPS.get(spec.layout, ())]
    trees += [absolute(Path(data) / name) for name in _SHARED.get(spec.layout, ())]
    if spec.layout == "imagenet":
        tops = [Path(t) for t in trees] + [Path(trees[0]) / t for t in TOPS["imagenet"]]
        files += [str(f / n) for t in tops for f in list(t.parents)[:3] for n in IMAGENET_FILES]
    return Scope(_outermost(trees), sorted(set(folders)), sorted(set(files)))


def _outermost(trees: list[str]) -> list[str]:
    """Folders without those below another one of them."""
    out: list[str] = []
    for tree in sorted(set(trees)):
        if not any(tree.startswith(t.rstrip(os.sep) + os.sep) for t in out):
            out.append(tree)
    return out


def _others(folder: str) -> list[str]:
    """Files of a folder that are no images."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.path for e in entries if not e.name.lower().endswith(SUFFIXES) and e.is_file())
    except OSError:
        return []


def _hub_trees(spec: DataSpec) -> list[str] | None:
    """Folders where the tables of a hub set lie; None where a newer revision than the cached one may be meant."""
    if spec.hub is None:
        return None
    here = Path(spec.hub.repo).expanduser()
    if here.is_dir():
        return [absolute(here)]
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    config = getattr(sys.modules.get("datasets"), "config", None)
    tables = Path(getattr(config, "HF_DATASETS_CACHE", None) or os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    kept = getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_CACHE", None)
    files = Path(kept or os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    names = moved_names(spec.hub.repo)
    trees = [str(p) for o in {n.split("/")[0] for n in names} for p in sorted(tables.glob(f"{o}___*"))]
    repositories = [p for n in names if (p := files / f"datasets--{n.replace('/', '--')}").is_dir()]
    trees += [str(p) for p in repositories]
    if not _offline() and not COMMIT.fullmatch(spec.hub.revision or ""):
        # A pin that is not in the cache may be there the next time, in place of what was read instead.
        pinned = spec.hub.revision is None and any((p / "snapshots" / (spec.hub.pinned or "")).is_dir() for p in repositories)
        if not (pinned and COMMIT.fullmatch(spec.hub.pinned or "")):
            return None
    return sorted(trees) or None


# Organisations of the hub that have another name now (lmms-lab since 2026-07-30).
_MOVED = {"lmms-lab": "lmms-lab-encoder"}


def moved_names(repo: str) -> list[str]:
    """A repository's names, the newest first: that of its organisation now, and that before, whichever of them ``repo`` has."""
    owner, _, name = repo.partition("/")
    for old, new in _MOVED.items():
        if owner in (old, new):
            return [f"{new}/{name}", f"{old}/{name}"]
    return [repo]


def _offline() -> bool:
    constants = sys.modules.get("huggingface_hub.constants")
    values = (os.environ.get(n, "").upper() for n in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return bool(getattr(constants, "HF_HUB_OFFLINE", False)) or any(s in ("1", "ON", "YES", "TRUE") for s in values)
