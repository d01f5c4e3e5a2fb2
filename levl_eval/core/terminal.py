"""Rows for people: aligned and wrapped on a terminal, one line a row in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

from levl_eval.core.text import printable

INDENT = 4


def lines_of(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Aligned columns. width: of the terminal, within which the last column is wrapped under itself; None: not at all.

    Where the other columns leave it less than half the width, or less than its longest word, it stands below them instead. Words
    are never broken.
    """
    if not rows:
        return []
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    lead = sum(widths) + 2 * len(widths)
    out = []
    for *first, last in rows:
        head = "".join(text.ljust(w) + "  " for text, w in zip(first, widths, strict=True))
        if width is None or len(head) + len(last) < width:
            out.append((head + last).rstrip())
            continue
        wrap = partial(textwrap.wrap, width=width - 1, break_long_words=False, break_on_hyphens=False)
        if lead <= width // 2 and max(map(len, last.split()), default=0) < width - lead:
            out += wrap(last, initial_indent=head, subsequent_indent=" " * lead)
        else:
            out.append("  ".join(first).rstrip())
            out += wrap(last, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    return out


def columns() -> int | None:
    """Of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """To stdout, wrapped where that is a terminal. What would act on it (escapes, newlines) is shown as text."""
    for line in lines_of([[printable(cell) for cell in row] for row in rows], columns()):
        print(line)


def yaml_text(value: object, width: int | None) -> str:
    """As YAML, in lines below ``width`` as far as words allow it; None: texts are not folded."""
    import yaml

    if width is None:
        return yaml.safe_dump(value, sort_keys=False, width=float("inf")).rstrip()
    text = ""
    for fold in range(width - 1, width // 2, -1):  # PyYAML breaks a line behind the word that passes the limit
        text = yaml.safe_dump(value, sort_keys=False, width=fold).rstrip()
        if max(map(len, text.splitlines())) < width:
            break
    return text


def numbers(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A table of numbers behind two columns of names, escaped as in print_rows.

    Where it is wider than ``width`` the first name stands in a line of its own.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    sizes = [max(len(r[k]) for r in [heads, *rows]) for k in range(len(heads))]

    def line(cells: Sequence[str], first: int) -> str:
        named = [c.ljust(w) for c, w in zip(cells[first:2], sizes[first:2], strict=True)]
        return "  ".join([*named, *(c.rjust(w) for c, w in zip(cells[2:], sizes[2:], strict=True))]).rstrip()

    if width is None or sum(sizes) + 2 * len(sizes) - 2 < width:
        return [line(r, 0) for r in [heads, *rows]]
    out = ["  " + line(heads, 1)]
    for k, row in enumerate(rows):
        if k == 0 or row[0] != rows[k - 1][0]:
            out.append(row[0])
        out.append("  " + line(row, 1))
    return out
