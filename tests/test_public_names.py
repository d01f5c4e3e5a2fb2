"""What users may rely on stays: tests/golden/public_names.txt (made by `python -m tests.public_names`; CHANGELOG.md, "Public API")."""

from __future__ import annotations

from pathlib import Path

from tests.public_names import public_names

ROOT = Path(__file__).resolve().parents[1]


def test_public_names_are_the_stored_ones():
    stored = (ROOT / "tests" / "golden" / "public_names.txt").read_text(encoding="utf-8").splitlines()
    found = public_names(ROOT)
    gone, new = sorted(set(stored) - set(found)), sorted(set(found) - set(stored))
    assert not gone, "announce it in CHANGELOG.md one release ahead, and keep the name with a warning until then"
    assert not new, "add it: python -m tests.public_names > tests/golden/public_names.txt"
    assert stored == found


def test_types_are_shipped():
    """mypy reads a package's annotations only beside this file."""
    assert (ROOT / "levl_eval" / "py.typed").is_file()
