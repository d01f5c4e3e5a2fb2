"""What a data set is, known before anything is computed: its fingerprint, order and counts, remembered while its files stay as they are.

``of_set`` reads a set once and remembers its identity under the card's fields and under the state of everything its reader looks at:

  folders      names of all entries of the set's folders (``Scope.trees``), so that a new or a removed file shows
  other files  question, annotation, list and class files, arrays, tables: size, times, inode, first and last 4 KiB
  images       (masks, depth maps) of the set: size, times and inode of all, first and last 4 KiB of ``_LOOKED_AT`` of them
  code         the source of this package's readers

If all of it is unchanged, the answer takes a stat a file: no file is parsed and no image read. Tables of the hub that lie in no local
directory are remembered by their cached files, and only where no newer revision can be meant: offline, or with a commit as revision.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from levl_eval.core.errors import LevlError
from levl_eval.core.files import settled, stat_mark
from levl_eval.data.fingerprint_cache import ABSENT, FingerprintCache, ends_of, using
from levl_eval.data.places import SUFFIXES, Scope, absolute, on_hub, places_of, scope_of

if TYPE_CHECKING:
    from levl_eval.cards.base import DataSpec
    from levl_eval.data.fingerprints import AnnotatedSet

READER_VERSION = 1  # of what is remembered here
Kind = Literal[
    "questions",
    "segmentation",
    "classification",
    "captions",
    "depth",
    "normals",
    "pairs",
    "videos",
    "instances",
    "choices",
    "views",
]
_LOOKED_AT = 64  # images of a set whose ends are read each time


@dataclass(frozen=True)
class SetIdentity:
    """What is known of a set without reading it.

    fingerprint, order: see data.fingerprints. counts: images, and questions, classes, captions or pairs; ``hashed_whole`` where sampled.
    source: its folder or file (absolute), or hub repository; not part of what the set is. sampled: only sizes, ends and a sample of
    the images were hashed. published: the published set it is (data.published), whole; None: none that is known. left_out: entries
    of its folders that are none of its images (junk, other suffixes), counted by reason. skipped: id -> why, of images that cannot be
    read (--skip-broken). revision: of a hub repository, the commit that was read; remark: what else must be known of how it was read.
    """

    fingerprint: str
    order: str
    counts: dict[str, int]
    version: str = ""
    split: str = ""
    source: str = ""
    sampled: bool = False
    published: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    revision: str = ""
    remark: str = ""

    def about(self) -> dict[str, object]:
        """For a record's ``data``: what is not empty, as JSON holds it."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, "", False, {})}


def remembered_set(
    cache: FingerprintCache, kind: Kind, spec: DataSpec, data: str, limit: int | None = None, **options: object
) -> SetIdentity | None:
    """What :func:`of_set` remembers of a set, where nothing of it has changed; None: it would have to be read."""
    scope = scope_of(spec, data)
    if scope is None:
        return None
    key = _key(kind, spec, data, limit, {**options, "sample above": cache.sample_above})
    row = cache.read("sets", [key]).get(key)
    if row is None:
        return None
    content = json.loads(zlib.decompress(row))
    return SetIdentity(**content["identity"]) if content["state"] == _state(scope, content["images"]) else None


def of_set(
    cache: FingerprintCache, kind: Kind, spec: DataSpec, data: str, limit: int | None = None, **options: object
) -> SetIdentity:
    """Identity of the set that ``spec`` names below ``data``: remembered, or read, hashed and remembered.

    options: ``scale`` and ``caps`` of depth maps; ``captions_per_image``. Raises UsageError/LevlError as the reader does.
    """
    remembered = remembered_set(cache, kind, spec, data, limit, **options)
    if remembered is not None:
        return remembered
    scope = scope_of(spec, data)
    key = _key(kind, spec, data, limit, {**options, "sample above": cache.sample_above})
    before, calm = _look(scope) if scope is not None else (b"", False)
    with using(cache), cache.watch() as touched:
        dataset = read_set(kind, spec, data, limit, options)
        identity = identity_of(dataset, spec, data)
        calm &= not cache.unsettled
    if scope is not None and calm:
        images = _by_folder(p for p in touched if not scope.covers(p))
        looked, same = _images_state(images, touched)
        if same and _look(scope)[0] == before:
            state = hashlib.blake2b(before + looked, digest_size=32).hexdigest()
            value = {"state": state, "images": images, "identity": dataclasses.asdict(identity)}
            cache.write("sets", [(key, zlib.compress(json.dumps(value).encode(), 1))])
    return identity


def read_set(kind: Kind, spec: DataSpec, data: str, limit: int | None, options: Mapping[str, object]) -> AnnotatedSet:
    from levl_eval.data import captions, readers

    if kind == "depth":
        scale = options["scale"]
        caps = cast("tuple[float, float] | None", options.get("caps"))  # what runner.datasets gives
        assert isinstance(scale, (int, float))
        return readers.read_depth(spec, data, scale, limit, caps)
    if kind == "captions":
        count = options.get("captions_per_image")
        assert count is None or isinstance(count, int)
        return captions.first_captions(readers.read_captions(spec, data, limit), count)
    read: dict[Kind, Callable[[DataSpec, str, int | None], AnnotatedSet]] = {
        "questions": readers.read_questions, "segmentation": readers.read_segmentation, "classification": readers.read_classification,
        "pairs": readers.read_pairs, "videos": readers.read_videos, "instances": readers.read_instances,
        "choices": readers.read_choices, "normals": readers.read_normals, "views": readers.read_views,
    }  # fmt: skip
    return read[kind](spec, data, limit)


