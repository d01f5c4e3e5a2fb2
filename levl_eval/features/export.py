"""Features as a file others can read: parquet (a row an image) or safetensors, with ids, labels and the identity they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path
from levl_eval.features.stored import Vectors

METADATA = b"levl_eval"  # key of the identity in a parquet file's schema; in safetensors it is "levl_eval" among the metadata
_BLOCK = 4096  # rows written at once
SUFFIXES = (".parquet", ".safetensors")


@dataclass(frozen=True)
class FeatureTable:
    """What is written. features: [N, D], or [N, n, D] where tokens are asked for. labels: int [N], or None where the set has none.

    identity: what the numbers belong to (backbone, preprocessing, data, read-out), as JSON values.
    """

    ids: Sequence[str]
    features: Vectors
    labels: np.ndarray | None
    classes: Sequence[str]
    identity: Mapping[str, object]


def check_target(path: Path, tokens: bool) -> None:
    """Raises UsageError for a suffix that is none of ours, and for tokens in parquet."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: ends in none of {', '.join(SUFFIXES)}")
    if tokens and path.suffix != ".safetensors":
        raise UsageError(f"--out {path}: patch tokens are written as .safetensors; parquet has no place for a grid of them")


def write_features(table: FeatureTable, path: Path) -> None:
    """Write the table, whole or not at all. Values are float32 as the heads read them. Raises UsageError as :func:`check_target`."""
    check_target(path, len(table.features.shape) == 3)
    with atomic_path(path) as temporary:
        (_parquet if path.suffix == ".parquet" else _safetensors)(table, temporary)


def _blocks(table: FeatureTable) -> Iterator[slice]:
    for start in range(0, len(table.ids), _BLOCK):
        yield slice(start, min(start + _BLOCK, len(table.ids)))


def _parquet(table: FeatureTable, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = table.features.shape[1]
    fields = [pa.field("id", pa.string()), pa.field("features", pa.list_(pa.float32(), width))]
    if table.labels is not None:
        fields += [pa.field("label", pa.int64()), pa.field("class", pa.string())]
    schema = pa.schema(fields, metadata={METADATA: json.dumps(dict(table.identity), sort_keys=True)})
    with pq.ParquetWriter(path, schema) as writer:
        for block in _blocks(table):
            values = np.ascontiguousarray(table.features[block], np.float32)
            columns = [
                pa.array(list(table.ids[block]), pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width),
            ]
            if table.labels is not None:
                labels = table.labels[block]
                columns += [pa.array(labels, pa.int64()), pa.array([table.classes[int(k)] for k in labels], pa.string())]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _safetensors(table: FeatureTable, path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {"features": np.ascontiguousarray(table.features, np.float32)}
    if table.labels is not None:
        arrays["labels"] = np.ascontiguousarray(table.labels, np.int64)
    metadata = {
        "levl_eval": json.dumps(dict(table.identity), sort_keys=True), "ids": json.dumps(list(table.ids)),
        "classes": json.dumps(list(table.classes)),
    }  # fmt: skip
    save_file(arrays, path, metadata)
