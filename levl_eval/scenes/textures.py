"""Procedural textures: tiles of the eight kinds of stuff and of the surface patterns of objects, made once per process.

All tiles are pure functions of their name (fixed seeds) at TILE x TILE pixels; an image takes a random window of a tile.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

TILE = 768  # pixels of a tile; it covers one image whatever the resolution


def _noise(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Smooth periodic noise in [0, 1]: bilinear interpolation of a random lattice with ``cell`` pixels a knot, [TILE, TILE]."""
    n = TILE // cell
    lattice = rng.random((n, n))
    pos = np.arange(TILE) / cell
    i = pos.astype(int) % n
    f = pos - pos.astype(int)
    f = f * f * (3 - 2 * f)
    j = (i + 1) % n
    top = lattice[np.ix_(i, i)] * (1 - f) + lattice[np.ix_(i, j)] * f
    low = lattice[np.ix_(j, i)] * (1 - f) + lattice[np.ix_(j, j)] * f
    out: np.ndarray = top * (1 - f)[:, None] + low * f[:, None]
    return out


def _mix(t: np.ndarray, a: tuple[int, int, int], b: tuple[int, int, int]) -> np.ndarray:
    """Colours between ``a`` (t = 0) and ``b`` (t = 1)."""
    t = np.clip(t, 0, 1)[..., None]
    out: np.ndarray = np.asarray(a) * (1 - t) + np.asarray(b) * t
    return out


def _sky(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    clouds = 0.6 * _noise(rng, 96) + 0.4 * _noise(rng, 32)
    return _mix(np.clip((clouds - 0.52) * 3.2, 0, 1), (118, 170, 226), (236, 241, 247))


def _grass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    blades = 0.5 + 0.5 * np.sin(x * 0.9 + 6 * _noise(rng, 12)) * np.sin(y * 0.22 + 9 * _noise(rng, 16))
    return _mix(0.55 * blades + 0.45 * _noise(rng, 48), (46, 104, 34), (128, 178, 74))


def _sand(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    grain = 0.35 * rng.random((TILE, TILE)) + 0.35 * _noise(rng, 64)
    ripples = 0.3 * (0.5 + 0.5 * np.sin(y * 0.16 + 5 * _noise(rng, 96)))
    return _mix(grain + ripples, (188, 158, 104), (238, 216, 164))


def _water(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    waves = 0.5 + 0.5 * np.sin(y * 0.30 + 4 * _noise(rng, 48) + 1.5 * np.sin(x * 0.05))
    return _mix(0.6 * waves**2 + 0.4 * _noise(rng, 32), (22, 70, 116), (96, 158, 190))


def _brick(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    row = (y // 24).astype(int)
    along = x + 24 * (row % 2)
    tone = rng.random((TILE // 24 + 1, TILE // 48 + 2))[row, (along // 48).astype(int)]
    color = _mix(0.7 * tone + 0.3 * _noise(rng, 12), (128, 56, 42), (190, 102, 78))
    mortar = ((y % 24) < 4) | ((along % 48) < 4)
    color[mortar] = (200, 192, 182)
    return color


def _wood(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    plank = (x // 64).astype(int)
    tone = rng.random(TILE // 64 + 1)[plank]
    rings = 0.5 + 0.5 * np.sin(x * 0.35 + 10 * _noise(rng, 96) + 7 * tone)
    color = _mix(0.5 * rings + 0.5 * tone, (112, 72, 38), (184, 134, 82))
    color[(x % 64) < 4] = (70, 44, 24)
    return color


def _snow(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _mix(0.7 * _noise(rng, 96) + 0.3 * rng.random((TILE, TILE)) ** 3, (206, 218, 234), (252, 253, 255))


def _road(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    color = _mix(0.5 * rng.random((TILE, TILE)) + 0.5 * _noise(rng, 64), (66, 66, 70), (112, 112, 114))
    color[((y % 192) < 10) & ((x % 96) < 56)] = (214, 210, 190)
    return color


_STUFF = {
    "sky": _sky, "grass": _grass, "sand": _sand, "water": _water, "brick": _brick, "wood": _wood, "snow": _snow, "road": _road,
}  # fmt: skip


@cache
def stuff_tile(name: str) -> np.ndarray:
    """uint8 [TILE, TILE, 3], periodic, of one kind of stuff."""
    rng = np.random.default_rng(list(name.encode()))
    y, x = np.mgrid[0:TILE, 0:TILE].astype(float)
    out: np.ndarray = np.clip(_STUFF[name](rng, y, x), 0, 255).astype(np.uint8)
    return out


@cache
def tile_at(name: str, size: int, shade: int = 20) -> np.ndarray:
    """The tile of ``name`` resized to an image of side ``size``, brightened by shade / 20, laid out 2 x 2 for random windows.

    uint8 [2 size, 2 size, 3]. One tile covers one image, so that content does not depend on the resolution.
    """
    tile = Image.fromarray(stuff_tile(name)).resize((size, size), Image.Resampling.BOX)
    bright = np.clip(np.asarray(tile).astype(np.float32) * (shade / 20), 0, 255).astype(np.uint8)
    return np.tile(bright, (2, 2, 1))


@cache
def pattern(texture: str, size: int) -> np.ndarray:
    """uint8 [size, size] mask of the marks of a surface pattern (255 where the second colour shows), with about five periods."""
    y, x = np.mgrid[0:size, 0:size] / size
    if texture == "striped":
        marks = ((x + 0.35 * y) * 5 % 1) < 0.42
    elif texture == "spotted":
        u, v = (x * 5) % 1 - 0.5, (y * 5 + 0.5 * ((x * 5).astype(int) % 2)) % 1 - 0.5
        marks = u * u + v * v < 0.085
    elif texture == "checked":
        marks = ((x * 5).astype(int) + (y * 5).astype(int)) % 2 == 0
    else:
        marks = np.zeros((size, size), bool)
    out: np.ndarray = (marks * 255).astype(np.uint8)
    return out
