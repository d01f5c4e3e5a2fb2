"""Streams of image-caption pairs: tars (tars.py), Lance (lance.py)
and `datasets`, split by process and worker, shuffled, exactly resumable.

With every batch a consumer (samples.py) tells how far into which epoch it has come; a resumed run begins behind so many samples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import regular
from levl_eval.data.hub_files import alike
from levl_eval.data.hub_tables import cache_of_state, check_folder
from levl_eval.models.config import PretrainConfig, augments
from levl_eval.pretrain import augment
from levl_eval.pretrain.augment import Pixels
from levl_eval.pretrain.lance import Lance
from levl_eval.pretrain.samples import Raw, Source, content_of, opened, spread_rows
from levl_eval.pretrain.tars import Tars, first_texts, shards

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

    Opened: TypeAlias = datasets.Dataset | datasets.IterableDataset


FIRST = 64  # rows of a stream whose contents are its identity


@dataclass
class Hub(Source):
    """A data set of the `datasets` library, map-style or streaming, from the hub, its cache, or a directory of save_to_disk."""

    name: str
    split: str
    image: str
    fields: tuple[str, ...]
    seed: int
    buffer: int
    streaming: bool
    strip: bool = False
    _opened: Opened | None = field(default=None, repr=False)

    def open(self) -> Opened:
        if self._opened is not None:
            return self._opened
        import datasets

        try:
            with alike(f"data=hf:{self.name}:{self.split or 'train'}"):
                data = self._load()
        except UsageError:
            raise
        except Exception as e:
            words = " ".join(str(e).split())[:160]
            raise UsageError(
                f"data=hf:{self.name}:{self.split or 'train'}: cannot be opened ({type(e).__name__}: {words}); "
                "without network fill the hub cache first, or give a directory written by save_to_disk"
            ) from e
        columns = list(data.column_names or [])
        if columns and self.image not in columns:
            raise UsageError(f"data=hf:{self.name}: field `image_field`: no column {self.image!r}; there are {columns}")
        if columns and not set(self.fields) & set(columns):
            raise UsageError(f"data=hf:{self.name}: field `caption_fields`: none of {list(self.fields)} among {columns}")
        if columns:
            kind = data.features[self.image] if data.features else None
            try:
                data = data.cast_column(self.image, datasets.Image(decode=False))
            except Exception as e:  # pyarrow's and `datasets`' own, by the column's type
                shown = str(getattr(kind, "dtype", None) or type(kind).__name__)
                raise UsageError(
                    f"data=hf:{self.name}: field `image_field`: column {self.image!r} holds no images but {shown[:60]}; "
                    "name another, or store encoded images"
                ) from e
        self._opened = data
        return data

    def _load(self) -> Opened:
        """The split as the library opens it. Raises whatever it raises, and UsageError for a local folder that lacks a part."""
        import datasets

        folder, split = Path(self.name).expanduser(), self.split or "train"
        if folder.is_dir() and ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.DatasetDict):
                table = saved[split]
            elif self.split and str(saved.split or "train") != self.split:
                raise UsageError(
                    f"data=hf:{self.name}:{self.split}: the folder holds one table, of "
                    f"{f'split {saved.split}' if saved.split else 'no split'}; take `:{self.split}` out, or give another folder"
                )
            else:
                table = saved
            return table.to_iterable_dataset() if self.streaming else table
        if not folder.is_dir():
            return datasets.load_dataset(self.name, split=split, streaming=self.streaming)
        check_folder(folder, split, None, f"data=hf:{self.name}:{split}")
        # Of local folders of one name `datasets` would take the table that it made of the first, whatever lies in this one.
        return datasets.load_dataset(str(folder), split=split, streaming=self.streaming, cache_dir=cache_of_state(folder))

    def count(self) -> int | None:
        return None if self.streaming else len(self.open())

    def identity(self) -> str:
        """Of a stream its beginning, its number of files and what it states of its rows:
        behind the first :data:`FIRST` rows nothing is looked at."""
        data = self.open()
        if not self.streaming:
            return content_of(len(data), (self._raw("", data[i]) for i in spread_rows(len(data))))
        stated = (data.info.splits or {}).get(self.split or "train")
        rows = content_of(FIRST, (self._raw("", row) for row in data.take(FIRST)))
        return f"{data.num_shards} files, {stated.num_examples if stated else None} rows, {rows}"

    def _raw(self, name: str, row: Mapping[str, object]) -> Raw:
        captions = first_texts(row, self.fields, self.strip)
        image = row.get(self.image)
        if isinstance(image, dict):
            try:
                content = image.get("bytes")  # of an empty one, the path is a name within the table, not a file beside us
                image = Path(regular(str(image["path"]))).read_bytes() if content is None else content
            except (OSError, TypeError, KeyError, LevlError):
                image = None
        return Raw(name, image if isinstance(image, (bytes, Image.Image)) else None, captions)

    def epoch(self, epoch: int, k: int, n: int, taken: int = 0) -> Iterator[Raw]:
        """Map-style: every n-th row of the epoch's permutation. Streaming: every n-th file where their number allows, else row."""
        return islice(self._streamed(epoch, k, n), taken, None) if self.streaming else self._rows(epoch, k, n, taken)

    def _rows(self, epoch: int, k: int, n: int, taken: int) -> Iterator[Raw]:
        data = self.open()
        for i in np.random.default_rng([self.seed, epoch]).permutation(len(data))[k::n][taken:]:
            yield self._raw(f"{self.name}[{i}]", data[int(i)])

    def _streamed(self, epoch: int, k: int, n: int) -> Iterator[Raw]:
        from datasets.distributed import split_dataset_by_node

        mine = split_dataset_by_node(self.open().shuffle(seed=self.seed + epoch, buffer_size=self.buffer), k, n)
        # Read in batches: row by row `datasets` would divide its files among a loader's workers once more.
        i = 0
        for batch in mine.iter(batch_size=16):
            for values in zip(*batch.values(), strict=True):
                yield self._raw(f"{self.name}[{epoch}:{k}:{i}]", dict(zip(batch, values, strict=True)))
                i += 1


