"""What the feature store costs: bytes a task adds, opening a large entry, and a task whose features are there already.

    python benchmarks/store.py [--images 2000] [--size 32] [--gigabytes 4] [--folder DIR] [--json FILE]

Bytes: `linear` of so many images on a ViT-B/16 with random weights, whose pooled features have 768 numbers at any size; --size keeps the
encoding short. Opening: an entry of so many gigabytes (a file with holes: its blocks are zeros), in fresh processes: before any of it was
verified, when all of it was, and after one bit was flipped. Warm: `knn` after `linear` on the same images in a fresh process, against
one that only imports torch: processor seconds, which other work does not stretch, and the largest resident memory (Linux).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PEAK = """
import json, sys, time
def peak():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024
"""
TORCH = (
    PEAK
    + """
import torch
print(json.dumps({"cpu_s": time.process_time(), "peak_mib": peak()}))
"""
)
TASK = (
    PEAK
    + """
import torch
import levl_eval
from levl_eval.core.progress import Progress
task, backbone, data, out = sys.argv[1:]
settings = ["linear.epochs=2"] if task == "linear" else []
(record,) = levl_eval.evaluate([backbone], [task], data=data, out=out, seeds=[0], settings=settings, device="cpu", progress=Progress(quiet=True))
assert record.status == "done", record.reason
print(json.dumps({"cpu_s": time.process_time(), "peak_mib": peak(), "cache": record.cache}))
"""
)
OPEN = (
    PEAK
    + """
from pathlib import Path
from levl_eval.features.entries import open_entry
folder, row = Path(sys.argv[1]), int(sys.argv[2])
started = time.perf_counter()
array = open_entry(folder, folder.name).array
opened = time.perf_counter() - started
try:
    array[row]
    state = "whole"
except Exception as e:
    state = type(e).__name__
print(json.dumps({"open_s": opened, "read_s": time.perf_counter() - started - opened, "state": state}))
"""
)


def child(code: str, *words: str, **env: str) -> dict:
    """What a fresh process prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    if done.returncode:
        sys.exit(done.stderr)
    out: dict = json.loads(done.stdout.strip().splitlines()[-1])
    return out


def make_images(folder: Path, count: int) -> None:
    """Class folders of four classes, a test image for every nine of training."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(count):
        target = folder / "classification" / ("test" if k % 10 == 0 else "train") / f"class{(k + k // 10) % 4}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(target / f"{k}.png")


def make_entry(folder: Path, gigabytes: float, rows_a_block: int = 128) -> Path:
    """An entry [N, 196, 768] in float16 of zeros, written as the store writes one."""
    from levl_eval.features.entries import Meta, write_entry

    rows = max(rows_a_block, int(gigabytes * 1e9 / (196 * 768 * 2)))
    file = folder / "patches.npy"
    np.lib.format.open_memmap(file, "w+", np.float16, (rows, 196, 768)).flush()
    sums = [
        hashlib.sha256(bytes((min(b + rows_a_block, rows) - b) * 196 * 768 * 2)).hexdigest()
        for b in (0, rows // rows_a_block * rows_a_block)
    ]
    whole, rest = divmod(rows, rows_a_block)
    meta: Meta = {
        "key": "0" * 64, "format": 0, "array": "patches", "dtype": "float16", "shape": [rows, 196, 768], "block_rows": rows_a_block,
        "sha256": [sums[0]] * whole + ([sums[1]] if rest else []), "grid": [14, 14],
    }  # fmt: skip
    write_entry(folder / "work", folder / ("0" * 64), file, meta)
    file.unlink()
    return folder / ("0" * 64)


def opening(folder: Path, gigabytes: float) -> dict[str, dict]:
    """Opening and reading one row: unverified, verified, damaged in a block that is not read, and in the one that is."""
    entry = make_entry(folder, gigabytes)
    out = {"before any was verified": child(OPEN, str(entry), "0")}
    from levl_eval.features.entries import open_entry

    np.asarray(open_entry(entry, entry.name).array)
    out["all verified"] = child(OPEN, str(entry), "0")
    with open(entry / "patches.npy", "r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x01")
    out["a bit flipped at the end, the first row read"] = child(OPEN, str(entry), "0")
    out["the same, the last row read"] = child(OPEN, str(entry), "-1")
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--images", type=int, default=2000)
    p.add_argument("--size", type=int, default=32, help="side of the images the encoder sees")
    p.add_argument("--gigabytes", type=float, default=4.0)
    p.add_argument("--folder", type=Path)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_images(folder / "data", args.images)
        card = folder / "vit-b.yaml"
        card.write_text(
            f"kind: backbone\nname: vit-b\nuri: random:vit_base_patch16_224\npreprocess: {{size: {args.size}, resize: squash}}\n"
        )
        words = (str(card), str(folder / "data"))
        cold = child(TASK, "linear", *words, str(folder / "o1"), LEVL_CACHE=str(folder / "cache"))
        stored = sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file())
        warm = child(TASK, "knn", *words, str(folder / "o2"), LEVL_CACHE=str(folder / "cache"))
        torch_alone = child(TORCH)
        (folder / "open").mkdir()
        result = {
            "images": args.images, "cache_mb": stored / 1e6, "cold": cold, "warm": warm, "torch": torch_alone,
            "warm_beyond_torch": {k: warm[k] - torch_alone[k] for k in ("cpu_s", "peak_mib")}, "opening": opening(folder / "open", args.gigabytes),
        }  # fmt: skip
    print(
        f"linear, {args.images:,} images on a ViT-B/16: {result['cache_mb']:.1f} MB in the cache; {cold['cpu_s']:.1f} s of CPU, {cold['peak_mib']:.0f} MiB"
    )
    beyond = result["warm_beyond_torch"]
    print(
        f"knn after it: {beyond['cpu_s']:.2f} s of CPU and {beyond['peak_mib']:.0f} MiB beyond importing torch ({torch_alone['cpu_s']:.2f} s, {torch_alone['peak_mib']:.0f} MiB)"
    )
    for what, o in result["opening"].items():
        print(
            f"{args.gigabytes:g} GB, {what}: opened in {1000 * o['open_s']:.1f} ms, the row read in {1000 * o['read_s']:.1f} ms ({o['state']})"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