def identity_of(dataset: AnnotatedSet, spec: DataSpec, data: str) -> SetIdentity:
    """Identity of a set that has been read."""
    from levl_eval.data.fingerprints import content_of
    from levl_eval.data.published import published_set

    content, counts = content_of(dataset), {"images": len(dataset.images)}
    for name in ("questions", "classes", "captions", "pairs", "videos", "queries", "trials", "views"):
        if hasattr(dataset, name):
            counts[name] = len(getattr(dataset, name))
    if dataset.images.whole is not None:
        counts["hashed_whole"] = dataset.images.whole
    source = dataset.images.source
    hub = on_hub(spec, data) and spec.hub is not None
    return SetIdentity(
        content.fingerprint, content.order, counts, getattr(dataset, "version", ""), dataset.split,
        source if hub and not Path(source).expanduser().is_dir() else absolute(source),
        dataset.images.whole is not None, published_set(dataset, spec.layout), dict(dataset.images.left_out),
        dict(dataset.images.skipped), dataset.images.revision, dataset.images.remark,
    )  # fmt: skip


# ---- its state


@lru_cache(1)
def _code() -> str:
    """Digest of the readers' source: other code may read other things out of the same files."""
    here = Path(__file__).resolve().parent
    sources = [*sorted(here.glob("*.py")), here.parent / "metrics" / "gqa.py"]
    return hashlib.blake2b(b"\0".join(p.read_bytes() for p in sources if p.is_file()), digest_size=16).hexdigest()


def _key(kind: Kind, spec: DataSpec, data: str, limit: int | None, options: Mapping[str, object]) -> bytes:
    where = "hub" if on_hub(spec, data) else absolute(data)
    parts = [
        READER_VERSION,
        _code(),
        kind,
        spec.model_dump(mode="json"),
        places_of(spec, data),
        where,
        limit,
        sorted(options.items()),
    ]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()


def _look(scope: Scope) -> tuple[bytes, bool]:
    """State of folders and other files; and whether all of it is old enough to be told from a later one."""
    digest, calm, others = hashlib.blake2b(digest_size=32), True, list(scope.files)
    for folder, names, listing in _listings(scope):
        digest.update(json.dumps([folder, names]).encode("utf-8", "surrogatepass"))
        others += listing
        calm &= _old(folder)
    for path in others:
        try:
            s, ends = ends_of(path)
        except OSError as e:
            digest.update(os.fsencode(path) + b"\0absent %d" % (e.errno or 0))
            continue
        calm &= settled(s)
        digest.update(os.fsencode(path) + b"\0" + stat_mark(s) + ends)
    return digest.digest(), calm


def _old(folder: str) -> bool:
    try:
        return settled(os.stat(folder))
    except OSError:
        return True


def _listings(scope: Scope) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, its entries, other files to look at) of the scope; links to folders are followed once."""
    seen: set[tuple[int, int]] = set()
    pending = [(t, True) for t in reversed(scope.trees)] + [(f, False) for f in reversed(scope.folders)]
    while pending:
        folder, deep = pending.pop()
        names, files, below = [], [], []
        try:
            s = os.stat(folder)
            if deep and (s.st_dev, s.st_ino) in seen:
                continue
            with os.scandir(folder) as entries:
                for e in entries:
                    inner = e.is_dir()
                    names.append(e.name + "/" * inner)
                    if deep and inner:
                        below.append((e.path, True))
                    elif deep and (scope.whole or not e.name.lower().endswith(SUFFIXES)):
                        files.append(e.path)
        except OSError:
            yield folder, ["absent"], []
            continue
        if deep:
            seen.add((s.st_dev, s.st_ino))
        yield folder, sorted(names), sorted(files)
        pending += sorted(below, reverse=True)


def _by_folder(paths: Iterable[str]) -> list[tuple[str, list[str]]]:
    out: dict[str, list[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        out.setdefault(folder, []).append(name)
    return [(folder, sorted(names)) for folder, names in sorted(out.items())]


def _images_state(images: Iterable[tuple[str, list[str]]], read: dict[str, bytes] | None = None) -> tuple[bytes, bool]:
    """State of images by folder; and, with ``read`` (path -> status when read), whether none has changed since."""
    digest, same, ends = hashlib.blake2b(digest_size=32), True, hashlib.blake2b(digest_size=16)
    paths = [os.path.join(folder, name) for folder, names in images for name in names]
    looked = set(range(0, len(paths), max(1, len(paths) // _LOOKED_AT)))
    for k, path in enumerate(paths):
        try:
            mark = stat_mark(os.stat(path))
            if k in looked:
                ends.update(ends_of(path)[1])
        except OSError:
            mark = ABSENT
        except LevlError:  # a pipe or a folder in an image's place, which is skipped
            ends.update(b"no file")
        same &= read is None or read[path] == mark
        digest.update(mark)
    return digest.digest() + ends.digest(), same


def _state(scope: Scope, images: Iterable[tuple[str, list[str]]]) -> str:
    return hashlib.blake2b(_look(scope)[0] + _images_state(images)[0], digest_size=32).hexdigest()
