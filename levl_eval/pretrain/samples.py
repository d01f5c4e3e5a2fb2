"""Samples of a stream before they are decoded, what can be wrong with one, and the shuffle buffer, which resumes without its past.

A *consumer* is one reading worker of one process. Its samples are a pure function of (seed, epoch, its number).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from levl_eval.core.errors import LevlError
from levl_eval.data.rgb import decode_rgb, to_rgb

# What a sample may be left out for, as messages and broken.txt name it.
NO_IMAGE, NO_CAPTION, NO_TEXT = "no image", "no caption", "caption that is no UTF-8"
TWO_IMAGES = "two images under one key"
DOTTED, LINK = "image whose name has a second dot (a key ends at the first)", "link in place of a file"
UNDECODABLE, SHARD = "image that cannot be decoded", "shard that cannot be read to its end"


@dataclass(frozen=True)
class Raw:
    """A sample before decoding: its name for messages, image bytes or a PIL image, its captions; problem: what is known to be wrong."""

    name: str
    image: bytes | Image.Image | None
    captions: list[str]
    problem: str = ""


def by_kind(kinds: Counter[str]) -> str:
    """Counts in words, the largest first."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common() if count)


def opened(raw: Raw) -> tuple[Image.Image | None, str]:
    """(decoded image, "") of a sample, or (None, what is wrong with it)."""
    if raw.problem:
        return None, raw.problem
    if raw.image is None or not raw.captions:
        return None, NO_IMAGE if raw.image is None else NO_CAPTION
    try:
        return (decode_rgb(raw.image, raw.name) if isinstance(raw.image, bytes) else to_rgb(raw.image, raw.name)), ""
    except LevlError:  # whatever a decoder throws at a broken file
        return None, UNDECODABLE


class Source:
    """Raw samples of an epoch for consumer k of n, in a fixed order."""

    fork_safe = True  # whether a reading worker may be forked once it was opened

    def epoch(self, epoch: int, k: int, n: int, taken: int = 0) -> Iterator[Raw]:
        """Those behind the first ``taken``."""
        raise NotImplementedError

    def count(self) -> int | None:
        """Samples of an epoch over all consumers; None where that is not known."""
        return None

    def identity(self) -> str:
        """Changes where the data does, by their content; "" where that is not known. A resumed run must find what it began with."""
        return ""

    def earlier_identity(self) -> str:
        """What was kept as the identity before contents were looked at: a run of then is resumed by it."""
        return ""


LOOKED_AT = 256  # rows of a table, or shards, whose contents are its identity; all of a smaller one


def spread_rows(count: int) -> list[int]:
    """At most :data:`LOOKED_AT` of ``count`` rows, evenly, the first and the last among them."""
    return list(range(count)) if count <= LOOKED_AT else [i * (count - 1) // (LOOKED_AT - 1) for i in range(LOOKED_AT)]


def content_of(count: int, rows: Iterable[Raw]) -> str:
    """SHA-256 of how many rows there are, and of the images and captions of some of them."""
    h = hashlib.sha256(f"{count} rows".encode())
    for raw in rows:
        image = raw.image if isinstance(raw.image, bytes) else b"" if raw.image is None else raw.image.tobytes()
        h.update(hashlib.sha256(image).digest() + json.dumps(raw.captions).encode())
    return h.hexdigest()


T = TypeVar("T")
Wanted = Callable[[int], bool]
Stream = Callable[[Wanted | None], Iterator[Raw | None]]


def _refilled(held: list[T], rest: Iterator[T], rng: random.Random) -> Iterator[T]:
    for s in rest:
        i = rng.randrange(len(held))
        out, held[i] = held[i], s
        yield out
    rng.shuffle(held)
    yield from held


def shuffled(samples: Iterator[T], size: int, rng: random.Random) -> Iterator[T]:
    """A shuffle buffer: each sample leaves from a random place of the last ``size``."""
    held = [s for _, s in zip(range(size), samples, strict=False)]  # range first: zip would lose a sample behind a full buffer
    if len(held) == size:
        yield from _refilled(held, samples, rng)
    else:
        rng.shuffle(held)
        yield from held


def shuffled_from(stream: Stream, size: int, seed: str, taken: int) -> Iterator[Raw]:
    """What :func:`shuffled` gives behind its first ``taken`` samples, without reading those.

    stream(wanted): the unshuffled samples, with None in the place of those whose number is not ``wanted`` (None: all are). Only the numbers
    are shuffled again; of the past only the at most ``size`` samples are read that the buffer still held.
    """
    if not taken:
        yield from shuffled(_read(stream(None)), size, random.Random(seed))
        return
    rng, held = random.Random(seed), list(range(size))
    for number in range(size, size + taken):
        held[rng.randrange(size)] = number
    kept, behind = set(held), size + taken
    samples = stream(lambda i: i in kept or i >= behind)
    known = {i: s for i, s in zip(range(behind), samples, strict=False) if s is not None}
    if len(known) == size:  # the last number that entered is always held, so the stream reached it
        yield from _refilled([known[i] for i in held], _read(samples), rng)
    else:
        yield from _tail(stream, size, seed, taken)


def _read(samples: Iterator[Raw | None]) -> Iterator[Raw]:
    return (s for s in samples if s is not None)


def _tail(stream: Stream, size: int, seed: str, taken: int) -> Iterator[Raw]:
    """The end of an epoch, where nothing enters the buffer any more: its order takes the number of samples, which is counted first."""
    total = sum(1 for _ in stream(lambda _: False))
    left = list(shuffled(iter(range(total)), size, random.Random(seed)))[taken:]
    kept = set(left)
    known = {i: s for i, s in enumerate(stream(lambda i: i in kept)) if s is not None}
    yield from (known[i] for i in left)
