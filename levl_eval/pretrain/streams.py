"""Streams of image-caption pairs: WebDataset tars and `datasets`, split by process and worker, shuffled, exactly resumable.

A *consumer* is one reading worker of one process. Its samples are a pure function of (seed, epoch, its number), and with every
batch it tells how far into which epoch it has come; a resumed run passes over so many samples without decoding and goes on.

Formats: WebDataset as img2dataset and cc12m-wds write it: members KEY.EXT with an image (any suffix of data.places) and .txt or .json
beside it under the same KEY, in sequence. KEY ends at the first dot of the name; members that begin with a dot are passed over, as
webdataset does. Stricter than it: a key that comes twice, a tar that is cut off and one with a damaged header raise.
"""

from __future__ import annotations

import glob
import json
import lzma
import random
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import printable
from levl_eval.data.places import SUFFIXES
from levl_eval.data.rgb import decode_rgb, to_rgb
from levl_eval.models.config import PretrainConfig, augments
from levl_eval.pretrain import augment

IMAGE_SUFFIXES = tuple(s.removeprefix(".") for s in SUFFIXES)


@dataclass(frozen=True)
class Raw:
    """A sample before decoding: its name for messages, image bytes or a PIL image, and its captions."""

    name: str
    image: Any
    captions: list[str]


def expand(pattern: str) -> list[str]:
    """Brace expansion of {a,b} and {000..123} (zero-padded as written), then globbing. Raises UsageError where nothing matches."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found:
        inner = found.group(1)
        span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
        if span:
            first, last = span.groups()
            words = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        else:
            words = inner.split(",")
        return [x for w in words for x in expand(pattern[: found.start()] + w + pattern[found.end() :])]
    files = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not files:
        raise UsageError(f"data=wds:{pattern}: no such file; give tars, for example wds:shards/{{00000..00099}}.tar")
    return files


def _texts(value: Any, strip: bool) -> list[str]:
    """The strings of a field, as they are unless ``strip``; blank ones are left out."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return [t.strip() if strip else t for t in texts if isinstance(t, str) and t.strip()]


