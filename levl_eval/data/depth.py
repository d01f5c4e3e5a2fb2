"""Depth sets: NYUv2 as published (the labelled .mat) or as commonly unpacked (colour and depth images), and a user's folders.

nyuv2  ROOT/nyu_depth_v2_labeled.mat with ROOT/splits.mat: 795 training and 654 test images, the filled-in depth in metres
       (Silberman et al., ECCV 2012). Or images rgb_NAME.{jpg,png} beside sync_depth_NAME.png (16 bit) anywhere below one of
       ROOT/SPLIT, ROOT/official_splits/SPLIT, for training also ROOT/sync; or only those a list names: ROOT/nyu_SPLIT.txt,
       ROOT/SPLIT.txt or the card's `annotations`, one "COLOUR DEPTH ..." a line, relative to one of those folders.
depth  two folders, `images` and `annotations`, of equal stems. Depth: 8, 16 or 32-bit integers (`depth_scale` in a metre), float
       TIFF or .npy (metres). 0 and what is not finite mean unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import split_lines, text_of
from levl_eval.core.text import printable
from levl_eval.data.fingerprints import pixel_hash
from levl_eval.data.images import file_contents, fingerprint_contents, fingerprint_text, image_set, root_of, under
from levl_eval.data.listing import list_images
from levl_eval.data.map_folders import folder_pairs, stored_map
from levl_eval.data.skipping import broken_files
from levl_eval.data.types import DepthSet, ImageSet

_GET = (
    "get nyu_depth_v2_labeled.mat and splits.mat from the NYU Depth V2 page, or the colour and depth images, and put them there"
)
_INTEGER = ("L", "I", "I;16", "I;16B", "I;16L")


def load_depth(path: Path, scale: float) -> np.ndarray:
    """A depth file as float32 metres [H, W]; 0 and what is not finite: unknown. Raises LevlError naming the file."""
    return in_metres(stored_depth(path), scale)


def stored_depth(path: Path) -> np.ndarray:
    """A depth file's numbers [H, W] as stored, none of them negative. Raises LevlError naming the file."""
    raw = stored_map(path, (*_INTEGER, "F"), "depth map", "one depth a pixel (16-bit PNG, float TIFF or .npy)")
    if raw.ndim != 2 or raw.dtype.kind not in "uif":
        raise LevlError(f"{path}: holds {raw.dtype} of shape {raw.shape}; expected one number a pixel [H, W]")
    if raw.size and raw.dtype.kind != "u" and (np.nan_to_num(raw) < 0).any():
        raise LevlError(f"{path}: holds negative depths, first {raw[np.nan_to_num(raw) < 0][0]:g}; 0 stands for unknown")
    return raw


def in_metres(raw: np.ndarray, scale: float) -> np.ndarray:
    """Integers, ``scale`` of them a metre, or metres as floats, as float32."""
    with np.errstate(over="ignore"):  # beyond float32: not finite, which is unknown
        metres: np.ndarray = (raw / scale if raw.dtype.kind in "ui" else raw).astype(np.float32)
    return metres


def read_nyuv2(spec: DataSpec, data: str, scale: float, limit: int | None = None) -> DepthSet:
    """Raises UsageError: what is missing, where to put it."""
    if spec.split not in ("train", "test"):
        raise UsageError(f"nyuv2: field `split`: expected train or test, found {spec.split!r}")
    root = root_of(spec.root, spec.directory, data)
    whole = root / "nyu_depth_v2_labeled.mat"
    if whole.is_file() and spec.annotations is None:
        return _labelled(whole, root / "splits.mat", spec.split, limit)
    return paired(spec, _nyu_pairs(spec, root, data)[:limit], str(root), MapFiles(scale, _GET))


def read_folders(spec: DataSpec, data: str, scale: float, limit: int | None = None) -> DepthSet:
    """Raises UsageError as folder_pairs does."""
    folders = folder_pairs(spec, data, "depth", ("depth map", "depth maps"))
    return paired(spec, folders.pairs[:limit], str(folders.images), MapFiles(scale, "complete the pairs"), folders.left_out)


@dataclass(frozen=True)
class MapFiles:
    """How the files of a set's depth maps are read.

    scale: what an integer counts in a metre; get: where missing files are to be had; rule: what else makes metres of a file, a
    fact of the set ("": nothing); load: (file, scale) -> metres [H, W].
    """

    scale: float
    get: str
    rule: str = ""
    load: Callable[[Path, float], np.ndarray] = load_depth

    def content(self, digest: str) -> str:
        """Of a file's hash: that of what is read out of it."""
        return hashlib.sha256(f"{digest} {self.rule}".encode()).hexdigest() if self.rule else digest


