"""Records: the result of one job (backbone, task, seed), with everything needed to judge, compare and repeat it.

A record is one JSON file, written atomically; it is the truth from which every table is derived. Samples lie beside it as
JSON lines. Both are documented here, field by field; how schemas follow one another stands in records/schema.py.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import as_text, object_at
from levl_eval.metrics.estimate import Estimate
from levl_eval.records.identity import JobIdentity
from levl_eval.records.samples import Sample, SamplesFile, finite, read_lines, write_lines
from levl_eval.records.schema import SCHEMA, checksum_of, migrate
from levl_eval.records.scores import Collector, scores_path, write_scores


class Comparison(TypedDict):
    """What two records must share to be compared."""

    protocol: dict[str, object]
    data: dict[str, object]  # test, validation: fingerprints; train: a list of them


class Record(BaseModel):
    """One result. ``status`` is "done" or "failed"; a failed record has the cause in ``reason`` and no metrics."""

    model_config = ConfigDict(extra="forbid")
    schema_: str = Field(default=SCHEMA, alias="schema")
    backbone: dict[str, object]  # name, uri, weights_sha256, code, preprocess, text, info, card
    task: str
    engine: str
    versions: dict[str, int] = Field(default_factory=dict)  # of the engine and what it is built on; {} in records of schema 1
    main_metric: str
    chance: float | None = None  # of the main metric, from the card
    protocol: dict[str, object]  # everything besides backbone, data and seed that can move a number (identity.shown_protocol)
    protocol_hash: str
    card_protocol: dict[str, object] = Field(default_factory=dict)  # the card's part of it
    resolved: dict[str, object] = Field(default_factory=dict)  # what the card left open, as it came out
    precision: dict[str, str] = Field(default_factory=dict)
    language_model: dict[str, object] | None = None
    device: str = ""  # kind: cpu, cuda, mps
    data: dict[str, object]  # fingerprint (test), train, validation, order, counts, version, split, source, published, sampled
    seed: int
    limit: int | None = None
    identity_hash: str = ""  # records.identity; "" in records of schema 1, which are shown but never reused
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    notes: dict[str, object] = Field(default_factory=dict)  # engine-specific facts (connector hash, training loss, ...)
    environment: dict[str, object] = Field(default_factory=dict)  # versions, git revision, device, command line
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage; times are never part of a comparison
    cache: dict[str, int] = Field(default_factory=dict)  # feature and connector hits and misses
    status: str = "done"
    reason: str = ""
    # the resolved task card, so that the record can be run again from itself
    card: dict[str, object] = Field(default_factory=dict)
    call: dict[str, object] = Field(default_factory=dict)  # how it was run: llm, batch_size, device, folder paths are relative to
    samples: SamplesFile | None = None  # rows and SHA-256 of its samples
    checksum: str = ""  # SHA-256 of the record's canonical JSON without this field
    _home: Path | None = PrivateAttr(default=None)  # the run directory it was read from or written to
    _stem: str = PrivateAttr(default="")  # of the file it was read from

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
    def llm(self) -> str:
        """The language model as the run named it (what counts is its content, ``language_model``); "" for tasks without one."""
        return str((self.protocol if self.language_model is None else self.call).get("llm", ""))  # in the protocol: schema 1

    @property
    def backbone_name(self) -> str:
        """Of the backbone it is about."""
        return str(self.backbone["name"])

    @property
    def weights(self) -> str:
        """SHA-256 of that backbone's parameters and buffers."""
        return str(self.backbone["weights_sha256"])

    @property
    def external(self) -> bool:
        """Whether it holds another system's predictions, scored here: ``weights`` are then the SHA-256 of what it predicted."""
        return bool(object_at(self.backbone, "info").get("external"))

    @property
    def shown_name(self) -> str:
        """The backbone's name for people: nobody is to take another system's predictions for what was measured here."""
        return f"{self.backbone_name} (external)" if self.external else self.backbone_name

    @property
    def key(self) -> str:
        """File stem: task, backbone and the identity's hash."""
        if self._stem:
            return self._stem
        if self.identity_hash:
            return record_key(self.task, self.backbone_name, self.identity_hash)
        return f"{_safe(self.task)}--{_safe(self.backbone_name)}--{self.weights[:8]}-{self.protocol_hash[:12]}-s{self.seed}"

    @property
    def train(self) -> tuple[str, ...]:
        """Content fingerprints of the sets a head or connector was trained on; empty where nothing was."""
        recorded = self.data.get("train") or ()
        return tuple(map(str, recorded)) if isinstance(recorded, (list, tuple)) else (str(recorded),)

    @property
    def comparison(self) -> Comparison:
        """What two records must share to be compared, by name: the protocol, and the data of training, validation and test."""
        return {"protocol": self.protocol, "data": _compared(*self._sets)}

    @property
    def _sets(self) -> tuple[str, tuple[str, ...], str]:
        """Fingerprints of the test, training and validation sets."""
        return str(self.data.get("fingerprint", "")), self.train, str(self.data.get("validation", ""))

    @property
    def comparison_hash(self) -> str:
        """Equal exactly where two records may be compared (and are of one task)."""
        return _comparison_hash(self.protocol_hash, *self._sets)


