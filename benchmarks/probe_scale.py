"""ImageNet's size without its images: the heads on generated features of 1,281,167 x 768, in float16 from a memory map.
Reports the memory each needs beside the file.

    python benchmarks/probe_scale.py [--heads linear,knn,linear-path,attentive] [--rows 1281167] [--dim 768] [--classes 1000]
                                     [--epochs 1] [--values 45] [--iterations 1] [--token-rows 4000] [--folder DIR] [--json FILE]

A process a head. RssAnon is what the process itself holds; pages of the mapped file (RssFile) belong to the system's cache and are
given back when memory is short. linear-path's memory goes with dim x classes x values, not with the rows, and is full once its
history is (9 iterations); attentive reads a second file, of token-rows x 196 x dim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HEADS = ("linear", "knn", "linear-path", "attentive")
TOKENS = 196


class Watch:
    """Peak of two /proc/self/status fields in MB, sampled in the background (Linux)."""

    def __init__(self) -> None:
        self.peak, self.running = {"RssAnon": 0.0, "RssFile": 0.0}, True
        self.read()
        self.start = dict(self.peak)
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
            time.sleep(0.02)

    def stop(self) -> dict[str, float]:
        self.running = False
        self.thread.join()
        self.read()
        return self.peak


def generate(o: argparse.Namespace, folder: Path) -> None:
    """x.npy [rows, dim], y.npy [rows] and, where attentive is asked for, t.npy [token-rows, 196, dim]."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((o.classes, o.dim), dtype=np.float32)
    labels = rng.integers(0, o.classes, o.rows)
    np.save(folder / "y.npy", labels)
    out = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float16, (o.rows, o.dim))
    noise = rng.standard_normal((65536, o.dim), dtype=np.float32)  # reused: only its size matters here
    for i in range(0, o.rows, 65536):
        part = labels[i : i + 65536]
        out[i : i + 65536] = centres[part] + 4 * noise[: len(part)]
    out.flush()
    if "attentive" in o.heads.split(","):
        tokens = np.lib.format.open_memmap(folder / "t.npy", "w+", np.float16, (o.token_rows, TOKENS, o.dim))
        for i in range(0, o.token_rows, 256):
            part = labels[i : min(i + 256, o.token_rows)]
            tokens[i : i + 256] = centres[part, None] + 4 * noise[: TOKENS * 256].reshape(256, TOKENS, o.dim)[: len(part)]
        tokens.flush()


def head(name: str, o: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs one head on the generated files; figures of its memory and time."""
    import numpy as np
    import torch

    from levl_eval.cards.registry import task_card
    from levl_eval.core.messages import show_messages
    from levl_eval.core.progress import Progress
    from levl_eval.engines.probes.attentive import AttentiveHead, classes_of, train
    from levl_eval.engines.probes.common import Matrix
    from levl_eval.engines.probes.knn import neighbours
    from levl_eval.engines.probes.linear import classes_of as linear_classes
    from levl_eval.engines.probes.linear import fit
    from levl_eval.engines.probes.logistic import solve_path

    show_messages()
    device, progress = torch.device("cpu"), Progress()
    array, labels = np.load(folder / ("t.npy" if name == "attentive" else "x.npy"), mmap_mode="r"), np.load(folder / "y.npy")
    held = np.arange(0, len(array), max(1, len(array) // 20000))
    out: dict[str, Any] = {"shape": list(array.shape), "file_mb": array.nbytes / 1e6}
    watch, begin = Watch(), time.monotonic()
    if name == "attentive":
        card = task_card("attentive", {"epochs": str(o.epochs)})
        torch.manual_seed(0)
        pooler, rows = AttentiveHead(o.dim, o.classes, card.heads, card.mlp_ratio), np.arange(len(array))
        out["loss"] = train(pooler, [array], rows, labels, card, 0, device, progress, lambda: None)[-1]
        out["accuracy_on_training_rows"] = float((classes_of(pooler, array, held, device) == labels[held]).mean())
    else:
        x, test = Matrix(array), Matrix(array, held)
        x.fit_scale()
        test.scale_like(x)
        if name == "linear":
            layer, curve, _ = fit(
                x, labels, o.classes, task_card("imagenet", {"epochs": str(o.epochs)}), 0, device, None, progress
            )
            out |= {
                "loss": curve[-1],
                "accuracy_on_training_rows": float((linear_classes(layer, test, device) == labels[held]).mean()),
            }
        elif name == "knn":
            neighbours(Matrix(array, held[: o.queries]), x, 200, device, progress)
        else:
            strengths = 10.0 ** np.linspace(-6, 5, o.values)
            found = solve_path([(x, labels)], o.classes, strengths, device, max_iterations=o.iterations, progress=progress)
            right = (found.predictions(test, device) == labels[held][:, None]).mean(0)
            out |= {
                "values": o.values,
                "iterations": int(found.iterations.max()),
                "best_accuracy_on_training_rows": float(right.max()),
            }
        out["float32_rows_kept_in_memory"] = x.in_memory is not None
    peak = watch.stop()
    out |= {"start_anonymous_mb": watch.start["RssAnon"], "peak_anonymous_mb": peak["RssAnon"], "peak_mapped_mb": peak["RssFile"]}
    return {**out, "minutes": (time.monotonic() - begin) / 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="linear,knn", help=f"of {', '.join(HEADS)}")
    for name, default in (
        ("rows", 1_281_167), ("dim", 768), ("classes", 1000), ("epochs", 1), ("queries", 512), ("values", 45), ("iterations", 1),
        ("token-rows", 4000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where the features are written (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)  # this process is HEAD's, and --folder holds the files
    o = parser.parse_args()
    if o.child:
        o.json.write_text(json.dumps(head(o.child, o, o.folder)))
        return
    heads = [h.strip() for h in o.heads.split(",")]
    if set(heads) - set(HEADS) or o.token_rows > o.rows:
        parser.error(f"--heads: of {', '.join(HEADS)}; --token-rows: at most --rows")
    figures: dict[str, Any] = {"classes": o.classes}
    with tempfile.TemporaryDirectory(dir=o.folder) as folder:
        generate(o, Path(folder))
        for name in heads:
            own = Path(folder) / "figures.json"
            # The last of an option counts, so these three replace what was given.
            words = [*sys.argv[1:], "--child", name, "--folder", folder, "--json", str(own)]
            subprocess.run([sys.executable, __file__, *words], check=True)
            figures[name] = json.loads(own.read_text())
    print(json.dumps(figures, indent=1))
    if o.json:
        o.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
