"""`levl-eval doctor`: versions, devices, data, caches, hub or offline, and whether a small encoder gives finite features here."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

SETS = {
    "gqa": "questions and images from https://cs.stanford.edu/people/dorarad/gqa/download.html",
    "vqav2": "questions, annotations and COCO images from https://visualqa.org/download.html",
    "pope": "coco_pope_*.json from https://github.com/AoiDragon/POPE and COCO val2014",
    "ade20k": "ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu",
    "classification": "class folders train/CLASS/IMAGE and test/CLASS/IMAGE",
}


def add(commands: Any) -> None:
    p = commands.add_parser("doctor", help="what works on this machine, and what is missing")
    p.add_argument("--data", default=".", metavar="DIR", help="where data sets are looked for (default: here)")
    p.add_argument("--json", action="store_true")
    p.set_defaults(call=run)


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0


def findings(data: Path) -> list[dict[str, str]]:
    """One mapping a finding: level (ok | note | error), what, found."""
    from levl_eval.evaluation import default_cache, environment

    out: list[dict[str, str]] = []

    def tell(level: str, what: str, found: str) -> None:
        out.append({"level": level, "what": what, "found": found})

    env = environment()
    tell("ok", "python", f"{env['python']} on {env['platform']}")
    tell("ok", "packages", ", ".join(f"{k} {v}" for k, v in env["packages"].items()))
    try:
        import torch

        name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device: encoders run on the CPU"
        tell("ok", "device", f"{name}, {os.cpu_count()} CPU cores")
        from levl_eval.backbones import load_backbone

        backbone = load_backbone("random-nano")
        side = backbone.preprocess.size
        features = backbone.encode(torch.zeros(2, 3, side, side))
        fine = bool(torch.isfinite(features.patches).all())
        tell(
            "ok" if fine else "error",
            "self-test",
            f"encoder gives {tuple(features.patches.shape)} patch features, finite: {fine}",
        )
    except Exception as e:  # whatever is broken here is what the user wants to be told
        tell("error", "self-test", f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    tell(
        "ok", "hub", "offline (HF_HUB_OFFLINE is set): only its cache is read" if offline else "reached when a hub name is given"
    )
    for name, source in SETS.items():
        there = (data / name).is_dir()
        tell("ok" if there else "note", f"data {name}", str(data / name) if there else f"not in {data}; {source}")
    cache = default_cache()
    where = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(where).free
    level = "ok" if free > 2e9 else "error"
    tell(level, "cache", f"{cache}: {_size(cache) / 1e6:,.0f} MB used, {free / 1e9:,.0f} GB free on its disk")
    return out


def run(args: argparse.Namespace) -> int:
    """Exit code 1 where something is broken; missing data are notes."""
    import textwrap

    found = findings(Path(args.data))
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for f in found:
            head = f"{f['level']:5}  {f['what']:20}  "
            print(
                "\n".join(textwrap.wrap(f["found"], 79, initial_indent=head, subsequent_indent=" " * 9, break_long_words=False))
            )
    return 1 if any(f["level"] == "error" for f in found) else 0
