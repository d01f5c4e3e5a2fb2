"""What is known of each patch of a synthetic scene, and whose scene an image is: the ground under the `oracle:` backbones.

Patch facts are shares of the patch's pixels, read off the masks that are drawn from the same polygons as the image:
  classes     [len(MASK_CLASSES)]   of each class, stuff and objects; they add up to 1
  attributes  those, then of pixels that show an object of each colour, texture and size word (COLORS, TEXTURES, SIZES)
  parts       the classes, then how near the patch is to each keypoint of each category (scenes.keypoints): exp(-d^2 / 2) of the distance d
              in patches from its middle, the largest one where an image shows several objects of a category; 0 for one out of sight
  scene       the attributes; in which of eight rows and eight columns the patch lies; then of pixels where a line of a sign
              stands: its word (scenes.signs.WORDS), the tens and the units of its number, and which line it is; then of pixels
              that show an object at which a letter's arrow or point is: that letter
  geometry    the share of pixels that have a depth (scenes.geometry), their mean metres and mean logarithm of metres, and the
              mean normal (x, y, z); no classes, which stand elsewhere in another set (wood is a floor in rooms, a wall in cabins)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypedDict

import numpy as np
from PIL import Image

from levl_eval.core.distributed import cores
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.scenes import VERSION, lettered, reading, signs
from levl_eval.scenes.export import COUNTS, image_scenes
from levl_eval.scenes.geometry import depth_map, normal_map
from levl_eval.scenes.keypoints import KEYPOINTS, annotated
from levl_eval.scenes.options import LETTERS
from levl_eval.scenes.render import render_instances, render_mask
from levl_eval.scenes.signs import WORDS, Line
from levl_eval.scenes.world import COLORS, MASK_CLASSES, SIZES, TEXTURES, Scene

MANIFEST = "scenes.json"
LINES = len(reading.ORDINALS)  # of a sign at most
PLACES = 8  # rows of an image, and columns
_PARTS = {(c, name): k for k, (c, name) in enumerate((c, name) for c, names in KEYPOINTS.items() for name in names)}
KINDS: dict[str, int] = {  # kind of knowledge -> numbers a patch
    "classes": len(MASK_CLASSES),
    "words": len(MASK_CLASSES),  # classes, and texts that name them
    "attributes": len(MASK_CLASSES) + len(COLORS) + len(TEXTURES) + len(SIZES),
    "parts": len(MASK_CLASSES) + len(_PARTS),
    "geometry": 6,
}
_ATTRIBUTES = KINDS["attributes"]
KINDS["scene"] = _ATTRIBUTES + 2 * PLACES + len(WORDS) + 10 + 10 + LINES + len(LETTERS)


class Manifest(TypedDict):
    """What a world was made with: the generator's version, its seed, the images' side in pixels, images a set."""

    generator: object
    seed: int
    size: int
    counts: dict[str, int]


def default_manifest() -> Manifest:
    """The manifest of the world that ``--data scenes`` makes."""
    return {"generator": VERSION, "seed": 0, "size": 96, "counts": dict(COUNTS)}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of the world in a folder, None where there is no world. Raises UsageError for one of another generator."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known: Manifest = {
            "generator": content["generator"], "seed": int(content["seed"]), "size": int(content["size"]),
            "counts": {str(k): int(v) for k, v in content["counts"].items()},
        }  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise UsageError(f"{path}: not a manifest of synthetic scenes ({type(e).__name__}); make the world again") from e
    if known["generator"] != VERSION:
        raise UsageError(f"{path}: made by generator {known['generator']}, this is {VERSION}; make the world again")
    return known


class Printed(NamedTuple):
    """What is put into an image beside its scene.

    where: int64 [S, S], which line of a sign stands there, from 1; letters: letter -> the number of the object it names.
    """

    lines: tuple[Line, ...] = ()
    where: np.ndarray | None = None
    letters: Mapping[str, int] = MappingProxyType({})


NOTHING = Printed()


def printed(part: str, index: int, seed: int, scene: Scene, size: int) -> Printed:
    """Of image ``index`` of a part of the world."""
    room = part.partition("/")[0]
    if reading.has_sign(part, index):
        return Printed(signs.lines_of(part, index, seed), signs.line_map(part, index, seed, size))
    if part == reading.PART:
        return Printed(letters={x: scene.objects.index(o) for x, o in reading.of_image(index, seed).marks})
    return Printed(letters=lettered.named_by_letters(part, index, seed, scene)) if room in lettered.ROOMS else NOTHING


def patch_facts(scene: Scene, kind: str, size: int, grid: int, beside: Printed = NOTHING) -> np.ndarray:
    """float32 [grid * grid, KINDS[kind]] in raster order, of the scene drawn at ``size`` pixels, a multiple of ``grid``.

    beside: what is put into the image, which kind "scene" tells.
    """
    if kind == "geometry":
        return _geometry(scene, size, grid)
    classes = _shares(render_mask(scene, size), grid, len(MASK_CLASSES) + 1)[:, 1:]
    if kind in ("classes", "words"):
        return classes
    if kind == "parts":
        return np.concatenate([classes, _nearness(scene, size, grid)], 1)
    shown = _shares(render_instances(scene, size), grid, len(scene.objects) + 1)[:, 1:]
    words = [(field, word) for field, known in (("color", COLORS), ("texture", TEXTURES), ("size", SIZES)) for word in known]
    has = np.array([[getattr(o, field) == word for field, word in words] for o in scene.objects], np.float32)
    attributes = np.concatenate([classes, shown @ has.reshape(len(scene.objects), len(words))], 1)
    return attributes if kind == "attributes" else np.concatenate([attributes, _places(grid), _print(beside, shown, grid)], 1)


def _places(grid: int) -> np.ndarray:
    """float32 [grid * grid, 2 * PLACES]: 1 at the row and at the column in which a patch's middle lies."""
    at = np.eye(PLACES, dtype=np.float32)[((np.arange(grid) + 0.5) * PLACES / grid).astype(int)]
    return np.concatenate([np.repeat(at, grid, 0), np.tile(at, (grid, 1))], 1)


