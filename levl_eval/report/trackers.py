"""`--log wandb|trackio|tensorboard`: the final table and every main metric as a number.

Numbers are named TASK/METRIC/BACKBONE, in the unit of the tables, with their interval's ends as NAME/low and NAME/high; gains and shares of
sight as TASK/gain/BACKBONE and TASK/sight/BACKBONE. The table is the leaderboard's, a row a task and backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.report.results import Results
from levl_eval.report.sight import share_of_sight
from levl_eval.report.wide import markdown

PROJECT = "levl-eval"
TRACKERS = ("wandb", "trackio", "tensorboard")
_NEEDED = {"wandb": ("wandb",), "trackio": ("trackio",), "tensorboard": ("tensorboard",)}
COLUMNS = ("task", "backbone", "metric", "value", "low", "high", "gain", "gain_low", "gain_high", "sight", "seeds", "data")


def check_trackers(names: list[str]) -> None:
    """Raises UsageError for an unknown tracker, and for one whose package is missing, before anything is computed."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--log {name[:40]}: is not one of {', '.join(TRACKERS)}")
        if not any(find_spec(p) for p in _NEEDED[name]):
            raise UsageError(f"--log {name}: the package {_NEEDED[name][0]} is not installed; pip install {_NEEDED[name][0]}")


def table(results: Results) -> list[list[str | float | int | None]]:
    """Rows of COLUMNS, in the unit of the tables; None where a cell has no such number."""
    out: list[list[str | float | int | None]] = []
    for row in results.rows:
        scale = row.kind.factor
        for name, cell in row.cells.items():
            if not cell.records:
                continue
            s, g, share = results.summary(row, name), results.gain(row, name), share_of_sight(results, row, name)
            e = s.estimate
            numbers = [e.value, e.low, e.high, *((g.value, g.low, g.high) if g else (None,) * 3)]
            scaled = [None if v is None else v * scale for v in numbers]
            sight = None if share is None else 100 * share.value
            out.append([row.title, name, row.metric, *scaled, sight, s.seeds, row.data])
    return out


def numbers(results: Results) -> dict[str, float]:
    """Every number by its name."""
    out: dict[str, float] = {}
    for task, name, metric, value, low, high, gain, _, _, sight, _, _ in table(results):
        named = {f"{metric}/{name}": value, f"{metric}/{name}/low": low, f"{metric}/{name}/high": high, f"gain/{name}": gain}
        named[f"sight/{name}"] = sight
        out |= {f"{task}/{k}": float(v) for k, v in named.items() if v is not None}
    return out


def _wandb(results: Results, out: Path, name: str) -> None:
    import wandb

    run = wandb.init(project=PROJECT, name=name, dir=str(out), job_type="evaluation")
    run.summary.update(numbers(results))
    run.log({"leaderboard": wandb.Table(columns=list(COLUMNS), data=table(results))})
    run.finish()


def _trackio(results: Results, out: Path, name: str) -> None:
    import pandas as pd
    import trackio

    trackio.init(project=PROJECT, name=name)
    trackio.log({**numbers(results), "leaderboard": trackio.Table(dataframe=pd.DataFrame(table(results), columns=list(COLUMNS)))})
    trackio.finish()


def _tensorboard(results: Results, out: Path, name: str) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard")) as writer:
        for key, value in numbers(results).items():
            writer.add_scalar(key, value, 0)
        writer.add_text("leaderboard", markdown(results), 0)


WRITERS: dict[str, Callable[[Results, Path, str], None]] = {"wandb": _wandb, "trackio": _trackio, "tensorboard": _tensorboard}


def log_results(results: Results, trackers: list[str], out: Path) -> None:
    """Give the results of a run's folder to each tracker. Raises LevlError, in one line, for whatever a tracker raises."""
    name = out.resolve().name
    for tracker in trackers:
        try:
            WRITERS[tracker](results, out, name)
        except Exception as e:  # a service of others: its failure must not hide the tables that are there
            raise UsageError(
                f"--log {tracker}: {type(e).__name__}: {' '.join(str(e).split())[:200]}; the records are in {out}"
            ) from e
