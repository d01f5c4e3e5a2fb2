"""Depth sets that a list of pairs names: KITTI's Eigen split, and the test split of SUN RGB-D.

kitti    ROOT/kitti_eigen_SPLIT.txt or eigen_SPLIT_files_with_gt.txt (BTS): "IMAGE DEPTH [FOCAL]" a line, DEPTH None where the
         laser's frames were not accumulated. IMAGE: DATE/DRIVE/image_02/data/N.png, below ROOT/input, raw, raw_data or ROOT;
         DEPTH: DRIVE/proj_depth/groundtruth/image_02/N.png (16 bit, 256 a metre, Uhrig et al., 3DV 2017), below ROOT/gt_depth,
         data_depth_annotated, their or ROOT's train and val, or ROOT.
sunrgbd  ROOT/SUNRGBD_val_splits.txt, "IMAGE DEPTH" a line, or SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat (Song, Lichtenberg,
         Xiao, CVPR 2015); both name files below ROOT/SUNRGBD. Its 16-bit depths are stored turned left by three bits, in
         millimetres, and end at 8 m.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.depth import MapFiles, load_depth, pair_lines, paired, stored_depth
from levl_eval.data.images import fingerprint_contents, root_of, under
from levl_eval.data.questions import first_of
from levl_eval.data.rgb import DEFAULT, Rules, open_rgb
from levl_eval.data.types import DepthSet, ImageSet

KITTI_FRAME = (352, 1216)  # height and width of the benchmark's part of a frame: at the bottom, in the middle
SUN_FAR = 8.0  # metres: what is further away is taken for this, as the set's own toolbox reads it (read3dPoints.m)
_GET_KITTI = (
    "get the raw drives and data_depth_annotated from cvlibs.net/datasets/kitti, "
    "the lists from BTS or the Monocular-Depth-Estimation-Toolbox"
)
_GET_SUN = (
    "get SUNRGBD.zip and SUNRGBDtoolbox.zip from rgbd.cs.princeton.edu, "
    "or SUNRGBD_val_splits.txt of the Monocular-Depth-Estimation-Toolbox"
)
_IMAGES = ("input", "raw", "raw_data", ".")
_MAPS = ("gt_depth", *(f"data_depth_annotated{k}" for k in ("", "/train", "/val")), "train", "val", ".")
_SUN_SPLITS = ("SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat", "traintestSUNRGBD/allsplit.mat", "allsplit.mat")


def framed(side: int, wanted: int, end: bool) -> tuple[int, int]:
    """Where the benchmark's part of a frame begins and ends on a side: the last pixels, or the middle ones; all of a shorter side."""
    if side <= wanted:
        return 0, side
    start = side - wanted if end else (side - wanted) // 2
    return start, start + wanted


def cut_map(depth: np.ndarray) -> np.ndarray:
    """The benchmark's part [at most 352, at most 1216] of a depth map."""
    (top, bottom), (left, right) = (framed(depth.shape[k], KITTI_FRAME[k], k == 0) for k in (0, 1))
    return np.ascontiguousarray(depth[top:bottom, left:right])


@dataclass(frozen=True)
class FrameOpener:
    """id -> RGB image, the benchmark's part of a frame."""

    locate: Callable[[str], Path]
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        image = open_rgb(self.locate(name), self.rules)
        (left, right), (top, bottom) = (framed(image.size[k], KITTI_FRAME[1 - k], k == 1) for k in (0, 1))
        return image.crop((left, top, right, bottom))


def read_kitti(spec: DataSpec, data: str, scale: float, limit: int | None = None) -> DepthSet:
    """Every frame of the split that has a depth map. level: "kb" (as None), the benchmark's part of each frame and map, or "whole".

    Raises UsageError: what is missing, where to put it.
    """
    if spec.split not in ("train", "test"):
        raise UsageError(f"kitti: field `split`: expected train or test, found {spec.split!r}")
    if spec.level not in (None, "kb", "whole"):
        raise UsageError(f"kitti: field `level`: expected kb (the benchmark's 1216 x 352) or whole, found {spec.level!r}")
    root = root_of(spec.root, spec.directory, data)
    names = (f"kitti_eigen_{spec.split}.txt", f"eigen_{spec.split}_files_with_gt.txt")
    listed = _list_of(spec, data, [root / n for n in names], _GET_KITTI)
    every = pair_lines(listed, _GET_KITTI)
    lines = [words for words in every if words[1] != "None"]
    left_out = {"frames without a depth map": len(every) - len(lines)} if len(lines) < len(every) else {}
    lines = lines[:limit]
    if not lines:
        raise UsageError(f"{listed}: names no frame with a depth map; {_GET_KITTI}")
    pairs = [(w[0], _place(root, _IMAGES, w[0]), _place(root, _MAPS, w[1])) for w in lines]
    whole = spec.level == "whole"
    how = MapFiles(scale, _GET_KITTI) if whole else MapFiles(scale, _GET_KITTI, "kb crop", _cut)
    frames = paired(spec, pairs, str(root), how, left_out)
    return frames if whole else replace(frames, images=_cut_images(frames.images, {n: p for n, p, _ in pairs}))


