"""WebDataset shards: samples of tars in order, and their consumers' shares of an epoch.

Formats: as img2dataset and cc12m-wds write them: members KEY.EXT with an image (any suffix of data.places) and .txt or .json
beside it under the same KEY, in sequence. KEY ends at the first dot of the name; members that begin with a dot are passed over, as
webdataset does. Stricter than it: a key that comes twice, a tar that is cut off and one with a damaged header raise, or are counted.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import lzma
import os
import random
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import misplaced, regular
from levl_eval.core.text import blank, printable, written_value
from levl_eval.data.formats import shown
from levl_eval.data.places import SUFFIXES
from levl_eval.pretrain.samples import DOTTED, LINK, NO_TEXT, SHARD, TWO_IMAGES, Raw, Source, Wanted, shuffled_from, spread_rows

LINKED = "a link"  # among a sample's members, whose suffixes have no blank
IMAGE_SUFFIXES = tuple(s.removeprefix(".") for s in SUFFIXES)


def shards(pattern: str) -> list[str]:
    """The files of a pattern (:func:`expand`). Raises UsageError where it names one twice: its samples would be drawn twice as often."""
    files = expand(pattern)
    twice = next((f for f, count in Counter(map(os.path.realpath, files)).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"data=wds:{pattern}: names {twice} twice; name each shard once")
    return files


def expand(pattern: str) -> list[str]:
    """Brace expansion of {a,b} and {000..123} (zero-padded as written), then globbing. Raises UsageError where nothing matches."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match:
        inner = match.group(1)
        span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
        if span:
            first, last = span.groups()
            if int(last) < int(first):
                raise UsageError(f"data=wds:{pattern}: {{{inner}}} counts down to nothing; write {{{last}..{first}}}")
            words = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        else:
            words = inner.split(",")
        return [x for w in words for x in expand(pattern[: match.start()] + w + pattern[match.end() :])]
    files = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not files:
        raise UsageError(f"data=wds:{pattern}: no such file; give tars, for example wds:shards/{{00000..00099}}.tar")
    return files


_LONE = re.compile("[\ud800-\udfff]")


def texts_of(value: object, strip: bool) -> list[str]:
    """The strings of a field, as they are unless ``strip``; blank ones are left out, those that are a list or an object written as text,
    and those that hold half of a surrogate pair, which JSON can escape and no tokenizer takes."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    strings = [t for t in texts if isinstance(t, str)]
    return [t.strip() if strip else t for t in strings if not (blank(t) or written_value(t) or _LONE.search(t))]


def first_texts(row: Mapping[str, object], fields: Iterable[str], strip: bool) -> list[str]:
    """The strings of the first field of a table's row that holds any."""
    return next((texts for f in fields if (texts := texts_of(row.get(f), strip))), [])


def _utf8(content: bytes) -> str:
    """A caption's text; "" where it is no UTF-8, or holds null characters, as UTF-16 without its mark does: its sample counts as broken."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text


class RepeatedField(Exception):
    """A .json gives a field of captions twice: which of them counts is anyone's guess."""


