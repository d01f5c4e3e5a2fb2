"""The table of results/scenes: means over pretraining seeds, differences paired by seed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd

SCRIPT = Path(__file__).resolve().parents[2] / "results" / "scenes" / "summary.py"


def _row(backbone, seed, task, metric, value, status="done"):
    return {"task": task, "metric": metric, "backbone": backbone, "seed": seed, "value": value, "status": status}


def test_means_over_seeds_and_differences_paired_by_seed(tmp_path):
    rows = []
    for seed, base in ((1, 50.0), (2, 60.0), (3, 40.0)):
        rows += [
            _row(f"levljepa-{seed}", seed, "ade20k", "mean_iou", base + 2), _row(f"clip-{seed}", seed, "ade20k", "mean_iou", base),
            _row(f"random:nano?seed={seed}", seed, "ade20k", "mean_iou", base - seed),
            _row(f"clip-{seed}", seed, "ade20k", "pixel_accuracy", 99.0),
        ]  # fmt: skip
    rows += [_row("clip-1", 1, "zeroshot", "top1", 20.0), _row("siglip-1", 1, "zeroshot", "top1", 77.0, "failed")]
    pd.DataFrame(rows).to_csv(tmp_path / "board.csv", index=False)
    lines = runpy.run_path(str(SCRIPT))["table"](tmp_path / "board.csv").splitlines()
    cells = {line.split(" | ")[0].strip("| "): [c.strip(" |") for c in line.split(" | ")[1:]] for line in lines}
    assert cells[""][3] == "ade20k mean_iou"
    assert cells["CLIP"][3] == "50.0 [25.2, 74.8]"  # 10 / sqrt(3) times 4.303
    assert cells["LeVLJEPA − CLIP"][3] == "+2.0 [+2.0, +2.0]"  # paired: what the seeds share is gone
    assert cells["LeVLJEPA − random initialisation"][3] == "+4.0 [+1.5, +6.5]"
    assert cells["CLIP"][5] == "20.0" and "SigLIP" not in cells
