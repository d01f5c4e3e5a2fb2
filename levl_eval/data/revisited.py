"""Revisited Oxford and Paris as published (Radenovic et al., CVPR 2018):
photographs, queries with a box, and what is right or junk for each.

    ROOT/jpg/NAME.jpg              or directly in ROOT
    ROOT/gnd_NAME.json or .pkl     {"imlist": [names], "qimlist": [names],
                                   "gnd": [{"bbx": [left, top, right, bottom], "easy": [...], "hard": [...], "junk": [...]}]}

The lists of ``gnd`` hold positions in ``imlist``. Queries are cut to their box before anything else, as the protocol demands. The
published file is a pickle: it is read by an unpickler that knows plain containers and numpy arrays alone, so that nothing in it
can run.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BeforeValidator, Field

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import regular
from levl_eval.core.text import printable
from levl_eval.data.formats import Entry, Text, checked
from levl_eval.data.images import fingerprint_contents, fingerprint_text, image_set, root_of, under
from levl_eval.data.questions import first_of, read_json
from levl_eval.data.rgb import DEFAULT, Rules, crop_within, open_rgb
from levl_eval.data.types import ImageSet, InstanceQuery, InstanceSet

_GET = "get gnd_roxford5k.pkl or gnd_rparis6k.pkl from cmp.felk.cvut.cz/revisitop and the images from robots.ox.ac.uk/~vgg/data"
QUERY = "query/"  # before the name of a query's cut
MOST = 1 << 28  # bytes of a pickle that is read
# What a pickle of numpy arrays names; nothing else is looked up.
_KNOWN = {
    (f"{module}.multiarray", name) for module in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}  # fmt: skip


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """The bytes of an array, which pickles of protocol 2 hold as text."""
    return text.encode("latin1")


def _empty() -> bytes:
    """The bytes of an empty array in such a pickle."""
    return b""


_STANDS_FOR = {("_codecs", "encode"): _latin1, ("__builtin__", "bytes"): _empty, ("builtins", "bytes"): _empty}


class _Plain(pickle.Unpickler):
    """Containers, numbers, texts and numpy arrays; whatever else a file names is refused before it is imported."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _STANDS_FOR:
            return _STANDS_FOR[module, name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is neither a plain container nor a numpy array")
        return super().find_class(module, name)


def _plain(value: object) -> object:
    """Arrays and tuples as lists, numpy's numbers as numbers."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def read_pickle(path: Path) -> object:
    """A pickle of plain containers and numpy arrays, arrays as lists. Raises UsageError naming the file."""
    try:
        if regular(path) and path.stat().st_size > MOST:
            raise UsageError(
                f"{path}: holds {path.stat().st_size:,} bytes, more than lists of images take; take the published file"
            )
        return _plain(_Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror})") from e
    except UsageError:
        raise
    except pickle.UnpicklingError as e:
        raise UsageError(f"{path}: {printable(str(e))[:200]}; take the published file, or one as JSON") from None
    except Exception as e:  # a damaged pickle raises anything; nothing of it has run
        raise UsageError(f"{path}: is no pickle of lists ({type(e).__name__}); take the published file") from None


def _position(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
        raise ValueError("expected a position from 0")
    return int(value)


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError("expected a number")
    return float(value)


_Positions = list[Annotated[int, BeforeValidator(_position)]]


class Truth(Entry):
    """Of one query."""

    bbx: Annotated[list[Annotated[float, BeforeValidator(_number)]], Field(min_length=4, max_length=4)]
    easy: _Positions
    hard: _Positions
    junk: _Positions


class Annotation(Entry):
    """The whole file."""

    imlist: list[Text]
    qimlist: list[Text]
    gnd: list[Truth]


@dataclass(frozen=True)
class CutOpener:
    """id -> RGB image of a file, cut to its box where it has one. Raises LevlError for a box beyond the image."""

    locate: Callable[[str], Path]
    boxes: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        image = open_rgb(self.locate(name), self.rules)
        box = self.boxes.get(name)
        return image if box is None else crop_within(image, box, str(self.locate(name)))


def _checked(path: Path) -> Annotation:
    """The annotation file. Raises UsageError where its lists do not fit together."""
    raw = read_pickle(path) if path.suffix == ".pkl" else read_json(path)
    known = checked(Annotation, raw, path, "annotation")
    if len(known.gnd) != len(known.qimlist) or not known.gnd:
        raise UsageError(f"{path}: field `gnd` has {len(known.gnd)} entries for {len(known.qimlist)} queries; each query has one")
    for names in (known.imlist, known.qimlist):
        twice = next((n for n, count in Counter(names).items() if count > 1), None)
        bad = next((n for n in names if "\\" in n or ".." in n.split("/") or n.startswith("/")), None)
        if twice or bad:
            raise UsageError(
                f"{path}: image {printable(twice or bad or '')[:200]!r} "
                + ("is listed twice; keep one" if twice else "is no file name")
            )
    for name, one in zip(known.qimlist, known.gnd, strict=True):
        where = f"{path}: query {printable(name)[:200]}"
        beyond = [i for i in (*one.easy, *one.hard, *one.junk) if i >= len(known.imlist)]
        if beyond:
            raise UsageError(f"{where}: position {beyond[0]} is beyond the {len(known.imlist)} images of `imlist`")
        both = Counter((*set(one.easy), *set(one.hard), *set(one.junk))).most_common(1)
        if both and both[0][1] > 1:
            raise UsageError(f"{where}: image {both[0][0]} is of two kinds among easy, hard and junk; it can be of one")
        if one.bbx[2] <= one.bbx[0] or one.bbx[3] <= one.bbx[1]:
            raise UsageError(f"{where}: field `bbx`: {one.bbx} is no box (left, top, right, bottom)")
    return known


def _few(known: Annotation, limit: int | None) -> tuple[list[int], list[int]]:
    """(queries, images) to keep of at most ``limit`` together: queries in order with all that is said of them, then other images."""
    if limit is None:
        return list(range(len(known.gnd))), list(range(len(known.imlist)))
    queries: list[int] = []
    images: set[int] = set()
    for q, one in enumerate(known.gnd):
        more = images | {*one.easy, *one.hard, *one.junk}
        if len(queries) + 1 + len(more) > limit:
            break
        queries.append(q)
        images = more
    rest = (i for i in range(len(known.imlist)) if i not in images)
    for _, i in zip(range(max(0, limit - len(queries) - len(images))), rest, strict=False):
        images.add(i)
    return queries, sorted(images)


def _file(folder: Path, name: str) -> Path:
    return folder / (name if name.lower().endswith(".jpg") else f"{name}.jpg")


def read_revisited(spec: DataSpec, data: str, limit: int | None = None) -> InstanceSet:
    """Queries and the images they are put to. Raises UsageError: what is missing where, lists that do not fit together.

    --skip-broken: an image that cannot be read is none of the database, a query that cannot be read is not asked.
    """
    root = root_of(spec.root, spec.directory, data)
    names = [f"gnd_{name}{ending}" for name in filter(None, (spec.directory, "*")) for ending in (".json", ".pkl")]
    path = under(data, spec.annotations) or first_of(root, names, "the file of queries (field `annotations`)", _GET)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; {_GET}")
    folder = under(data, spec.images) or (root / "jpg" if (root / "jpg").is_dir() else root)
    known = _checked(path)
    queries, images = _few(known, limit)
    if not queries:
        raise UsageError(f"{path}: the first query needs more images than --limit {limit}; raise it")
    files = {known.imlist[i]: _file(folder, known.imlist[i]) for i in images}
    asked = {f"{QUERY}{known.qimlist[q]}": q for q in queries}
    boxes = {name: _rounded(known.gnd[q].bbx) for name, q in asked.items()}
    files |= {name: _file(folder, known.qimlist[q]) for name, q in asked.items()}
    held = image_set(files, files.__getitem__, str(root), _GET, None, spec)
    there = set(held.ids)

    def present(positions: Sequence[int]) -> tuple[str, ...]:
        return tuple(n for i in dict.fromkeys(positions) if (n := known.imlist[i]) in there)

    kept = tuple(
        InstanceQuery(name, *(present(getattr(known.gnd[q], kind)) for kind in ("easy", "hard", "junk")))
        for name, q in asked.items()
        if name in there
    )
    if not any(q.easy or q.hard for q in kept):
        raise UsageError(f"{path}: no query has an image that is right for it; take the published file")
    contents = {name: _content(held.content, name, boxes.get(name)) for name in held.ids}
    held = _cut(held, CutOpener(files.__getitem__, boxes), contents)
    digest = fingerprint_text(f"{q.image} {q.easy} {q.hard} {q.junk}" for q in kept)
    return InstanceSet(spec.directory or "revisited", spec.split, held, kept, digest)


def _rounded(box: Sequence[float]) -> tuple[int, int, int, int]:
    """A box in whole pixels, as Pillow's crop rounds it."""
    left, top, right, bottom = (round(b) for b in box)
    return left, top, right, bottom


def _content(content: Callable[[str], str] | None, name: str, box: tuple[int, int, int, int] | None) -> str:
    assert content is not None
    return content(name) if box is None else hashlib.sha256(f"{content(name)} {box}".encode()).hexdigest()


def _cut(images: ImageSet, opener: CutOpener, contents: Mapping[str, str]) -> ImageSet:
    """The set with its queries cut: other contents than those of the files."""
    return replace(images, open=opener, content=contents.__getitem__, fingerprint=fingerprint_contents(contents))
