"""Rows for people: aligned and wrapped on a terminal, one line a row in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

INDENT = 4


def lines_of(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Aligned columns. width: of the terminal, within which the last column is wrapped under itself; None: not at all.

    Where the other columns leave it less than half the width it stands below them instead. Words are never broken.
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
        options = {"break_long_words": False, "break_on_hyphens": False}
        if lead <= width // 2:
            out += textwrap.wrap(last, width - 1, initial_indent=head, subsequent_indent=" " * lead, **options)  # type: ignore[arg-type]
        else:
            out.append("  ".join(first).rstrip())
            out += textwrap.wrap(last, width - 1, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT, **options)  # type: ignore[arg-type]
    return out


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """To stdout, wrapped where that is a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines_of(rows, width):
        print(line)
