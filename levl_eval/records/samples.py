"""Samples: what was answered to each item, one JSON object a line beside the record, tied to it by row count and SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field

from levl_eval.core.errors import UsageError


class Sample(BaseModel):
    """One answer to one item."""

    model_config = ConfigDict(extra="forbid")
    id: str  # question id, image id, ... unique within the task
    image_id: str  # the cluster for statistics
    prediction: str = ""
    target: str = ""
    score: float | None = None  # contribution to the main metric
    status: str = "ok"  # "ok" | "failed: why"
    meta: dict[str, object] = Field(default_factory=dict)  # group keys (split, types) and counts that metrics are rebuilt from


class SamplesFile(BaseModel):
    """Count and SHA-256 of a record's samples."""

    model_config = ConfigDict(extra="forbid")
    rows: int
    sha256: str


def finite(value: object) -> object:
    """Plain values as JSON can hold them: it has no NaN, an undefined number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def write_lines(handle: IO[bytes], samples: Iterable[Sample], each: Callable[[Sample, int], None] | None = None) -> SamplesFile:
    """Write one line a sample and say how many there are and what their bytes hash to. each: is given every sample and its line's bytes."""
    rows, total = 0, hashlib.sha256()
    for sample in samples:
        line = json.dumps(finite(sample.model_dump()), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        total.update(line)
        handle.write(line)
        rows += 1
        if each is not None:
            each(sample, len(line))
    return SamplesFile(rows=rows, sha256=total.hexdigest())


def read_lines(path: Path, expected: SamplesFile | None) -> Iterator[Sample]:
    """The samples of a file, streamed; see :func:`read_sized`."""
    return (sample for sample, _ in read_sized(path, expected))


def read_sized(path: Path, expected: SamplesFile | None) -> Iterator[tuple[Sample, int]]:
    """The samples of a file with the bytes of their lines, streamed.

    expected: their count and SHA-256 in the record; None for records without them. Raises UsageError where the file is missing, a
    line is no sample, or, after the last line, where rows or bytes are not those that the record was written with.
    """
    total, number = hashlib.sha256(), 0
    try:
        with open(path, "rb") as f:
            for number, line in enumerate(f, 1):
                total.update(line)
                try:
                    yield Sample.model_validate_json(line), len(line)
                except ValueError as e:
                    raise UsageError(f"{path}: line {number} is no sample ({str(e).splitlines()[0]}); run the task again") from e
    except OSError as e:
        raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
    if expected is not None and number != expected.rows:
        raise UsageError(f"{path}: {number} samples, its record says {expected.rows}; damaged: run the task again")
    if expected is not None and total.hexdigest() != expected.sha256:
        raise UsageError(f"{path}: not the samples its record was written with (checksum); damaged: run the task again")
