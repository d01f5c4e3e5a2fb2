"""The records of a run directory for tables, and one line on each damaged one, which is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from levl_eval.cards.budget import budget_in
from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import object_at
from levl_eval.records import Record, read_record
from levl_eval.records.record import record_files
from levl_eval.report.derived import Derived, check_samples
from levl_eval.report.provenance import flat


@dataclass(frozen=True)
class Found:
    """Records of run directories. damaged: one line on each file that is not as it was written, or of a schema not known here."""

    records: tuple[Record, ...]
    damaged: tuple[str, ...] = ()


def read_directory(folder: Path, derived: Derived | None = None) -> Found:
    """The records of one run directory, in order of file name. derived: remembers which samples were undamaged."""
    records, damaged = [], []
    sha256 = (derived or Derived(writes=False)).sha256
    home = (folder / "records").resolve().parent
    for path in record_files(folder):
        try:
            record = read_record(path, None if path.is_symlink() else home)
            check_samples(record, sha256)
        except UsageError as e:
            damaged.append(" ".join(str(e).split()))
        else:
            records.append(record)
    return Found(tuple(records), tuple(damaged))


def read_directories(names: Sequence[str | Path], empty: bool = False, derived: Derived | None = None) -> Found:
    """The records of several run directories; see read_directory.

    Raises UsageError, unless ``empty``, for one without any or with damaged ones only.
    """
    records: list[Record] = []
    damaged: list[str] = []
    for name in names:
        here = read_directory(Path(name), derived)
        if not here.records and here.damaged and not empty:
            more = f" (and {len(here.damaged) - 1} more)" if len(here.damaged) > 1 else ""
            raise UsageError(f"{here.damaged[0]}{more}")
        if not here.records and not empty:
            raise UsageError(f"{name}: no records below {Path(name) / 'records'}; give the --out of a run")
        records += here.records
        damaged += here.damaged
    return Found(tuple(in_run_order(records)), tuple(damaged))


def in_run_order(records: Sequence[Record]) -> list[Record]:
    """Records in the order of tasks, then backbones, in which they were asked for; what no run has named comes last, as it stood.

    Files lie in the order of their names, which says nothing: without this a table read back would be another than the run's own.
    """
    ranks: dict[str, dict[str, int]] = {"tasks": {}, "backbones": {}}
    for record in sorted(records, key=lambda r: str(r.environment.get("date", ""))):
        order = object_at(record.call, "order")
        for kind, rank in ranks.items():
            names = order.get(kind)
            for name in names if isinstance(names, list) else []:
                # a grid's: task[choices]
                rank.setdefault(str(name).partition("[")[0] if kind == "tasks" else str(name), len(rank))
    last = len(records)
    lengths: dict[str, float] = {}  # by protocol, of which a folder has few

    def length(r: Record) -> float:
        protocol = r.protocol_hash or r.key
        if protocol not in lengths:
            lengths[protocol] = (budget_in(flat(r.protocol)) or ("", 0.0))[1]
        return lengths[protocol]

    return sorted(
        records,
        key=lambda r: (
            ranks["tasks"].get(r.task, last),
            ranks["backbones"].get(r.backbone_name, last),
            length(r),  # of a grid over budgets the smallest first
            str(r.environment.get("date", "")),  # other protocols as they were computed
        ),
    )
