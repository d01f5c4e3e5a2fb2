"""Records: the result of one (backbone, task, protocol, seed), with everything needed to judge, compare and repeat it.

A record is one JSON file, written atomically; it is the truth from which every table is derived. Samples lie beside it as
JSON lines. Both are documented here, field by field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from levl_eval.errors import UsageError
from levl_eval.io import atomic_path, atomic_write

SCHEMA = "levl-eval/record/1"


class Estimate(BaseModel):
    """A number with its uncertainty. Fractions in [0, 1] unless the metric's name says otherwise."""

    model_config = ConfigDict(extra="forbid")
    value: float
    stderr: float | None = None  # standard error of the sampling of test images; None where it cannot be estimated
    low: float | None = None  # 95% interval
    high: float | None = None
    n: int = 0  # samples the value is a mean over
    clusters: int = 0  # independent units resampled (images)
    method: str = ""  # how the interval was made: "cluster bootstrap", "wilson", ...


class Sample(BaseModel):
    """One answer to one item."""

    model_config = ConfigDict(extra="forbid")
    id: str  # question id, image id, ... unique within the task
    image_id: str  # the cluster for statistics
    prediction: str = ""
    target: str = ""
    score: float | None = None  # contribution to the main metric
    status: str = "ok"  # "ok" | "failed: why"
    meta: dict[str, Any] = Field(default_factory=dict)  # group keys (split, types) and counts that metrics are rebuilt from


class Record(BaseModel):
    """One result. ``status`` is "done" or "failed"; a failed record says why in ``reason`` and has no metrics."""

    model_config = ConfigDict(extra="forbid")
    schema_: str = Field(default=SCHEMA, alias="schema")
    backbone: dict[str, Any]  # name, uri, weights_sha256, preprocess, info (backbones.base.Identity)
    task: str
    engine: str
    main_metric: str
    chance: float | None = None  # of the main metric, from the card
    protocol: dict[str, Any]  # everything besides the backbone that can move a number
    protocol_hash: str
    data: dict[str, Any]  # fingerprint, counts, version, source
    seed: int
    limit: int | None = None
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)  # engine-specific facts (connector hash, training loss, ...)
    environment: dict[str, Any] = Field(default_factory=dict)  # versions, git revision, device, command line
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage; times are never part of a comparison
    cache: dict[str, int] = Field(default_factory=dict)  # feature and connector hits and misses
    status: str = "done"
    reason: str = ""
    card: dict[str, Any] = Field(default_factory=dict)  # the resolved task card, so that the record can be run again from itself
    call: dict[str, Any] = Field(
        default_factory=dict
    )  # how it was run: data, llm, batch_size, device, folder paths are relative to
    _home: Path | None = PrivateAttr(default=None)  # the run directory it was read from or written to

    @property
    def source(self) -> str:
        """Where its data lay: "scenes", "hub", or a directory as seen from the folder the run was started in."""
        named = str(self.data.get("source", "scenes"))
        return named if named in ("scenes", "hub") else str(Path(str(self.call.get("folder", "")), Path(named).expanduser()))

    @property
    def home(self) -> Path:
        """The run directory that holds the record and its samples. Raises UsageError for a record that was never written."""
        if self._home is None:
            raise UsageError(f"record {self.key}: was not read from a run directory, so its samples are not known")
        return self._home

    @property
    def key(self) -> str:
        """File stem: who, what, under which protocol, which seed, on which data."""
        return record_key(self.backbone["name"], self.backbone["weights_sha256"], self.task, self.protocol_hash, self.seed)


def record_key(name: str, weights: str, task: str, protocol_hash: str, seed: int) -> str:
    """The stem of a record's files; equal for equal work, so that a second run finds what the first has done."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{task}--{name}")
    return f"{safe}--{weights[:8]}-{protocol_hash[:12]}-s{seed}"


def _finite(value: Any) -> Any:
    """JSON has no NaN; an undefined number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def write_record(out: Path, record: Record, samples: Iterable[Sample] = ()) -> Path:
    """Write ``out/samples/KEY.jsonl`` and then ``out/records/KEY.json``; the record exists only once its samples do."""
    record._home = out
    if record.status == "done":
        with atomic_path(out / "samples" / f"{record.key}.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as f:
            for sample in samples:
                f.write(json.dumps(_finite(sample.model_dump()), ensure_ascii=False) + "\n")
    path = out / "records" / f"{record.key}.json"
    text = json.dumps(_finite(record.model_dump(by_alias=True, mode="json")), indent=1, sort_keys=True, ensure_ascii=False)
    atomic_write(path, text + "\n")
    return path


def read_record(path: Path) -> Record:
    """Raises UsageError naming the file and the field where it is no record."""
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as e:
        first = str(e).splitlines()[0]
        raise UsageError(f"{path}: not a levl-eval record ({first}); delete it and run again") from e
    record._home = path.resolve().parent.parent if path.parent.name == "records" else path.parent
    return record


def read_records(out: Path) -> list[Record]:
    """All records of a run directory, in order of file name."""
    return [read_record(p) for p in sorted((out / "records").glob("*.json"))]


def read_samples(out: Path, record: Record) -> Iterator[Sample]:
    """The samples of a record, streamed. Raises UsageError where the file is missing or a line is no sample."""
    path = out / "samples" / f"{record.key}.jsonl"
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                try:
                    yield Sample.model_validate_json(line)
                except ValueError as e:
                    raise UsageError(f"{path}: line {number} is no sample ({str(e).splitlines()[0]}); run the task again") from e
    except OSError as e:
        raise UsageError(f"{path}: samples are missing ({e.strerror}); run the task again") from e
