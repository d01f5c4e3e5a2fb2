"""Large JSON files, value by value: a file of any size is read with the memory of a few values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import refuse_encoding, regular
from levl_eval.data.formats import shown

CHUNK = 1 << 20
_SPACE = " \t\r\n"


def unrepeated(path: Path) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    """An ``object_pairs_hook`` of json: an object's fields.

    It raises UsageError where one is given twice: which of them counts is anyone's guess.
    """

    def fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
        out = dict(pairs)
        if len(out) < len(pairs):
            names = [k for k, _ in pairs]
            twice = next(k for k in names if names.count(k) > 1)
            raise UsageError(f"{path}: a field {shown(twice)} is given twice in one object; keep one")
        return out

    return fields


class _Reader:
    """A window over a file's text with JSON's tokens taken off its front."""

    def __init__(self, path: Path) -> None:
        self.path, self.text, self.at, self.gone, self.ended = path, "", 0, 0, False
        self.decoder = json.JSONDecoder(object_pairs_hook=unrepeated(path))
        try:
            with open(regular(path), "rb") as head:
                refuse_encoding(path, head.read(4))
            self.file = open(path, encoding="utf-8-sig")
        except OSError as e:
            raise UsageError(f"{path}: cannot be read ({e.strerror})") from e

    def wrong(self, what: str) -> UsageError:
        return UsageError(
            f"{self.path}: not valid JSON at character {self.gone + self.at} ({what}); correct or download it again"
        )

    def more(self, size: int = CHUNK) -> bool:
        try:
            part = self.file.read(size)
        except UnicodeDecodeError as e:
            raise UsageError(
                f"{self.path}: not UTF-8 text ({e.reason}; is it Latin-1?); save it as UTF-8, or download it again"
            ) from e
        self.ended = not part
        self.gone += self.at
        self.text, self.at = self.text[self.at :] + part, 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is no space; '' at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> None:
        character = self.peek()
        if character != expected:
            raise self.wrong(f"expected {expected!r}, found {character!r}" if character else "it ends too early")
        self.at += 1

    def end(self) -> None:
        """Nothing but space may follow: a second array would be another file's."""
        if self.peek():
            raise self.wrong("more text behind the end")

    def value(self) -> object:
        if not self.peek():
            raise self.wrong("it ends too early")
        size = CHUNK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # at the window's very end a number might go on
                    self.at = end
                    return value
                self.more(size)
            except RecursionError:
                raise self.wrong("nested too deeply") from None
            except ValueError as e:
                if "integer string conversion" in str(e):
                    raise self.wrong("a number of more than 4300 digits") from None
                if not self.more(size):
                    raise self.wrong(str(e).split(":")[0]) from e
            size *= 2

    def key(self) -> str:
        """The name of an object's field."""
        name = self.value()
        if not isinstance(name, str):
            raise self.wrong("expected a field's name in quotes")
        return name


def _entries(r: _Reader) -> Iterator[tuple[str | int, object]]:
    """(key, value) of the object or (index, value) of the array that begins here."""
    kind = r.peek()
    if kind not in ("{", "["):
        raise r.wrong("expected an object or an array")
    close = "}" if kind == "{" else "]"
    r.take(kind)
    index = 0
    while r.peek() != close:
        if index:
            r.take(",")
        key: str | int = index
        if kind == "{":
            key = r.key()
            r.take(":")
        yield key, r.value()
        index += 1
    r.take(close)


def stream(path: Path, field: str | None = None) -> Iterator[tuple[str | int, object]]:
    """The top-level object's (key, value) or array's (index, value) pairs; with ``field``, those of that field of the object.

    Raises UsageError naming the file: unreadable, not JSON (and where), or without the field.
    """
    r = _Reader(path)
    with r.file:
        if field is None:
            yield from _entries(r)
            r.end()
            return
        r.take("{")
        first, seen = True, False
        while r.peek() != "}":
            if not first:
                r.take(",")
            first = False
            key = r.key()
            r.take(":")
            if key != field:
                r.value()
            elif seen:
                raise UsageError(f"{path}: field `{field}` is given twice; keep one")
            else:
                seen = True
                yield from _entries(r)
        r.take("}")
        r.end()
    if seen:
        return
    raise UsageError(f"{path}: field `{field}` is missing; this is another kind of file")


def stream_rows(path: Path) -> Iterator[tuple[int, object]]:
    """(number from 1, value) of a JSON array or of one JSON value a line."""
    r = _Reader(path)
    with r.file:
        if r.peek() == "[":
            for index, (_, value) in enumerate(_entries(r), 1):
                yield index, value
            r.end()
            return
        number = 0
        while r.peek():
            number += 1
            yield number, r.value()
