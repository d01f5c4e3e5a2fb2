"""Files of a data repository as they lie in a folder: whether all parts of a split are there, and each is what its name says.

`datasets` takes whatever files a pattern fits: of parts 0, 1 and 3 of four it makes a table of three quarters, without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import misplaced, regular, stat_mark
from levl_eval.core.text import printable

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(?:-[0-9a-f]{16})?(\.[a-z]+)")  # older ones with a hash
_TABLE = b"PAR1"  # a Parquet file begins and ends with it


def files_below(folder: Path) -> list[Path]:
    """The files of a local repository in order, hidden ones left out."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not any(w.startswith(".") for w in p.relative_to(folder).parts))


# Words by which `datasets` finds the files of a split where nothing lists them.
_WORDS = {"validation": ("validation", "valid", "val", "dev")}


def of_split(names: Iterable[str], split: str) -> list[str]:
    """Paths that name a split; all of them where none does."""
    every = list(names)
    return [n for n in every if any(w in n.lower() for w in _WORDS.get(split, (split,)))] or every


def local_state(folder: Path) -> str:
    """SHA-256 of a local repository's files by name, size, times and inode: known at once, of whatever size."""
    h = hashlib.sha256()
    for p in files_below(folder):
        h.update(os.fsencode(p.relative_to(folder)) + b"\0" + stat_mark(p.stat()))
    return h.hexdigest()


def check_parts(names: Iterable[str], what: str, lack: str, remedy: str) -> None:
    """Raises UsageError where files NAME-00000-of-00004.SUFFIX are not all there, or of two countings: rows would be lost, or come twice.

    names: paths within the repository, ``what``. lack: in words, what the missing files are.
    """
    # (name, suffix) -> how many parts there are -> numbers of those that are there
    sets: dict[tuple[str, str], dict[int, set[int]]] = {}
    for name in names:
        if part := _PART.fullmatch(name):
            sets.setdefault((part[1], part[4]), {}).setdefault(int(part[3]), set()).add(int(part[2]))
    for (name, suffix), counts in sorted(sets.items()):
        for total, there in sorted(counts.items()):
            missing = sorted(set(range(total)) - there)
            if missing:
                raise UsageError(
                    f"{what}: {len(missing)} of {total} {lack}, first {printable(name)}-{missing[0]:05d}-of-{total:05d}{suffix}; {remedy}"
                )
        if len(counts) > 1:
            one, other = sorted(counts)[:2]
            raise UsageError(
                f"{what}: {printable(name)} lies there in {one} parts and in {other}, of which one are another version's; remove those"
            )


def check_tables(files: Iterable[Path], what: str) -> None:
    """Raises UsageError naming the first Parquet file that is none: a Git LFS pointer, a failed download, one that is cut off."""
    for path in files:
        if path.suffix.lower() != ".parquet":
            continue
        try:
            with open(regular(path), "rb") as f:
                head = f.read(256)
                f.seek(-min(4, os.fstat(f.fileno()).st_size), os.SEEK_END)
                whole = head[:4] == _TABLE and f.read(4) == _TABLE
        except OSError as e:
            raise UsageError(f"{what}: {path}: cannot be read ({e.strerror}); download it again") from e
        if not whole:
            raise UsageError(f"{what}: {path}: {misplaced(head) or 'is no whole Parquet file; download it again'}")


_UNLIKE = re.compile(r"Failed to read file '(.+?)' with error CastError")


class _UnlikeFile(logging.Filter):
    """Takes the name of a file with other columns out of what `datasets` logs, which is of many lines and is not shown."""

    file = ""

    def filter(self, record: logging.LogRecord) -> bool:
        match = _UNLIKE.match(record.getMessage())
        self.file = match[1] if match else self.file
        return match is None


@contextlib.contextmanager
def alike(what: str) -> Iterator[None]:
    """While `datasets` makes a table of files.

    Raises UsageError naming the file, where `datasets` says it, that has other columns than its siblings, and these columns;
    whatever else it raises passes.
    """
    heard, handlers = _UnlikeFile(), list(logging.getLogger("datasets").handlers)
    for handler in handlers:
        handler.addFilter(heard)
    try:
        yield
    except Exception as error:
        one: BaseException | None = error
        while one is not None and type(one).__name__ != "CastError":
            one = one.__cause__ or one.__context__
        own, wanted = (set(getattr(one, f"{which}_column_names", ())) for which in ("table", "requested"))
        if own == wanted:
            raise
        more = [
            f"{verb} {', '.join(map(repr, map(printable, sorted(n))))[:200]}"
            for verb, n in (("has", own - wanted), ("lacks", wanted - own))
            if n
        ]
        raise UsageError(
            f"{what}: {heard.file or 'a file'}: {' and '.join(more)}, unlike the files before it; "
            "give all of them the same columns, or have those of the wanted split alone in the folder"
        ) from error
    finally:
        for handler in handlers:
            handler.removeFilter(heard)
