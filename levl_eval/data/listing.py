"""Folders of images: which of their entries are images of the set, and what is left out, counted by the reason."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.text import class_spelling, printable
from levl_eval.data.places import SUFFIXES

# What operating systems, archivers and notebooks leave among the files of a set.
_JUNK = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found", "icon\r"}
)


def junk(name: str) -> str:
    """Why an entry of this name is none of a set's: "hidden", "system"; "" where it may be one."""
    return "hidden" if name.startswith(".") else "system" if name.lower() in _JUNK else ""


@dataclass
class Listing:
    """files: images in order of name. left_out: reason -> how many entries."""

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def words(self) -> str:
        """What was left out, in words; "" where nothing was."""
        return in_words(self.left_out)


def in_words(left_out: Mapping[str, int]) -> str:
    """ "left out: 1 hidden, 2 of unknown suffix .txt": counts by reason, most frequent first."""
    counts = sorted(left_out.items(), key=lambda r: (-r[1], r[0]))
    return "left out: " + ", ".join(f"{n} {printable(reason)}" for reason, n in counts) if counts else ""


def list_images(folder: Path, suffixes: Sequence[str] = SUFFIXES, deep: bool = False, prefix: str = "") -> Listing:
    """The images of a folder (with ``deep`` of all below it too, links to folders followed once) whose names begin with ``prefix``.

    Hidden and system files and folders and those of other suffixes are left out and counted. Raises UsageError: the folder cannot
    be read, or a name that is no UTF-8 (it could stand in no record).
    """
    out = Listing()
    seen: set[tuple[int, int]] = set()
    pending, links = [folder], list[Path]()
    # Links are followed last, in order of name: what lies in the folder itself keeps its own name, whatever a file system lists first.
    while pending or links:
        here = pending.pop() if pending else links.pop()
        mark = _mark(here)
        if here != folder and (mark is None or mark in seen):
            out.left_out["folders listed already" if mark else "folders"] += 1
            continue
        if mark is not None:
            seen.add(mark)
        for name, path, inner in entries(here):
            reason = junk(name)
            if reason:
                out.left_out[reason] += 1
            elif inner and not name.lower().endswith(tuple(suffixes)):
                if not deep:
                    out.left_out["folders"] += 1
                else:
                    (links if path.is_symlink() else pending).append(path)
            elif name.lower().endswith(tuple(suffixes)):
                if name.startswith(prefix):
                    out.files.append(path)
            else:
                out.left_out[f"of unknown suffix {path.suffix.lower()[:12]}" if path.suffix else "without suffix"] += 1
        links.sort(reverse=True)
    out.files.sort()
    return out


def list_classes(folder: Path) -> tuple[dict[str, str], Counter[str]]:
    """Names of the classes in order, accents composed, with their folders', and what else lies there.

    Raises UsageError as :func:`list_images`, for two folders of one name, and for a class that is a link to another one's folder,
    or to a folder that holds them all.
    """
    names: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    spelt: dict[str, str] = {}
    of_place = {mark: "" for p in (folder, *folder.absolute().parents) if (mark := _mark(p)) is not None}
    # of a link and a folder, the folder is the class
    for name, path, inner in sorted(entries(folder), key=lambda e: (e[1].is_symlink(), e[0])):
        reason = junk(name)
        if inner and not reason:
            mark = _mark(path)
            if mark is not None and (other := of_place.setdefault(mark, name)) != name:
                what = f"the folder of class {printable(other)} too" if other else "a folder that holds the classes"
                raise UsageError(
                    f"{folder}: class {printable(name)} is {what}, by a link; remove the link, or put the class's own images there"
                )
            if (composed := unicodedata.normalize("NFC", name)) in names:
                raise UsageError(
                    f"{folder}: two folders are named {printable(composed)}, their accents composed and taken apart; join them"
                )
            alike = class_spelling(name)
            if (near := spelt.setdefault(alike, name)) != name:
                raise UsageError(
                    f"{folder}: class folders {printable(near)!r} and {printable(name)!r} differ in the case of letters, "
                    "in blanks or in characters that are not seen alone: join them, "
                    "or if they are two classes give them names that differ in more"
                )
            names[composed] = name
        else:
            left_out[reason or "files beside the class folders"] += 1
    return dict(sorted(names.items())), left_out


def by_stem(listing: Listing, folder: Path) -> dict[str, Path]:
    """:func:`stem` -> file. Raises UsageError where two files have one stem: which of them belongs to it cannot be told."""
    out: dict[str, Path] = {}
    for path in listing.files:
        if stem(path) in out:
            raise UsageError(f"{folder}: {out[stem(path)].name} and {path.name} have one name; keep one of the two")
        out[stem(path)] = path
    return out


def counted_order(names: Sequence[str], source: object, remedy: str) -> None:
    """Nothing where names stand in one order, letter by letter and by the numbers in them.

    Raises UsageError: 10.jpg comes before 9.jpg by its letters, and what goes by the order would be given to another image.
    """
    by_letters = sorted(names)
    by_numbers = sorted(names, key=lambda n: ([int(w) if k % 2 else w for k, w in enumerate(_DIGITS.split(n))], n))
    if by_letters != by_numbers:
        one, other = next((a, b) for a, b in zip(by_letters, by_numbers, strict=True) if a != b)
        raise UsageError(
            f"{source}: {printable(other)[:100]} comes before {printable(one)[:100]} by its number, "
            f"behind it by its letters, and their order counts; {remedy}"
        )


_DIGITS = re.compile(r"([0-9]+)")


def one_of(folder: Path, name: str, suffixes: Sequence[str]) -> Path:
    """The file NAME.SUFFIX of a folder, of one of the suffixes; NAME with the first of them where there is none.

    Raises UsageError for several.
    """
    there = [p for p in (folder / f"{name}{s}" for s in suffixes) if p.exists()]
    if len(there) > 1:
        raise UsageError(f"{folder}: {there[0].name} and {there[1].name} have one name; keep one of the two")
    return there[0] if there else folder / f"{name}{suffixes[0]}"


def stem(path: Path) -> str:
    """A file's name without its suffix, by which an image and its map or mask are one;
    accents composed, as some systems take them apart."""
    return unicodedata.normalize("NFC", path.stem)


def entries(folder: Path) -> list[tuple[str, Path, bool]]:
    """(name, path, whether a folder) of a folder's entries. Raises UsageError: cannot be read, or a name that is no UTF-8."""
    try:
        with os.scandir(folder) as directory:
            out = [(e.name, folder / e.name, _is_dir(e)) for e in directory]
    except OSError as e:
        raise UsageError(f"{folder}: cannot be listed ({e.strerror})") from e
    for name, _, _ in out:
        check_name(name, folder)
    return out


def check_name(name: str, folder: Path | str) -> None:
    """Raises UsageError for a file name that is no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{printable(str(folder))}: the file name {printable(name)!r} is not UTF-8; rename the file") from None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return s.st_dev, s.st_ino
