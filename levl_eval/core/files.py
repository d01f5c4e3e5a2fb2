"""Files: atomic writing and hashing. What is written is either complete or not there, also after kill -9."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.soft_locks import REMEDY, no_locks, soft_lock


@contextlib.contextmanager
def disk_full_as_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """A full disk (or a file beyond what the user may write) while ``path`` is written, as a LevlError of one line."""
    try:
        yield
    except LevlError:
        raise
    except Exception as e:
        if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(w in str(e) for w in _SHORT):
            raise LevlError(f"{path}: disk full; free space and run the same command again, finished parts are kept") from e
        raise


# What numpy, safetensors and torch say instead of the system's own error.
_SHORT = ("requested and", "No space left on device", "File too large", "enforce fail at inline_container")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on a clean exit it is fsynced and renamed to ``path``, else removed.

    Raises UsageError where the folder cannot be written or ``path`` is a folder itself, LevlError where the disk is full.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise UsageError(f"{target}: is a folder; name a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as e:
        raise UsageError(f"{target.parent}: cannot be written ({e.strerror}); choose another folder or free the disk") from e
    os.close(fd)
    temporary = Path(name)
    try:
        with disk_full_as_error(target):
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            # mkstemp makes private files; results are shared like any other file the user writes.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises UsageError as :func:`atomic_path` would: for what a command writes at its end, before it computes anything."""
    with contextlib.suppress(_Tried), atomic_path(path):
        raise _Tried


class _Tried(Exception):
    """Ends an attempt to write."""


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path``; yields whether it is ours (always, if ``wait``). A killed process frees its locks.

    The system wakes who waits: nobody asks again and again. Where the file system has no such locks, files stand for them, which is said
    (core/soft_locks.py). Raises UsageError where the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = open(target, "a")
    except OSError as e:
        raise UsageError(f"{target.parent}: cannot be written ({e.strerror}); choose another folder or free the disk") from e
    with handle:
        missing = ""
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except ImportError:
            missing = "not on this system"
        except OSError as e:
            if e.errno == errno.EACCES and not wait:  # how some network file systems say that it is held
                yield False
                return
            if not no_locks(e):
                raise LevlError(f"{target}: cannot be locked ({e.strerror}); {REMEDY}") from e
            missing = f"flock: {e.strerror}"
        if not missing:
            yield True
            return
        with soft_lock(target, wait, missing) as ours:
            yield ours


GONE = ".gone-"  # how the name of a folder begins that is being removed


def remove_folder(folder: Path) -> None:
    """Remove a folder, which is renamed first (GONE): nothing half removed has its name, also after kill -9.

    Raises OSError where it cannot be renamed.
    """
    gone = folder.with_name(f"{GONE}{folder.name}-{os.getpid()}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write ``content`` to ``path`` atomically (see :func:`atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def regular(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """``path`` itself. Raises LevlError where it is there and no regular file: a pipe would be waited for, a device never ends."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing: told by whoever opens it
        return path
    if not stat.S_ISREG(mode):
        raise LevlError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a regular file; take it out or replace it")
    return path


def check_permitted(path: str | os.PathLike[str]) -> None:
    """Raises UsageError where this user may not read the file: libraries call it damaged, or missing."""
    try:
        open(path, "rb").close()
    except PermissionError as e:
        raise UsageError(f"{path}: this user may not read it (Permission denied); ask its owner for it, or copy it") from e
    except OSError:  # missing, or a folder: told by whoever reads it
        pass


def stat_mark(s: os.stat_result) -> bytes:
    """Size, times and inode of a file as bytes."""
    return b"%d %d %d %d;" % (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def settled(s: os.stat_result, now_ns: int | None = None) -> bool:
    """Whether a later change is sure to give the file other times than it has now.

    Clocks of file systems tick in up to 10 ms, of old ones (whole seconds) in up to 2 s.
    """
    last = max(s.st_mtime_ns, s.st_ctime_ns)
    tick = 2_000_000_000 if s.st_ctime_ns % 1_000_000_000 == 0 else 50_000_000
    return (time.time_ns() if now_ns is None else now_ns) - last > tick


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Raises LevlError for what is no regular file."""
    regular(path)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(handle)


def _digest(handle: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    h = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        h.update(chunk)
    return h.hexdigest()


def lines_of(path: Path, where: str) -> list[str]:
    """Lines of a text file that are not blank, without the white space around them. Raises UsageError: missing or not text."""
    return [line.strip() for line in split_lines(text_of(path, where)) if line.strip()]


def names_of(path: Path, where: str) -> list[str]:
    """The names of a list in which a line's place is its number, without the white space around them.

    Raises UsageError as :func:`lines_of`, for a blank line between (dropped, it would shift all names behind it), and where all
    lines begin with a number of their own.
    """
    lines = [line.strip() for line in split_lines(text_of(path, where))]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise UsageError(
            f"{path}: line {lines.index('') + 1} is blank, and names are counted by lines; name it, or remove the line"
        )
    numbered = [_NUMBERED.match(line) for line in lines]
    if len(lines) > 1 and all(numbered):
        numbers = [int(m[1]) for m in numbered if m]
        if numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            raise UsageError(
                f"{path}: every line begins with a number ({lines[0][:60]!r}), which would be part of the name; "
                "leave the numbers out, one name a line in the order of the numbers"
            )
    return lines


_NUMBERED = re.compile(r"(\d{1,7})[\s,:;.)\]]+\S", re.ASCII)


def text_of(path: Path, where: str = "") -> str:
    """A UTF-8 text file, with or without a byte order mark. Raises UsageError: missing, or in another encoding (which one)."""
    more = f"; {where}" if where else ""
    try:
        content = Path(regular(path)).read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}){more}") from e
    refuse_encoding(path, content[:4], where)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise UsageError(
            f"{path}: line {line}: not UTF-8 text (byte 0x{content[e.start]:02x}; is it Latin-1?); save it as UTF-8{more}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}: line {line}: holds a null character, which no text has; is it damaged, or UTF-16?{more}")
    return text


def refuse_encoding(path: object, head: bytes, where: str = "") -> None:
    """Raises UsageError for the first bytes of UTF-16 or UTF-32 text, with a byte order mark or without one."""
    marks = head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) >= 2 and head[:2].count(0) == 1)
    if marks or head == b"\0\0\xfe\xff":
        raise UsageError(f"{path}: is UTF-16 or UTF-32 text; save it as UTF-8" + (f"; {where}" if where else ""))


def split_lines(text: str) -> list[str]:
    """Lines ended by LF, CR LF or CR alone: separators such as U+2028 or a form feed are characters of a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def misplaced(head: bytes) -> str:
    """What a file really is that is not what its name says, with the remedy, by its first bytes; "" where they do not tell."""
    start = head.lstrip()[:15].lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull, or hf download)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, as a failed download leaves it; download it again"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "is compressed by zstd, which is not read; unpack it (zstd -d)"
    return "is a zip archive; unpack it" if head.startswith(b"PK\x03\x04") else ""
