"""What --compile and --channels-last give on this machine: CPU seconds an image of an encoder's executions, and how far features move.

    python benchmarks/execution.py [--models vit_tiny_patch16_224,resnet18] [--batch 8] [--rounds 5] [--device cpu] [--json FILE]

Encoders of timm with random weights. One batch after another is encoded by every execution in turn, so that what else the machine
does falls on all alike; the first batch, in which the compiler works, is told apart. CPU seconds on a CPU, wall clock on another
device, where --cuda-graphs is measured too. Distance: of the pooled features to the plain ones', as a share of their norm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.deferred import DeferredBackbone, Known
from levl_eval.backbones.execution import Execution

WAYS = [Execution(c, last) for c in (False, True) for last in (False, True)]


def measured(model: str, batch: int, rounds: int, device: torch.device) -> list[dict]:
    """A row an execution."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def encode(backbone, images) -> tuple[float, torch.Tensor]:
        begin = clock()
        pooled = backbone.encode(images).pooled
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - begin, pooled

    encoders, ways = [], WAYS + ([Execution(True, last, True) for last in (False, True)] if device.type == "cuda" else [])
    for way in ways:
        whole = load_backbone(f"random:{model}")
        encoders.append(DeferredBackbone(Known.of(whole), lambda b=whole: b, "float32", way).to(device))
    size = encoders[0].preprocess.size
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    first = [encode(e, images) for e in encoders]
    spent = [[encode(e, images)[0] for e in encoders] for _ in range(rounds)]
    plain = first[0][1]
    return [
        {"model": model, "execution": way.words or "plain", "first_s": first[k][0],
         "s_an_image": statistics.median(r[k] for r in spent) / batch, "times_plain": statistics.median(r[0] / r[k] for r in spent),
         "distance": float((first[k][1] - plain).norm() / plain.norm())}
        for k, way in enumerate(ways)
    ]  # fmt: skip


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--models", default="vit_tiny_patch16_224,resnet18")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--device", default="cpu")
    p.add_argument("--json", type=Path)
    o = p.parse_args()
    rows = []
    for model in o.models.split(","):
        for row in measured(model, o.batch, o.rounds, torch.device(o.device)):
            rows.append(row)
            print(
                f"{row['model']:24} {row['execution']:24} {1e3 * row['s_an_image']:8.2f} ms an image, {row['times_plain']:.2f} "
                f"times plain's speed; first batch {row['first_s']:.1f} s; distance {row['distance']:.1e}",
                flush=True,
            )
    if o.json:
        o.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
