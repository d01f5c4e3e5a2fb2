"""Content hashes of files, remembered: a data set is read once to be hashed, not in every run.

A file is known by its absolute path, size, mtime_ns, ctime_ns, inode, and its first and last 4 KiB; if any of these is another one it is
hashed again. ctime cannot be set back, so a change in place of equal size with a restored mtime is noticed. What was changed within the
last moments is hashed but not remembered: a second change could leave the same times.

The hashes lie in one SQLite file (``FILE``) below the cache's folder: written in transactions, safe for several processes and after
kill -9. Each row carries a checksum; a damaged row is hashed again, a damaged file is built anew, and both are said once. Where the
folder cannot be written or the disk is full, nothing is remembered and everything is hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from levl_eval.core.errors import LevlError
from levl_eval.core.files import locked, regular, settled, stat_mark
from levl_eval.core.messages import message

FILE = "fingerprints.sqlite"
FORMAT = 1  # of the tables
SAMPLE_ABOVE = 2_000_000  # images of a set; a larger one is hashed in part
SAMPLE_SHARE = 16  # of which one in so many, chosen by size and ends, is read whole
END = 4096  # bytes at each end of a file that are always looked at
ABSENT = b"absent;"  # in place of a file's status
_BATCH = 1024
_SETS = 32  # of which a run holds the hashes, 33 bytes a file
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS files (key BLOB PRIMARY KEY, value BLOB NOT NULL, mark BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sets (key BLOB PRIMARY KEY, value BLOB NOT NULL, mark BLOB NOT NULL);
PRAGMA user_version = {FORMAT};
"""
Said = Callable[[str], None]


