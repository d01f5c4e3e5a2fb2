"""What a row's numbers are from, in words and as values: data set, where it lay, limit, test images, date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from levl_eval.core.hashing import canonical
from levl_eval.core.json_types import object_at
from levl_eval.records import Record
from levl_eval.records.samples import finite
from levl_eval.report.labels import short

NO_DATE = "date not recorded"
_T = TypeVar("_T")


def published_set(record: Record) -> str:
    """Name of the published set that the test data were recognised as, '' where they were not."""
    known = record.data.get("published")
    return str(known.get("name", "")) if isinstance(known, dict) else str(known or "")


def source_word(record: Record) -> str:
    """Where the test data lay: their own place where a card names one, else ``scenes``, ``hub``, or the directory as it was given."""
    return str(record.data.get("test_source") or record.data.get("source", "scenes"))


def trained_on_scenes(record: Record) -> bool:
    """Whether a test set of its own may stand beside a head that was trained on the synthetic scenes:
    `--data scenes` says where all other sets lie."""
    return source_word(record) != "scenes" and record.data.get("source") == "scenes" and bool(record.train)


def date_of(record: Record) -> str:
    """The day a record was made, as YYYY-MM-DD; '' where it does not say."""
    return str(record.environment.get("date", ""))[:10]


def test_images(record: Record) -> int | None:
    """Number of test images of a record, None where it has none (a failed one)."""
    counted = object_at(record.data, "counts").get("images")
    main = record.metrics.get(record.main_metric)
    if isinstance(counted, (int, float)):
        return int(counted)
    return (main.clusters or main.n) if main is not None else None


def _where(record: Record) -> str:
    source = source_word(record)
    place = {"scenes": "synthetic scenes", "hub": "the hub"}.get(source, f"directory {source}")
    known = published_set(record)
    return f"{known} (published set) from {place}" if known else place


def _many(values: Iterable[_T | None]) -> list[_T]:
    """Distinct values, in order, without None and ""."""
    return list(dict.fromkeys(v for v in values if v is not None and v != ""))


def revisions(records: Sequence[Record]) -> list[str]:
    """Of each repository of the hub that the records read, the commits that were read, as ``REPO at COMMIT``; [] where none is known."""
    return _many([f"{repo} at {str(commit)[:12]}" for r in records for repo, commit in object_at(r.data, "revisions").items()])


def data_words(records: Sequence[Record]) -> str:
    """One line on the data of a row's records: source, images, limit, revisions of the hub, date."""
    done = [r for r in records if r.status == "done"] or list(records)
    parts = [" and ".join(_many([_where(r) for r in done]))]
    if splits := _many([r.data.get("split") for r in done]):
        parts.append(f"split {', '.join(map(str, splits))}")
    counts = _many([test_images(r) for r in done])
    asked = [a for a in _many([object_at(r.data, "counts").get("questions") for r in done]) if isinstance(a, int)]
    if counts:
        parts.append(
            f"{' or '.join(f'{c:,}' for c in counts)} test images"
            + (f", {' or '.join(f'{a:,}' for a in asked)} questions" if asked else "")
        )
    limits = _many([r.limit for r in done])
    parts.append(f"limit {', '.join(map(str, limits))}" if limits else "no limit")
    parts += revisions(done)
    if any(r.data.get("sampled") for r in done):
        parts.append("contents hashed in a sample only")
    days = sorted(_many([date_of(r) for r in done]))
    parts.append((days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}") if days else NO_DATE)
    return "; ".join(parts)


def data_values(records: Sequence[Record]) -> dict[str, object]:
    """The same as plain JSON values; what differs between the records of a row is a list."""

    def one(values: Sequence[object]) -> object:
        distinct = _many(values)
        return distinct[0] if len(distinct) == 1 else distinct or None

    return {
        "source": one([source_word(r) for r in records]), "published_set": one([published_set(r) for r in records]),
        "images": one([test_images(r) for r in records]), "limit": one([r.limit for r in records]),
        "date": one([date_of(r) for r in records]), "split": one([r.data.get("split") for r in records]),
    }  # fmt: skip


def flat(value: object, path: str = "") -> dict[str, object]:
    """Nested mappings as one with dotted keys."""
    if not isinstance(value, dict):
        return {path: value}
    out: dict[str, object] = {}
    for k, v in value.items():
        out |= flat(v, f"{path}.{k}" if path else str(k))
    return out


def comparison_fields(record: Record) -> dict[str, object]:
    """What must be equal within a row, flat: fields of the protocol by their own names, data as ``data.test`` and so on."""
    both = record.comparison
    return flat(both["protocol"]) | flat(both["data"], "data")


MOST = 4  # fields a mark names
# engine -> fields that every mark names, as they alone move a number by as much as encoders differ.
ALWAYS: dict[str, tuple[str, ...]] = {"incontext": ("memory_size",)}


def marks(rows: Sequence[Record]) -> list[str]:
    """For rows of one task, given by one record each, what distinguishes each: ``(epochs=5, limit=60)``; '' for a single row.

    What ALWAYS lists stands in the mark of an only row too. Rows of imported predictions say that they are: they have no training
    set and next to no protocol, in which measured rows differ from them alone.
    """
    imported = [comparison_fields(r).get("external") is True for r in rows]
    if any(imported) and not all(imported):
        parts = {kind: iter(marks([r for r, i in zip(rows, imported, strict=True) if i is kind])) for kind in (True, False)}
        each = [next(parts[i]) for i in imported]
        return [m if not i else f"(imported, {m[1:]}" if m else "(imported)" for m, i in zip(each, imported, strict=True)]
    always = ALWAYS.get(rows[0].engine, ()) if rows else ()
    if len(rows) < 2 and not always:
        return [""] * len(rows)
    fields = [comparison_fields(r) for r in rows]
    keys = dict.fromkeys(k for f in fields for k in f)
    differing = [k for k in keys if k in always or len({canonical(finite(f.get(k))) for f in fields}) > 1]
    differing.sort(key=lambda k: (k not in always, k != "limit", not k.startswith("data."), k))

    def shown(value: object) -> str:
        return (
            "+".join(short(v) for v in value)
            if isinstance(value, list) and value
            else "none"
            if value in (None, "", [])
            else short(value)
        )

    out = []
    for record, f in zip(rows, fields, strict=True):
        words = [f"{k}={shown(f.get(k))}" for k in differing[:MOST]]
        words += [f"{len(differing) - MOST} more"] if len(differing) > MOST else []
        out.append(f"({', '.join(words)})" if words else f"(protocol {record.protocol_hash[:12]})")
    # Equal where only fields beyond the named ones differ: then the hash distinguishes them.
    return [m if out.count(m) == 1 else f"{m[:-1]}, #{r.comparison_hash[:8]})" for m, r in zip(out, rows, strict=True)]
