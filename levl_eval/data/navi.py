"""NAVI as it is published (Jampani et al., NeurIPS 2023): objects in photographs with a camera and a depth map each.

    ROOT/OBJECT/wild_set/annotations.json                 a list: filename, image_size [height, width], camera {q, t, focal_length}
    ROOT/OBJECT/wild_set/{images/000.jpg, depth/000.png}  and the same in ROOT/OBJECT/multiview*/

ROOT is the set's folder, or navi_v1.0, navi_v1, navi_v1.5 or navi in it or in DIR. Splits: wild_set (other backgrounds and light)
and multiview (one place). q (w, x, y, z) turns, t moves an object's points into the camera's axes (x right, y down, z away), in
millimetres. Depth is of the object alone and stored as disparity: 655,350 over a 16-bit value is millimetres, 0 is no object. The
camera's axis meets the image's middle.

An image is shown as the square around its object, of the longer side of what has a depth, moved into the image where it would leave it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.data.formats import Entry, Text, checked
from levl_eval.data.images import file_contents, fingerprint_contents, image_set, root_of
from levl_eval.data.pairs import Number
from levl_eval.data.places import TOPS
from levl_eval.data.questions import read_json
from levl_eval.data.rgb import DEFAULT, Rules, decoding, open_image, open_rgb
from levl_eval.data.skipping import broken_files
from levl_eval.data.types import MultiviewSet, View

SPLITS = ("wild_set", "multiview")
DISPARITY = 655.35  # a stored value times metres
_GET = "get navi_v1.0.tar.gz from github.com/google/navi and unpack it there"
_Three = Annotated[list[Number], Field(min_length=3, max_length=3)]


class CameraEntry(Entry):
    q: Annotated[list[Number], Field(min_length=4, max_length=4)]
    t: _Three
    focal_length: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NaviEntry(Entry):
    """A view in annotations.json."""

    filename: Text
    image_size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    camera: CameraEntry


def rotation_of(q: list[float]) -> np.ndarray:
    """float64 [3, 3] of a quaternion (w, x, y, z) of any length but 0."""
    w, x, y, z = np.array(q, np.float64) / math.sqrt(sum(v * v for v in q))
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def load_disparity(path: Path) -> np.ndarray:
    """A depth map as float32 metres [H, W]; 0: no object. Raises LevlError naming the file."""
    try:
        with decoding(str(path)), open_image(path) as image:
            if image.mode not in ("I", "I;16", "I;16B", "I;16L"):
                raise LevlError(f"{path}: a {image.mode} image; expected 16-bit disparity, as it was published")
            stored = np.array(image)
    except FileNotFoundError:
        raise LevlError(f"{path}: no such depth map; {_GET}") from None
    except (OSError, ValueError, EOFError) as e:
        raise LevlError(f"{path}: depth cannot be read ({type(e).__name__}); replace the file") from e
    values = stored.astype(np.float32)
    if not (values > 0).any():
        raise LevlError(f"{path}: holds no depth, so that the image shows no object; replace the file")
    return np.divide(DISPARITY, values, out=np.zeros_like(values), where=values > 0)


@dataclass(frozen=True)
class Window:
    """The square of a depth map [height, width] that is shown: its left upper corner and side, in the map's pixels."""

    left: int
    top: int
    side: int
    height: int
    width: int


def window_of(depth: np.ndarray) -> Window:
    """The square around all that has a depth, within the map; of at most the map's shorter side."""
    rows, columns = np.nonzero(depth > 0)
    height, width = depth.shape
    tall, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    side = min(max(tall, wide), height, width)
    top, left = int(rows.min()) - (side - tall) // 2, int(columns.min()) - (side - wide) // 2
    return Window(min(max(0, left), width - side), min(max(0, top), height - side), side, height, width)


def points_in(depth: np.ndarray, window: Window, focal: float, side: int) -> np.ndarray:
    """float32 [side, side, 3]: where the middles of so many cells a side of the window lie,
    in metres before the camera; z is 0 without a depth.

    focal: in the map's pixels. A cell takes the depth of the pixel that its middle lies in.
    """
    steps = np.floor((np.arange(side) + 0.5) * window.side / side).astype(np.int64)
    rows, columns = window.top + steps, window.left + steps
    z = depth[rows[:, None], columns[None, :]].astype(np.float64)
    x = (columns + 0.5 - window.width / 2)[None, :] * z / focal
    y = (rows + 0.5 - window.height / 2)[:, None] * z / focal
    return np.stack([x, y, z], -1).astype(np.float32)


@dataclass(frozen=True)
class WindowOpener:
    """id -> RGB image of what a window shows. Raises LevlError for an image that is not of its annotation's shape."""

    locate: Callable[[str], Path]
    window: Callable[[str], Window]
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        image, shown = open_rgb(self.locate(name), self.rules), self.window(name)
        if abs(image.width * shown.height - image.height * shown.width) > max(image.size) * 2:
            raise LevlError(
                f"{self.locate(name)}: is {image.width}x{image.height}, its depth map {shown.width}x{shown.height}; "
                "take both as they were published"
            )
        scale = image.width / shown.width
        left, top, side = (round(v * scale) for v in (shown.left, shown.top, shown.side))
        return image.crop((left, top, left + max(1, side), top + max(1, side)))


