"""The house as the syntax tree tells it: rooms, imports (those inside functions too), sizes. `python tests/architecture.py` prints it."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# From the ground up: a room imports from those before it and from itself.
ROOMS = (
    "core", "metrics", "records", "cards", "scenes", "data", "models", "backbones", "features", "engines", "pretrain", "runner",
    "report", "claims", "cli", "tools",
)  # fmt: skip
PACKAGE = "levl_eval"


@dataclass
class Module:
    """One file. imports: (module, name or None, line), resolved to absolute modules of the package."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: list[tuple[str, str | None, int]] = field(default_factory=list)

    @property
    def room(self) -> str:
        """Its room; "" for what lies directly in the package."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def modules(root: Path) -> dict[str, Module]:
    """Every module of the package below ``root``, with its imports resolved."""
    out: dict[str, Module] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        out[name] = Module(name, path, ast.parse(text), text.count("\n"))
    for module in out.values():
        module.imports = list(_imports(module, out))
    return out


def _imports(module: Module, known: dict[str, Module]) -> Iterator[tuple[str, str | None, int]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = f"{package}.{base}".rstrip(".")
            if base.split(".")[0] != PACKAGE:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner, None, node.lineno
                else:
                    yield base, alias.name, node.lineno


def upward(found: dict[str, Module]) -> list[str]:
    """Imports from a room into one above it, and of named rooms from what lies directly in the package (its public door)."""
    out = []
    for module in found.values():
        if not module.room:
            continue
        for target, name, line in module.imports:
            room = found[target].room if target in found else ""
            if room and ROOMS.index(room) > ROOMS.index(module.room):
                out.append(f"{module.name}:{line} imports {target}{'.' + name if name else ''}")
    return out


def circles(found: dict[str, Module]) -> list[list[str]]:
    """Groups of modules that import one another, imports inside functions included; those for type checkers alone are left out."""
    edges: dict[str, set[str]] = defaultdict(set)
    for module in found.values():
        typing = _typing_lines(module.tree)
        for target, _, line in module.imports:
            if target in found and target != module.name and line not in typing:
                edges[module.name].add(target)
    return [sorted(group) for group in _components(edges) if len(group) > 1]


def _typing_lines(tree: ast.Module) -> set[int]:
    out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            out |= {n.lineno for n in ast.walk(node) if hasattr(n, "lineno")}
    return out


def _components(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on: set[str] = set()
    out: list[list[str]] = []
    for start in sorted({*edges, *(t for ts in edges.values() for t in ts)}):
        if start in index:
            continue
        work = [(start, iter(sorted(edges.get(start, ()))))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on.add(start)
        while work:
            node, children = work[-1]
            step = next(children, None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = []
                    while True:
                        last = stack.pop()
                        on.discard(last)
                        group.append(last)
                        if last == node:
                            break
                    out.append(group)
            elif step not in index:
                index[step] = low[step] = len(index)
                stack.append(step)
                on.add(step)
                work.append((step, iter(sorted(edges.get(step, ())))))
            elif step in on:
                low[node] = min(low[node], index[step])
    return out


def private_imports(found: dict[str, Module]) -> list[str]:
    """Names with a leading underscore that cross a module."""
    return [
        f"{m.name}:{line} imports {target}.{name}"
        for m in found.values()
        for target, name, line in m.imports
        if name is not None and name.startswith("_") and not name.startswith("__")
    ]


def functions(found: dict[str, Module]) -> Iterator[tuple[str, int, int]]:
    """(name, lines, parameters) of every function and method."""
    for m in found.values():
        for node in ast.walk(m.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                a = node.args
                count = len([*a.posonlyargs, *a.args, *a.kwonlyargs]) - (bool(a.args) and a.args[0].arg in ("self", "cls"))
                yield f"{m.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, count


def any_count(found: dict[str, Module]) -> int:
    """How often ``Any`` stands in annotations and elsewhere, other than where it is imported."""
    return sum(isinstance(n, ast.Name) and n.id == "Any" for m in found.values() for n in ast.walk(m.tree))


def report(root: Path) -> str:
    """The figures in lines."""
    found = modules(root)
    sizes = sorted(((m.lines, m.name) for m in found.values()), reverse=True)
    longest = sorted(((lines, name) for name, lines, _ in functions(found)), reverse=True)[:5]
    widest = sorted(((count, name) for name, _, count in functions(found)), reverse=True)[:5]
    groups = circles(found)
    top = [p.name for p in (root / PACKAGE).glob("*.py") if p.name != "__init__.py"]
    lines = [
        f"modules {len(found)}, lines {sum(m.lines for m in found.values())}, directly in the package {len(top)}",
        f"imports that point up {len(upward(found))}, circles {len(groups)}, modules in them {sum(map(len, groups))}",
        f"private names across modules {len(private_imports(found))}, Any {any_count(found)}",
        "largest modules " + ", ".join(f"{n} {s}" for s, n in sizes[:5]),
        "longest functions " + ", ".join(f"{n} {s}" for s, n in longest),
        "most parameters " + ", ".join(f"{n} {s}" for s, n in widest),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
