"""The knn head's neighbours against plain torch: one product of all test with all training rows, and its topk.

    python benchmarks/knn.py [--queries 2048] [--keys 16384] [--dim 384] [--k 20] [--repeats 7] [--stored] [--json FILE]

Both run in this process in turn, in CPU seconds of one thread; the ratio of a pair is what counts, with Student's interval of its
logarithm over the pairs. Both begin with the same features: arrays in memory, or with --stored the files of a feature store,
which a job has (verified once, mapped into memory; plain torch takes the map as it is). Up to 16,384 training rows are one block
for the head too; beyond, it holds a block of similarities where plain torch holds all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from levl_eval.features.stored import StoredArray

BLOCK = 1024  # rows that have one checksum in a stored array


def stored(folder: Path, rows: np.ndarray) -> tuple[np.ndarray, StoredArray]:
    """A file of features as plain torch takes it (mapped, written to by nobody) and as our heads do."""
    import numpy as np

    from levl_eval.features.stored import Blocks, StoredArray

    folder.mkdir()
    np.save(folder / "pooled.npy", rows)
    sums = tuple(hashlib.sha256(rows[i : i + BLOCK].tobytes()).hexdigest() for i in range(0, len(rows), BLOCK))
    mapped: np.ndarray = np.load(folder / "pooled.npy", mmap_mode="c")  # torch warns of memory that it may not write to
    return mapped, StoredArray(folder / "pooled.npy", Blocks(BLOCK, sums))


def main() -> None:
    with contextlib.ExitStack() as stack:
        measure(stack)


def measure(stack: contextlib.ExitStack) -> None:
    """stack: holds what is deleted at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("queries", 2048), ("keys", 16384), ("dim", 384), ("k", 20), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stored", action="store_true", help="begin with files of a feature store")
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    import numpy as np
    import torch
    import torch.nn.functional as F

    from levl_eval.core.progress import Progress
    from levl_eval.engines.probes.common import Matrix
    from levl_eval.engines.probes.knn import neighbours
    from levl_eval.metrics.statistics import student_quantile

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, o.dim), dtype=np.float32) for n in (o.queries, o.keys))
    ours_x: np.ndarray | StoredArray = x
    ours_y: np.ndarray | StoredArray = y
    if o.stored:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (x, ours_x), (y, ours_y) = stored(folder / "x", x), stored(folder / "y", y)
    quiet, cpu = Progress(quiet=True), torch.device("cpu")

    def plain() -> tuple[np.ndarray, np.ndarray]:
        values, places = (F.normalize(torch.from_numpy(x), dim=-1) @ F.normalize(torch.from_numpy(y), dim=-1).T).topk(o.k)
        return values.numpy(), places.numpy()

    def ours() -> tuple[np.ndarray, np.ndarray]:
        return neighbours(Matrix(ours_x), Matrix(ours_y), o.k, cpu, quiet)

    (a, p), (b, q) = plain(), ours()  # the first of each warms up
    assert np.abs(a - b).max() < 1e-5 and (p == q).mean() > 0.999, "the neighbours are not the same"
    logs = []
    for repeat in range(o.repeats):
        seconds = {}
        for run in (plain, ours) if repeat % 2 else (ours, plain):
            start = time.process_time()
            run()
            seconds[run] = time.process_time() - start
        logs.append(np.log(seconds[plain] / seconds[ours]))
    middle = float(np.exp(np.mean(logs)))
    half = student_quantile(len(logs) - 1) * np.std(logs, ddof=1) / len(logs) ** 0.5
    ends = [middle * float(np.exp(-half)), middle * float(np.exp(half))]
    print(
        f"{o.queries} x {o.keys} rows of {o.dim}, k {o.k}: {middle:.2f} times plain torch's speed [{ends[0]:.2f}, {ends[1]:.2f}]"
    )
    if o.json:
        o.json.write_text(json.dumps({**vars(o), "json": None, "times": middle, "interval": ends}, indent=1) + "\n")


if __name__ == "__main__":
    main()