def _cut(path: Path, scale: float) -> np.ndarray:
    return cut_map(load_depth(path, scale))


def _cut_images(images: ImageSet, files: Mapping[str, Path]) -> ImageSet:
    """The set with its images cut: other contents than those of the files."""
    assert images.content is not None
    contents = {i: hashlib.sha256(f"{images.content(i)} kb crop".encode()).hexdigest() for i in images.ids}
    opener = FrameOpener(files.__getitem__)
    return replace(images, open=opener, content=contents.__getitem__, fingerprint=fingerprint_contents(contents))


def _place(root: Path, folders: Sequence[str], name: str) -> Path:
    """Where a file of a list lies: below the first of the folders that has it, else below the first of all."""
    name = name.lstrip("/")
    return next((p for f in folders if (p := root / f / name).is_file()), root / folders[0] / name)


def _list_of(spec: DataSpec, data: str, places: Sequence[Path], get: str) -> Path:
    """The list of the pairs: the card's `annotations`, or the first of the places that is there."""
    own = under(data, spec.annotations)
    path = Path(own) if own else next((p for p in places if p.is_file()), places[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file, the list of the {spec.split} split; {get}")
    return path


def read_sunrgbd(spec: DataSpec, data: str, scale: float, limit: int | None = None) -> DepthSet:
    """The test split. Raises UsageError: what is missing, where to put it."""
    if spec.split != "test":
        raise UsageError(f"sunrgbd: field `split`: expected test, found {spec.split!r}")
    root = root_of(spec.root, spec.directory, data)
    splits = [root / name for name in _SUN_SPLITS]
    listed = _list_of(spec, data, [root / "SUNRGBD_val_splits.txt", *splits], _GET_SUN)
    pairs = _of_toolbox(listed, root, limit) if listed.suffix == ".mat" else _of_lines(listed, root, limit)
    if not pairs:
        raise UsageError(f"{listed}: names no pairs; {_GET_SUN}")
    return paired(spec, pairs, str(root), MapFiles(scale, _GET_SUN, f"three bits turned back, at most {SUN_FAR:g} m", load_sun))


def _of_lines(listed: Path, root: Path, limit: int | None) -> list[tuple[str, Path, Path]]:
    return [
        (w[0].lstrip("/"), _place(root, (".",), w[0]), _place(root, (".",), w[1])) for w in pair_lines(listed, _GET_SUN)[:limit]
    ]


def _of_toolbox(listed: Path, root: Path, limit: int | None) -> list[tuple[str, Path, Path]]:
    """The folders of ``alltest``, each with one image and one depth map; named from "SUNRGBD/" on."""
    try:
        from scipy.io import loadmat
    except ImportError as e:
        raise UsageError(f"{listed}: the package {e.name} is not installed; pip install 'levl-eval[depth]'") from e
    try:
        names = [str(np.asarray(x).reshape(-1)[0]) for x in np.asarray(loadmat(listed)["alltest"]).reshape(-1)]
    except Exception as e:  # scipy raises what it likes on damaged files
        raise UsageError(f"{listed}: holds no list `alltest` ({type(e).__name__}); {_GET_SUN}") from e
    out = []
    for name in names[:limit]:
        folder = "SUNRGBD/" + name.rpartition("SUNRGBD/")[2].strip("/")
        wanted = (("image", "*.jpg", "the image"), ("depth", "*.png", "its depth map"))
        image, depth = (first_of(root / folder / kind, [ending], what, _GET_SUN) for kind, ending, what in wanted)
        out.append((f"{folder}/image/{image.name}", image, depth))
    return out


def load_sun(path: Path, scale: float) -> np.ndarray:
    """Metres [H, W] of a 16-bit depth of SUN RGB-D. Raises LevlError naming the file."""
    raw = stored_depth(path)
    if raw.dtype.kind not in "ui" or raw.dtype.itemsize < 2 or raw.max(initial=0) > 65535:
        raise LevlError(f"{path}: expected a 16-bit image, as SUN RGB-D has them; replace the file")
    bits = raw.astype(np.uint16)
    turned = (bits >> np.uint16(3)) | (bits << np.uint16(13))
    return np.asarray(np.minimum(turned.astype(np.float32) / np.float32(scale), np.float32(SUN_FAR)))
