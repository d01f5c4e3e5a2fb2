"""The identity of a job: named parts, defined here only, whose hash names its record and decides what may be reused.

Whatever can move a number is a part (law 1 of docs/architecture.md). It is known before anything is computed, from the plan of a
run (`runner.plan`), and again from a record (:func:`identity_of`); both must agree. Everything that is kept between runs
(features, texts, connectors, answers, floors) has a key made of such parts by :func:`cache_key`.

Parts
  backbone        name; weights (SHA-256 of parameters and buffers); code (versions of the libraries that compute the features, of our
                  loader, for `py:` the hash of the user's source files, the patch inputs are fitted to where it was mended);
                  preprocess, as resolved; text (what of tokenizer, maximal length and read-out moves text embeddings)
  task, engine, versions (of the engine and of what it is built on: features, answering; engines.VERSIONS)
  protocol        the card's fields that are protocol (cards.protocol_of)
  resolved        what the card leaves to the backbone, the machine or a file, as it came out
  data            test, train, validation: content fingerprints, and the order in which the reader gives the items
  language_model  content of weights, tokenizer and template; None for tasks without one
  precision       of the encoder, the language model and the connector's training, as resolved (never "auto")
  device          its kind: cpu, cuda, mps
  seed, limit
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest

if TYPE_CHECKING:
    from levl_eval.records.record import Record

IDENTITY_VERSION = 1  # of the parts and of how they are hashed


def cache_key(kind: str, version: int, **parts: object) -> str:
    """The key of something kept between runs: what it is, the version of how it is made, and every input by name.

    kind: "features", "texts", "connector", ... so that two kinds never share a key. version: raised when equal inputs could give
    other contents. parts: plain JSON values.
    """
    return digest({"kind": kind, "version": version, "parts": parts})


@dataclass(frozen=True)
class DataIdentity:
    """The data of a job by content: fingerprints of the sets, and digests of the order in which their items are read.

    train: one entry a training set (a mix has several); validation: "" where none of its own is read.
    """

    test: str
    train: tuple[str, ...] = ()
    validation: str = ""
    order: Mapping[str, object] | None = None

    def parts(self) -> dict[str, object]:
        """As plain JSON values."""
        return {"test": self.test, "train": list(self.train), "validation": self.validation, "order": dict(self.order or {})}


@dataclass(frozen=True)
class JobIdentity:
    """One backbone on one task with one seed; see the module's text for the parts."""

    backbone: Mapping[str, object]
    task: str
    engine: str
    versions: Mapping[str, int]
    protocol: Mapping[str, object]
    data: DataIdentity
    seed: int
    device: str
    resolved: Mapping[str, object]
    precision: Mapping[str, str]
    language_model: Mapping[str, object] | None = None
    limit: int | None = None

    def parts(self) -> dict[str, object]:
        """All parts by name, as plain JSON values."""
        return {**asdict(self), "data": self.data.parts(), "version": IDENTITY_VERSION}

    @property
    def hash(self) -> str:
        """Names the record."""
        return digest(self.parts())

    @property
    def hash_without_data(self) -> str:
        """Names the record of a job that failed: its data may never have been read."""
        return digest({**self.parts(), "data": None})

    def shown_protocol(self) -> dict[str, object]:
        """Everything besides backbone, data and seed that two rows must share to be in one column, flattened for display."""
        return shown_protocol(self.protocol, self.versions, self.resolved, self.precision, self.language_model, self.limit)


def shown_protocol(
    protocol: Mapping[str, object],
    versions: Mapping[str, int],
    resolved: Mapping[str, object],
    precision: Mapping[str, str],
    language_model: Mapping[str, object] | None,
    limit: int | None,
) -> dict[str, object]:
    """The protocol of a record: the card's, and beside it what the card alone does not fix."""
    out: dict[str, object] = {**protocol, "versions": dict(versions), "precision": dict(precision)}
    if resolved:
        out["resolved"] = dict(resolved)
    if language_model is not None:
        out["language_model"] = dict(language_model)
    if limit is not None:
        out["limit"] = limit
    return out


def identity_of(record: Record) -> JobIdentity:
    """The identity of a record, from its own fields. Raises UsageError for one of a schema that did not hold all parts."""
    if not record.identity_hash:
        raise UsageError(f"record {record.key}: was written before records held their identity; run the task again")
    b, data = record.backbone, record.data
    order = data.get("order")
    return JobIdentity(
        backbone={"name": b["name"], "weights": b["weights_sha256"], "code": b["code"], "preprocess": b["preprocess"], "text": b["text"]},
        task=record.task, engine=record.engine, versions=record.versions, protocol=record.card_protocol,
        data=DataIdentity(str(data.get("fingerprint", "")), record.train,
                          str(data.get("validation", "")), order if isinstance(order, dict) else None),
        seed=record.seed, device=record.device, resolved=record.resolved, precision=record.precision,
        language_model=record.language_model, limit=record.limit,
    )  # fmt: skip
