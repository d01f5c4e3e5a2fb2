"""Places of the scenes from several viewpoints in other light, in the annotation of revisited Oxford and Paris: instance retrieval.

A place is a scene; a viewpoint moves and enlarges everything in it, background included, and has light and noise of its own. Of every place
there are VIEWS images: the query, two that are easy to find, two that are hard (closer, turned further away, in other light), and one that
shows a corner of it and does not count.
"""

from __future__ import annotations

import random
from dataclasses import replace

from levl_eval.scenes.world import Scene, sample_scene, stable_seed

# Of each view: how often it is enlarged, how far it looks to the side at most (shares of the image), and how much light may change.
_KINDS = (
    ("query", (1.0, 1.0), 0.0, 0.0), ("easy", (0.9, 1.15), 0.08, 0.12), ("easy", (0.9, 1.2), 0.1, 0.15), ("hard", (1.3, 1.7), 0.16, 0.35),
    ("hard", (0.6, 0.75), 0.14, 0.35), ("junk", (2.4, 2.8), 0.35, 0.1),
)  # fmt: skip
VIEWS = len(_KINDS)
KIND = tuple(k for k, *_ in _KINDS)


def view_of(seed: int, view: int) -> Scene:
    """View number ``view`` of the place of ``seed``."""
    place = sample_scene(stable_seed("place", seed), 3, 6)
    rng = random.Random(stable_seed("view", seed, view))
    _, zoom, shift, change = _KINDS[view]
    scale = rng.uniform(*zoom)
    dx, dy = (rng.uniform(-shift, shift) for _ in range(2))

    def moved(at: float, by: float) -> float:
        return (at - 0.5 - by) * scale + 0.5

    objects = tuple(
        replace(
            o,
            x=moved(o.x, dx),
            y=moved(o.y, dy),
            width=o.width * scale,
            height=o.height * scale,
            tilt=o.tilt + rng.uniform(-4, 4) * bool(view),
        )
        for o in place.objects
    )

    def edge(at: float) -> float:  # bands end within the image
        return 1.0 if at >= 1 else min(0.95, max(0.06, moved(at, dy)))

    bands = tuple(replace(b, bottom=edge(b.bottom), roughness=b.roughness * scale) for b in place.bands)
    return replace(
        place, seed=stable_seed("view noise", seed, view), objects=objects,
        bands=bands, brightness=place.brightness + rng.uniform(-change, change) / 2,
        warmth=max(-1.0, min(1.0, place.warmth + 2 * rng.uniform(-change, change))), light=place.light + 180 * rng.uniform(-change, change),
    )  # fmt: skip


def place_name(index: int) -> str:
    """Name of image ``index`` without its ending."""
    return f"place_{index // VIEWS + 1:03d}_{index % VIEWS}"


def places_file(count: int, size: int) -> dict[str, object]:
    """The annotation of the first ``count`` images of side ``size``; those of a place that is not whole are images of the database."""
    whole = count // VIEWS
    database = [i for i in range(count) if i >= whole * VIEWS or i % VIEWS]
    at = {i: k for k, i in enumerate(database)}
    truths = []
    for place in range(whole):
        of_kind: dict[str, list[int]] = {"easy": [], "hard": [], "junk": []}
        for view in range(1, VIEWS):
            of_kind[KIND[view]].append(at[place * VIEWS + view])
        truths.append({"bbx": [0, 0, size, size], **of_kind})
    names = [place_name(place * VIEWS) for place in range(whole)]
    return {"imlist": [place_name(i) for i in database], "qimlist": names, "gnd": truths}