def _entries(folder: Path, scene: str) -> Iterator[tuple[View, Path, Path]]:
    """(view, image, depth map) of a scene, by file name. Raises UsageError naming file, entry and field."""
    path = folder / "annotations.json"
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{path}: expected a list of views; {_GET}")
    entries = [checked(NaviEntry, row, path, f"entry {k}") for k, row in enumerate(rows, 1)]
    twice = next((n for n, count in Counter(e.filename for e in entries).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: image {printable(twice)[:100]} stands twice; keep one entry")
    for k, e in enumerate(entries, 1):
        if "/" in e.filename or "\\" in e.filename or e.filename in (".", ".."):
            raise UsageError(
                f"{path}: entry {k}: field `filename`: {printable(e.filename)[:100]!r} is no file name; correct the entry"
            )
        if not any(e.camera.q):
            raise UsageError(f"{path}: entry {k}: field `camera.q` is 0, which turns nothing; take the published file")
    for e in sorted(entries, key=lambda e: e.filename):
        image = folder / "images" / e.filename
        small = image.with_name(f"downsampled_{e.filename}")  # as Probe3D writes them
        depth = folder / "depth" / f"{Path(e.filename).stem}.png"
        reduced = depth.with_name(f"downsampled_{depth.name}")
        height, width = e.image_size
        view = View(
            f"{scene}/{e.filename}",
            scene,
            rotation_of(e.camera.q),
            np.array(e.camera.t, np.float64) / 1000,
            e.camera.focal_length,
            (width, height),
        )
        yield (
            view,
            small if small.is_file() and not image.is_file() else image,
            reduced if reduced.is_file() and not depth.is_file() else depth,
        )


def _scenes(root: Path, split: str) -> list[tuple[str, Path]]:
    """(name, folder) of every scene of a split, in order of their names."""
    pattern = "*/wild_set/annotations.json" if split == "wild_set" else "*/multiview*/annotations.json"
    return [
        (p.parent.relative_to(root).as_posix(), p.parent)
        for p in sorted(root.glob(pattern))
        if not p.parent.parent.name.startswith(".")
    ]


def read_navi(spec: DataSpec, data: str, limit: int | None = None) -> MultiviewSet:
    """A split of NAVI; ``limit`` keeps the first so many images. Raises UsageError: what is missing where, an entry that does not fit.

    --skip-broken: images that cannot be read, or whose depth map cannot, are left out.
    """
    split = spec.split or "wild_set"
    if split not in SPLITS:
        raise UsageError(f"navi: field `split`: expected {' or '.join(SPLITS)}, found {spec.split!r}")
    home = root_of(spec.root, spec.directory, data)
    tops = [home, *(home / t for t in TOPS[spec.layout]), *(Path(data) / t for t in TOPS[spec.layout] if not spec.root)]
    root = next((t for t in tops if t.is_dir() and _scenes(t, split)), None)
    if root is None:
        raise UsageError(f"{home}: holds no OBJECT/{split}{'*' if split == 'multiview' else ''}/annotations.json; {_GET}")
    listed = [entry for name, folder in _scenes(root, split) for entry in _entries(folder, name)][:limit]
    of_image, of_map = {v.image: i for v, i, _ in listed}, {v.image: d for v, _, d in listed}
    broken: dict[str, str] = {}
    if spec.skip_broken is not None:
        broken = {i: f"depth map: {why}" for i, why in broken_files(of_map, load_disparity, "disparity").items()}
    lost = [m for i, m in of_map.items() if i not in broken and not m.is_file()]
    if lost:
        raise UsageError(f"{root}: {len(lost)} of {len(of_map)} depth maps are missing, first {lost[0]}; {_GET}")
    held = image_set([i for i in of_image if i not in broken], of_image.__getitem__, str(root), _GET, None, spec, broken)
    kept = set(held.ids)
    views = {v.image: v for v, _, _ in listed if v.image in kept}
    maps, _ = file_contents({i: of_map[i] for i in views})

    @lru_cache(None)
    def window(name: str) -> Window:
        return window_of(load_disparity(of_map[name]))

    def points(name: str, side: int) -> np.ndarray:
        depth = load_disparity(of_map[name])
        (width, height), shape = views[name].size, depth.shape
        if abs(shape[1] * height - shape[0] * width) > max(shape) * 2:
            raise LevlError(
                f"{of_map[name]}: is {shape[1]}x{shape[0]}, the annotation says {width}x{height}; take both as they were published"
            )
        return points_in(depth, window(name), views[name].focal * shape[1] / width, side)

    assert held.content is not None
    contents = {i: hashlib.sha256(f"{held.content(i)} {maps[i]} window".encode()).hexdigest() for i in views}
    shown = replace(
        held,
        open=WindowOpener(of_image.__getitem__, window),
        content=contents.__getitem__,
        fingerprint=fingerprint_contents(contents),
    )
    return MultiviewSet("navi", split, shown, tuple(views.values()), points)
