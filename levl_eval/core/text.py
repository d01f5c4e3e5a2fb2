"""Names, labels and answers on their way out: escaped for the terminal, CSV, Markdown, LaTeX, HTML and JSON.

They come from cards, records, data sets and checkpoints that others wrote. What a terminal, a spreadsheet or a browser would take
as an instruction is shown as text instead.
"""

from __future__ import annotations

import difflib
import html
import json
import re
import unicodedata
from functools import lru_cache
from typing import TypeVar

Cell = TypeVar("Cell")

# Control characters (C0, DEL, C1), what changes the direction or joins of text, line and paragraph separators, lone surrogates.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Also what is not assigned or of private use: nobody can tell what a terminal shows.
_ESCAPED = _UNSEEN | {"Cn", "Co"}


def _code(c: str) -> str:
    named = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}.get(c)
    point = ord(c)
    return named or (f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}")


def plain_digits(text: str) -> bool:
    """Whether a text is a whole number of the digits 0 to 9: ``str.isdigit`` takes others too, of which ``int`` refuses some."""
    return text.isascii() and text.isdigit()


def printable(text: str, keep: str = "") -> str:
    """``text`` with every character that is not seen but acts (escapes, newlines, bidirectional overrides) as its escape, and
    every one that has no meaning of its own.

    keep: of those, the ones to leave, such as "\\n" where the text is meant to have lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_code(c) if unicodedata.category(c) in _ESCAPED and c not in keep else c for c in text)


def blank(text: str) -> bool:
    """Whether nothing of a text is seen:
    white space, and characters without a form of their own (a zero-width space, a byte order mark)."""
    return not text.strip() or all(c.isspace() or unicodedata.category(c) in _UNSEEN for c in text)


def same_text(text: str) -> str:
    """What two texts share that look alike: accents composed, each run of white space as a blank, without characters that are not seen."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(c for c in composed if c.isspace() or unicodedata.category(c) not in _UNSEEN).split())


# Characters without a form of their own that stand at the ends of texts copied from pages:
# zero-width spaces, marks of direction and of byte order.
_AT_ENDS = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"


def as_typed(text: str) -> str:
    """A text as a keyboard gives it: accents composed, nothing unseen at its ends."""
    return unicodedata.normalize("NFC", text).strip(_AT_ENDS)


def spelled(value: object) -> str:
    """A word or number as text; a whole number that a table holds as a float (2.0, beside cells that are missing) as what it is."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value) if whole else value)  # type: ignore[call-overload]


_WRITTEN = re.compile(r"""\s*(?:\[\s*(?:['"].*['"]|\{.*\})\s*,?\s*\]|\{\s*(['"]).*?\1\s*:.*\})\s*""", re.DOTALL)


def written_value(text: str) -> bool:
    """Whether a text is a list of texts or objects, or an object, as a program prints it (``['a', 'b']``, ``{'en': 'a'}``),
    as tables hold what was written through csv."""
    return _WRITTEN.fullmatch(text) is not None


def class_spelling(name: str) -> str:
    """What two names share that are one class, spelt in two ways: the case of their letters does not count.

    Names of one letter are the letter itself, as in sets of handwriting: A and a differ.
    """
    text = same_text(name)
    return text if len(text) == 1 else text.casefold()


# Numbers, with an interval and a spread over seeds, as our tables write them.
_ONE = r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?"
_NUMBER = re.compile(rf"{_ONE}( {_ONE})*( ?%)?( \[[-+\d.,e ]+\])?(, seed sd [\d.]+ \(\d+\))?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def csv_cell(value: Cell) -> Cell | str:
    """A cell as a spreadsheet shows it and never computes it: a quote before what begins like a formula. Numbers stay."""
    return _csv_text(value) if isinstance(value, str) else value


@lru_cache(8192)  # a table says most of its texts many times
def _csv_text(value: str) -> str:
    begins = value.lstrip(" \u00a0\u3000").startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return ("'" if begins else "") + printable(value)


_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|^(?:[#>+-]|\d+[.)])(?=\s|$)")


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell or a line: no link, emphasis, code, tag, heading or new cell."""
    shown = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], shown)


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", **{c: "\\" + c for c in "&%$#_{}"}}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other signs in LaTeX's first encoding of fonts


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is; a newline, which could end a comment, is shown as its escape.

    One that begins with ``*`` or ``[`` may stand behind ``\\\\``, which would take it for its own.
    """
    shown = "".join(_TEX.get(c, c) for c in printable(text))
    first = shown.lstrip()[:1]
    return shown.replace(first, f"{{{first}}}", 1) if first and first in "*[" else shown


def html_text(text: str, keep: str = "") -> str:
    """Text inside an element or a quoted attribute of HTML. keep: as in ``printable``."""
    return html.escape(printable(text, keep))


def json_text(value: object, indent: int | None = 1) -> str:
    """JSON with letters of all alphabets as they are, and as an escape what a terminal or a text's direction would obey."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text

    def escaped(c: str) -> str:
        return json.dumps(c)[1:-1] if c != "\x7f" else r"\u007f"

    return "".join(escaped(c) if c != "\n" and unicodedata.category(c) in _UNSEEN else c for c in text)


def size_text(count: int, digits: int = 1) -> str:
    """Bytes in the largest unit of which there is one: "1.2 GB", "31.0 kB", "7 B"."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.{digits}f} {unit}"
    return f"{count} B"


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """' (did you mean ...?)' with the near misses of ``word``, or '' where there are none."""
    hits = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(hits)}?)" if hits else ""
