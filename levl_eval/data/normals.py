"""Sets of surface normals: NYUv2's as DSINE's evaluation unpacks them, and a user's folders.

nyuv2-normals  ROOT/SPLIT/NAME_img.{png,jpg} beside NAME_normal.png (Bae, Davison, CVPR 2024; normals of GeoNet, Qi et al., CVPR
               2018): 795 training and 654 test images; ROOT may be the archive's dsine_eval/nyuv2.
normals        two folders, `images` and `annotations`, of equal stems. Normals: 8-bit RGB, (value / 255) 2 - 1 a component, or
               .npy [H, W, 3] of unit vectors. Pixels that are 0 in all components, and vectors that are not finite, are unknown.

What the axes are is the set's own affair: predictions are compared with what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.images import file_contents, fingerprint_contents, image_set, root_of
from levl_eval.data.listing import list_images
from levl_eval.data.map_folders import folder_pairs, stored_map
from levl_eval.data.places import TOPS
from levl_eval.data.skipping import broken_files
from levl_eval.data.types import NormalSet

_GET = "get dsine_eval of github.com/baegwangbin/DSINE and unpack its nyuv2 there"
_IMAGE, _NORMAL = "_img", "_normal.png"
UNIT = 0.1  # how far from 1 lengths may be
MOST_OFF = 0.1  # share of an 8-bit map's pixels whose lengths may be further off, as at edges that were smoothed; a photo has most of them


def load_normals(path: Path) -> np.ndarray:
    """A file as float32 unit vectors [H, W, 3], zeros where unknown. Raises LevlError naming the file."""
    raw = stored_map(path, ("RGB",), "map of normals", "normals as 8-bit RGB, or .npy [H, W, 3]")
    if raw.ndim != 3 or raw.shape[-1] != 3 or raw.dtype.kind not in "uf":
        raise LevlError(f"{path}: holds {raw.dtype} of shape {raw.shape}; expected a vector a pixel [H, W, 3]")
    if raw.dtype.kind == "u" and path.suffix.lower() == ".npy":
        raise LevlError(f"{path}: holds {raw.dtype}; expected unit vectors as floats")
    known = np.isfinite(raw).all(-1) & (raw != 0).any(-1)
    with np.errstate(over="ignore"):
        vectors = (
            raw.astype(np.float32) / 255 * 2 - 1
            if raw.dtype.kind == "u"
            else np.where(known[..., None], raw, 0).astype(np.float32)
        )
        lengths = np.linalg.norm(vectors, axis=-1)
    off = np.abs(lengths[known] - 1)
    if off.size and (off > UNIT).mean() > (0 if raw.dtype.kind == "f" else MOST_OFF):
        worst = lengths[known][off.argmax()]
        raise LevlError(f"{path}: holds a vector of length {worst:.3g}; expected unit vectors, zeros where unknown")
    out: np.ndarray = np.where(known[..., None], vectors / np.maximum(lengths, 1e-6)[..., None], 0).astype(np.float32)
    return out


def read_nyuv2_normals(spec: DataSpec, data: str, limit: int | None = None) -> NormalSet:
    """Raises UsageError: what is missing, where to put it."""
    if spec.split not in ("train", "test"):
        raise UsageError(f"nyuv2-normals: field `split`: expected train or test, found {spec.split!r}")
    home = root_of(spec.root, spec.directory, data)
    own = [] if spec.root else [Path(data) / top for top in TOPS["nyuv2-normals"]]
    tops = [home, *(home / top for top in TOPS["nyuv2-normals"]), *own]
    root = next((t for t in tops if (t / spec.split).is_dir()), home)
    folder = root / spec.split
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; {_GET}")
    images = [p for p in list_images(folder).files if p.stem.endswith(_IMAGE)]
    if not images:
        raise UsageError(f"{folder}: holds no NAME_img.png; {_GET}")
    pairs = [(p.name, p, p.with_name(p.stem[: -len(_IMAGE)] + _NORMAL)) for p in images]
    return _paired(spec, pairs[:limit], str(folder), _GET)


def read_folders(spec: DataSpec, data: str, limit: int | None = None) -> NormalSet:
    """Raises UsageError as folder_pairs does."""
    folders = folder_pairs(spec, data, "normals", ("map of normals", "maps of normals"))
    return _paired(spec, folders.pairs[:limit], str(folders.images), "complete the pairs", folders.left_out)


def _paired(
    spec: DataSpec, pairs: list[tuple[str, Path, Path]], source: str, get: str, left_out: Mapping[str, int] | None = None
) -> NormalSet:
    """A set of (id, image, map) files. Raises UsageError: what is missing, and where to get it."""
    of_image, of_map = {i: p for i, p, _ in pairs}, {i: m for i, _, m in pairs}
    broken: dict[str, str] = {}
    if spec.skip_broken is not None:
        broken = {i: f"normals: {why}" for i, why in broken_files(of_map, load_normals, "normals").items()}
        of_image, of_map = ({i: p for i, p in d.items() if i not in broken} for d in (of_image, of_map))
    lost = [m for m in of_map.values() if not m.is_file()]
    if lost:
        raise UsageError(f"{source}: {len(lost)} of {len(of_map)} maps of normals are missing, first {lost[0]}; {get}")
    contents = file_contents(of_map)[0]
    images = image_set(of_image, of_image.__getitem__, source, get, left_out, spec, broken)
    return NormalSet(
        spec.layout, spec.split, images, lambda i: load_normals(of_map[i]), fingerprint_contents(contents), contents.__getitem__
    )


def check_normals(normal_set: NormalSet) -> NormalSet:
    """The set, where some pixel of its maps is known. Raises UsageError; all maps are read only where the first few hold none."""
    if not any((normal_set.normals(name) != 0).any() for name in normal_set.images.ids):
        raise UsageError(
            f"{normal_set.images.source}: no pixel of the {len(normal_set.images)} maps has a normal, "
            "errors are not defined on this set; replace the maps"
        )
    return normal_set
