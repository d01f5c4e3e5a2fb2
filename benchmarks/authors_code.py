"""Parts of somebody's training code, executed as they stand in a checkout that the user brings: functions of modules whose other
imports are not installed, and single statements of a `main` that would need GPUs, a process group and a data set.

Nothing of it is changed. What is left out: imports that fail (loggers, trainers), and definitions that need them.
"""

from __future__ import annotations
import __future__

import ast
import math
from collections.abc import Iterable
from pathlib import Path

from levl_eval.core.third_party import repair

Names = dict[str, object]


class Settings(dict):
    """A configuration as hydra gives it: values by key and by attribute."""

    __getattr__ = dict.__getitem__


def _run(nodes: list[ast.stmt], names: Names, file: Path) -> None:
    # Annotations may name types of libraries that are not there.
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module(nodes, []), str(file), "exec", flags=flags, dont_inherit=True), names)


def _sibling(folder: Path, module: str | None) -> Path | None:
    file = folder / f"{(module or '').replace('.', '/')}.py"
    return file if file.is_file() else None


def definitions(folder: Path, name: str) -> Names:
    """What the module ``name`` (such as utils/text.py) of a checkout defines; from modules beside it, what it imports of them."""
    repair()  # theirs import torchvision
    file = folder / name
    names: Names = {"__name__": file.stem, "__file__": str(file)}
    for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body:
        beside = _sibling(folder, node.module) if isinstance(node, ast.ImportFrom) else None
        if isinstance(node, ast.ImportFrom) and beside is not None:
            others = definitions(folder, beside.relative_to(folder).as_posix())
            names |= {a.asname or a.name: others[a.name] for a in node.names if a.name in others}
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign):
            try:
                _run([node], names, file)
            except (ImportError, NameError):  # a library that is not installed, or what needs one
                continue
    return names


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {t.id for t in node.targets if isinstance(t, ast.Name)} if isinstance(node, ast.Assign) else set()


class Main:
    """The function `main` of a script, statement by statement, in one space of names."""

    def __init__(self, folder: Path, name: str, given: Names) -> None:
        self.file = folder / name
        module = ast.parse(self.file.read_text(encoding="utf-8"), str(self.file))
        self.body = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "main").body
        self.names = {**definitions(folder, name), "math": math, **given}

    def assign(self, wanted: Iterable[str]) -> None:
        """Run the first statement that binds each of these names, in the order of the script; a later one wraps for several GPUs."""
        left = set(wanted)
        for node in self.body:
            if _bound(node) & left:
                left -= _bound(node)
                _run([node], self.names, self.file)
        if left:
            raise KeyError(f"{self.file}: main binds no {', '.join(sorted(left))}")

    def constants(self) -> None:
        """Run every statement that binds a name in capitals and is not given already, such as LR = cfg.lr."""
        for node in self.body:
            if any(n.isupper() and n not in self.names for n in _bound(node)):
                _run([node], self.names, self.file)

    def _step(self) -> list[ast.stmt]:
        """From the block under autocast, where the loss is computed, to the scheduler's step."""
        for parent in (n for top in self.body for n in ast.walk(top)):
            for body in (getattr(parent, "body", None), getattr(parent, "orelse", None)):
                for i, node in enumerate(body if isinstance(body, list) else ()):
                    if isinstance(node, ast.With) and "torch.autocast" in ast.unparse(node.items[0]):
                        end = next(k for k in range(i, len(body)) if ast.unparse(body[k]) == "scheduler.step()")
                        return body[i : end + 1]
        raise KeyError(f"{self.file}: main has no step under torch.autocast")

    def loss(self) -> object:
        _run(self._step()[:1], self.names, self.file)
        return self.names["loss"]

    def update(self) -> None:
        _run(self._step(), self.names, self.file)

    def mentions(self, name: str) -> bool:
        return any(isinstance(n, ast.Name) and n.id == name for top in self.body for n in ast.walk(top))