_SPLIT = re.compile(r"(.+):(\w+(?:\.\w+)*(?:\[[^\]/]*\])?)", re.DOTALL)  # NAME:SPLIT, NAME:SPLIT[:100]


def open_source(config: PretrainConfig) -> Source:
    """The source of ``data=wds:...``, ``data=lance:...`` or ``data=hf:NAME[:SPLIT]``. Raises UsageError for what is not there."""
    c = config
    kind, _, where = c.data.partition(":")
    if kind == "wds":
        skip = c.broken_shards == "skip"
        return Tars(shards(where), c.caption_fields, c.seed, c.shuffle_buffer, c.strip_captions, skip)
    if kind == "lance":
        rows = Lance(where, c.image_field, c.caption_fields, c.seed, c.shuffle_buffer, c.strip_captions)
        rows.open()
        return rows
    named = _SPLIT.fullmatch(where)
    name, split = (named[1], named[2]) if named else (where, "")
    hub = Hub(name, split, c.image_field, c.caption_fields, c.seed, c.shuffle_buffer, c.streaming, c.strip_captions)
    hub.open()
    return hub


class Read(TypedDict, total=False):
    """A batch on its way from a reading worker: what :class:`Decoded` gives, or an ``error`` (``usage``: of the user's) in its place.

    pixels, captions: of the batch; torch's loader makes tensors and lists of arrays and tuples. position: (epoch, samples taken of it)
    behind its last sample; seen, skipped, broken: since the batch before it.
    """

    pixels: Pixels | Tensor | list[Tensor]
    captions: list[str]
    position: Sequence[int]
    broken: list[tuple[str, str]]
    seen: int
    skipped: dict[str, int]
    error: str
    usage: bool


class Decoded:
    """Batches of one consumer, without end: {"pixels" uint8 [B, S, S, 3] or crops, "captions", "position" behind its last sample,
    and since the batch before it: "seen" samples, those "skipped" by kind, and (name, kind) of each skipped for the first time, "broken"}.

    config fixes size and augmentation, rows the batch; position: (epoch, samples of it taken already), which are not decoded again.
    """

    def __init__(
        self, config: PretrainConfig, source: Source, rows: int, k: int, n: int, position: tuple[int, int] = (0, 0)
    ) -> None:
        self.config, self.source, self.rows, self.k, self.n, self.position = config, source, rows, k, n, position

    def __iter__(self) -> Iterator[Read]:
        epoch, taken = self.position
        known: set[str] = set()  # names of broken samples, told once
        held: list[tuple[Pixels, str]] = []
        names: set[str] = set()  # of those held
        broken: list[tuple[str, str]] = []
        skipped: Counter[str] = Counter()
        seen = 0
        usable = taken > 0
        while True:
            for i, raw in enumerate(self.source.epoch(epoch, self.k, self.n, taken), taken):
                seen += 1
                made, problem = self._make(raw, np.random.default_rng([self.config.seed, epoch, self.k, i]))
                if made is None:
                    skipped[problem] += 1
                    if raw.name not in known:
                        broken.append((raw.name, problem))
                        known.add(raw.name)
                    continue
                usable = True
                held.append(made)
                names.add(raw.name)
                if len(held) == self.rows:
                    self._check_different(len(names))
                    yield {
                        "pixels": stack([p for p, _ in held]), "captions": [c for _, c in held], "position": (epoch, i + 1),
                        "broken": broken, "seen": seen, "skipped": dict(skipped),
                    }  # fmt: skip
                    held, names, broken, seen, skipped = [], set(), [], 0, Counter()
            if not usable:
                raise UsageError(
                    f"data={self.config.data}: no usable sample for reader {self.k + 1} of {self.n}"
                    + (f"; first broken {broken[0][0]} ({broken[0][1]})" if broken else "; give fewer workers, or more data")
                )
            epoch, taken, usable = epoch + 1, 0, False

    def _check_different(self, count: int) -> None:
        """Raises UsageError for a batch of ``count`` different samples where the most are there again.

        An epoch of as many samples as a batch never gives one:
        at its end at most half a batch is of the next epoch, or of this one.
        """
        if 2 * count < self.rows:
            raise UsageError(
                f"data={self.config.data}: reader {self.k + 1} of {self.n} finds {count} different samples for a batch "
                f"of {self.rows}, which would hold them again and again; give fewer workers, a smaller batch_size, or more data"
            )

    def _make(self, raw: Raw, g: np.random.Generator) -> tuple[tuple[Pixels, str] | None, str]:
        """((image as it is trained on, caption), "") or (None, what is wrong)."""
        image, problem = opened(raw)
        if image is None:
            return None, problem
        c = self.config
        caption = raw.captions[int(g.integers(len(raw.captions)))]
        if augments(c):
            return (augment.augmented(np.asarray(image), c, g), caption), ""
        return (augment.resized(image, c.image_size, c.resize, c.interpolation), caption), ""


def stack(images: Sequence[Pixels]) -> Pixels:
    """Images [S, S, 3] -> [B, S, S, 3]; pairs of crops -> ([V, B, S, S, 3], [v, B, s, s, 3])."""
    crops = [i for i in images if isinstance(i, tuple)]
    if crops:
        return np.stack([p[0] for p in crops], axis=1), np.stack([p[1] for p in crops], axis=1)
    return np.stack([i for i in images if not isinstance(i, tuple)])
