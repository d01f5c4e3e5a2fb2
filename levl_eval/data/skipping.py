"""What of a set cannot be read, under `--skip-broken`: found before anything is computed, so that everyone works on what is left.

An image, mask or depth map that is missing or cannot be decoded is left out of its set; the set keeps its id and the reason, counts it
in its fingerprint, and is refused where more are broken than the bound allows. Without the option nothing is looked at here: the first
broken file fails the task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.errors import LevlError
from levl_eval.core.files import settled, stat_mark
from levl_eval.core.text import printable
from levl_eval.data.fingerprint_cache import active
from levl_eval.data.rgb import READING

if TYPE_CHECKING:
    from levl_eval.cards.base import DataSpec
    from levl_eval.data.types import ImageSet

_NAMED = 3  # broken items a message names


def broken_files(files: Mapping[str, Path], load: Callable[[Path], object], kind: str) -> dict[str, str]:
    """id -> why, of the files that are missing or that ``load`` refuses with a LevlError.

    kind: what they are read as; outcomes are remembered under it by a file's state, so that a set is decoded for this once.
    """
    cache = active()
    keys = {name: state_key(path, kind) for name, path in files.items()}
    known = cache.read("sets", [k for k in keys.values() if k is not None])

    def look(name: str) -> str:
        key = keys[name]
        if key is not None and key in known:
            return known[key].decode()
        return why_broken(lambda: load(files[name]), str(files[name]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = dict(zip(files, pool.map(look, files), strict=True))
    cache.write("sets", [(k, reasons[n].encode()) for n, k in keys.items() if k is not None and k not in known])
    out = {name: reason for name, reason in reasons.items() if reason}
    cache.note(files[name] for name in out)
    return out


def why_broken(load: Callable[[], object], what: str) -> str:
    """Why ``load`` fails, without the name and the remedy; "" where it does not."""
    try:
        load()
    except LevlError as e:
        return printable(str(e).removeprefix(f"{what}: ").split(";")[0])[:200]
    return ""


def state_key(path: Path, kind: str) -> bytes | None:
    """Of a file with its state and how it is read (``kind``);
    None for one that is missing or changes just now, about which nothing is remembered."""
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return None
    return blake2b(f"readable {READING} {kind} {path}\0".encode() + stat_mark(s), digest_size=16).digest() if settled(s) else None


def without(names: Iterable[str], skipped: Mapping[str, str]) -> list[str]:
    """``names`` without those skipped, in order."""
    return [n for n in names if n not in skipped]


def check_skipped(images: ImageSet, spec: DataSpec) -> None:
    """Raises LevlError, naming the first ones, where more items are broken than the specification allows."""
    broken, total = len(images.skipped), len(images) + len(images.skipped)
    if broken and not spec.may_skip.allows(broken, total):
        raise LevlError(
            f"{images.source}: {broken} of {total} images cannot be used, more than --skip-broken {spec.skip_broken} allows: "
            f"{named(images.skipped)}; replace them, or raise the bound"
        )


def named(skipped: Mapping[str, str]) -> str:
    """The first skipped items with their reasons, in words."""
    first = [f"{printable(name)[:200]} ({why})" for name, why in list(skipped.items())[:_NAMED]]
    more = len(skipped) - len(first)
    return ", ".join(first) + (f", and {more} more" if more else "")


def skipped_words(skipped: Mapping[str, str], total: int) -> str:
    """What was left out of a set of ``total`` items, for the screen and the record."""
    return f"{len(skipped)} of {total} images cannot be used and are skipped: {named(skipped)}"