def paired(
    spec: DataSpec, pairs: list[tuple[str, Path, Path]], source: str, how: MapFiles, left_out: Mapping[str, int] | None = None
) -> DepthSet:
    """A set of (id, image, depth map) files. Raises UsageError: what is missing, and where to get it."""
    of_image = {i: p for i, p, _ in pairs}
    of_map: dict[str, Path] = {}
    for i, _, m in pairs:
        if of_map.setdefault(i, m) != m:
            raise UsageError(f"{source}: image {i} is listed with two depth maps, {of_map[i].name} and {m.name}; keep one line")
    if len(of_map) < len(pairs):
        left_out = {**(left_out or {}), "pairs that are listed again": len(pairs) - len(of_map)}
    broken: dict[str, str] = {}
    if spec.skip_broken is not None:
        broken = {
            i: f"depth map: {why}"
            for i, why in broken_files(of_map, lambda m: how.load(m, how.scale), f"depth {how.scale} {how.rule}".rstrip()).items()
        }
        of_image, of_map = ({i: p for i, p in d.items() if i not in broken} for d in (of_image, of_map))
    lost = [m for m in of_map.values() if not m.is_file()]
    if lost:
        raise UsageError(f"{source}: {len(lost)} of {len(of_map)} depth maps are missing, first {lost[0]}; complete the pairs")
    contents = {i: how.content(c) for i, c in file_contents(of_map)[0].items()}
    digest = fingerprint_text([fingerprint_contents(contents), str(how.scale)])
    images = image_set(of_image, of_image.__getitem__, source, how.get, left_out, spec, broken)
    return DepthSet(
        spec.layout, spec.split, images, lambda i: how.load(of_map[i], how.scale), digest, contents.__getitem__, float(how.scale)
    )


def pair_lines(path: Path, get: str) -> list[list[str]]:
    """The words of each line of a list of pairs, two at least. Raises UsageError naming the file and line."""
    lines = [(k, line.split()) for k, line in enumerate(split_lines(text_of(path, get)), 1) if line.strip()]
    short = next((k for k, words in lines if len(words) < 2), None)
    if short:
        raise UsageError(f"{path}: line {short}: expected `IMAGE DEPTH`, two paths; correct the line, or {get}")
    if not lines:
        raise UsageError(f"{path}: names no pairs; {get}")
    return [words for _, words in lines]


def _nyu_pairs(spec: DataSpec, root: Path, data: str) -> list[tuple[str, Path, Path]]:
    """(id, colour, depth) triples of the image layouts, in order."""
    split = spec.split
    tops = [root / "official_splits" / split, root / split, *([root / "sync"] if split == "train" else []), root]
    lists = [root / f"nyu_{split}.txt", root / f"{split}.txt"]
    listed = under(data, spec.annotations) or next((f for f in lists if f.is_file()), None)
    if listed is not None:
        out = []
        for colour, depth, *_ in pair_lines(listed, _GET):
            name = colour.lstrip("/")
            top = next((t for t in tops if (t / name).is_file()), tops[0])
            out.append((name, top / name, top / depth.lstrip("/")))
        return out
    for top in tops[:-1]:
        images = list_images(top, deep=True, prefix="rgb_").files if top.is_dir() else []
        if images:
            return [(str(p.relative_to(top)), p, p.with_name(f"sync_depth_{p.stem[4:]}.png")) for p in images]
    raise UsageError(f"{root}: holds neither nyu_depth_v2_labeled.mat nor rgb_* images of the {split} split; {_GET}")