def _compared(test: str, train: tuple[str, ...], validation: str) -> dict[str, object]:
    return {"test": test, "train": list(train), "validation": validation}


@lru_cache(4096)  # a table asks for each record's several times, and most share it
def _comparison_hash(protocol_hash: str, test: str, train: tuple[str, ...], validation: str) -> str:
    return digest({"protocol": protocol_hash, "data": _compared(test, train, validation)})


def _safe(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)[:80]


def record_key(task: str, backbone: str, identity_hash: str) -> str:
    """The stem of a record's files. Its hash alone decides; task and backbone are there for people who list the folder."""
    return f"{_safe(task)}--{_safe(backbone)}--{identity_hash[:20]}"


def fill_identity(record: Record, identity: JobIdentity, failed: bool = False) -> None:
    """Write the parts of an identity into a record's fields, in place (the inverse of identity.identity_of)."""
    record.task, record.engine, record.versions = identity.task, identity.engine, dict(identity.versions)
    record.card_protocol, record.protocol = dict(identity.protocol), identity.shown_protocol()
    record.protocol_hash = digest(record.protocol)
    record.resolved, record.precision = dict(identity.resolved), dict(identity.precision)
    record.language_model = dict(identity.language_model) if identity.language_model is not None else None
    record.device, record.seed, record.limit = identity.device, identity.seed, identity.limit
    data = identity.data
    record.data |= {
        "fingerprint": data.test,
        "train": list(data.train),
        "validation": data.validation,
        "order": dict(data.order or {}),
    }
    record.identity_hash = identity.hash_without_data if failed else identity.hash


def write_record(out: Path, record: Record, samples: Iterable[Sample] = ()) -> Path:
    """Write ``out/samples/KEY.jsonl`` and then ``out/records/KEY.json``; the record exists only once its samples do.

    Between the two, what tables need of the samples is kept as arrays (scores.py).
    """
    record._home = out
    if record.status == "done":
        collector = Collector()
        with atomic_path(out / "samples" / f"{record.key}.jsonl") as temporary, open(temporary, "wb") as f:
            record.samples = write_lines(f, samples, collector.add)
        with contextlib.suppress(UsageError):  # samples that no table can use: reported when one needs them
            write_scores(scores_path(out, record.key), record.samples.sha256, collector.scores())
    path = out / "records" / f"{record.key}.json"
    record._stem = path.stem
    content = {field: finite(value) for field, value in record.model_dump(by_alias=True, mode="json").items()}
    record.checksum = checksum_of(content)
    content["checksum"] = record.checksum
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return path


def _what_is_wrong(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    first = error.errors()[0]
    return f"field `{'.'.join(map(str, first['loc']))}`: {first['msg'][0].lower()}{first['msg'][1:]}"


def _check_result(record: Record) -> None:
    """Raises ValueError for a record without what every table shows of it."""
    if record.status not in ("done", "failed"):
        raise ValueError(f"field `status`: expected done or failed, found {record.status[:60]!r}")
    if record.status == "done" and record.main_metric not in record.metrics:
        raise ValueError(f"field `metrics`: lacks the main metric {record.main_metric[:60]!r}")
    for name, estimate in record.metrics.items():
        if not math.isfinite(estimate.value):
            raise ValueError(f"field `metrics.{name}.value`: {estimate.value} is not finite")


def home_of(path: Path) -> Path:
    """The run directory that a record's file belongs to, whole; of a link the one of what it leads to."""
    path = path.absolute()  # a bare name is a file of the folder one stands in, which may be "records"
    return path.resolve().parent.parent if path.parent.name == "records" else path.parent


def read_record(path: Path, home: Path | None = None) -> Record:
    """home: :func:`home_of` the file, where who reads many files of one folder knows it.

    Raises UsageError naming the file and the field where it is no record, is damaged, or of a schema not known here.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path}: not a levl-eval record (no regular file); take it out of the folder")
        content = json.loads(path.read_bytes())
        record = Record.model_validate(migrate(content, path))
        for field in ("name", "weights_sha256"):  # schemas differ in what else they hold of the backbone
            as_text(record.backbone.get(field), f"field `backbone.{field}`")
        _check_result(record)
    except UsageError:
        raise
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}); give a record's file, as DIR/records/NAME.json") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path}: not a levl-eval record ({_what_is_wrong(e)}); delete it and run again") from e
    record._home = home_of(path) if home is None else home
    record._stem = path.stem
    return record


def record_files(out: Path) -> list[Path]:
    """The files of a run directory's records, in order of name; without what macOS lays beside each file it copies (``._NAME``)."""
    return [p for p in sorted((out / "records").glob("*.json")) if not p.name.startswith("._")]


def read_records(out: Path) -> list[Record]:
    """All records of a run directory, in order of file name."""
    return [read_record(p) for p in record_files(out)]


def read_samples(out: Path, record: Record) -> Iterator[Sample]:
    """The samples of a record, streamed. Raises UsageError where they are missing, damaged or not those the record was written with."""
    yield from read_lines(out / "samples" / f"{record.key}.jsonl", record.samples)