def _print(beside: Printed, shown: np.ndarray, grid: int) -> np.ndarray:
    """float32 [grid * grid, WORDS, tens, units, lines, letters]. shown: shares of the objects [grid * grid, N]."""
    says = np.zeros((len(beside.lines), len(WORDS) + 20 + LINES), np.float32)
    for k, (word, number) in enumerate(beside.lines):
        at = [WORDS.index(word)] if word else []
        at += [len(WORDS) + 10 + int(number[-1])] if number else []
        at += [len(WORDS) + int(number[0])] if len(number) == 2 else []
        says[k, [*at, len(WORDS) + 20 + k]] = 1.0
    lines = np.zeros((grid * grid, 0), np.float32) if beside.where is None else _shares(beside.where, grid, len(says) + 1)[:, 1:]
    names = np.zeros((shown.shape[1], len(LETTERS)), np.float32)
    for letter, k in beside.letters.items():
        names[k, LETTERS.index(letter)] = 1.0
    return np.concatenate([lines @ says, shown @ names], 1)


def _nearness(scene: Scene, size: int, grid: int) -> np.ndarray:
    """float32 [grid * grid, len(_PARTS)]: exp(-d^2 / 2) of each patch's distance d to each keypoint, in patches."""
    middles = np.arange(grid) + 0.5
    out = np.zeros((grid, grid, len(_PARTS)), np.float32)
    for obj in scene.objects:
        if obj.category in KEYPOINTS:
            for name, point in annotated(obj, size).points.items():
                x, y = ((p + 0.5) * grid / size for p in point)
                near = np.exp(-((middles[None, :] - x) ** 2 + (middles[:, None] - y) ** 2) / 2)
                k = _PARTS[obj.category, name]
                out[..., k] = np.maximum(out[..., k], near)
    return out.reshape(grid * grid, -1)


def _geometry(scene: Scene, size: int, grid: int) -> np.ndarray:
    """float32 [grid * grid, 6]: share with a depth, mean metres, mean logarithm of metres, mean normal."""
    depth = depth_map(scene, size).astype(np.float64)
    known = depth > 0
    logs = np.log(np.where(known, depth, 1.0))
    facts = np.stack([known, depth, logs, *np.moveaxis(normal_map(scene, size).astype(np.float64), -1, 0)])
    side = size // grid
    means = facts.reshape(len(facts), grid, side, grid, side).mean((2, 4)).reshape(len(facts), -1)
    means[1:3] /= np.maximum(means[0], 1 / side**2)  # over the pixels that have one
    return np.asarray(means.T, np.float32)


def _shares(labels: np.ndarray, grid: int, count: int) -> np.ndarray:
    """float32 [grid * grid, count]: the share of each label 0 .. count - 1 in each cell of [S, S]."""
    side = len(labels) // grid
    row = np.arange(len(labels)) // side
    cell = row[:, None] * grid + row[None, :]
    table = np.bincount((cell * count + labels).reshape(-1), minlength=grid * grid * count)
    return (table.reshape(grid * grid, count) / (side * side)).astype(np.float32)


def digest_of(pixels: np.ndarray) -> bytes:
    """16 bytes of uint8 [H, W, 3]: what an image is known by."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _references(manifest: Manifest) -> Iterator[tuple[str, int, int, str]]:
    """(part, number, which of the number's images, path) of every image of a world."""
    for part, count in manifest["counts"].items():
        for index in range(count):
            for k, (path, _) in enumerate(image_scenes(part, index, manifest["seed"])):
                yield part, index, k, path


def _digest_at(root: Path, reference: tuple[str, int, int, str]) -> bytes:
    path = root / reference[3]
    try:
        with Image.open(path) as image:
            return digest_of(np.asarray(image.convert("RGB")))
    except OSError as e:
        raise LevlError(f"{path}: cannot be read ({type(e).__name__}); make the world of synthetic scenes again") from e


@lru_cache(4)
def world_at(root: Path, manifest: str) -> World:
    """The world of a folder, once for all backbones of a process. manifest: its JSON, by which a changed folder is another."""
    return World(root, json.loads(manifest))


class World:
    """A world on disk by its images' pixels.

    The index is made when it is first asked for, by reading every image once (its pixels are those a decoder gives, which no
    manifest tells), and is the same in any order of asking.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root, self.manifest = root, manifest
        self._index: dict[bytes, tuple[str, int, int]] | None = None

    @property
    def size(self) -> int:
        return self.manifest["size"]

    def lookup(self, digest: bytes) -> tuple[Scene, str, int] | None:
        """The scene that an image of these pixels shows, its part and its number there; None where the world has no such image.

        Raises LevlError, UsageError.
        """
        if self._index is None:
            self._index = self._read()
        entry = self._index.get(digest)
        if entry is None:
            return None
        part, index, k = entry
        return next(islice(image_scenes(part, index, self.manifest["seed"]), k, None))[1], part, index

    def _read(self) -> dict[bytes, tuple[str, int, int]]:
        if read_manifest(self.root) != self.manifest:
            raise UsageError(
                f"{self.root}: the synthetic scenes are not there; run with --data scenes or a folder made by `levl-eval data make scenes`"
            )
        references = list(_references(self.manifest))
        with ThreadPoolExecutor(min(8, cores())) as pool:
            digests = pool.map(partial(_digest_at, self.root), references)
            return {d: r[:3] for d, r in zip(digests, references, strict=True)}