def ends_of(path: str | os.PathLike[str]) -> tuple[os.stat_result, bytes]:
    """A file's status, and its first and last 4 KiB."""
    handle = os.open(regular(path), os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        s = os.fstat(handle)
        head = os.read(handle, END)
        tail = b""
        if s.st_size > END:
            os.lseek(handle, max(END, s.st_size - END), os.SEEK_SET)
            tail = os.read(handle, END)
        return s, head + tail
    finally:
        os.close(handle)


def in_part(size: int, ends: bytes) -> bool:
    """Whether a sampled set leaves a file at its size and ends: chosen by these, so by no name, path or order."""
    return hashlib.sha256(b"%d\0" % size + ends).digest()[0] % SAMPLE_SHARE != 0


def sampled_hash(size: int, ends: bytes) -> str:
    """Of a file of which only size and ends were read."""
    return hashlib.sha256(b"part %d\0" % size + ends).hexdigest()


def bytes_hash(data: bytes, sampled: bool = False) -> tuple[str, bool]:
    """Content hash of encoded bytes as that of a file, and whether they were hashed whole."""
    ends = data[:END] + data[max(END, len(data) - END) :]
    if sampled and in_part(len(data), ends):
        return sampled_hash(len(data), ends), False
    return hashlib.sha256(data).hexdigest(), True


def _mark(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(key + b"\0" + value, digest_size=8).digest()


def _refuse(path: str | os.PathLike[str], e: OSError) -> LevlError:
    if isinstance(e, PermissionError):
        return LevlError(f"{path}: this user may not read it ({e.strerror}); ask its owner for it, or copy it")
    return LevlError(
        f"{path}: cannot be read ({e.strerror or type(e).__name__}); put the file there or correct the data set's list"
    )


T = TypeVar("T")


class _Map(Protocol):
    def __call__(self, function: Callable[[str], T], names: Iterable[str], /) -> Iterator[T]: ...


class FingerprintCache:
    """Remembers content hashes below ``folder``; None: nothing is remembered.

    rehash: distrust what is remembered, and replace it. sample_above: sets of more images are hashed in part. say: where damage is told.
    """

    def __init__(
        self, folder: str | Path | None, rehash: bool = False, sample_above: int = SAMPLE_ABOVE, say: Said | None = None
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rehash, self.sample_above, self.say = rehash, sample_above, say or partial(message, caller=__name__)
        self.touched: dict[str, bytes] | None = None  # path -> stat_mark of every file hashed, while someone asks (``watch``)
        self.unsettled = False  # whether one of them was changed just before
        self._of_this_run: dict[bytes, bytes] = {}  # state of a set's files -> their hashes: jobs of a run do not open them again
        self._db: sqlite3.Connection | None = None
        self._pid, self._warned, self._off = os.getpid(), False, folder is None
        self._lock = threading.RLock()

    # ---- hashes of files

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """Hexadecimal SHA-256 of a file's bytes. Raises LevlError where it cannot be read."""
        return self.hash_files([path])[0][0]

    def hash_files(self, paths: Iterable[str | os.PathLike[str]], sampled: bool = False) -> list[tuple[str, bool]]:
        """(content hash, whether read whole) of every file, in order; ``sampled``: as in a set that is hashed in part.

        Raises LevlError naming the first file that cannot be read.
        """
        names = [os.path.abspath(p) for p in paths]
        state = self._state(names, sampled) if len(names) > 1 else None
        if state is not None and (known := self._of_this_run.get(state)) is not None:
            return [(known[k : k + 32].hex(), known[k + 32] == 1) for k in range(0, len(known), 33)]
        out: list[tuple[str, bool]] = []
        workers = min(8, os.cpu_count() or 1) if len(names) > 32 else 1
        with ThreadPoolExecutor(workers) if workers > 1 else contextlib.nullcontext() as pool:
            every: _Map = pool.map if pool is not None else map
            for start in range(0, len(names), _BATCH):
                out += self._hash_batch(names[start : start + _BATCH], sampled, every)
        if state is not None and self._state(names, sampled) == state:
            self._of_this_run[state] = b"".join(bytes.fromhex(h) + bytes([whole]) for h, whole in out)
            while len(self._of_this_run) > _SETS:
                self._of_this_run.pop(next(iter(self._of_this_run)))
        return out

    def _state(self, names: Sequence[str], sampled: bool) -> bytes | None:
        """Of all files by their status alone; None where one is missing or has changed just now, so that they are looked at again."""
        h = hashlib.blake2b(b"%d" % sampled, digest_size=32)
        touched: dict[str, bytes] = {}
        for name in names:
            try:
                s = os.stat(name)
            except OSError:
                return None
            if not settled(s):
                return None
            touched[name] = stat_mark(s)
            h.update(os.fsencode(name) + b"\0" + touched[name])
        if self.touched is not None:
            self.touched |= touched
        return h.digest()

    def _hash_batch(self, names: Sequence[str], sampled: bool, every: _Map) -> list[tuple[str, bool]]:
        looked = list(every(self._look, names))
        out: list[tuple[str, bool] | None] = [None] * len(names)
        wanted = []
        known = self.read("files", [_key(n) for n in names])
        for k, (s, ends) in enumerate(looked):
            if self.touched is not None:
                self.touched[names[k]] = stat_mark(s)
                self.unsettled |= not settled(s)
            if sampled and in_part(s.st_size, ends):
                out[k] = sampled_hash(s.st_size, ends), False
                continue
            row = known.get(_key(names[k]))
            if row is not None and row[:16] == _sign(s, ends):
                out[k] = row[16:].hex(), True
            else:
                wanted.append(k)
        rows = []
        for k, (digest, row) in zip(wanted, every(self.hash_whole, [names[k] for k in wanted]), strict=True):
            out[k] = digest.hex(), True
            if row is not None:
                rows.append((_key(names[k]), row))
        self.write("files", rows)
        return [x for x in out if x is not None]

    @staticmethod
    def _look(name: str) -> tuple[os.stat_result, bytes]:
        try:
            return ends_of(name)
        except OSError as e:
            raise _refuse(name, e) from e

    @staticmethod
    def hash_whole(name: str) -> tuple[bytes, bytes | None]:
        """SHA-256 of a file, and the row to remember (None while the file changes)."""
        try:
            before, ends = ends_of(name)
            digest = hashlib.sha256()
            with open(regular(name), "rb", buffering=0) as f:
                while chunk := f.read(1 << 20):
                    digest.update(chunk)
                after = os.fstat(f.fileno())
        except OSError as e:
            raise _refuse(name, e) from e
        keep = stat_mark(before) == stat_mark(after) and settled(after)
        return digest.digest(), _sign(after, ends) + digest.digest() if keep else None

    @contextlib.contextmanager
    def watch(self) -> Iterator[dict[str, bytes]]:
        """Collect which files are hashed, and their status as they were read."""
        outer, outer_unsettled = self.touched, self.unsettled
        self.touched, self.unsettled = {}, False
        try:
            yield self.touched
        finally:
            if outer is not None:
                outer |= self.touched
                self.unsettled |= outer_unsettled
            self.touched = outer

    def note(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Let who watches know of files that are looked at but not hashed: broken ones, whose repair must be noticed."""
        for path in paths:
            name = os.path.abspath(path)
            try:
                s = os.stat(name)
                mark, calm = stat_mark(s), settled(s)
            except OSError:
                mark, calm = ABSENT, True
            if self.touched is not None:
                self.touched[name] = mark
                self.unsettled |= not calm

    # ---- rows

    def read(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Remembered values by key; none with ``rehash``. A damaged one is left out and said."""
        out: dict[bytes, bytes] = {}
        if self.rehash or not keys:
            return out

        def select(db: sqlite3.Connection) -> None:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, value, mark in db.execute(f"SELECT key, value, mark FROM {table} WHERE key IN ({marks})", part):
                    if mark == _mark(key, value):
                        out[key] = value
                    else:
                        self._warn(f"{self.folder}/{FILE}: a damaged entry; the file it is about is hashed again")

        self._use(select)
        return out

    def write(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Remember values by key, in one transaction."""
        if not rows:
            return

        def insert(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", [(k, v, _mark(k, v)) for k, v in rows])

        self._use(insert)

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.say(text)

    def _use(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run ``work`` on the data base; a damaged one is built anew, and one that cannot be used is done without."""
        with self._lock:
            for _ in range(2):
                if self._off:
                    return
                try:
                    return work(self._open())
                except sqlite3.OperationalError as e:  # locked for a minute, disk full, not writable
                    self._warn(f"{self.folder}/{FILE}: {e}; hashes of files are not remembered in this run")
                    self._off = True
                except sqlite3.DatabaseError as e:
                    self._rebuild(str(e))

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and self._pid == os.getpid():
            return self._db
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise sqlite3.OperationalError(e.strerror) from e
        db = sqlite3.connect(self.folder / FILE, timeout=60, isolation_level=None, check_same_thread=False)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"its format is {version}, not {FORMAT}")
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        db.execute("PRAGMA synchronous = NORMAL")
        self._db, self._pid = db, os.getpid()
        return db

    def _rebuild(self, why: str) -> None:
        """Remove a damaged data base, unless another process has done so."""
        assert self.folder is not None
        self.close()
        path = self.folder / FILE
        with locked(self.folder / f"{FILE}.lock"):
            if not _sound(path):
                self._warn(f"{path}: damaged ({why}); built anew, files are hashed again")
                for name in (path, *(path.with_name(f"{path.name}-{end}") for end in ("journal", "wal", "shm"))):
                    name.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._db is not None and self._pid == os.getpid():
            self._db.close()
        self._db = None


def _sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            return version in (0, FORMAT) and db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.OperationalError:
        return True  # locked or not readable: not known to be damaged
    except sqlite3.DatabaseError:
        return False


def _key(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()


def _sign(s: os.stat_result, ends: bytes) -> bytes:
    return hashlib.blake2b(stat_mark(s) + ends, digest_size=16).digest()


_active: ContextVar[FingerprintCache | None] = ContextVar("fingerprint_cache", default=None)


def active() -> FingerprintCache:
    """The cache in use (see :func:`using`), or one that remembers nothing."""
    return _active.get() or FingerprintCache(None)


@contextlib.contextmanager
def using(cache: FingerprintCache) -> Iterator[FingerprintCache]:
    """Let readers within hash files through ``cache``."""
    token = _active.set(cache)
    try:
        yield cache
    finally:
        _active.reset(token)
