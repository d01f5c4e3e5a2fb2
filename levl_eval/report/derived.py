"""What tables keep in the folders of runs, so that they are made again without reading a sample: all below ``DIR/derived``.

  samples.json   SHA-256 of each samples file under its size, times and inode: a file that has not been touched is not hashed again
  scores/*.npz   scores, images and splits of a record's samples (records/scores.py), bound to the samples' SHA-256
  pairs.json     differences and means over seeds, bound to the checksums of their records and to the code that computes them

Each carries a checksum. What is missing, damaged or of something else is made again; the folder may be deleted at any time.
``levl-eval check DIR`` reads every byte of the samples, whatever is remembered of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from levl_eval import __version__
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import locked, settled, stat_mark
from levl_eval.core.hashing import digest
from levl_eval.core.kept import Damaged, read_json, write_json
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record, Sample
from levl_eval.records.check import sha256_of
from levl_eval.records.samples import read_sized
from levl_eval.records.scores import FOLDER, Collector, Items, Scores, read_scores, samples_at, scores_path, write_scores

# Of scores that are held at once: those of 2,000 records of 3,000 samples fit, which tables go through several times.
MOST_BYTES = 160 << 20
_SPARE = 20_000  # entries of a file that may be there without having been asked for; a table of 2,000 records has some 3,000


@lru_cache(1)
def code_digest() -> str:
    """Digest of the code that computes differences and intervals, and of numpy, whose generator they use."""
    package = Path(__file__).resolve().parents[1]
    report = [package / "report" / f"{name}.py" for name in ("compare", "paired", "results")]  # what estimates, and who calls it
    files = sorted([*(package / "metrics").glob("*.py"), *(package / "records").glob("s*.py"), *report])
    h = hashlib.sha256(f"{__version__} {np.__version__}".encode())
    for path in files:
        h.update(path.read_bytes())
    return h.hexdigest()


class _File:
    """One JSON file of entries, read when first asked for, written where something was added."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.entries = self._read()
        self.used: dict[str, object] = {}
        self.changed = False

    def _read(self) -> dict[str, object]:
        try:
            entries = read_json(self.path, self.key)
        except (FileNotFoundError, Damaged):
            return {}
        return entries if isinstance(entries, dict) else {}

    def get(self, name: str) -> object:
        """What is kept under a name, None where nothing is."""
        if (value := self.entries.get(name)) is not None:
            self.used[name] = value
        return value

    def put(self, name: str, value: object) -> None:
        self.entries[name] = self.used[name] = value
        self.changed = True

    def save(self) -> None:
        """Merge with what other processes have written meanwhile; unused entries are dropped when there are many."""
        if not self.changed:
            return
        with locked(self.path.with_name(f".{self.path.name}.lock")):
            theirs = self._read()
            spare = len(theirs.keys() - self.used.keys())
            write_json(self.path, self.key, self.used if spare > _SPARE + 10 * len(self.used) else theirs | self.used)
        self.changed = False


