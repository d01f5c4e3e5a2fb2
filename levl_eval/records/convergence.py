"""Whether the head or connector of a record had converged."""

from __future__ import annotations

from levl_eval.records.record import Record


def converged(record: Record) -> bool | None:
    """The record's note ``converged``, of one head or of several; None if there is none."""

    def flag(value: object) -> bool | None:
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, dict):
            value = [value["converged"]] if "converged" in value else list(value.values())
        if isinstance(value, list):
            flags = [flag(v) for v in value]
            return False if False in flags else True if flags and None not in flags else None
        return None

    return flag(record.notes.get("converged"))
