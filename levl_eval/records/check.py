"""Whether the files of a run are undamaged: records by their checksum, samples by the count and SHA-256 in their record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.records.record import Record, read_record, record_files

_BLOCK = 1 << 18  # bytes read at once, into one place that stays in the processor's cache


def sha256_of(path: Path) -> str:
    """Of a file's bytes, read now."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as f:
        while size := f.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def damage_of_samples(record: Record, sha256: Callable[[Path], str] = sha256_of) -> str:
    """What is wrong with a done record's samples, in a line; "" if they are undamaged, or the record's schema has no checksum.

    sha256: of a file; one that remembers unchanged files makes a second look cheap.
    """
    path = record.home / "samples" / f"{record.key}.jsonl"
    if not path.is_file():
        return f"{path}: samples are missing"
    if record.samples is not None and sha256(path) != record.samples.sha256:
        return f"{path}: not the samples its record was written with (checksum)"
    return ""


@dataclass(frozen=True)
class Finding:
    """One record's file. state: whole, old (of a schema without checksums), failed, or damaged. message: what is wrong."""

    file: str
    state: str
    message: str = ""


def check_run(out: Path) -> list[Finding]:
    """A finding for every record of a run's folder, and for samples that no record belongs to. Raises UsageError: no such folder."""
    folder = out / "records"
    if not folder.is_dir():
        raise UsageError(f"{out}: holds no records; give the --out of a run")
    damage, known = [], set()
    for path in record_files(out):
        known.add(path.stem)
        try:
            record = read_record(path)
        except UsageError as e:
            damage.append(Finding(path.name, "damaged", str(e)))
            continue
        if record.status != "done":
            damage.append(Finding(path.name, "failed", record.reason))
            continue
        wrong = damage_of_samples(record)
        state = "damaged" if wrong else "whole" if record.samples is not None else "old"
        damage.append(Finding(path.name, state, wrong))
    for path in sorted((out / "samples").glob("*.jsonl")):
        if path.stem not in known and not path.name.startswith("._"):
            damage.append(Finding(f"samples/{path.name}", "orphan", "no record belongs to it; a run was killed between the two"))
    return damage
