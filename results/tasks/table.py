"""One row a task from the leaderboard.csv of run.sh: its floor, the encoders, the oracle; Markdown on stdout.

python results/tasks/table.py results/tasks/leaderboard.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from levl_eval.report.sight import FLOORS

ENCODERS = ("random-nano", "levljepa-nano")


def cell(rows: pd.DataFrame) -> str:
    """``12.3 [10.1, 14.5]`` of the only row; empty where nothing was measured. Errors in metres keep three digits."""
    if rows.empty:
        return ""
    (row,) = rows.itertuples()
    digits = 1 if row.unit in ("percent", "°") else 3
    if pd.isna(row.low):
        return f"{row.value:.{digits}f}"
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def floor_of(rows: pd.DataFrame, main: str) -> str:
    """The floor that the task's rows hold first, as tables choose it, with its name."""
    for name in FLOORS:
        for metric in (f"floor_{name}/{main}", f"floor_{name}"):
            here = rows[(rows.metric == metric) & (rows.status == "done")]
            if len(here):
                return f"{cell(here.head(1))} {name.replace('_', ' ')}"
    return ""


def table(path: Path) -> str:
    rows = pd.read_csv(path)
    lines = ["| task | metric | floor | " + " | ".join(ENCODERS) + " | oracle |", "|---|---|---|" + "---|" * (len(ENCODERS) + 1)]
    for task, of in rows.groupby("task", sort=False):
        main = of[(of.main == 1) & (of.status == "done")]
        if main.empty:
            continue
        oracle = main[main.backbone.str.startswith("oracle:")]
        known = f"{cell(oracle)} {oracle.backbone.iloc[0].removeprefix('oracle:').partition('@')[0]}" if len(oracle) else ""
        cells = [cell(main[main.backbone == name]) for name in ENCODERS]
        lines.append(" | ".join((f"| {task}", main.metric.iloc[0], floor_of(of, main.metric.iloc[0]), *cells, known)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
