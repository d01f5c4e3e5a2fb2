"""What users may rely on, one name a line: `python -m tests.public_names` prints it, tests/golden/public_names.txt keeps it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

DOORS = ("levl_eval", "levl_eval.metrics", "levl_eval.pretrain", "levl_eval.vlm", "levl_eval.lmms")


def _names(module: str) -> Iterator[str]:
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", [n for n in vars(found) if not n.startswith("_")]):
        getattr(found, name)  # it is there, also where it is imported only when asked for
        yield f"{module}.{name}"


def _entry_points(root: Path) -> Iterator[str]:
    """Those of pyproject.toml, read as text: Python 3.10 has no tomllib."""
    section = ""
    for line in (root / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section.startswith(("[project.scripts", "[project.entry-points")) and "=" in line:
            yield f"{section} {line.split('=')[0].strip()}"


def _options(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _options(f"{command} {name}", inner)
        elif action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            words = action.option_strings or [action.metavar if isinstance(action.metavar, str) else action.dest.upper()]
            yield from (f"{command} {w}" for w in words)


def public_names(root: Path) -> list[str]:
    """Names of the modules that are doors, entry points, commands with their options, fields of a pretraining's configuration; sorted."""
    from levl_eval.cli.app import build_parser
    from levl_eval.models.config import PretrainConfig

    out = {n for door in DOORS for n in _names(door)}
    out |= set(_entry_points(root)) | set(_options("levl-eval", build_parser()))
    out |= {f"levl-pretrain {name}=" for name in PretrainConfig.model_fields}
    return sorted(out)


if __name__ == "__main__":
    print("\n".join(public_names(Path(__file__).resolve().parents[1])))
