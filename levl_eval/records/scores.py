"""What tables need of a record's samples, as compact arrays beside it: ids, images, scores, splits,
counts of classes, and where lines begin.

They are derived: written with the samples (``record.write_record``), built again from them where missing or damaged, and never older than
they say, as their key is the samples' SHA-256. Text of answers is not in them; :func:`samples_at` reads the few lines that are shown.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.json_types import object_at
from levl_eval.core.kept import read_arrays, write_arrays
from levl_eval.records.samples import Sample

FOLDER = "derived"  # of a run's folder; all of it may be deleted at any time
VERSION = 1  # of the arrays


def scores_path(home: Path, key: str) -> Path:
    """Of a record's arrays in a run's folder."""
    return home / FOLDER / "scores" / f"{key}.npz"


def _packed(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer(zlib.compress(json.dumps(texts).encode(), 1), np.uint8)  # ASCII: lone surrogates survive


def _unpacked(array: np.ndarray) -> list[str]:
    texts = json.loads(zlib.decompress(array.tobytes()))
    if not isinstance(texts, list):
        raise ValueError("a list of texts was expected")
    return [str(t) for t in texts]


@dataclass(frozen=True)
class Items:
    """What a task asks, in the order of the samples' file. Records of one task share it. ids are distinct."""

    ids: tuple[str, ...]
    images: tuple[str, ...]
    splits: tuple[str, ...]

    @cached_property
    def position(self) -> dict[str, int]:
        """id -> its place."""
        return {name: k for k, name in enumerate(self.ids)}

    @cached_property
    def order(self) -> np.ndarray:
        """[N] places in the order of ids."""
        return np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), np.int64)

    @cached_property
    def image_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct image ids in their order, and [N] which of them an item is about."""
        return np.unique(np.array(self.images), return_inverse=True)

    @cached_property
    def ordered(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """ids, and [N] numbers of images and of splits, in the order of ids."""
        order = self.order
        return tuple(self.ids[k] for k in order), self.image_codes[1][order], self.split_codes[order]

    @cached_property
    def split_codes(self) -> np.ndarray:
        """[N] which split an item is of, as a number."""
        codes: np.ndarray = np.unique(np.array(self.splits), return_inverse=True)[1]
        return codes


@dataclass(frozen=True)
class Scores:
    """A record's samples without their texts. N items in the order of the file.

    score: [N] float64, NaN where a sample has none. ok: [N] whether it was answered. begins: [N + 1] byte at which its line begins.
    counted: [N] whether it holds counts of classes; count_item, count_class: [M], counts: [M, 3] intersection, target, prediction.
    """

    items: Items
    score: np.ndarray
    ok: np.ndarray
    begins: np.ndarray
    counted: np.ndarray
    count_item: np.ndarray
    count_class: np.ndarray
    counts: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """[N] whether an item was answered and has a score."""
        out: np.ndarray = self.ok & ~np.isnan(self.score)
        return out

    @property
    def nbytes(self) -> int:
        """Of the arrays that no other record shares."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)


_ARRAYS = ("score", "ok", "begins", "counted", "count_item", "count_class", "counts")
_TEXTS = ("ids", "images", "splits")


class Collector:
    """Collects samples as they are written or read into :class:`Scores`."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
        self._scores: list[float] = []
        self._ok: list[bool] = []
        self._begins = [0]
        self._counted: list[bool] = []
        self._counts: list[tuple[int, int, tuple[float, ...]]] = []
        self._wrong = ""

    def add(self, sample: Sample, size: int) -> None:
        """size: bytes of its line. :meth:`scores` raises for what is wrong."""
        at = len(self._scores)
        for name, text in zip(_TEXTS, (sample.id, sample.image_id, str(sample.meta.get("split", ""))), strict=True):
            self._texts[name].append(text)
        self._scores.append(np.nan if sample.score is None else sample.score)
        self._ok.append(sample.status == "ok")
        self._begins.append(self._begins[-1] + size)
        self._counted.append("counts" in sample.meta)
        try:
            for k, v in object_at(sample.meta, "counts").items():
                if not isinstance(v, (list, tuple)) or len(v) != 3:
                    raise ValueError(f"class {k}")
                self._counts.append((at, int(k), tuple(map(float, v))))
        except (TypeError, ValueError) as e:
            self._wrong = f"sample {sample.id!r}: field `meta.counts`: three counts a class were expected ({e})"

    def scores(self) -> Scores:
        """Raises UsageError where an id occurs twice, or class counts are invalid."""
        ids = self._texts["ids"]
        if self._wrong:
            raise UsageError(self._wrong)
        if len(set(ids)) < len(ids):
            twice = next(i for i, count in Counter(ids).items() if count > 1)
            raise UsageError(f"id {twice!r} stands twice; run the task again")
        items = Items(*(tuple(self._texts[name]) for name in _TEXTS))
        of = self._counts
        return Scores(
            items, np.array(self._scores, float), np.array(self._ok, bool), np.array(self._begins, np.int64), np.array(self._counted, bool),
            np.array([c[0] for c in of], np.int64), np.array([c[1] for c in of], np.int64),
            np.array([c[2] for c in of], float).reshape(-1, 3),
        )  # fmt: skip


def collected(samples: Iterable[tuple[Sample, int]]) -> Scores:
    """Scores of samples, each with the bytes of its line (0 where none was written). Raises UsageError, see Collector."""
    collector = Collector()
    for sample, size in samples:
        collector.add(sample, size)
    return collector.scores()


def write_scores(path: Path, sha256: str, scores: Scores) -> None:
    """sha256: of the samples' file. Nothing is written where the folder cannot be: what is derived can be derived again."""
    arrays = {name: getattr(scores, name) for name in _ARRAYS} | {n: _packed(getattr(scores.items, n)) for n in _TEXTS}
    with contextlib.suppress(LevlError, OSError):
        write_arrays(path, f"scores {VERSION} {sha256}", arrays)


def read_scores(path: Path, sha256: str, shared: dict[bytes, Items] | None = None) -> Scores:
    """What :func:`write_scores` has written of samples of that SHA-256. Raises FileNotFoundError, kept.Damaged.

    shared: Items by their packed texts, so that records of one task share them; added to.
    """
    arrays = read_arrays(path, f"scores {VERSION} {sha256}")
    key = b"".join(arrays[name].tobytes() for name in _TEXTS)
    known = {} if shared is None else shared
    if key not in known:
        known[key] = Items(*(tuple(_unpacked(arrays[name])) for name in _TEXTS))
    return Scores(known[key], *(arrays[name] for name in _ARRAYS))


def samples_at(path: Path, scores: Scores, places: Sequence[int]) -> Iterator[Sample]:
    """The samples at some places of a file, in the order asked for. Raises UsageError where a line is no sample."""
    try:
        with open(path, "rb") as f:
            for k in places:
                begin, end = int(scores.begins[k]), int(scores.begins[k + 1])
                f.seek(begin)
                try:
                    yield Sample.model_validate_json(f.read(end - begin))
                except ValueError as e:
                    raise UsageError(f"{path}: line {k + 1} is no sample ({str(e).splitlines()[0]}); run the task again") from e
    except OSError as e:
        raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