def _labelled(whole: Path, splits: Path, split: str, limit: int | None) -> DepthSet:
    """The labelled set: MATLAB 7.3, which is HDF5; its arrays are stored column by column."""
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as e:
        raise UsageError(f"{whole}: the package {e.name} is not installed; pip install 'levl-eval[depth]'") from e
    field = f"{split}Ndxs"
    if not splits.is_file():
        raise UsageError(f"{splits}: no such file; it lies beside the .mat on the NYU Depth V2 page")
    try:
        numbers = np.asarray(loadmat(splits)[field]).reshape(-1).astype(int)  # from 1
    except (KeyError, ValueError, NotImplementedError, TypeError) as e:
        raise UsageError(f"{splits}: holds no {field} ({type(e).__name__}); download it again") from e
    rows = {f"{k:04d}": int(k) - 1 for k in numbers[:limit]}

    def read(array: str, name: str) -> np.ndarray:
        try:
            with h5py.File(whole, "r") as file:
                stored: np.ndarray = file[array][rows[name]].T
                return stored
        except (OSError, KeyError, ValueError, IndexError) as e:
            raise LevlError(f"{whole}: {array} of image {name} cannot be read ({type(e).__name__}); download it again") from e

    def content(array: str, name: str) -> str:
        return pixel_hash(read(array, name))

    def opened(name: str) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(read("images", name)))

    of_image = {name: content("images", name) for name in rows}
    images = ImageSet(
        tuple(rows), opened, fingerprint_text(f"{k}:{v}" for k, v in of_image.items()), str(whole), of_image.__getitem__
    )
    of_map = {name: content("depths", name) for name in rows}
    digest = fingerprint_text(of_map.values())
    return DepthSet("nyuv2", split, images, lambda i: np.asarray(read("depths", i), np.float32), digest, of_map.__getitem__)


def check_depth(depth_set: DepthSet, caps: tuple[float, float] | None = None) -> DepthSet:
    """The set, where some pixel of its maps has a depth, and, with the card's caps (smallest and largest metres), where they can be metres.

    Raises UsageError; all maps are read only where the first few hold no depth, for the unit a sample of them.
    """
    for name in depth_set.images.ids:
        if _known(depth_set.depth(name)).size:
            break
    else:
        raise UsageError(
            f"{depth_set.images.source}: no pixel of the {len(depth_set.images)} depth maps has a depth "
            "(0 and what is not finite are unknown), errors are not defined on this set; replace the maps"
        )
    if caps is not None:
        check_unit(depth_set, caps[1])
    return depth_set


def _known(depth: np.ndarray) -> np.ndarray:
    known: np.ndarray = depth[np.isfinite(depth) & (depth > 0)]
    return known


_SAMPLE = 16  # maps that the unit of a set is told by
_BEYOND = 0.95  # share of pixels beyond the largest depth of the card, from which on maps are of another unit
# How many times nearer than the card's largest depth all of a set may end: less than the ten of centimetres read as millimetres.
_NEARER = 9


@dataclass(frozen=True)
class Depths:
    """What a sample of a set's maps holds, in metres: the middle and the largest depth, by which another unit shows.

    maps: how many of it.
    """

    median: float
    largest: float
    maps: int


def sampled_depths(depth_set: DepthSet) -> tuple[Depths, np.ndarray]:
    """What a spread sample of the maps holds, and its depths [N] themselves."""
    ids = depth_set.images.ids
    some = np.unique(np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(int))
    known = np.concatenate([_known(depth_set.depth(ids[k])) for k in some])
    return Depths(float(np.median(known)) if known.size else 0.0, float(known.max(initial=0)), len(some)), known


def check_unit(depth_set: DepthSet, far: float) -> None:
    """Raises UsageError where nearly all of the maps is further than the card's largest depth,
    or all of it in the first hundredths: millimetres as floats, whole metres as integers, another scale.
    Training would drop those pixels, or learn what no map shows."""
    ids = depth_set.images.ids
    sample, known = sampled_depths(depth_set)
    deepest, beyond, total = sample.largest, int((known > far).sum()), known.size
    first = f"{depth_set.images.source}: depth maps (first that of {printable(ids[0])[:200]})"
    scale = f"integers are divided by `depth_scale` ({depth_set.scale:g})" if depth_set.scale is not None else "they hold metres"
    if total and beyond >= _BEYOND * total:
        raise UsageError(
            f"{first}: {100 * beyond / total:.0f} % of what {sample.maps} of them hold is further than `max_depth` ({far:g} m), "
            f"up to {deepest:g} m: is another unit stored, as millimetres? "
            f"{scale}, floats are metres; correct `depth_scale`, store metres, or raise `max_depth`"
        )
    if total and deepest * _NEARER < far:
        raise UsageError(
            f"{first}: nothing in {sample.maps} of them is further than {deepest:g} m, where `max_depth` is {far:g} m: is another unit "
            f"stored, as whole metres or centimetres? {scale}; correct `depth_scale`, or lower `max_depth` to what the set shows"
        )
