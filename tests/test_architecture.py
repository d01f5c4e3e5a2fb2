"""The house holds: imports run downward only (lazy ones included), no circles, no private name crosses a module, nothing grows too large."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests import architecture

ROOT = Path(__file__).resolve().parents[1]
FOUND = architecture.modules(ROOT)
LINES = 400  # of a module; shapes.py is data: one drawing function a category
LARGE = {"levl_eval.scenes.shapes"}
FUNCTION_LINES, PARAMETERS = 60, 8


def test_imports_run_downward_only():
    assert architecture.upward(FOUND) == []


def test_no_module_imports_another_in_a_circle():
    assert architecture.circles(FOUND) == []


def test_no_private_name_crosses_a_module():
    assert architecture.private_imports(FOUND) == []


def test_few_files_lie_directly_in_the_package():
    assert len([p for p in (ROOT / "levl_eval").glob("*.py") if p.name != "__init__.py"]) <= 3
    assert {m.name.split(".")[1] for m in FOUND.values() if "." in m.name} <= {*architecture.ROOMS, "vlm", "lmms"}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from levl_eval.cli import x", 1), ("def f():\n    from levl_eval.runner.plan import Plan", 1), ("import levl_eval.core.files", 0),
        ("from ..engines import contract", 1), ("from levl_eval.metrics import y", 0),
    ],
)  # fmt: skip
def test_the_measure_sees_what_it_should(tmp_path, source, wrong):
    for name in ("cli", "runner", "core", "engines", "metrics", "records"):
        (tmp_path / "levl_eval" / name).mkdir(parents=True)
        (tmp_path / "levl_eval" / name / "__init__.py").write_text("")
    (tmp_path / "levl_eval" / "__init__.py").write_text("")
    (tmp_path / "levl_eval" / "runner" / "plan.py").write_text("class Plan: ...\n")
    (tmp_path / "levl_eval" / "engines" / "contract.py").write_text("")
    (tmp_path / "levl_eval" / "core" / "files.py").write_text("")
    (tmp_path / "levl_eval" / "records" / "new.py").write_text(textwrap.dedent(source) + "\n")
    found = architecture.modules(tmp_path)
    assert len(architecture.upward(found)) == wrong
    (tmp_path / "levl_eval" / "records" / "old.py").write_text(
        "from levl_eval.records import new\nfrom levl_eval.records.new import _x\n"
    )
    (tmp_path / "levl_eval" / "records" / "new.py").write_text("def f():\n    from levl_eval.records.old import y\n")
    found = architecture.modules(tmp_path)
    assert architecture.circles(found) == [["levl_eval.records.new", "levl_eval.records.old"]]
    assert len(architecture.private_imports(found)) == 1
