"""What the feature store costs: bytes a task adds, opening a large entry, and a task whose features are there already.

    python benchmarks/store.py [--images 2000] [--size 32] [--form random,hf,timm,open_clip] [--gigabytes 4] [--folder DIR] [--json FILE]

Bytes: `linear` of so many images on a ViT-B/16 with random weights, whose pooled features have 768 numbers at any size; --size keeps the
encoding short. Opening: an entry of so many gigabytes (a file with holes: its blocks are zeros), in fresh processes: before any of it was
verified, when all of it was, and after one bit was flipped. Warm: `knn` after `linear` on the same images in a fresh process, against
one that only imports torch: processor seconds, which other work does not stretch, and the largest resident memory (Linux).

--form: whose ViT-B/16. random: of timm, drawn from a seed. hf, timm, open_clip: random weights that this program saves as a
repository of the hub's cache, named as one of the hub (hf:someone/vit-b); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
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
(record,) = levl_eval.evaluate(
    [backbone], [task], data=data, out=out, seeds=[0], settings=settings, device="cpu", progress=Progress(quiet=True)
)
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


def make_repository(form: str, cache: Path) -> str:
    """A ViT-B/16 with random weights as a repository in a cache of the hub; its URI."""
    from levl_eval.core.third_party import repair

    repair()  # torchvision beside a torch of the CPU
    root = cache / "models--someone--vit-b"
    commit = hashlib.sha1(form.encode()).hexdigest()
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    if form == "hf":
        from transformers import ViTConfig, ViTImageProcessor, ViTModel

        ViTModel(ViTConfig(), add_pooling_layer=False).save_pretrained(folder)
        ViTImageProcessor().save_pretrained(folder)
        return "hf:someone/vit-b"
    if form == "timm":
        import timm
        from timm.models import save_for_hf

        save_for_hf(timm.create_model("vit_base_patch16_224", num_classes=0), str(folder), safe_serialization=True)
        return "timm:hf-hub:someone/vit-b"
    import open_clip
    from safetensors.torch import save_file

    net = open_clip.create_model("ViT-B-16")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": open_clip.get_model_preprocess_cfg(net)}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), str(folder / "open_clip_model.safetensors"))
    return "open_clip:hf-hub:someone/vit-b"


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


def warm_task(form: str, images: int, size: int, folder: Path) -> dict:
    """What `linear` costs and leaves in the cache, then `knn` on the same images in a fresh process, and importing torch alone."""
    make_images(folder / "data", images)
    hub = folder / "hub"
    uri = "random:vit_base_patch16_224" if form == "random" else make_repository(form, hub)
    card = folder / "vit-b.yaml"
    card.write_text(f"kind: backbone\nname: vit-b\nuri: {uri}\npreprocess: {{size: {size}, resize: squash}}\n")
    time.sleep(0.2)  # files that were written just now are not remembered
    words = (str(card), str(folder / "data"))
    env = {"LEVL_CACHE": str(folder / "cache"), "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    cold = child(TASK, "linear", *words, str(folder / "o1"), **env)
    stored = sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file())
    warm = child(TASK, "knn", *words, str(folder / "o2"), **env)
    torch_alone = child(TORCH)
    beyond = {k: warm[k] - torch_alone[k] for k in ("cpu_s", "peak_mib")}
    print(
        f"{form}: linear, {images:,} images on a ViT-B/16: {stored / 1e6:.1f} MB in the cache; "
        f"{cold['cpu_s']:.1f} s of CPU, {cold['peak_mib']:.0f} MiB"
    )
    print(
        f"{form}: knn after it: {beyond['cpu_s']:.2f} s of CPU and {beyond['peak_mib']:.0f} MiB "
        f"beyond importing torch ({torch_alone['cpu_s']:.2f} s, {torch_alone['peak_mib']:.0f} MiB)",
        flush=True,
    )
    return {
        "images": images, "cache_mb": stored / 1e6, "cold": cold, "warm": warm, "torch": torch_alone, "warm_beyond_torch": beyond,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--images", type=int, default=2000)
    p.add_argument("--size", type=int, default=32, help="side of the images the encoder sees")
    p.add_argument("--form", default="random", help="whose encoder: random, hf, timm, open_clip, or several with commas")
    p.add_argument("--gigabytes", type=float, default=4.0, help="of the entry that is opened; 0: none")
    p.add_argument("--folder", type=Path)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    result: dict[str, dict] = {}
    for form in args.form.split(","):
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            result[form] = warm_task(form, args.images, args.size, Path(name))
    if args.gigabytes:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            result["opening"] = opening(Path(name), args.gigabytes)
        for what, o in result["opening"].items():
            print(
                f"{args.gigabytes:g} GB, {what}: opened in {1000 * o['open_s']:.1f} ms, "
                f"the row read in {1000 * o['read_s']:.1f} ms ({o['state']})"
            )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
