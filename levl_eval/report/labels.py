"""Names of columns: a backbone's name, with what distinguishes it where records of one name are of different encoders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from levl_eval.core.hashing import canonical, digest
from levl_eval.records import Record
from levl_eval.records.samples import finite

# Part of an identity that no row shares -> its value in a record. Weights always separate columns; the others do where two records
# would otherwise share a cell.
PARTS: dict[str, Callable[[Record], object]] = {
    "weights": lambda r: r.weights,
    "preprocess": lambda r: r.backbone.get("preprocess") or {},
    "code": lambda r: r.backbone.get("code") or {},
    "text": lambda r: r.backbone.get("text") or {},
    "device": lambda r: r.device,
    "order": lambda r: r.data.get("order") or {},
}
_OF_A_SEED = ("device", "order")  # seeds of one encoder may differ in them


def _value(record: Record, part: str, known: dict[str, str]) -> str:
    """Equal exactly where the part is. known: texts of values that were met before, by how Python writes them; added to."""
    value = PARTS[part](record)
    if isinstance(value, str):
        return value
    written = repr(value)
    if written not in known:
        known[written] = canonical(finite(value))
    return known[written]


def differing_parts(records: Sequence[Record], cell_of: Callable[[Record], object]) -> list[str]:
    """The parts by which records of one backbone's name must be distinguished, so that no cell (``cell_of``) holds two encoders."""
    known: dict[str, str] = {}
    values = {part: [_value(r, part, known) for r in records] for part in PARTS}
    at = [cell_of(r) for r in records]
    # Another system has a file of predictions a task, which says nothing of its encoder: that parts its columns only within a cell.
    encoders = {w for r, w in zip(records, values["weights"], strict=True) if not r.external}
    chosen = ["weights"] if len(encoders) > 1 else []
    for part in PARTS:
        if part in chosen:
            continue
        cells: dict[object, set[str]] = defaultdict(set)
        for k, r in enumerate(records):
            seed = r.seed if part in _OF_A_SEED else None
            cells[(at[k], seed, *(values[p][k] for p in chosen))].add(values[part][k])
        if any(len(values) > 1 for values in cells.values()):
            chosen.append(part)
    return chosen


def short(value: object, most: int = 24) -> str:
    """A value in few characters; hashes by their beginning."""
    text = " ".join(str(value).split())
    if len(text) >= 32 and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= most else text[: most - 1] + "…"


def _told(record: Record, part: str, others: Sequence[Record]) -> str:
    """``preprocess.size=64``: the fields of a part in which records differ, as this one has them."""
    mine = PARTS[part](record)
    if not isinstance(mine, dict):
        return f"{part}={short(mine)}"
    all_of = [p for r in others if isinstance(p := PARTS[part](r), dict)]
    keys = dict.fromkeys(k for p in all_of for k in p)
    differing = [k for k in keys if len({digest(finite(p.get(k))) for p in all_of}) > 1]
    return ", ".join(f"{part}.{k}={short(mine.get(k, 'none'))}" for k in differing)


def label_columns(records: Sequence[Record], cell_of: Callable[[Record], object]) -> dict[int, str]:
    """``id`` of a record -> the name of its column. cell_of: what a cell is, besides the column (task and comparison)."""
    by_name: dict[tuple[str, bool], list[Record]] = defaultdict(list)
    for r in records:
        by_name[r.backbone_name, r.external].append(r)
    out: dict[int, str] = {}
    seen: dict[str, str] = {}
    for mine in by_name.values():
        name = mine[0].shown_name
        parts = differing_parts(mine, cell_of)
        for r in mine:
            label = name + (f"@{short(r.weights)[:8]}" if "weights" in parts else "")
            words = [_told(r, p, mine) for p in parts if p != "weights"]
            label += f" ({', '.join(w for w in words if w)})" if any(words) else ""
            variant = digest([r.backbone_name, r.external, *(digest(finite(PARTS[p](r))) for p in parts)])
            if seen.setdefault(label, variant) != variant:
                # They differ where the shortened values do not, or a name looks like a label.
                label += f" #{variant[:8]}"
                seen[label] = variant
            out[id(r)] = label
    return out
