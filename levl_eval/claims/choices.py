"""The fields in which a task's protocols differ, in few characters: how rows of a claim and of its curve are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from levl_eval.core.hashing import canonical, digest
from levl_eval.records import Record
from levl_eval.records.samples import finite
from levl_eval.report.labels import short
from levl_eval.report.provenance import comparison_fields

_MOST = 60  # characters of a value


def _text(value: object) -> str:
    if value in (None, "", []):
        return "none"
    if isinstance(value, list):
        return short(f"[{', '.join(short(v, _MOST) for v in value)}]", _MOST)
    return short(value, _MOST)


def _distinct(values: Mapping[str, object]) -> dict[str, str]:
    """Values by key as texts, equal exactly where they are: where shortening made two alike a digest stands behind."""
    wholes = {key: canonical(finite(value)) for key, value in values.items()}
    texts = {key: _text(value) for key, value in values.items()}
    meanings = Counter(text for text, _ in {(texts[key], whole) for key, whole in wholes.items()})
    return {key: text if meanings[text] == 1 else f"{text} #{digest(wholes[key])[:8]}" for key, text in texts.items()}


def choices_of(protocols: Mapping[str, Record]) -> dict[str, tuple[tuple[str, str], ...]]:
    """By comparison hash, of which a record each is given: the fields in which the protocols differ, with their values."""
    flat = {h: comparison_fields(r) for h, r in protocols.items()}
    fields = dict.fromkeys(k for f in flat.values() for k in f)
    columns = {k: _distinct({h: f.get(k) for h, f in flat.items()}) for k in fields}
    differing = [k for k, column in columns.items() if len(set(column.values())) > 1]
    return {h: tuple((k, columns[k][h]) for k in differing) for h in flat}
