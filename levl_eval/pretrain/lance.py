"""Lance data sets of image-caption pairs, from which the July code trains: one row a pair, image bytes and text in columns.

Rows are named by number, so that shuffling and resuming move numbers alone and read nothing of the past. Fragments are taken in a random
order and read from beginning to end, so that reading stays local, as a scan with a shuffle buffer does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.pretrain.samples import Raw, Source, content_of, shuffled, spread_rows
from levl_eval.pretrain.tars import first_texts

if TYPE_CHECKING:
    import lance

_ROWS = 64  # read at once
_BYTES = ("binary", "large_binary", "binary_view")  # types of a column of encoded images


@dataclass
class Lance(Source):
    """Whole fragments to consumers where there are enough of them, else every n-th row of all."""

    path: str
    image: str
    fields: tuple[str, ...]
    seed: int
    buffer: int
    strip: bool = False
    version: int | None = None  # of the data set, fixed when it is first opened: rows added later are another version
    _opened: lance.LanceDataset | None = field(default=None, repr=False, compare=False)

    fork_safe = False  # the library's threads do not survive a fork

    def __getstate__(self) -> dict[str, object]:
        """For reading workers, each of which opens it anew."""
        return {**self.__dict__, "_opened": None}

    def open(self) -> lance.LanceDataset:
        """The library's data set. Raises UsageError: library or data set missing, columns that are not there."""
        if self._opened is not None:
            return self._opened
        try:
            import lance
        except ImportError as e:
            raise UsageError(
                f"data=lance:{self.path}: the package pylance is not installed; pip install 'levl-eval[lance]'"
            ) from e
        path = str(Path(self.path).expanduser()) if "://" not in self.path else self.path
        try:
            data = lance.dataset(path, version=self.version)
        except Exception as e:  # the library raises ValueError, OSError and its own for what is missing or damaged
            words = " ".join(str(e).split())[:160]
            raise UsageError(f"data=lance:{self.path}: cannot be opened ({type(e).__name__}: {words})") from e
        columns = data.schema.names
        if self.image not in columns:
            raise UsageError(f"data=lance:{self.path}: field `image_field`: no column {self.image!r}; there are {columns}")
        field = data.schema.field(self.image)
        # A blob column, too, is read as other than its bytes.
        if str(field.type) not in _BYTES or (field.metadata or {}).get(b"lance-encoding:blob"):
            shown = f"{field.type}, a blob column" if str(field.type) in _BYTES else str(field.type)
            raise UsageError(
                f"data=lance:{self.path}: field `image_field`: column {self.image!r} holds no encoded images but {shown[:60]}; "
                "name another, or store them as plain binary"
            )
        if not set(self.fields) & set(columns):
            raise UsageError(f"data=lance:{self.path}: field `caption_fields`: none of {list(self.fields)} among {columns}")
        self._opened, self.version = data, data.version
        return data

    def count(self) -> int:
        return int(self.open().count_rows())

    def identity(self) -> str:
        count = self.count()
        return f"version {self.version}, {content_of(count, self._read(iter(spread_rows(count))))}"

    def earlier_identity(self) -> str:
        self.open()
        return f"version {self.version}"

    def epoch(self, epoch: int, k: int, n: int, taken: int = 0) -> Iterator[Raw]:
        counts = [f.count_rows() for f in self.open().get_fragments()]
        starts = [0, *accumulate(counts)]
        order = list(range(len(counts)))
        random.Random(f"lance/{self.seed}/{epoch}").shuffle(order)
        mine, every = (order[k::n], slice(0, None)) if len(order) >= n else (order, slice(k, None, n))
        numbers = (i for f in mine for i in range(starts[f], starts[f + 1]))
        rows = shuffled(
            islice(numbers, every.start, None, every.step), self.buffer, random.Random(f"buffer/{self.seed}/{epoch}/{k}/{n}")
        )
        return self._read(islice(rows, taken, None))

    def _read(self, numbers: Iterator[int]) -> Iterator[Raw]:
        columns = [c for c in self.open().schema.names if c == self.image or c in self.fields]
        while some := list(islice(numbers, _ROWS)):
            try:
                rows = self.open().take(some, columns=columns).to_pylist()
            except Exception as e:
                words = " ".join(str(e).split())[:160]
                raise LevlError(f"data=lance:{self.path}: rows {min(some)} to {max(some)} cannot be read ({words})") from e
            for i, row in zip(some, rows, strict=True):
                yield self._raw(f"{self.path}[{i}]", row)

    def _raw(self, name: str, row: dict[str, object]) -> Raw:
        image = row[self.image]
        return Raw(name, image if isinstance(image, bytes) and image else None, first_texts(row, self.fields, self.strip))
