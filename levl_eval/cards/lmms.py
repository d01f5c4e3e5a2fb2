"""lmms-eval, as far as names go: `lmms:NAME` as a task card, and what of lmms-eval is part of an identity. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from levl_eval.core.errors import UsageError

PREFIX = "lmms:"


def lmms_value(name: str) -> dict[str, object]:
    """The card's mapping for ``lmms:NAME``. Raises UsageError where NAME is missing or lmms-eval is not installed."""
    task = name.removeprefix(PREFIX)
    if not task:
        raise UsageError(f"task {name!r}: nothing after `{PREFIX}`; give a task of lmms-eval, such as lmms:pope")
    if importlib.util.find_spec("lmms_eval") is None:
        raise UsageError(f"task {name!r}: the package lmms-eval is not installed; pip install 'levl-eval[vlm]'")
    return {
        "kind": "task", "engine": "lmms", "name": name, "task": task, "recipe": "vqa-train", "source": "lmms-eval's task of that name",
        "description": f"The task {task} of the installed lmms-eval, answered by a frozen language model through a trained connector.",
    }  # fmt: skip


def lmms_identity(include: str | None) -> dict[str, str]:
    """What of lmms-eval stands in the protocol: its version, and the contents of a folder of further tasks."""
    try:
        parts = {"lmms_eval": version("lmms-eval")}
    except PackageNotFoundError:
        parts = {"lmms_eval": ""}
    if include:
        digest, folder = hashlib.sha256(), Path(include).expanduser()
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and not {"__pycache__", ".git"} & set(p.parts)):
            if file.suffix in (".yaml", ".py") or file.name.endswith("_yaml"):
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
        parts["lmms_tasks"] = digest.hexdigest()
    return parts
