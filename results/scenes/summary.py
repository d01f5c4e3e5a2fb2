"""From the seeds.csv of seeds.sh: means over pretraining seeds, and differences paired by seed, as a Markdown table on stdout.

    python results/scenes/summary.py runs/scenes/seeds.csv

Intervals are Student's, 95%, over the pretraining seeds: they hold what another initialisation, data order and probe seed would
change, on the same test images. With three seeds the quantile is 4.3, so that only large or very regular differences exclude zero.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import t

TASKS = {"gqa": "accuracy", "vqav2": "accuracy", "pope": "accuracy", "ade20k": "mean_iou", "linear": "top1", "zeroshot": "top1"}
OBJECTIVES = {"levljepa": "LeVLJEPA", "clip": "CLIP", "siglip": "SigLIP", "random": "random initialisation"}
PAIRS = [("levljepa", "clip"), ("levljepa", "siglip"), ("levljepa", "random"), ("clip", "random"), ("siglip", "random")]


def estimate(values: pd.Series, sign: str = "") -> str:
    """``12.3 [10.1, 14.5]``; empty where nothing was measured."""
    values = values.dropna()
    if values.empty:
        return ""
    mean, n = values.mean(), len(values)
    if n < 2:  # a seed alone has no interval
        return f"{mean:{sign}.1f}"
    half = t.ppf(0.975, n - 1) * values.std() / math.sqrt(n)
    return f"{mean:{sign}.1f} [{mean - half:{sign}.1f}, {mean + half:{sign}.1f}]"


def table(path: Path) -> str:
    """Markdown: a row an objective, then a row a difference."""
    rows = pd.read_csv(path)
    rows = rows[(rows.metric == rows.task.map(TASKS)) & (rows.status == "done")]
    rows = rows.assign(objective=[re.split(r"[-:]", b)[0] for b in rows.backbone])
    value = {
        name: of.pivot(index="seed", columns="task", values="value").reindex(columns=list(TASKS))
        for name, of in rows.groupby("objective")
    }
    lines = ["| | " + " | ".join(f"{k} {v}" for k, v in TASKS.items()) + " |", "|---|" + "---|" * len(TASKS)]
    for name, title in OBJECTIVES.items():
        if name in value:
            lines.append(f"| {title} | " + " | ".join(estimate(value[name][k]) for k in TASKS) + " |")
    for a, b in PAIRS:
        if a in value and b in value:
            d = value[a] - value[b]
            lines.append(f"| {OBJECTIVES[a]} − {OBJECTIVES[b]} | " + " | ".join(estimate(d[k], "+") for k in TASKS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
