"""ImageNet's size without its pictures: a linear probe and nearest neighbours on generated features of 1,281,167 x 768, in float16
from a memory map. Reports the memory each needs beside the file.

    python benchmarks/probe_scale.py [--rows 1281167] [--dim 768] [--classes 1000] [--epochs 1] [--folder DIR] [--json FILE]

RssAnon is what the process itself holds; pages of the mapped file (RssFile) belong to the system's cache and are given back
when memory is short.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path


class Watch:
    """Peak of a /proc/self/status field in MB, sampled in the background (Linux)."""

    def __init__(self) -> None:
        self.peak, self.running = {"RssAnon": 0.0, "RssFile": 0.0}, True
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def read(self) -> None:
        for line in Path("/proc/self/status").read_text().splitlines():
            name = line.split(":")[0]
            if name in self.peak:
                self.peak[name] = max(self.peak[name], int(line.split()[1]) / 1024)

    def _loop(self) -> None:
        while self.running:
            self.read()
            time.sleep(0.05)

    def stop(self) -> dict[str, float]:
        self.running = False
        self.thread.join()
        self.read()
        return self.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1_281_167), ("dim", 768), ("classes", 1000), ("epochs", 1), ("queries", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where the features are written (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    import numpy as np
    import torch

    from levl_eval.probes.common import Matrix
    from levl_eval.probes.knn import neighbours
    from levl_eval.probes.linear import fit, logits_of
    from levl_eval.progress import Progress
    from levl_eval.registry import task_card

    device, progress = torch.device("cpu"), Progress()
    with tempfile.TemporaryDirectory(dir=o.folder) as folder:
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((o.classes, o.dim), dtype=np.float32)
        labels = rng.integers(0, o.classes, o.rows)
        out = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.float16, (o.rows, o.dim))
        noise = rng.standard_normal((65536, o.dim), dtype=np.float32)  # reused: only its size matters here
        for i in range(0, o.rows, 65536):
            part = labels[i : i + 65536]
            out[i : i + 65536] = centres[part] + 4 * noise[: len(part)]
        out.flush()
        del out, noise
        array = np.load(Path(folder) / "x.npy", mmap_mode="r")
        held = np.arange(0, o.rows, max(1, o.rows // 20000))
        train, test = Matrix(array), Matrix(array, held)
        started = Watch()
        started.read()
        before = dict(started.peak)
        train.fit_scale()
        test.scale_like(train)
        card = task_card("imagenet", {"epochs": str(o.epochs)})
        begin = time.monotonic()
        layer, curve, _ = fit(train, labels, o.classes, card, 0, device, None, progress)
        accuracy = float((logits_of(layer, test, device).argmax(1).numpy() == labels[held]).mean())
        minutes = (time.monotonic() - begin) / 60
        linear = started.stop()
        second = Watch()
        neighbours(Matrix(array, held[: o.queries]), train, 200, device, progress)
        near = second.stop()
        figures = {
            "rows": o.rows, "dim": o.dim, "classes": o.classes, "epochs": o.epochs, "file_mb": array.nbytes / 1e6,
            "float32_mb": 2 * array.nbytes / 1e6, "start_anonymous_mb": before["RssAnon"],
            "linear_peak_anonymous_mb": linear["RssAnon"], "linear_peak_mapped_mb": linear["RssFile"],
            "knn_peak_anonymous_mb": near["RssAnon"], "kept_in_memory": train._kept is not None,
            "loss": curve[-1], "accuracy_on_training_rows": accuracy, "minutes": minutes,
        }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if o.json:
        o.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
