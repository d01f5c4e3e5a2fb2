"""The house holds: imports run downward only (lazy ones included),
no circles, no private name crosses a module, nothing grows too large."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from tests import architecture, mutations

ROOT = Path(__file__).resolve().parents[1]
FOUND = architecture.modules(ROOT)
LINES = 400  # of a module; shapes.py is data: one drawing function a category
LARGE = {"levl_eval.scenes.shapes": 708}
FUNCTION_LINES, PARAMETERS = 60, 8
# Those that are still larger, with their sizes: they may shrink, and leave the list when they are within the bound; none may join it.
LONG: dict[str, int] = {}
WIDE = {
    "levl_eval.engines.lmms.model.__init__": 14,  # lmms-eval's own arguments, by its names
}
ANY = 23  # may only fall
# In these rooms there is none, but where a name may stand for anything.
TYPED = (
    "core",
    "metrics",
    "records",
    "cards",
    "scenes",
    "models",
    "backbones",
    "features",
    "engines",
    "runner",
    "report",
    "claims",
    "cli",
    "tools",
)
ANYTHING = {"levl_eval.core.registry": 1}


def test_imports_run_downward_only():
    assert architecture.upward(FOUND) == []


def test_no_module_imports_another_in_a_circle():
    assert architecture.circles(FOUND) == []


def test_no_private_name_crosses_a_module():
    assert architecture.private_imports(FOUND) == []


def test_few_files_lie_directly_in_the_package():
    assert len([p for p in (ROOT / "levl_eval").glob("*.py") if p.name != "__init__.py"]) <= 3
    assert {m.name.split(".")[1] for m in FOUND.values() if "." in m.name} <= {*architecture.ROOMS, "vlm", "lmms"}


def over(sizes: list[tuple[str, int]], bound: int, allowed: dict[str, int]) -> list[str]:
    """What is above the bound and not allowed to be, or above what it is allowed; and exceptions that nothing needs any more."""
    large: dict[str, int] = {}
    for name, size in sizes:
        large[name] = max(size, large.get(name, 0))
    wrong = [
        f"{name}: {size}, at most {allowed.get(name, bound)}" for name, size in large.items() if size > allowed.get(name, bound)
    ]
    return wrong + [f"{name} needs no exception any more" for name in allowed if large.get(name, 0) <= bound]


def test_no_module_and_no_function_grows_too_large():
    assert over([(m.name, m.lines) for m in FOUND.values()], LINES, LARGE) == []
    assert over([(name, lines) for name, lines, _ in architecture.functions(FOUND)], FUNCTION_LINES, LONG) == []
    assert over([(name, count) for name, _, count in architecture.functions(FOUND)], PARAMETERS, WIDE) == []


def test_an_exception_is_for_what_is_there_and_no_more():
    assert over([("a", 61), ("b", 60)], 60, {}) == ["a: 61, at most 60"]
    assert over([("a", 71)], 60, {"a": 70}) == ["a: 71, at most 70"]
    assert over([("a", 60)], 60, {"a": 70}) == ["a needs no exception any more"]


# say nothing of what they hold, or are retired
WORDS = {"found", "said", "told", "eye", "shop", "crew", "desk", "helped", "picture"}


def test_variables_are_named_for_what_they_hold():
    wrong = []
    for name, module in FOUND.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in WORDS:
                wrong.append(f"{name}:{node.lineno} {node.id}")
            if isinstance(node, ast.arg) and node.arg in WORDS:
                wrong.append(f"{name}:{node.lineno} {node.arg}")
    assert wrong == []


def test_types_are_known_ever_better():
    assert architecture.any_count(FOUND) <= ANY
    counts = {name: architecture.any_count({name: module}) for name, module in FOUND.items() if module.room in TYPED}
    assert {name: count for name, count in counts.items() if count} == ANYTHING


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


def test_no_test_rests_on_a_private_name():
    """Module-level names with a leading underscore are used in their module alone; what a test needs has a name of its own."""
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        aliases = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("levl_eval"):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in FOUND:
                        aliases[alias.asname or alias.name] = alias.name
                    elif alias.name.startswith("_") and not alias.name.startswith("__"):
                        wrong.append(f"{path.name}:{node.lineno} {alias.name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                if node.attr.startswith("_") and not node.attr.startswith("__"):
                    wrong.append(f"{path.name}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr") and len(node.args) > 1:
                target, name = ast.unparse(node.args[0]), node.args[1]
                if target in aliases and isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                    wrong.append(f"{path.name}:{node.lineno} {name.value}")
    assert wrong == []


def test_every_mutation_finds_the_code_that_it_changes():
    """Else it is counted as not killed only when somebody runs them all (`python -m tests.mutations`)."""
    package = Path(__file__).resolve().parents[1] / "levl_eval"
    lost = [m.name for m in mutations.MUTATIONS if (package / m.file).read_text(encoding="utf-8").count(m.old) != 1]
    assert lost == []