def _utf8(content: bytes) -> str:
    """A caption's text; "" where it is no UTF-8, so that its sample counts as broken."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""


def _captions(members: dict[str, bytes], fields: Iterable[str], strip: bool = False) -> list[str]:
    """The captions of a sample: .txt if "txt" comes first among the fields that are there, else the first field of .json."""
    told: Any = {}
    if "json" in members:
        try:
            told = json.loads(members["json"])
        except (ValueError, RecursionError):
            told = {}
    for name in fields:
        value = _utf8(members["txt"]) if name == "txt" and "txt" in members else None
        if value is None and isinstance(told, dict):
            value = told.get(name)
        texts = _texts(value, strip)
        if texts:
            return texts
    return _texts(_utf8(members["txt"]), strip) if "txt" in members else []


def _check_end(path: str, tar: tarfile.TarFile, again: str) -> None:
    """Raises LevlError where the members end before the tar does (a damaged header), or the tar has no end (cut off).

    A whole tar ends with two blocks of zeros; the first made tarfile stop, and nothing but zeros follows.
    """
    stream: Any = tar.fileobj
    ended = False
    while content := stream.read(1 << 20):
        ended = True
        if any(content):
            raise LevlError(
                f"{path}: the header behind byte {tar.offset} is damaged, the samples after it would be lost; {again}"
            )
    if not ended:
        raise LevlError(f"{path}: is cut off, it has no end mark; {again}")


def read_tar(path: str, fields: Iterable[str], strip: bool = False) -> Iterator[Raw]:
    """Samples of one tar in order. A sample without image or caption is passed on with None or [] and counted as broken.

    Raises LevlError where the tar cannot be read to its end.
    """

    def sample(key: str, members: dict[str, bytes]) -> Raw:
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        return Raw(f"{path}:{key}", image, _captions(members, fields, strip))

    key = ""
    members: dict[str, bytes] = {}
    seen: set[str] = set()
    again = "download it again or leave it out of the pattern"
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not member.isfile() or not stem or (stem.startswith("__") and stem.endswith("__")):
                    continue
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    if members:
                        yield sample(key, members)
                    if name in seen:
                        raise LevlError(f"{path}: holds the sample {printable(name)} twice; keep one of the two")
                    seen.add(name)
                    key, members = name, {}
                if suffix.lower() in members:
                    raise LevlError(f"{path}: holds {printable(member.name)} twice; keep one of the two")
                stream = tar.extractfile(member)
                if stream is not None:
                    members[suffix.lower()] = stream.read()
            _check_end(path, tar, again)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
        raise LevlError(f"{path}: cannot be read as a tar ({e}); {again}") from e
    if members:
        yield sample(key, members)


class Source:
    """Raw samples of an epoch for consumer k of n, in a fixed order."""

    def epoch(self, epoch: int, k: int, n: int) -> Iterator[Raw]:
        raise NotImplementedError


@dataclass
class Tars(Source):
    """WebDataset shards: whole shards to consumers where there are enough of them, else every n-th sample of all."""

    files: list[str]
    fields: tuple[str, ...]
    seed: int
    buffer: int
    strip: bool = False

    def epoch(self, epoch: int, k: int, n: int) -> Iterator[Raw]:
        rng = random.Random(f"wds/{self.seed}/{epoch}")
        files = self.files[:]
        rng.shuffle(files)
        if len(files) >= n:
            samples: Iterator[Raw] = (s for f in files[k::n] for s in read_tar(f, self.fields, self.strip))
        else:
            samples = (s for i, s in enumerate(s for f in files for s in read_tar(f, self.fields, self.strip)) if i % n == k)
        return shuffled(samples, self.buffer, random.Random(f"buffer/{self.seed}/{epoch}/{k}/{n}"))


def shuffled(samples: Iterator[Raw], size: int, rng: random.Random) -> Iterator[Raw]:
    """A shuffle buffer: each sample leaves from a random place of the last ``size``."""
    held: list[Raw] = []
    for s in samples:
        if len(held) < size:
            held.append(s)
            continue
        i = rng.randrange(size)
        out, held[i] = held[i], s
        yield out
    rng.shuffle(held)
    yield from held


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
    _opened: Any = field(default=None, repr=False)

    def open(self) -> Any:
        if self._opened is not None:
            return self._opened
        import datasets

        try:
            folder = Path(self.name).expanduser()
            if folder.is_dir() and ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
                data = datasets.load_from_disk(str(folder))
                data = data[self.split] if isinstance(data, datasets.DatasetDict) else data
                if self.streaming:
                    data = data.to_iterable_dataset()
            else:
                data = datasets.load_dataset(self.name, split=self.split, streaming=self.streaming)
        except Exception as e:
            words = " ".join(str(e).split())[:160]
            raise UsageError(
                f"data=hf:{self.name}:{self.split}: cannot be opened ({type(e).__name__}: {words}); "
                "without network fill the hub cache first, or give a directory written by save_to_disk"
            ) from e
        columns = list(data.column_names or [])
        if columns and self.image not in columns:
            raise UsageError(f"data=hf:{self.name}: field `image_field`: no column {self.image!r}; there are {columns}")
        if columns and not set(self.fields) & set(columns):
            raise UsageError(f"data=hf:{self.name}: field `caption_fields`: none of {list(self.fields)} among {columns}")
        if columns:
            data = data.cast_column(self.image, datasets.Image(decode=False))
        self._opened = data
        return data

    def _raw(self, name: str, row: dict[str, Any]) -> Raw:
        value: Any = next((row[f] for f in self.fields if row.get(f)), [])
        image = row.get(self.image)
        if isinstance(image, dict):
            try:
                image = image.get("bytes") or Path(image["path"]).read_bytes()
            except (OSError, TypeError):
                image = None
        return Raw(name, image, _texts(value, self.strip))

    def epoch(self, epoch: int, k: int, n: int) -> Iterator[Raw]:
        """Map-style: every n-th row of the epoch's permutation. Streaming: every n-th file where their number allows, else row."""
        data = self.open()
        if self.streaming:
            from datasets.distributed import split_dataset_by_node

            mine = split_dataset_by_node(data.shuffle(seed=self.seed + epoch, buffer_size=self.buffer), k, n)
            # Read in batches: row by row `datasets` would divide its files among a loader's workers once more.
            i = 0
            for batch in mine.iter(batch_size=16):
                for values in zip(*batch.values(), strict=True):
                    yield self._raw(f"{self.name}[{epoch}:{k}:{i}]", dict(zip(batch, values, strict=True)))
                    i += 1
            return
        for i in np.random.default_rng([self.seed, epoch]).permutation(len(data))[k::n]:
            yield self._raw(f"{self.name}[{i}]", data[int(i)])


