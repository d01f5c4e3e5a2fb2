"""The scene model of the generated world: what exists, where it stands, and how likely that is.

A :class:`Scene` is a complete symbolic description (objects with attributes and places, background regions, light).
Images (`render`), captions and descriptions (`language`), questions (`questions`) and masks all follow from it, so every
annotation is exact by construction. Sampling uses only :class:`random.Random` seeded from a stable hash: equal seeds give
equal scenes on every machine.

Coordinates are fractions of the (square) image: x to the right, y downwards, both in [0, 1].
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

STUFF: tuple[str, ...] = ("sky", "grass", "sand", "water", "brick", "wood", "snow", "road")

CATEGORIES: tuple[str, ...] = (
    "airplane", "ball", "bird", "boat", "butterfly", "cactus", "car", "cat",
    "chair", "clock", "cup", "dog", "duck", "fish", "flower", "house",
    "kite", "lamp", "mushroom", "snowman", "table", "tree", "truck", "umbrella",
)  # fmt: skip

COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
TEXTURES: tuple[str, ...] = ("plain", "striped", "spotted", "checked")
SIZES: dict[str, float] = {"small": 0.26, "medium": 0.36, "large": 0.50}  # height of the bounding box
NUM_VARIANTS = 3

# Label values of the semantic masks: 0 is void, then stuff, then categories, as ADE20K numbers its classes from 1.
MASK_CLASSES: tuple[str, ...] = STUFF + CATEGORIES
CLASS_ID: dict[str, int] = {name: i + 1 for i, name in enumerate(MASK_CLASSES)}

# What a category is, for questions such as "what animal is it?" and for the nine groups of the background test.
GROUPS: dict[str, tuple[str, ...]] = {
    "animal": ("cat", "dog"),
    "bird": ("bird", "duck"),
    "insect": ("butterfly",),
    "fish": ("fish",),
    "vehicle": ("car", "truck"),
    "craft": ("airplane", "boat"),
    "plant": ("cactus", "flower", "mushroom", "tree"),
    "furniture": ("chair", "lamp", "table"),
    "toy": ("ball", "kite", "snowman"),
    "object": ("clock", "cup", "umbrella"),
    "building": ("house",),
}
GROUP_OF: dict[str, str] = {c: g for g, members in GROUPS.items() for c in members}

# Places: bands of stuff from top to bottom with the mean height of each lower edge. They give co-occurrence its reason.
PLACES: dict[str, tuple[tuple[str, float], ...]] = {
    "meadow": (("sky", 0.42), ("grass", 1.0)),
    "beach": (("sky", 0.34), ("water", 0.60), ("sand", 1.0)),
    "sea": (("sky", 0.40), ("water", 1.0)),
    "desert": (("sky", 0.42), ("sand", 1.0)),
    "winter": (("sky", 0.40), ("snow", 1.0)),
    "street": (("sky", 0.26), ("brick", 0.56), ("road", 1.0)),
    "avenue": (("sky", 0.36), ("grass", 0.60), ("road", 1.0)),
    "room": (("brick", 0.54), ("wood", 1.0)),
    "cabin": (("wood", 0.58), ("snow", 1.0)),
    "lake": (("sky", 0.32), ("grass", 0.56), ("water", 1.0)),
}

# Relative frequency of a category in a place; what is not named has weight 1.
AFFINITY: dict[str, dict[str, float]] = {
    "meadow": {"tree": 6, "flower": 6, "butterfly": 5, "mushroom": 5, "dog": 4, "kite": 4, "house": 4, "bird": 4, "ball": 3},
    "beach": {"umbrella": 7, "ball": 6, "boat": 6, "kite": 5, "bird": 4, "chair": 4, "dog": 3, "fish": 3},
    "sea": {"boat": 9, "fish": 8, "duck": 6, "bird": 5, "airplane": 4},
    "desert": {"cactus": 9, "truck": 4, "car": 4, "airplane": 3, "kite": 3, "bird": 3, "house": 2},
    "winter": {"snowman": 9, "tree": 5, "house": 5, "dog": 4, "bird": 3, "cat": 2},
    "street": {"car": 8, "truck": 7, "clock": 4, "lamp": 4, "cat": 3, "house": 3, "umbrella": 3, "dog": 3},
    "avenue": {"car": 6, "tree": 6, "truck": 5, "house": 4, "bird": 3, "dog": 3, "lamp": 3, "flower": 2},
    "room": {"table": 7, "chair": 7, "lamp": 6, "cup": 6, "clock": 6, "cat": 5, "flower": 3, "ball": 2},
    "cabin": {"snowman": 5, "chair": 4, "lamp": 4, "clock": 4, "dog": 3, "cat": 3, "table": 3, "cup": 3, "mushroom": 2},
    "lake": {"duck": 8, "boat": 6, "fish": 6, "tree": 5, "butterfly": 3, "bird": 3, "house": 3, "flower": 2},
}
# Categories that would be absurd in a place are rare, not impossible: the sets must hold some surprises.
_RARE = {
    "room": ("airplane", "boat", "car", "truck", "house", "kite", "snowman", "tree", "fish", "duck"),
    "cabin": ("airplane", "boat", "fish", "duck", "cactus"),
    "sea": ("car", "truck", "house", "tree", "table", "lamp", "cactus", "chair", "snowman"),
    "winter": ("cactus", "butterfly", "umbrella", "fish"),
    "desert": ("boat", "fish", "duck", "snowman", "mushroom"),
    "street": ("boat", "fish", "cactus", "mushroom"),
}

_TYPICAL_COLORS: dict[str, tuple[str, ...]] = {
    "tree": ("green", "orange"), "cactus": ("green",), "snowman": ("white",), "duck": ("yellow", "white"),
    "cat": ("black", "orange", "white"), "dog": ("black", "white", "orange"), "airplane": ("white",),
    "mushroom": ("red", "white"), "fish": ("orange", "blue"), "house": ("red", "white", "yellow"),
    "car": ("red", "blue", "black"), "flower": ("red", "yellow", "purple"), "boat": ("white", "red"),
}  # fmt: skip

_AIR = frozenset({"airplane", "bird", "butterfly", "kite"})
_AFLOAT = frozenset({"boat", "duck", "fish"})
_HANGING = frozenset({"clock"})  # on a wall where there is one

# Natural size of a category relative to the size word, and width over height of its bounding box.
ASPECT: dict[str, float] = {
    "airplane": 1.7, "ball": 1.0, "bird": 1.25, "boat": 1.25, "butterfly": 1.15, "cactus": 0.75, "car": 1.75, "cat": 1.0,
    "chair": 0.72, "clock": 1.0, "cup": 1.05, "dog": 1.3, "duck": 1.2, "fish": 1.6, "flower": 0.72, "house": 1.0,
    "kite": 0.85, "lamp": 0.62, "mushroom": 0.95, "snowman": 0.72, "table": 1.45, "tree": 0.78, "truck": 1.6, "umbrella": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class SceneObject:
    """One object. ``x, y`` is the centre of its upright bounding box of ``width`` by ``height`` (fractions of the image)."""

    category: str
    variant: int  # shape variant, 0 .. NUM_VARIANTS - 1
    color: str
    texture: str
    size: str  # key of SIZES
    flipped: bool
    tilt: float  # degrees, anticlockwise
    x: float
    y: float
    width: float
    height: float
    stuff: str  # the region it stands on, floats in or flies before

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) as fractions."""
        return (self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2)


