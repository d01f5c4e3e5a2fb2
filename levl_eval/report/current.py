"""The tables of a run's folder, written again only where its records or the code that writes them have changed."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from levl_eval import __version__
from levl_eval.core.files import stat_mark
from levl_eval.core.hashing import digest
from levl_eval.core.kept import Damaged, read_json, write_json
from levl_eval.records import Record

FILE = ".tables.json"
PACKAGE = Path(__file__).resolve().parents[1]


class _Copy(io.StringIO):
    """What is printed, kept; it looks like the stream it is a copy of."""

    def isatty(self) -> bool:
        return sys.stdout.isatty()


def _stat(path: Path) -> str:
    return stat_mark(path.stat()).decode()  # ctime too: what is exchanged in place can have its old size and mtime


def _inputs(out: Path, records: Sequence[Record], options: Mapping[str, object]) -> str:
    """Everything the tables are made of: files of records and samples, what is shown, how wide, and our own code."""
    files = {f"{p.parent.name}/{p.name}": _stat(p) for folder in ("records", "samples") for p in (out / folder).glob("*.json*")}
    code = {str(p.relative_to(PACKAGE)): _stat(p) for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((80, 24)).columns if terminal else 0
    shown = [r.key for r in records]
    return digest([__version__, files, code, terminal, width, shown, dict(options)])


def show_and_write(
    out: Path,
    records: Sequence[Record],
    options: Mapping[str, object],
    show: Callable[[io.StringIO], None],
    write: Callable[[], list[Path]],
) -> list[Path]:
    """Print the table of ``records`` and write the files of ``out``'s tables, or print what was printed where nothing has changed.

    options: plain values that move tables. show: prints the table to a stream. write: writes the files and names them.
    """
    path, inputs = out / FILE, _inputs(out, records, options)
    try:
        kept = read_json(path, inputs)
        if isinstance(kept, dict) and all(_stat(out / name) == stat for name, stat in kept["files"].items()):
            sys.stdout.write(kept["text"])
            return [out / name for name in kept["files"]]
    except (OSError, Damaged, KeyError, TypeError, AttributeError):
        pass  # none yet, of other inputs, or damaged: made again
    copy = _Copy()
    show(copy)
    sys.stdout.write(copy.getvalue())  # before anything that a full disk might refuse
    sys.stdout.flush()
    written = write()
    write_json(path, inputs, {"text": copy.getvalue(), "files": {p.name: _stat(p) for p in written}})
    return written