def _json_object(content: bytes, fields: Collection[str]) -> dict[str, object]:
    """A sample's .json; {} where it is no object. Raises RepeatedField for one of ``fields`` that it gives twice."""

    def unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
        counts = Counter(name for name, _ in pairs)
        if (twice := next((f for f in fields if counts[f] > 1), None)) is not None:
            raise RepeatedField(f"json that gives {shown(twice)} twice")
        return dict(pairs)

    try:
        value = json.loads(content, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def captions_of(members: dict[str, bytes], fields: Collection[str], strip: bool = False) -> list[str]:
    """The captions of a sample: .txt if "txt" comes first among the fields that are there, else the first field of .json.

    Raises RepeatedField where the .json is read and gives one of the fields twice.
    """
    content: dict[str, object] | None = None
    for name in fields:
        if name == "txt" and "txt" in members:
            texts = texts_of(_utf8(members["txt"]), strip)
        else:
            content = _json_object(members.get("json", b""), fields) if content is None else content
            texts = texts_of(content.get(name), strip)
        if texts:
            return texts
    return texts_of(_utf8(members["txt"]), strip) if "txt" in members else []


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _check_end(path: str, tar: tarfile.TarFile, again: str) -> None:
    """Raises LevlError where the members end before the tar does (a damaged header), or the tar has no end (cut off).

    A whole tar ends with two blocks of zeros; the first made tarfile stop, and nothing but zeros follows.
    """
    stream = tar.fileobj
    assert stream is not None
    ended = False
    while content := stream.read(1 << 20):
        if any(content):
            at = (len(content) - len(content.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            if (at or ended) and _is_header(content[at : at + tarfile.BLOCKSIZE]):
                raise LevlError(
                    f"{path}: another tar follows behind byte {tar.offset}, whose samples would be lost; "
                    "join tars by `tar --concatenate`, or give each by itself"
                )
            raise LevlError(
                f"{path}: the header behind byte {tar.offset} is damaged, the samples after it would be lost; {again}"
            )
        ended = True
    if not ended:
        raise LevlError(f"{path}: is cut off, it has no end mark; {again}")


def read_tar(
    path: str, fields: Iterable[str], strip: bool = False, skip: bool = False, wanted: Wanted | None = None
) -> Iterator[Raw | None]:
    """Samples of one tar in order. A sample without image or caption is passed on with None or [] and counted as broken.

    skip: what cannot be read to its end ends there, as one sample with that problem; else it raises LevlError.
    wanted: whether the sample of a number is to be read; the others are None, and their bytes are passed over where the tar is
    not compressed.
    """
    try:
        yield from _members(path, tuple(fields), strip, wanted)
    except LevlError as e:
        if not skip:
            raise
        yield Raw(str(e), None, [], SHARD)


def _sample(name: str, members: dict[str, bytes], fields: Collection[str], strip: bool) -> Raw:
    images = [s for s in IMAGE_SUFFIXES if s in members]
    image = members[images[0]] if images else None
    try:
        captions = captions_of(members, fields, strip)
    except RepeatedField as e:
        return Raw(name, image, [], str(e))
    dotted = image is None and any(s.rpartition(".")[2] in IMAGE_SUFFIXES for s in members)
    if dotted or LINKED in members:
        return Raw(name, None, captions, DOTTED if dotted else LINK)
    unreadable = image is not None and not captions and bool(members.get("txt", b"").strip()) and not _utf8(members["txt"])
    return Raw(name, image, captions, TWO_IMAGES if len(images) > 1 else NO_TEXT if unreadable else "")


def _apart(name: str, again: bool) -> str:
    """What is wrong with a key whose members do not follow one another. again: whether a member of this suffix was there already."""
    if again:
        return f"holds the sample {name} twice; keep one of the two"
    return (
        f"the members of the sample {name} do not follow one another; "
        "write it again sorted by name: tar --sort=name -cf SHARD.tar FOLDER"
    )


def _members(path: str, fields: tuple[str, ...], strip: bool, wanted: Wanted | None) -> Iterator[Raw | None]:
    key = ""
    members: dict[str, bytes] = {}
    seen: dict[str, str] = {}  # key -> suffixes of its members, as one text: a shard may hold a million keys
    again = "download it again or leave it out of the pattern"
    read = True  # whether the sample at hand is wanted

    def sample() -> Raw | None:
        return _sample(f"{path}:{key}", members, fields, strip) if read else None

    try:
        # As a stream every byte is read once, from pipes and object stores too; with seeks, headers alone of what is not wanted.
        with tarfile.open(path, "r|*" if wanted is None else "r:*") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                link = (member.issym() or member.islnk()) and suffix.lower() in (*IMAGE_SUFFIXES, "txt", "json")
                if not (member.isfile() or link) or not stem or (stem.startswith("__") and stem.endswith("__")):
                    continue
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    if members:
                        yield sample()
                    if name in seen:
                        raise LevlError(f"{path}: {_apart(printable(name), suffix.lower() in seen[name].split())}")
                    read = wanted is None or wanted(len(seen))
                    key, members, seen[name] = name, {}, ""
                seen[name] += f" {suffix.lower()}"
                if link:  # whose content is elsewhere: webdataset passes it over
                    members[LINKED] = b""
                    continue
                if suffix.lower() in members:
                    raise LevlError(f"{path}: holds {printable(member.name)} twice; keep one of the two")
                stream = tar.extractfile(member) if read else None
                members[suffix.lower()] = stream.read() if stream is not None else b""
            _check_end(path, tar, again)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
        why = ""
        with contextlib.suppress(OSError), open(path, "rb") as f:
            why = misplaced(f.read(256))
        raise LevlError(f"{path}: {why or f'cannot be read as a tar ({e}); {again}'}") from e
    if members:
        yield sample()


_WHOLE, _LOOKS, _LOOK = 4 << 20, 64, 4096  # bytes of a shard that is read whole; of a larger one so many places of so many bytes


def _content(path: str) -> str:
    """Size and content of a shard. Shards of one size are common: tars are padded to multiples of 10 KiB."""
    size = os.stat(path).st_size
    h = hashlib.sha256(str(size).encode())
    try:
        with open(regular(path), "rb") as f:
            for at in [0] if size <= _WHOLE else [k * (size - _LOOK) // (_LOOKS - 1) for k in range(_LOOKS)]:
                f.seek(at)
                h.update(f.read(_WHOLE if size <= _WHOLE else _LOOK))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}); download it again or leave it out of the pattern") from e
    return h.hexdigest()


@dataclass
class Tars(Source):
    """WebDataset shards: whole shards to consumers where there are enough of them, else every n-th sample of all."""

    files: list[str]
    fields: tuple[str, ...]
    seed: int
    buffer: int
    strip: bool = False
    skip: bool = False

    def identity(self) -> str:
        looked_at = {self.files[i] for i in spread_rows(len(self.files))}  # a start must not read from 100,000 files
        digests = [(Path(f).name, _content(f) if f in looked_at else str(os.stat(f).st_size)) for f in self.files]
        return "2:" + hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    def earlier_identity(self) -> str:
        sizes = [(Path(f).name, os.stat(f).st_size) for f in self.files]
        return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()

    def epoch(self, epoch: int, k: int, n: int, taken: int = 0) -> Iterator[Raw]:
        rng = random.Random(f"wds/{self.seed}/{epoch}")
        files = self.files[:]
        rng.shuffle(files)
        shared = len(files) < n

        def stream(wanted: Wanted | None) -> Iterator[Raw | None]:
            if not shared:
                yield from self._chained(files[k::n], wanted)
                return
            every = None if wanted is None else (lambda i: i % n == k and wanted(i // n))
            for i, sample in enumerate(self._chained(files, every)):
                if i % n == k:
                    yield sample

        return shuffled_from(stream, self.buffer, f"buffer/{self.seed}/{epoch}/{k}/{n}", taken)

    def _chained(self, files: list[str], wanted: Wanted | None) -> Iterator[Raw | None]:
        """Samples of files one after another; ``wanted`` counts over all of them."""
        before = 0
        for path in files:
            start = before
            of_file: Wanted | None = None if wanted is None else (lambda i, start=start: wanted(start + i))
            for sample in read_tar(path, self.fields, self.strip, self.skip, of_file):
                before += 1
                yield sample
