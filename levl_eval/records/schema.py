"""Schema versions of records: which are read, how older ones are converted, and the checksum of a record.

levl-eval/record/1  until November 2026: no identity, no checksum; the protocol held limit and language model. Shown, never reused.
levl-eval/record/2  identity parts in fields of their own, samples by row count and SHA-256, a checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from levl_eval.core.errors import UsageError

SCHEMA = "levl-eval/record/2"
FAMILY = "levl-eval/record/"


def checksum_of(content: Mapping[str, object]) -> str:
    """SHA-256 over the canonical JSON of a record's content without its ``checksum``."""
    rest = {k: v for k, v in content.items() if k != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _from_1(content: dict[str, object]) -> dict[str, object]:
    """Schema 1 knew fewer fields; those it had mean the same."""
    backbone = content.get("backbone")
    if isinstance(backbone, dict):
        content["backbone"] = {"code": {}, "text": {}, **backbone}
    return {**content, "schema": SCHEMA}


def migrate(content: object, path: Path) -> dict[str, object]:
    """A record's JSON in today's form. Raises UsageError: no record, a schema that is not known here, a checksum that is wrong."""
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a levl-eval record (a JSON object is expected); delete it and run again")
    schema = content.get("schema")
    if schema == f"{FAMILY}1" and not content.get("checksum"):  # with one it was a record of schema 2
        return _from_1(dict(content))
    if schema not in (SCHEMA, f"{FAMILY}1"):
        if schema is None:
            raise UsageError(f"{path}: not a levl-eval record (field `schema` is missing); delete it and run again")
        newer = isinstance(schema, str) and schema.startswith(FAMILY)
        remedy = "it is of another version of levl-eval: read it with that one" if newer else "delete it and run again"
        raise UsageError(f"{path}: field `schema`: {str(schema)[:60]!r} is not known here ({SCHEMA}, {FAMILY}1); {remedy}")
    if content.get("checksum") != checksum_of(content):
        raise UsageError(f"{path}: is not as it was written (checksum); damaged or edited: delete it and run again")
    return content