class Derived:
    """What is derived from the records of run directories. writes: whether anything is kept there; nothing ever fails for want of it."""

    def __init__(self, writes: bool = True) -> None:
        self.writes = writes
        self._files: dict[tuple[str, str], _File] = {}
        self._scores: OrderedDict[str, Scores] = OrderedDict()
        # By a record's `id`, which is its own for as long as the record is held.
        self._sources: dict[int, tuple[Record, str]] = {}
        self._shared: dict[bytes, Items] = {}
        self._held = 0

    def _file(self, home: Path, name: str, key: str) -> _File:
        at = (str(home), name)
        if at not in self._files:
            self._files[at] = _File(home / FOLDER / name, key)
        return self._files[at]

    def sha256(self, path: Path) -> str:
        """Of a samples file, remembered while size, times and inode stay. Raises OSError where it cannot be read.

        A file that was changed within the last moments is read again next time: a further change could leave the same times.
        """
        known, before = self._file(path.parent.parent, "samples.json", "samples 1"), path.stat()
        mark = stat_mark(before).decode()
        entry = known.get(path.name)
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == mark:
            return str(entry[1])
        sha256 = sha256_of(path)
        after = path.stat()
        if settled(after) and stat_mark(after).decode() == mark:
            known.put(path.name, [mark, sha256])
        return sha256

    def scores(self, record: Record) -> Scores:
        """A record's scores. Raises UsageError where its samples are missing, damaged, fewer than the metric's, or an id occurs twice.

        While it is held its file is not looked at again: the tables of one object are of the samples as they were at first.
        """
        known = self._sources.get(id(record))
        if known is not None and known[1] in self._scores:
            self._scores.move_to_end(known[1])
            return self._scores[known[1]]
        path = record.home / "samples" / f"{record.key}.jsonl"
        try:
            sha256 = self.sha256(path)
        except OSError as e:
            raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
        at = f"{path} {sha256}"
        if at not in self._scores:
            scores = self._read_scores(record, path, sha256)
            _count(record, path, scores)
            self._scores[at] = scores
            self._held += scores.nbytes
        self._sources[id(record)] = record, at
        self._scores.move_to_end(at)
        while self._held > MOST_BYTES and len(self._scores) > 1:
            self._held -= self._scores.popitem(last=False)[1].nbytes
        return self._scores[at]

    def _read_scores(self, record: Record, path: Path, sha256: str) -> Scores:
        kept = scores_path(record.home, record.key)
        if record.samples is None or record.samples.sha256 == sha256:
            with contextlib.suppress(FileNotFoundError, Damaged):
                return read_scores(kept, sha256, self._shared)
        scores = _parsed(record, path)
        if self.writes:
            write_scores(kept, sha256, scores)
        return scores

    def estimate(self, kind: str, sides: Sequence[Sequence[Record]], compute: Callable[[], Estimate | None]) -> Estimate | None:
        """An estimate of records, as kept, else computed. kind: what of them is estimated; sides: in the order that it goes by."""
        checksums = [[r.checksum for r in side] for side in sides]
        if not all(c for side in checksums for c in side):  # of schema 1: nothing ties a record to what it is
            return compute()
        pairs = self._file(sides[0][0].home, "pairs.json", f"pairs {code_digest()}")
        name = digest([kind, checksums])[:32]
        with contextlib.suppress(ValueError, TypeError):
            if (entry := pairs.get(name)) is not None:
                return Estimate.model_validate(entry)
        estimate = compute()
        if estimate is not None and estimate.value == estimate.value:  # JSON has no NaN
            pairs.put(name, estimate.model_dump())
        return estimate

    def save(self) -> None:
        """Write what was added; where a folder cannot be written it is made again next time."""
        for file in self._files.values() if self.writes else ():
            with contextlib.suppress(LevlError, OSError):
                file.save()


def samples_of(record: Record, scores: Scores, places: Sequence[int]) -> Iterator[Sample]:
    """The samples of a record at some places of its file, of which only these lines are read. Raises UsageError."""
    return samples_at(record.home / "samples" / f"{record.key}.jsonl", scores, places)


def _parsed(record: Record, path: Path) -> Scores:
    collector = Collector()
    for sample, size in read_sized(path, record.samples):
        collector.add(sample, size)
    try:
        return collector.scores()
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from e


def check_samples(record: Record, sha256: Callable[[Path], str] = sha256_of) -> None:
    """Raises UsageError where a record's samples are missing or not those it was written with.

    Reads bytes only, if at all: a set's worth of samples is not parsed before a table needs them. Records of schema 1 do not
    say what their samples were; :meth:`Derived.scores` checks those against the metric.
    """
    if record.status != "done" or record.samples is None:
        return
    path = record.home / "samples" / f"{record.key}.jsonl"
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{path}: samples are missing (no regular file); run the task again")
    try:
        if sha256(path) == record.samples.sha256:
            return
        with open(path, "rb") as f:
            rows = sum(1 for _ in f)
    except OSError as e:
        raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
    reason = (
        f"{rows} samples, its record says {record.samples.rows}"
        if rows != record.samples.rows
        else "not the samples its record was written with (checksum)"
    )
    raise UsageError(f"{path}: {reason}; damaged: run the task again")


def _count(record: Record, path: Path, scores: Scores) -> None:
    """Records of schema 1 do not say what their samples were: those of a damaged file are fewer than the metric was a mean over."""
    main = record.metrics.get(record.main_metric)
    if record.samples is not None or main is None or not main.n:
        return
    scored = int((~np.isnan(scores.score)).sum())
    if scored != main.n and (scored or not len(scores.score)):
        raise UsageError(f"{path}: {scored} scored samples, {record.main_metric} is of {main.n}; damaged: run the task again")