@dataclass(frozen=True)
class Band:
    """A background region from the lower edge of the band above down to ``bottom``; its edge is wavy by ``roughness``."""

    stuff: str
    bottom: float
    roughness: float
    phase: float
    shade: float  # brightness factor of the texture


@dataclass(frozen=True)
class Scene:
    """A whole scene. ``objects`` is in drawing order, back to front; ``bands`` from top to bottom."""

    seed: int
    place: str
    bands: tuple[Band, ...]
    objects: tuple[SceneObject, ...]
    brightness: float  # 1 is neutral
    warmth: float  # -1 (blue light) .. 1 (yellow light)
    light: float  # direction of the shading, degrees
    noise: float  # standard deviation of the sensor noise, in grey levels

    def stuff_names(self) -> tuple[str, ...]:
        return tuple(b.stuff for b in self.bands)

    def counts(self) -> dict[str, int]:
        """Number of objects of each category present."""
        out: dict[str, int] = {}
        for o in self.objects:
            out[o.category] = out.get(o.category, 0) + 1
        return out

    def salient(self) -> tuple[SceneObject, ...]:
        """Objects from the most to the least salient: large, central and unoccluded ones first."""
        return tuple(sorted(self.objects, key=lambda o: -(o.width * o.height) * (1.3 - abs(o.x - 0.5))))


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, equal on every machine and in every process (unlike ``hash``)."""
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def place_weights(place: str) -> list[float]:
    """Sampling weight of each of CATEGORIES in ``place``."""
    liked, rare = AFFINITY[place], _RARE.get(place, ())
    return [liked.get(c, 0.08 if c in rare else 1.0) for c in CATEGORIES]


_WEIGHTS = {p: place_weights(p) for p in PLACES}
_PLACE_NAMES = tuple(PLACES)


def _bands(rng: random.Random, place: str) -> tuple[Band, ...]:
    out = []
    for stuff, bottom in PLACES[place]:
        built = stuff in ("brick", "wood") or place in ("room", "cabin")
        edge = bottom if bottom == 1.0 else bottom + rng.uniform(-0.06, 0.06)
        rough = 0.0 if built or bottom == 1.0 else rng.uniform(0.0, 0.035)
        out.append(Band(stuff, edge, rough, rng.uniform(0, 6.283), rng.uniform(0.8, 1.15)))
    return tuple(out)


def stuff_at(bands: tuple[Band, ...], y: float) -> str:
    """Name of the region at height ``y``."""
    for band in bands:
        if y < band.bottom:
            return band.stuff
    return bands[-1].stuff


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection of two boxes over the area of the smaller one."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / max(1e-9, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def _height_of(rng: random.Random, category: str, bands: tuple[Band, ...], height: float) -> tuple[float, str]:
    """Vertical centre of an object and the stuff it belongs to."""
    half = height / 2
    surprise = rng.random() < 0.05
    if category in _AIR and not surprise:
        top = max(half, 0.5 * height)
        centre = rng.uniform(top, max(top + 0.02, min(0.55, bands[0].bottom + 0.10)))
        return centre, stuff_at(bands, centre)
    if category in _HANGING and bands[0].stuff in ("brick", "wood") and not surprise:
        centre = rng.uniform(half + 0.01, max(half + 0.02, bands[0].bottom - 0.35 * height))
        return centre, stuff_at(bands, centre)
    ground = bands[-1]
    above = bands[-2].bottom
    if category in _AFLOAT and not surprise:
        for i, band in enumerate(bands):
            if band.stuff == "water":
                ground, above = band, bands[i - 1].bottom
                break
    low, high = above + 0.04, min(0.985, ground.bottom - 0.015)
    base = rng.uniform(min(low + 0.25 * (high - low), high), high)
    base = max(base, height + 0.01)
    base = min(base, 0.985)
    return base - half, stuff_at(bands, base)


def sample_object(rng: random.Random, category: str, bands: tuple[Band, ...], size: str | None = None) -> SceneObject:
    """An object of ``category`` with random attributes at a plausible place before ``bands``."""
    size = size or rng.choices(("small", "medium", "large"), (0.38, 0.40, 0.22))[0]
    height = SIZES[size] * rng.uniform(0.92, 1.08)
    aspect = ASPECT[category] * rng.uniform(0.92, 1.08)
    if aspect > 1.0:  # wide things keep the area that their size word promises
        height /= aspect**0.5
    width = height * aspect
    typical = _TYPICAL_COLORS.get(category)
    color = rng.choice(typical) if typical and rng.random() < 0.35 else rng.choice(COLORS)
    y, stuff = _height_of(rng, category, bands, height)
    x = rng.uniform(width / 2 * 0.9, 1 - width / 2 * 0.9)
    return SceneObject(
        category=category,
        variant=rng.randrange(NUM_VARIANTS),
        color=color,
        texture=rng.choices(TEXTURES, (0.55, 0.15, 0.15, 0.15))[0],
        size=size,
        flipped=rng.random() < 0.5,
        tilt=rng.uniform(-10, 10),
        x=x,
        y=y,
        width=width,
        height=height,
        stuff=stuff,
    )


def _light(rng: random.Random) -> dict[str, float]:
    return {
        "brightness": rng.uniform(0.82, 1.12),
        "warmth": rng.uniform(-0.6, 0.6),
        "light": rng.uniform(0, 360),
        "noise": rng.uniform(1.0, 6.0),
    }


def sample_scene(seed: int, min_objects: int = 2, max_objects: int = 6) -> Scene:
    """The scene of ``seed``: a place, 2 to 6 objects drawn by the place's affinities, and light. Pure function of its arguments."""
    rng = random.Random(seed)
    place = rng.choice(_PLACE_NAMES)
    bands = _bands(rng, place)
    wanted = rng.choices(range(min_objects, max_objects + 1), [3, 4, 4, 3, 2][: max_objects - min_objects + 1])[0]
    placed: list[SceneObject] = []
    attempts = 0
    while len(placed) < wanted and attempts < 40:
        # A category may stand there twice or three times (counting questions need it), but seldom.
        if placed and rng.random() < 0.14:
            category = rng.choice(placed).category
        else:
            category = rng.choices(CATEGORIES, _WEIGHTS[place])[0]
            if any(o.category == category for o in placed):
                attempts += 1
                continue
        crowd = {2: 1.0, 3: 1.0, 4: 0.94, 5: 0.88, 6: 0.82}.get(wanted, 0.8)
        for _ in range(6):
            attempts += 1
            obj = sample_object(rng, category, bands)
            if crowd < 1.0:
                cy = obj.y + obj.height * (1 - crowd) / 2  # shrink towards the base
                obj = replace(obj, width=obj.width * crowd, height=obj.height * crowd, y=cy)
            if all(_overlap(obj.box, o.box) < 0.30 for o in placed):
                placed.append(obj)
                break
    # At least min_objects, whatever the luck of placement: small ones at the emptiest of several places.
    while len(placed) < min_objects:
        category = rng.choices(CATEGORIES, _WEIGHTS[place])[0]
        tries = [sample_object(rng, category, bands, "small") for _ in range(8)]
        placed.append(min(tries, key=lambda t: max((_overlap(t.box, o.box) for o in placed), default=0.0)))
    placed.sort(key=lambda o: o.box[3])  # what stands lower is nearer
    return Scene(seed=seed, place=place, bands=bands, objects=tuple(placed), **_light(rng))


def single_object_scene(seed: int, category: str, place: str | None = None) -> Scene:
    """A scene with exactly one, rather large object of ``category``; the place follows its affinities unless given."""
    rng = random.Random(stable_seed("single", seed, category))
    if place is None:
        index = CATEGORIES.index(category)
        place = rng.choices(_PLACE_NAMES, [_WEIGHTS[p][index] for p in _PLACE_NAMES])[0]
    bands = _bands(rng, place)
    obj = sample_object(rng, category, bands, rng.choice(("medium", "large")))
    return Scene(seed=seed, place=place, bands=bands, objects=(obj,), **_light(rng))


def with_background(scene: Scene, other: Scene) -> Scene:
    """The objects of ``scene`` before the background and light of ``other`` (ImageNet-9's mixed sets)."""
    return replace(
        other,
        seed=stable_seed("mixed", scene.seed, other.seed),
        objects=tuple(replace(o, stuff=stuff_at(other.bands, o.box[3])) for o in scene.objects),
    )
