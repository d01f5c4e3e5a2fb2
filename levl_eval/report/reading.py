"""What a run directory holds, read for tables: whole records, and one line on each that is damaged and therefore left out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import object_at
from levl_eval.records import Record, read_record

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Found:
    """Records of run directories. damaged: one line on each file that is not as it was written, or of a schema not known here."""

    records: tuple[Record, ...]
    damaged: tuple[str, ...] = ()


def check_samples(record: Record) -> None:
    """Raises UsageError where a record's samples are missing or not those it was written with.

    Reads the bytes only, in blocks: a set's worth of samples is not parsed before a table needs them. Records of schema 1 do not
    say what their samples were; paired.load_samples checks those against the metric.
    """
    if record.status != "done" or record.samples is None:
        return
    path = record.home / "samples" / f"{record.key}.jsonl"
    total, rows = hashlib.sha256(), 0
    try:
        with open(path, "rb") as f:
            while block := f.read(_BLOCK):
                total.update(block)
                rows += block.count(b"\n")
    except OSError as e:
        raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
    if total.hexdigest() != record.samples.sha256:
        reason = (
            f"{rows} samples, its record says {record.samples.rows}"
            if rows != record.samples.rows
            else "not the samples its record was written with (checksum)"
        )
        raise UsageError(f"{path}: {reason}; damaged: run the task again")


def read_directory(folder: Path) -> Found:
    """The records of one run directory, in order of file name."""
    records, damaged = [], []
    for path in sorted((folder / "records").glob("*.json")):
        try:
            record = read_record(path)
            check_samples(record)
        except UsageError as e:
            damaged.append(" ".join(str(e).split()))
        else:
            records.append(record)
    return Found(tuple(records), tuple(damaged))


def read_directories(names: Sequence[str | Path], empty: bool = False) -> Found:
    """The records of several run directories. Raises UsageError, unless ``empty``, for one without any or with damaged ones only."""
    records: list[Record] = []
    damaged: list[str] = []
    for name in names:
        here = read_directory(Path(name))
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
                rank.setdefault(str(name), len(rank))
    last = len(records)
    return sorted(records, key=lambda r: (ranks["tasks"].get(r.task, last), ranks["backbones"].get(r.backbone_name, last)))
