"""The sweep's results as tables between two marks of docs/encoders.md."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- sweep: begin -->", "<!-- sweep: end -->"
PACKAGES = {"timm": "timm", "open_clip": "open_clip_torch"}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """library -> rows, sorted by name."""
    out: dict[str, list[dict[str, Any]]] = {}
    for library in PACKAGES:
        file = folder / f"{library}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        out[library] = sorted((json.loads(line) for line in lines), key=lambda r: r["name"])
    return out


def tables(folder: Path) -> str:
    """Markdown: counts a library, then what was refused and why, then every model by what it pools."""
    found = rows_of(folder)
    lines = ["| library | of | tried | equal | refused | wrong | largest difference |", "|---|---|---|---|---|---|---|"]
    from tests.backbones.sweep import cases

    for library, rows in found.items():
        n = Counter(r["verdict"] for r in rows)
        largest = max((r["largest"] for r in rows if r["verdict"] == "equal"), default=0.0)
        of = len(cases(library))
        name = f"{PACKAGES[library]} {version(PACKAGES[library])}"
        lines.append(f"| {name} | {of} | {len(rows)} | {n['equal']} | {n['refused']} | {n['wrong']} | {largest:.1e} |")
    for library, rows in found.items():
        bad = [r for r in rows if r["verdict"] != "equal"]
        if bad:
            lines += ["", f"Not equal in {library}:", "", "| model | verdict | why |", "|---|---|---|"]
            lines += [f"| {r['name']} | {r['verdict']} | {(r.get('note') or str(r.get('off'))).replace('|', '/')} |" for r in bad]
        pools: dict[str, list[str]] = {}
        for r in rows:
            if r["verdict"] == "equal":
                pools.setdefault(r["pooled"], []).append(r["name"])
        lines += ["", f"Equal in {library}, by what is pooled:", ""]
        lines += [f"- {what}: {', '.join(who)}" for what, who in sorted(pools.items())]
    return "\n".join(lines)


def write(folder: Path, page: Path) -> None:
    """Replaces what stands between the marks of ``page``."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{tables(folder)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
