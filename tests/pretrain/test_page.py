"""docs/pretraining.md holds what its commands print."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")


def _script():
    spec = importlib.util.spec_from_file_location("published_code", ROOT / "benchmarks" / "published_code.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_presets_are_shown_as_they_resolve():
    table = _script().presets()
    assert table in PAGE and "| `lr` | 0.0002 | 0.0002 | 0.0002 | 0.0005 | 0.0005 |" in table


def test_the_table_of_differences_has_every_case_and_each_is_rounding():
    script = _script()
    rows = [*script.losses(), *script.schedules()]
    assert len(rows) == 2 * 19 + 4
    for quantity, case, value, version in rows:
        assert value < 1e-11
        assert f"| {quantity} | {case} | " in PAGE and f" | {version} |" in PAGE
