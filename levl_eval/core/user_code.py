"""Errors of Python that a user brought (a `py:` factory, a plug-in): where in their files it happened, in place of a traceback."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Collection
from pathlib import Path


def is_users(path: Path) -> bool:
    """Whether a source file is the user's own: none of Python's, of an installed library, or of this package."""
    paths = sysconfig.get_paths()
    libraries = [Path(paths[k]).resolve() for k in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries.append(Path(__file__).resolve().parents[1])
    return not any(folder in path.parents for folder in libraries)


def place_of(error: BaseException, more: Collection[Path] = ()) -> str:
    """``FILE, line N`` of the innermost place in a user's own file that an error came through; "" where it came through none.

    A file that is no Python is named with the line that Python could not read. more: resolved files that are the user's, though installed.
    """
    if isinstance(error, SyntaxError) and error.filename and is_users(Path(error.filename).resolve()):
        return f"{error.filename}, line {error.lineno or 1}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and (path.resolve() in more or is_users(path.resolve())):
            return f"{frame.filename}, line {frame.lineno}"
    return ""


def told(error: BaseException) -> str:
    """An error in a line: ``ValueError: its words (FILE, line N)``, without the place where no user's file is in it."""
    place = place_of(error)
    words = error.msg if isinstance(error, SyntaxError) and place else str(error)
    return f"{type(error).__name__}: {' '.join(words.split())[:500]}" + (f" ({place})" if place else "")
