"""The 24 categories as composites of parts, three shape variants each.

A part is (role, polygon): the polygon in unit coordinates of the object's box (x right, y down, both in [-0.5, 0.5]); the role
says its paint: "main" takes the object's colour and texture, "dark" and "light" shades of it, anything else a fixed colour of
PAINT. Parts are listed back to front. Categories differ in shape; colours are drawn independently (world.sample_object).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

Points = tuple[tuple[float, float], ...]
Part = tuple[str, Points]

PAINT: dict[str, tuple[int, int, int]] = {
    "trunk": (104, 70, 40), "tyre": (32, 32, 36), "hub": (190, 190, 196), "glass": (188, 220, 238), "ink": (24, 22, 26),
    "bone": (250, 248, 240), "steel": (150, 156, 164), "leaf": (58, 128, 52), "glow": (255, 240, 170), "beak": (240, 150, 40),
    "carrot": (238, 120, 30), "cream": (240, 226, 196), "door": (96, 58, 34), "coffee": (72, 44, 28), "pink": (236, 150, 160),
}  # fmt: skip


def ellipse(cx: float, cy: float, rx: float, ry: float, a0: float = 0, a1: float = 360, n: int = 18) -> Points:
    """An ellipse, or its sector's chord polygon from angle a0 to a1 (degrees, clockwise from the right)."""
    full = a1 - a0 >= 360
    steps = n if full else max(4, int(n * (a1 - a0) / 360)) + 1
    span = steps if full else steps - 1
    angles = (math.radians(a0 + (a1 - a0) * i / span) for i in range(steps))
    return tuple((cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in angles)


def rect(x0: float, y0: float, x1: float, y1: float) -> Points:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def line(x0: float, y0: float, x1: float, y1: float, w: float = 0.05) -> Points:
    """A straight stroke of width ``w``."""
    d = math.hypot(x1 - x0, y1 - y0) or 1.0
    nx, ny = -(y1 - y0) / d * w / 2, (x1 - x0) / d * w / 2
    return ((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny))


def wheel(cx: float, cy: float, r: float, squash: float) -> list[Part]:
    """A tyre with its hub; ``squash`` (box width over height) keeps it round in wide boxes."""
    return [("tyre", ellipse(cx, cy, r / squash, r)), ("hub", ellipse(cx, cy, r * 0.45 / squash, r * 0.45))]


def airplane(v: int) -> list[Part]:
    if v == 0:  # side view
        return [
            ("dark", ((-0.46, -0.06), (-0.5, -0.42), (-0.36, -0.42), (-0.22, -0.06))),
            ("main", ((-0.5, -0.1), (0.3, -0.12), (0.46, 0.0), (0.5, 0.08), (0.4, 0.14), (-0.4, 0.1))),
            ("dark", ((-0.08, 0.02), (0.14, 0.02), (-0.12, 0.46), (-0.26, 0.46))),
            ("glass", rect(0.26, -0.06, 0.38, 0.03)),
        ]
    if v == 1:  # from above
        return [
            ("dark", ((0.12, -0.08), (-0.14, -0.5), (-0.28, -0.5), (-0.12, 0.0), (-0.28, 0.5), (-0.14, 0.5), (0.12, 0.08))),
            ("dark", ((-0.34, 0), (-0.5, -0.24), (-0.42, 0), (-0.5, 0.24))),
            ("main", ((-0.48, -0.05), (0.3, -0.09), (0.5, 0), (0.3, 0.09), (-0.48, 0.05))),
        ]
    return [  # propeller plane with two wings
        ("dark", rect(-0.22, -0.42, 0.26, -0.3)),
        ("ink", line(-0.1, -0.32, -0.1, 0.1, 0.03)), ("ink", line(0.16, -0.32, 0.16, 0.1, 0.03)),
        ("main", ((-0.5, -0.04), (0.26, -0.16), (0.38, 0.0), (0.26, 0.2), (-0.5, 0.06))),
        ("main", ((-0.5, 0.04), (-0.5, -0.28), (-0.36, -0.02))),
        ("dark", rect(-0.22, 0.14, 0.26, 0.26)),
        ("ink", rect(0.42, -0.36, 0.47, 0.36)), ("tyre", ellipse(0.12, 0.4, 0.06, 0.09)),
    ]  # fmt: skip


def ball(v: int) -> list[Part]:
    parts: list[Part] = [("main", ellipse(0, 0, 0.5, 0.5, n=26))]
    if v == 0:  # beach ball
        parts += [
            ("bone", ((0, -0.5), (0.16, -0.46), (0.1, 0), (0.16, 0.46), (0, 0.5), (-0.1, 0))),
            ("bone", ellipse(0, -0.42, 0.12, 0.07)),
        ]
    elif v == 1:  # basket ball seams
        parts += [("ink", line(-0.5, 0, 0.5, 0, 0.05)), ("ink", line(0, -0.5, 0, 0.5, 0.05))]
        parts += [("ink", line(-0.33, -0.36, -0.2, 0, 0.05)), ("ink", line(-0.2, 0, -0.33, 0.36, 0.05))]
        parts += [("ink", line(0.33, -0.36, 0.2, 0, 0.05)), ("ink", line(0.2, 0, 0.33, 0.36, 0.05))]
    else:  # football patches
        parts += [("ink", ellipse(0, 0, 0.15, 0.15, n=5))]
        parts += [("ink", ellipse(0.4 * math.cos(t), 0.4 * math.sin(t), 0.1, 0.1, n=5)) for t in (0.3, 1.56, 2.8, 4.1, 5.3)]
    return parts


def bird(v: int) -> list[Part]:
    if v == 0:  # perched
        return [
            ("ink", line(0.02, 0.2, 0.02, 0.5, 0.04)), ("ink", line(-0.1, 0.2, -0.1, 0.5, 0.04)),
            ("dark", ((-0.2, 0.02), (-0.5, 0.26), (-0.42, 0.36), (-0.1, 0.22))),
            ("main", ellipse(-0.02, 0.04, 0.27, 0.24)), ("main", ellipse(0.22, -0.24, 0.17, 0.19)),
            ("beak", ((0.36, -0.28), (0.5, -0.2), (0.36, -0.14))), ("bone", ellipse(0.27, -0.28, 0.05, 0.06)),
            ("ink", ellipse(0.28, -0.28, 0.025, 0.03)), ("dark", ((-0.2, -0.04), (0.12, 0.0), (-0.16, 0.2))),
        ]  # fmt: skip
    if v == 1:  # flying, wings up
        return [
            ("dark", ((-0.06, 0.04), (-0.34, -0.5), (0.14, -0.06))),
            ("main", ((-0.5, 0.24), (-0.26, 0.02), (0.2, -0.08), (0.34, 0.06), (0.14, 0.24), (-0.24, 0.2))),
            ("main", ((-0.04, 0.1), (0.12, -0.46), (0.24, 0.04))),
            ("main", ellipse(0.3, 0.0, 0.12, 0.14)), ("beak", ((0.4, -0.04), (0.5, 0.03), (0.4, 0.07))),
        ]  # fmt: skip
    return [  # owl-like, frontal
        ("main", ((-0.3, -0.5), (-0.12, -0.36), (0.12, -0.36), (0.3, -0.5), (0.34, 0.1), (0.2, 0.46), (-0.2, 0.46), (-0.34, 0.1))),
        ("dark", ((-0.34, -0.1), (-0.44, 0.28), (-0.2, 0.36))), ("dark", ((0.34, -0.1), (0.44, 0.28), (0.2, 0.36))),
        ("bone", ellipse(-0.14, -0.18, 0.13, 0.14)), ("bone", ellipse(0.14, -0.18, 0.13, 0.14)),
        ("ink", ellipse(-0.14, -0.18, 0.06, 0.06)), ("ink", ellipse(0.14, -0.18, 0.06, 0.06)),
        ("beak", ((-0.06, -0.08), (0.06, -0.08), (0, 0.06))),
    ]  # fmt: skip


def boat(v: int) -> list[Part]:
    hull: Part = ("main", ((-0.5, 0.18), (0.5, 0.18), (0.34, 0.48), (-0.36, 0.48)))
    if v == 0:  # sail
        return [
            ("trunk", line(0, -0.5, 0, 0.2, 0.05)), ("bone", ((0.05, -0.46), (0.42, 0.1), (0.05, 0.1))),
            ("cream", ((-0.05, -0.36), (-0.36, 0.1), (-0.05, 0.1))), hull,
        ]  # fmt: skip
    if v == 1:  # steamer
        return [
            ("ink", rect(0.0, -0.5, 0.14, -0.16)), ("carrot", rect(0.0, -0.42, 0.14, -0.32)), ("bone", rect(-0.3, -0.18, 0.28, 0.2)),
            ("glass", ellipse(-0.18, 0.0, 0.06, 0.07)), ("glass", ellipse(0.0, 0.0, 0.06, 0.07)),
            ("glass", ellipse(0.18, 0.0, 0.06, 0.07)), hull,
        ]  # fmt: skip
    return [  # rowing boat with oars
        ("main", ((-0.5, 0.0), (-0.3, 0.12), (0.3, 0.12), (0.5, 0.0), (0.38, 0.4), (-0.38, 0.4))),
        ("dark", rect(-0.34, 0.16, 0.34, 0.22)), ("trunk", line(-0.14, 0.1, -0.36, 0.5, 0.05)), ("trunk", line(0.1, 0.1, 0.32, 0.5, 0.05)),
        ("trunk", line(0.1, 0.1, -0.06, -0.36, 0.05)),
    ]  # fmt: skip


def butterfly(v: int) -> list[Part]:
    top, low = ((0.3, 0.26), (0.22, 0.2)) if v == 0 else ((0.26, 0.3), (0.16, 0.16)) if v == 1 else ((0.3, 0.2), (0.26, 0.26))
    parts: list[Part] = []
    for s in (-1, 1):
        if v == 2:
            parts += [
                ("main", ((s * 0.03, 0.0), (s * 0.5, -0.5), (s * 0.46, -0.02))),
                ("dark", ((s * 0.03, 0.02), (s * 0.42, 0.06), (s * 0.3, 0.5))),
            ]
            parts += [("bone", ellipse(s * 0.34, -0.22, 0.06, 0.07))]
        else:
            parts += [
                ("main", ellipse(s * 0.24, -0.2, *top)),
                ("dark", ellipse(s * 0.2, 0.24, *low)),
                ("bone", ellipse(s * 0.28, -0.22, 0.09, 0.08)),
            ]
    parts += [
        ("ink", ellipse(0, 0.02, 0.05, 0.36)),
        ("ink", line(0, -0.3, 0.14, -0.5, 0.03)),
        ("ink", line(0, -0.3, -0.14, -0.5, 0.03)),
    ]
    return parts


def cactus(v: int) -> list[Part]:
    pot: list[Part] = [("carrot", ((-0.34, 0.22), (0.34, 0.22), (0.24, 0.5), (-0.24, 0.5)))]
    if v == 0:
        return [
            ("main", rect(-0.5, -0.2, -0.34, 0.12)), ("main", rect(-0.5, 0.02, -0.1, 0.14)), ("main", rect(0.34, -0.32, 0.5, 0.02)),
            ("main", rect(0.1, -0.08, 0.5, 0.04)), ("main", (*ellipse(0, -0.36, 0.16, 0.14, 180, 360), (0.16, 0.5), (-0.16, 0.5))),
            ("dark", line(-0.05, -0.36, -0.05, 0.48, 0.03)), ("dark", line(0.06, -0.36, 0.06, 0.48, 0.03)),
        ]  # fmt: skip
    if v == 1:
        return [
            ("main", ellipse(0, -0.06, 0.42, 0.36)),
            ("dark", line(0, -0.4, 0, 0.24, 0.04)),
            ("dark", line(-0.2, -0.36, -0.22, 0.22, 0.04)),
            ("dark", line(0.2, -0.36, 0.22, 0.22, 0.04)),
            ("pink", ellipse(0, -0.42, 0.12, 0.08)),
            *pot,
        ]
    return [
        ("main", ellipse(-0.02, 0.08, 0.24, 0.24)),
        ("main", ellipse(-0.22, -0.26, 0.18, 0.24)),
        ("main", ellipse(0.22, -0.2, 0.18, 0.22)),
        ("bone", line(-0.22, -0.36, -0.22, -0.2, 0.04)),
        ("bone", line(0.22, -0.3, 0.22, -0.14, 0.04)),
        *pot,
    ]


def car(v: int) -> list[Part]:
    wheels = wheel(-0.28, 0.3, 0.2, 1.75) + wheel(0.28, 0.3, 0.2, 1.75)
    if v == 0:  # saloon
        return [
            ("main", ((-0.3, -0.08), (-0.18, -0.44), (0.14, -0.44), (0.3, -0.08))),
            ("glass", ((-0.24, -0.1), (-0.15, -0.36), (-0.03, -0.36), (-0.03, -0.1))),
            ("glass", ((0.02, -0.1), (0.02, -0.36), (0.11, -0.36), (0.22, -0.1))),
            ("main", ((-0.5, -0.08), (0.46, -0.08), (0.5, 0.3), (-0.5, 0.3))),
            ("glow", rect(0.44, -0.02, 0.5, 0.1)),
            *wheels,
        ]
    if v == 1:  # beetle
        return [
            ("main", (*ellipse(-0.02, 0.24, 0.46, 0.68, 180, 360), (0.48, 0.3), (-0.48, 0.3))),
            ("glass", (*ellipse(0, -0.04, 0.26, 0.3, 180, 360),)),
            ("dark", line(0, -0.4, 0, 0.0, 0.03)),
            *wheels,
        ]
    return [
        ("ink", line(-0.02, -0.1, 0.12, -0.4, 0.04)),
        ("trunk", ellipse(-0.12, -0.16, 0.1, 0.2)),
        ("main", ((-0.5, -0.14), (0.1, -0.06), (0.4, 0.0), (0.5, 0.3), (-0.48, 0.3))),
        ("dark", rect(-0.5, 0.12, 0.5, 0.2)),
        *wheels,
    ]


def cat(v: int) -> list[Part]:
    def face(x: float, y: float, r: float) -> list[Part]:
        out: list[Part] = [
            ("main", ((x - r, y - 0.1 * r), (x - 0.9 * r, y - 1.6 * r), (x - 0.1 * r, y - 0.7 * r))),
            ("main", ((x + r, y - 0.1 * r), (x + 0.9 * r, y - 1.6 * r), (x + 0.1 * r, y - 0.7 * r))),
        ]
        out += [
            ("main", ellipse(x, y, r, 0.9 * r)),
            ("glow", ellipse(x - 0.4 * r, y - 0.1 * r, 0.2 * r, 0.22 * r)),
            ("glow", ellipse(x + 0.4 * r, y - 0.1 * r, 0.2 * r, 0.22 * r)),
        ]
        out += [
            ("ink", ellipse(x - 0.4 * r, y - 0.1 * r, 0.07 * r, 0.18 * r)),
            ("ink", ellipse(x + 0.4 * r, y - 0.1 * r, 0.07 * r, 0.18 * r)),
            ("pink", ((x - 0.14 * r, y + 0.25 * r), (x + 0.14 * r, y + 0.25 * r), (x, y + 0.45 * r))),
        ]
        return out

    if v == 0:  # sitting
        return [
            ("dark", line(0.2, 0.4, 0.44, 0.1, 0.09)),
            ("dark", line(0.44, 0.12, 0.4, -0.1, 0.08)),
            ("main", ((-0.14, -0.1), (0.14, -0.1), (0.3, 0.48), (-0.3, 0.48))),
            ("dark", line(0, 0.22, 0, 0.48, 0.03)),
            *face(0, -0.2, 0.22),
        ]
    if v == 1:  # walking
        legs = [("dark", rect(x, 0.1, x + 0.08, 0.5)) for x in (-0.34, -0.2, 0.08, 0.2)]
        return [
            *legs,
            ("dark", line(-0.38, 0.0, -0.48, -0.44, 0.07)),
            ("main", ellipse(-0.06, 0.06, 0.36, 0.18)),
            *face(0.3, -0.16, 0.18),
        ]
    return [  # lying
        ("dark", line(-0.2, 0.42, -0.5, 0.3, 0.09)),
        ("main", (*ellipse(-0.06, 0.44, 0.42, 0.44, 180, 360),)),
        *face(0.24, 0.14, 0.22),
    ]


def chair(v: int) -> list[Part]:
    if v == 0:
        return [
            ("dark", rect(-0.36, 0.1, -0.26, 0.5)),
            ("dark", rect(0.3, 0.1, 0.4, 0.5)),
            ("main", rect(-0.4, -0.5, -0.26, 0.16)),
            ("main", rect(-0.4, 0.0, 0.44, 0.14)),
        ]
    if v == 1:  # slatted back, frontal
        legs: list[Part] = [("dark", rect(-0.4, -0.5, -0.28, 0.5)), ("dark", rect(0.28, -0.5, 0.4, 0.5))]
        return [
            *legs,
            *(("main", rect(-0.3, y, 0.3, y + 0.1)) for y in (-0.46, -0.28, -0.1)),
            ("main", rect(-0.46, 0.08, 0.46, 0.22)),
        ]
    return [
        ("steel", line(0, 0.1, 0, 0.4, 0.08)),
        ("steel", line(0, 0.38, -0.34, 0.5, 0.06)),
        ("steel", line(0, 0.38, 0.34, 0.5, 0.06)),
        ("main", (*ellipse(-0.02, -0.2, 0.34, 0.3),)),
        ("dark", rect(-0.42, 0.0, 0.42, 0.14)),
    ]


def clock(v: int) -> list[Part]:
    hands: list[Part] = [
        ("ink", line(0, 0, 0, -0.26, 0.06)),
        ("ink", line(0, 0, 0.2, 0.1, 0.06)),
        ("ink", ellipse(0, 0, 0.05, 0.05)),
    ]
    marks: list[Part] = [
        ("ink", ellipse(0.31 * math.cos(t), 0.31 * math.sin(t), 0.035, 0.035, n=6))
        for t in (0, 0.79, 1.57, 2.36, 3.14, 3.93, 4.71, 5.5)
    ]
    if v == 0:
        return [("main", ellipse(0, 0, 0.5, 0.5, n=26)), ("bone", ellipse(0, 0, 0.38, 0.38, n=24)), *marks, *hands]
    if v == 1:  # alarm clock with bells and feet
        return [
            ("steel", ellipse(-0.28, -0.36, 0.16, 0.13)),
            ("steel", ellipse(0.28, -0.36, 0.16, 0.13)),
            ("ink", line(-0.24, 0.3, -0.36, 0.5, 0.07)),
            ("ink", line(0.24, 0.3, 0.36, 0.5, 0.07)),
            ("main", ellipse(0, 0.04, 0.42, 0.42, n=24)),
            ("bone", ellipse(0, 0.04, 0.31, 0.31, n=22)),
            *hands,
        ]
    return [("main", rect(-0.48, -0.48, 0.48, 0.48)), ("bone", rect(-0.37, -0.37, 0.37, 0.37)), *marks, *hands]


def cup(v: int) -> list[Part]:
    if v == 0:  # mug with handle
        return [
            ("dark", ellipse(0.3, 0.0, 0.2, 0.24)),
            ("cream", ellipse(0.3, 0.0, 0.11, 0.14)),
            ("main", rect(-0.42, -0.4, 0.28, 0.46)),
            ("coffee", ellipse(-0.07, -0.38, 0.35, 0.1)),
        ]
    if v == 1:  # teacup on a saucer
        return [
            ("light", ellipse(0, 0.4, 0.5, 0.1)),
            ("dark", ellipse(0.36, -0.06, 0.14, 0.14)),
            ("cream", ellipse(0.36, -0.06, 0.07, 0.07)),
            ("main", (*ellipse(-0.04, -0.2, 0.38, 0.58, 0, 180),)),
            ("coffee", ellipse(-0.04, -0.2, 0.38, 0.09)),
        ]
    return [  # tumbler, straw
        ("carrot", line(0.04, -0.2, 0.24, -0.5, 0.06)),
        ("main", ((-0.34, -0.26), (0.34, -0.26), (0.22, 0.5), (-0.22, 0.5))),
        ("bone", rect(-0.38, -0.32, 0.38, -0.2)),
    ]


def dog(v: int) -> list[Part]:
    legs: list[Part] = [("dark", rect(x, 0.1, x + 0.08, 0.5)) for x in (-0.3, -0.18, 0.06, 0.17)]

    def head(x: float, y: float) -> list[Part]:
        return [
            ("main", ellipse(x, y, 0.15, 0.18)),
            ("main", ((x, y - 0.05), (x + 0.24, y + 0.02), (x + 0.24, y + 0.14), (x, y + 0.17))),
            ("ink", ellipse(x + 0.23, y + 0.04, 0.04, 0.05)),
            ("ink", ellipse(x + 0.04, y - 0.05, 0.025, 0.035)),
        ]

    if v == 0:  # standing, hanging ear, tail up
        return [
            *legs,
            ("dark", line(-0.3, -0.02, -0.46, -0.3, 0.06)),
            ("main", ellipse(-0.04, 0.04, 0.32, 0.19)),
            *head(0.24, -0.22),
            ("dark", ellipse(0.17, -0.2, 0.06, 0.17)),
        ]
    if v == 1:  # sitting
        return [
            ("dark", line(-0.28, 0.42, -0.48, 0.28, 0.06)),
            ("main", ((0.0, -0.14), (0.2, -0.1), (0.24, 0.5), (-0.36, 0.5), (-0.3, 0.2))),
            ("dark", rect(0.1, 0.2, 0.18, 0.5)),
            *head(0.14, -0.26),
            ("dark", ((0.02, -0.4), (0.12, -0.42), (0.06, -0.06), (-0.02, -0.06))),
        ]
    return [
        *[("dark", rect(x, 0.26, x + 0.07, 0.5)) for x in (-0.34, 0.14)],
        ("dark", line(-0.42, 0.1, -0.5, -0.1, 0.05)),
        ("main", rect(-0.44, 0.04, 0.26, 0.32)),
        *head(0.25, -0.06),
        ("dark", ((0.16, -0.18), (0.24, -0.4), (0.3, -0.18))),
    ]


def duck(v: int) -> list[Part]:
    if v == 0:  # swimming
        return [
            ("main", ((-0.5, 0.0), (-0.36, 0.14), (0.3, 0.06), (0.36, 0.24), (0.2, 0.42), (-0.26, 0.42), (-0.44, 0.26))),
            ("main", rect(0.12, -0.24, 0.26, 0.2)),
            ("main", ellipse(0.2, -0.28, 0.16, 0.18)),
            ("beak", ((0.32, -0.3), (0.5, -0.22), (0.32, -0.14))),
            ("ink", ellipse(0.23, -0.33, 0.03, 0.04)),
            ("dark", ellipse(-0.1, 0.22, 0.18, 0.1)),
        ]
    if v == 1:  # standing, with feet
        return [
            ("beak", rect(-0.1, 0.34, -0.02, 0.5)),
            ("beak", rect(0.06, 0.34, 0.14, 0.5)),
            ("main", ellipse(-0.04, 0.12, 0.34, 0.26)),
            ("main", ((0.1, 0.1), (0.12, -0.3), (0.28, -0.3), (0.26, 0.14))),
            ("main", ellipse(0.2, -0.32, 0.14, 0.16)),
            ("beak", ((0.3, -0.36), (0.5, -0.26), (0.3, -0.2))),
            ("ink", ellipse(0.22, -0.36, 0.03, 0.035)),
            ("dark", ((-0.2, 0.04), (0.12, 0.1), (-0.3, 0.26))),
        ]
    return [
        ("main", (*ellipse(-0.04, 0.06, 0.44, 0.36, 0, 180),)),
        ("main", ellipse(0.26, -0.16, 0.22, 0.24)),
        ("beak", ellipse(0.46, -0.1, 0.1, 0.07)),
        ("ink", ellipse(0.3, -0.22, 0.04, 0.05)),
        ("dark", ((-0.48, 0.06), (-0.5, -0.14), (-0.3, 0.06))),
    ]


def fish(v: int) -> list[Part]:
    backbone: list[Part] = [("bone", ellipse(0.32, -0.08, 0.05, 0.09)), ("ink", ellipse(0.33, -0.08, 0.025, 0.045))]
    if v == 0:
        return [
            ("dark", ((-0.2, 0.0), (-0.5, -0.44), (-0.42, 0.0), (-0.5, 0.44))),
            ("dark", ((-0.1, -0.3), (0.1, -0.5), (0.2, -0.26))),
            ("main", ellipse(0.1, 0, 0.38, 0.36)),
            ("dark", line(0.22, -0.26, 0.22, 0.26, 0.03)),
            *backbone,
        ]
    if v == 1:  # long, shark-like
        return [
            ("main", ((-0.36, 0.0), (-0.5, -0.46), (-0.42, 0.0), (-0.5, 0.4))),
            ("main", ((-0.06, -0.16), (-0.02, -0.5), (0.16, -0.16))),
            ("main", ((-0.4, 0.0), (0.0, -0.22), (0.36, -0.16), (0.5, 0.04), (0.3, 0.18), (-0.1, 0.18))),
            ("dark", ((0.04, 0.12), (-0.08, 0.44), (0.18, 0.14))),
            *backbone,
        ]
    return [
        ("dark", ((-0.22, 0.0), (-0.46, -0.3), (-0.46, 0.3))),
        ("main", ((0.46, 0.0), (0.1, -0.5), (-0.26, 0.0), (0.1, 0.5))),
        ("bone", ((0.2, -0.34), (0.28, -0.24), (0.28, 0.24), (0.2, 0.34))),
        *backbone,
    ]


def flower(v: int) -> list[Part]:
    stem: list[Part] = [
        ("leaf", line(0, -0.1, 0, 0.5, 0.07)),
        ("leaf", ((0, 0.36), (0.34, 0.1), (0.2, 0.36))),
        ("leaf", ((0, 0.46), (-0.34, 0.2), (-0.18, 0.46))),
    ]
    if v == 0:  # daisy
        return [
            *stem,
            *(
                ("main", ellipse(0.26 * math.cos(t), -0.22 + 0.18 * math.sin(t), 0.17, 0.12))
                for t in (0, 1.05, 2.09, 3.14, 4.19, 5.24)
            ),
            ("glow", ellipse(0, -0.22, 0.13, 0.09)),
        ]
    if v == 1:  # tulip
        return [
            *stem,
            (
                "main",
                (
                    (-0.36, -0.5),
                    (-0.16, -0.34),
                    (0, -0.5),
                    (0.16, -0.34),
                    (0.36, -0.5),
                    (0.32, -0.12),
                    (0.0, 0.02),
                    (-0.32, -0.12),
                ),
            ),
        ]
    return [
        *stem,
        *(
            (
                "main",
                (
                    (0, -0.24),
                    (0.46 * math.cos(t - 0.4), -0.24 + 0.26 * math.sin(t - 0.4)),
                    (0.46 * math.cos(t + 0.4), -0.24 + 0.26 * math.sin(t + 0.4)),
                ),
            )
            for t in (0.3, 1.56, 2.81, 4.07, 5.33)
        ),
        ("trunk", ellipse(0, -0.24, 0.16, 0.1)),
    ]


def house(v: int) -> list[Part]:
    if v == 0:
        return [
            ("trunk", rect(0.18, -0.46, 0.3, -0.2)),
            ("main", rect(-0.4, -0.08, 0.4, 0.5)),
            ("dark", ((-0.5, -0.06), (0, -0.5), (0.5, -0.06))),
            ("door", rect(-0.08, 0.18, 0.1, 0.5)),
            ("glass", rect(-0.32, 0.06, -0.16, 0.24)),
            ("glass", rect(0.18, 0.06, 0.34, 0.24)),
        ]
    if v == 1:  # tall town house
        windows: list[Part] = [("glass", rect(x, y, x + 0.16, y + 0.14)) for x in (-0.24, 0.08) for y in (-0.26, -0.02)]
        return [
            ("main", rect(-0.34, -0.34, 0.34, 0.5)),
            ("dark", ((-0.4, -0.32), (-0.26, -0.5), (0.26, -0.5), (0.4, -0.32))),
            *windows,
            ("door", rect(-0.08, 0.24, 0.08, 0.5)),
        ]
    return [
        ("main", rect(-0.44, 0.04, 0.44, 0.5)),
        ("dark", ((-0.5, 0.06), (-0.34, -0.34), (0.34, -0.34), (0.5, 0.06))),
        ("trunk", rect(-0.3, -0.5, -0.16, -0.26)),
        ("door", (*ellipse(0.18, 0.28, 0.11, 0.14, 180, 360), (0.29, 0.5), (0.07, 0.5))),
        ("glass", ellipse(-0.18, 0.24, 0.12, 0.12)),
    ]


def kite(v: int) -> list[Part]:
    tail: list[Part] = [
        ("ink", line(0, 0.2, 0.12, 0.5, 0.03)),
        ("pink", ((0.0, 0.3), (0.14, 0.34), (0.0, 0.38))),
        ("pink", ((0.02, 0.42), (0.18, 0.44), (0.04, 0.5))),
    ]
    if v == 0:
        return [
            *tail,
            ("main", ((0, -0.5), (0.42, -0.18), (0, 0.28), (-0.42, -0.18))),
            ("ink", line(0, -0.5, 0, 0.28, 0.03)),
            ("ink", line(-0.42, -0.18, 0.42, -0.18, 0.03)),
        ]
    if v == 1:  # delta
        return [
            *tail,
            ("main", ((0, -0.5), (0.5, 0.16), (0, 0.04), (-0.5, 0.16))),
            ("dark", ((0, -0.5), (0.08, 0.24), (-0.08, 0.24))),
        ]
    return [  # box kite
        *tail,
        ("main", rect(-0.4, -0.5, 0.4, -0.26)),
        ("main", rect(-0.4, -0.04, 0.4, 0.2)),
        *(("ink", line(x, -0.5, x, 0.2, 0.03)) for x in (-0.38, 0.38)),
    ]


def lamp(v: int) -> list[Part]:
    if v == 0:  # table lamp
        return [
            ("steel", line(0, -0.1, 0, 0.44, 0.1)),
            ("dark", ellipse(0, 0.44, 0.34, 0.07)),
            ("main", ((-0.24, -0.5), (0.24, -0.5), (0.5, -0.04), (-0.5, -0.04))),
            ("glow", rect(-0.4, -0.06, 0.4, 0.0)),
        ]
    if v == 1:  # street lamp
        return [
            ("ink", line(-0.2, -0.4, -0.2, 0.5, 0.1)),
            ("ink", line(-0.2, -0.44, 0.26, -0.44, 0.06)),
            ("ink", rect(-0.34, 0.42, -0.06, 0.5)),
            ("main", ((0.04, -0.4), (0.5, -0.4), (0.4, -0.22), (0.14, -0.22))),
            ("glow", ellipse(0.27, -0.2, 0.13, 0.06)),
        ]
    return [  # desk lamp
        ("dark", rect(-0.36, 0.42, 0.3, 0.5)),
        ("steel", line(-0.1, 0.44, -0.36, 0.0, 0.07)),
        ("steel", line(-0.36, 0.02, 0.1, -0.32, 0.07)),
        ("main", ((0.0, -0.46), (0.18, -0.5), (0.5, -0.14), (0.14, -0.02))),
        ("glow", line(0.14, -0.02, 0.5, -0.14, 0.05)),
    ]


def mushroom(v: int) -> list[Part]:
    if v == 0:
        return [
            ("cream", ((-0.14, -0.06), (0.14, -0.06), (0.2, 0.5), (-0.2, 0.5))),
            ("main", ellipse(0, -0.02, 0.5, 0.48, 180, 360)),
            ("bone", ellipse(-0.2, -0.2, 0.08, 0.07)),
            ("bone", ellipse(0.08, -0.32, 0.09, 0.07)),
            ("bone", ellipse(0.28, -0.12, 0.07, 0.06)),
        ]
    if v == 1:  # tall bell
        return [
            ("cream", rect(-0.09, -0.1, 0.09, 0.5)),
            ("main", ((0, -0.5), (0.2, -0.34), (0.34, 0.06), (-0.34, 0.06), (-0.2, -0.34))),
            ("dark", rect(-0.34, 0.02, 0.34, 0.1)),
        ]
    return [
        ("cream", rect(-0.32, 0.0, -0.16, 0.5)),
        ("cream", rect(0.1, -0.1, 0.28, 0.5)),
        ("main", ellipse(-0.24, 0.08, 0.26, 0.26, 180, 360)),
        ("main", ellipse(0.19, -0.06, 0.31, 0.44, 180, 360)),
        ("bone", ellipse(0.19, -0.26, 0.07, 0.06)),
    ]


def snowman(v: int) -> list[Part]:
    base: list[Part] = [("bone", ellipse(0, 0.26, 0.42, 0.25)), ("bone", ellipse(0, -0.12, 0.28, 0.17))]
    face: list[Part] = [
        ("ink", ellipse(-0.07, -0.35, 0.03, 0.02)),
        ("ink", ellipse(0.09, -0.35, 0.03, 0.02)),
        ("carrot", ((0.02, -0.32), (0.3, -0.28), (0.02, -0.26))),
        ("ink", ellipse(0, -0.12, 0.035, 0.025)),
        ("ink", ellipse(0, -0.02, 0.035, 0.025)),
    ]
    arms: list[Part] = [("trunk", line(-0.24, -0.12, -0.5, -0.28, 0.04)), ("trunk", line(0.24, -0.12, 0.5, -0.24, 0.04))]
    head: Part = ("bone", ellipse(0, -0.32, 0.19, 0.12))
    scarf: Part = ("main", rect(-0.2, -0.25, 0.2, -0.18))
    if v == 0:
        return [
            *arms,
            *base,
            head,
            *face,
            ("main", rect(-0.26, -0.44, 0.26, -0.4)),
            ("main", rect(-0.16, -0.5, 0.16, -0.42)),
            scarf,
        ]
    if v == 1:
        return [
            *arms,
            *base,
            head,
            *face,
            ("main", ((-0.2, -0.4), (0.0, -0.5), (0.2, -0.4))),
            scarf,
            ("main", rect(0.06, -0.2, 0.16, 0.02)),
        ]
    return [
        *arms,
        ("bone", ellipse(0, 0.2, 0.46, 0.31)),
        ("bone", ellipse(0, -0.26, 0.3, 0.2)),
        ("ink", ellipse(-0.1, -0.3, 0.035, 0.025)),
        ("ink", ellipse(0.1, -0.3, 0.035, 0.025)),
        ("carrot", ((0, -0.26), (0.3, -0.22), (0, -0.19))),
        ("main", (*ellipse(0, -0.38, 0.28, 0.12, 180, 360),)),
        ("main", rect(-0.26, -0.12, 0.26, -0.05)),
    ]


def table(v: int) -> list[Part]:
    top: Part = ("main", rect(-0.5, -0.3, 0.5, -0.12))
    if v == 0:
        return [("dark", rect(-0.44, -0.14, -0.34, 0.5)), ("dark", rect(0.34, -0.14, 0.44, 0.5)), top]
    if v == 1:  # round, one foot
        return [
            ("dark", rect(-0.05, -0.2, 0.05, 0.44)),
            ("dark", ellipse(0, 0.44, 0.26, 0.06)),
            ("main", ellipse(0, -0.22, 0.5, 0.15)),
        ]
    return [("dark", line(-0.36, -0.2, 0.3, 0.5, 0.07)), ("dark", line(0.36, -0.2, -0.3, 0.5, 0.07)), top]  # trestle


def tree(v: int) -> list[Part]:
    if v == 0:  # round crown
        return [
            ("trunk", rect(-0.08, 0.1, 0.08, 0.5)),
            ("main", ellipse(-0.2, -0.04, 0.28, 0.22)),
            ("main", ellipse(0.2, -0.04, 0.28, 0.22)),
            ("main", ellipse(0, -0.26, 0.32, 0.24)),
        ]
    if v == 1:  # conifer
        return [
            ("trunk", rect(-0.07, 0.3, 0.07, 0.5)),
            ("main", ((-0.46, 0.36), (0, -0.12), (0.46, 0.36))),
            ("main", ((-0.38, 0.1), (0, -0.32), (0.38, 0.1))),
            ("main", ((-0.28, -0.16), (0, -0.5), (0.28, -0.16))),
        ]
    fronds: list[Part] = [
        (
            "main",
            (
                (0, -0.3),
                (0.44 * math.cos(t), -0.3 + 0.3 * math.sin(t)),
                (0.5 * math.cos(t + 0.35), -0.28 + 0.3 * math.sin(t + 0.35)),
            ),
        )
        for t in (-2.9, -2.2, -1.4, -0.6, 0.1, 2.6)
    ]
    return [("trunk", ((-0.1, 0.5), (0.1, 0.5), (0.05, -0.3), (-0.02, -0.3))), *fronds]  # palm


def truck(v: int) -> list[Part]:
    wheels = wheel(-0.32, 0.34, 0.15, 1.6) + wheel(-0.08, 0.34, 0.15, 1.6) + wheel(0.32, 0.34, 0.15, 1.6)
    cab: list[Part] = [
        ("dark", ((0.2, -0.24), (0.38, -0.24), (0.5, 0.02), (0.5, 0.34), (0.2, 0.34))),
        ("glass", ((0.26, -0.16), (0.36, -0.16), (0.44, 0.04), (0.26, 0.04))),
    ]
    if v == 0:  # box
        return [("main", rect(-0.5, -0.5, 0.18, 0.34)), *cab, *wheels]
    if v == 1:  # tipper with load
        return [
            ("trunk", ellipse(-0.16, -0.1, 0.26, 0.26, 180, 360)),
            ("main", ((-0.5, -0.14), (0.18, -0.14), (0.12, 0.28), (-0.42, 0.28))),
            *cab,
            *wheels,
        ]
    return [("main", ellipse(-0.17, 0.0, 0.33, 0.27)), ("steel", rect(-0.5, 0.22, 0.2, 0.32)), *cab, *wheels]  # tank


def umbrella(v: int) -> list[Part]:
    if v == 0:
        return [
            ("trunk", line(0, -0.1, 0, 0.44, 0.05)),
            ("trunk", line(0, 0.46, 0.12, 0.46, 0.05)),
            ("main", (*ellipse(0, 0.0, 0.5, 0.48, 180, 360),)),
            *(("dark", (*ellipse(x, 0.0, 0.12, 0.08, 180, 360),)) for x in (-0.36, -0.12, 0.12, 0.36)),
        ]
    if v == 1:  # parasol with segments
        return [
            ("steel", line(0, -0.3, 0, 0.5, 0.06)),
            ("main", ((0, -0.5), (0.5, -0.08), (-0.5, -0.08))),
            ("bone", ((0, -0.5), (0.17, -0.08), (-0.17, -0.08))),
            ("dark", rect(-0.5, -0.1, 0.5, -0.04)),
        ]
    return [  # tilted
        ("trunk", line(-0.2, 0.5, 0.16, -0.3, 0.05)),
        ("main", ((0.16, -0.5), (0.42, -0.36), (0.5, -0.02), (-0.36, -0.34), (-0.16, -0.5))),
        ("dark", ((0.5, -0.02), (-0.36, -0.34), (0.1, -0.3))),
    ]


_DRAW: dict[str, Callable[[int], list[Part]]] = {
    f.__name__: f
    for f in (
        airplane, ball, bird, boat, butterfly, cactus, car, cat, chair, clock, cup, dog,
        duck, fish, flower, house, kite, lamp, mushroom, snowman, table, tree, truck, umbrella,
    )
}  # fmt: skip


@cache
def parts(category: str, variant: int) -> tuple[Part, ...]:
    """The parts of a category's shape variant, back to front."""
    return tuple(_DRAW[category](variant))
