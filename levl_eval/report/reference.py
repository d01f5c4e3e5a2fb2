"""What a gain is over: a backbone named by the user, else each backbone's own random twin, else nothing. Never "the first".

A *baseline* is a backbone whose card or URI says it has random weights. In a row, a backbone's reference is
1. the one of ``--reference NAME``;
2. else the baseline that was made of its own weights (``twin:``, recorded in ``backbone.info.twin_of``);
3. else the only baseline of the row, unless that is another one's own twin of another architecture;
4. else the one baseline that is its *twin*: of the same architecture (pooled and patch dimensions, patch grid and depth, recorded in
   ``backbone.info.architecture``; for records that do not hold it, the same timm model) at the same input size. Of several twins the
   one with the lowest recorded random seed;
5. else none.
A baseline has a reference only by 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import object_at
from levl_eval.core.text import did_you_mean
from levl_eval.records import Record


def is_baseline(record: Record) -> bool:
    return bool(_info(record).get("baseline"))


def _info(record: Record) -> Mapping[str, object]:
    return object_at(record.backbone, "info")


def _random_seed(record: Record) -> int:
    recorded = _info(record).get("random_seed")
    return recorded if isinstance(recorded, int) else 0


def is_twin(record: Record, baseline: Record) -> bool:
    """Whether a baseline has a backbone's architecture and input size, as far as the records say."""
    sizes = [object_at(r.backbone, "preprocess").get("size") for r in (record, baseline)]
    if sizes[0] != sizes[1]:
        return False
    shapes = [_info(r).get("architecture") for r in (record, baseline)]
    if all(shapes):
        return shapes[0] == shapes[1]
    models = [
        str(_info(r).get("model", "")).partition(".")[0] if _info(r).get("library") == "timm" else "" for r in (record, baseline)
    ]
    return bool(models[0]) and models[0] == models[1]


def reference_of(column: str, cells: Mapping[str, Record], named: str | None) -> str | None:
    """The column that ``column`` is measured against. cells: the row's columns with a finished record each; named: rule 1's column."""
    if named is not None:
        return named if named in cells and named != column else None
    if column not in cells or is_baseline(cells[column]):
        return None
    baselines = {name: r for name, r in cells.items() if is_baseline(r)}
    own = [name for name, r in baselines.items() if _info(r).get("twin_of") == cells[column].weights]
    if own:
        return own[0]
    if len(baselines) == 1:
        name, only = next(iter(baselines.items()))
        return name if "twin_of" not in _info(only) or is_twin(cells[column], only) else None
    twins = {name: r for name, r in baselines.items() if is_twin(cells[column], r)}
    if not twins:
        return None
    seeds = {name: _random_seed(r) for name, r in twins.items()}
    lowest = sorted(name for name in twins if seeds[name] == min(seeds.values()))
    weights = {twins[name].weights for name in lowest}
    return lowest[0] if len(weights) == 1 else None


def resolve_reference(named: str, columns: Sequence[str], names: Mapping[str, str]) -> str:
    """The column meant by ``--reference``. names: column -> its backbone's name. Raises UsageError: none, or several of that name."""
    if named in columns:
        return named
    same = [c for c in columns if names[c] == named]
    if len(same) > 1:
        raise UsageError(f"--reference {named}: {len(same)} columns are of that name; give one of {', '.join(map(repr, same))}")
    if not same:
        raise UsageError(
            f"--reference {named}: no such backbone among the results{did_you_mean(named, list(columns))}; there are {', '.join(columns)}"
        )
    return same[0]