def open_source(config: PretrainConfig) -> Source:
    """The source of ``data=wds:...`` or ``data=hf:NAME[:SPLIT]``. Raises UsageError for what is not there."""
    kind, _, where = config.data.partition(":")
    if kind == "wds":
        return Tars(expand(where), config.caption_fields, config.seed, config.shuffle_buffer, config.strip_captions)
    name, colon, split = where.rpartition(":")
    if not colon or "/" in split:
        name, split = where, "train"
    c = config
    hub = Hub(name, split, c.image_field, c.caption_fields, c.seed, c.shuffle_buffer, c.streaming, c.strip_captions)
    hub.open()
    return hub


def opened(raw: Raw) -> Image.Image | None:
    """The decoded image of a sample, or None where image or caption is missing or broken."""
    if raw.image is None or not raw.captions:
        return None
    try:
        return decode_rgb(raw.image, raw.name) if isinstance(raw.image, bytes) else to_rgb(raw.image, raw.name)
    except LevlError:  # whatever a decoder throws at a broken file
        return None


class Decoded:
    """Batches of one consumer, without end: {"pixels" uint8 [B, S, S, 3] or crops, "captions", "position" behind its last sample,
    and since the batch before it "seen" and "skipped" samples and the names of those skipped for the first time, "broken"}.

    config fixes size and augmentation, rows the batch; position: (epoch, samples of it taken already), which are not decoded again.
    """

    def __init__(
        self, config: PretrainConfig, source: Source, rows: int, k: int, n: int, position: tuple[int, int] = (0, 0)
    ) -> None:
        self.config, self.source, self.rows, self.k, self.n, self.position = config, source, rows, k, n, position

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, taken = self.position
        known: set[str] = set()  # names of broken samples, told once
        held: list[tuple[Any, str]] = []
        broken: list[str] = []
        seen = skipped = 0
        usable = taken > 0
        while True:
            for i, raw in enumerate(self.source.epoch(epoch, self.k, self.n)):
                if i < taken:
                    continue
                seen += 1
                made = self._make(raw, np.random.default_rng([self.config.seed, epoch, self.k, i]))
                if made is None:
                    skipped += 1
                    if raw.name not in known:
                        broken.append(raw.name)
                        known.add(raw.name)
                    continue
                usable = True
                held.append(made)
                if len(held) == self.rows:
                    yield {**_stack(held), "position": (epoch, i + 1), "broken": broken, "seen": seen, "skipped": skipped}
                    held, broken, seen, skipped = [], [], 0, 0
            if not usable:
                raise UsageError(
                    f"data={self.config.data}: no usable sample for reader {self.k + 1} of {self.n}"
                    + (f"; first broken {broken[0]}" if broken else "; give fewer workers, or more data")
                )
            epoch, taken, usable = epoch + 1, 0, False

    def _make(self, raw: Raw, g: np.random.Generator) -> tuple[Any, str] | None:
        image = opened(raw)
        if image is None:
            return None
        c = self.config
        caption = raw.captions[int(g.integers(len(raw.captions)))]
        if augments(c):
            return augment.augmented(np.asarray(image), c, g), caption
        return augment.resized(image, c.image_size, c.resize, c.interpolation), caption


def stack(images: list[Any]) -> Any:
    """Images [S, S, 3] -> [B, S, S, 3]; pairs of crops -> ([V, B, S, S, 3], [v, B, s, s, 3])."""
    if isinstance(images[0], tuple):
        return tuple(np.stack([p[k] for p in images], axis=1) for k in (0, 1))
    return np.stack(images)


def _stack(held: list[tuple[Any, str]]) -> dict[str, Any]:
    return {"pixels": stack([p for p, _ in held]), "captions": [c for _, c in held]}
