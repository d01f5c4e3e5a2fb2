"""`--log`: what each tracker is given. The trackers themselves stand in for by modules that note what they are called with."""

from __future__ import annotations

import sys
import types

import pytest

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.report import trackers
from levl_eval.report.results import Results
from levl_eval.report.trackers import COLUMNS, check_trackers, log_results, numbers, table


class Noted:
    """A module or object whose every attribute is a function that notes its call and returns the object itself."""

    def __init__(self, calls):
        self.__dict__["calls"] = calls

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        call.update = lambda values: self.calls.append((f"{name}.update", (values,), {}))
        return call

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append(("close", (), {}))


@pytest.fixture
def calls(monkeypatch):
    noted = []
    for name in ("wandb", "trackio", "torch.utils.tensorboard"):
        module = types.ModuleType(name)
        module.__getattr__ = Noted(noted).__getattr__
        monkeypatch.setitem(sys.modules, name, module)
    return noted


def test_the_numbers_are_those_of_the_tables(run_dir):
    results = Results.read([run_dir])
    row = next(r for r in results.rows if r.task == "gqa")
    e, g = results.summary(row, "good").estimate, results.gain(row, "good")
    named = numbers(results)
    assert named["gqa/accuracy/good"] == pytest.approx(100 * e.value) and named["gqa/accuracy/good/low"] == pytest.approx(
        100 * e.low
    )
    assert named["gqa/gain/good"] == pytest.approx(100 * g.value) and "gqa/gain/random" not in named
    rows = table(results)
    assert all(len(r) == len(COLUMNS) for r in rows)
    assert len(rows) == sum(bool(c.records) for r in results.rows for c in r.cells.values())


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_each_tracker_gets_numbers_and_table(name, run_dir, calls):
    results = Results.read([run_dir])
    log_results(results, [name], run_dir)
    scalars = {k: v for n, args, _ in calls for k, v in (
        args[0].items() if n in ("summary.update", "log") and isinstance(args[0], dict) else [args[:2]] if n == "add_scalar" else []
    )}  # fmt: skip
    assert {k: v for k, v in scalars.items() if k != "leaderboard"} == numbers(results)
    if name == "tensorboard":
        (text,) = [args for n, args, _ in calls if n == "add_text"]
        assert text[0] == "leaderboard" and "| gqa | accuracy |" in text[1]
    else:
        assert "leaderboard" in scalars and any(n == "Table" for n, *_ in calls)
    assert calls[-1][0] in ("finish", "close")


def test_what_is_unknown_or_missing_is_told_before_anything_is_computed(monkeypatch):
    with pytest.raises(UsageError, match="--log mlflow: is not one of wandb, trackio, tensorboard"):
        check_trackers(["mlflow"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--log trackio: the package trackio is not installed; pip install trackio"):
        check_trackers(["trackio"])


def test_a_tracker_that_fails_is_one_line(run_dir, monkeypatch):
    def fails(results, out, name):
        raise ConnectionError("no\nroute")

    monkeypatch.setitem(trackers.WRITERS, "wandb", fails)
    with pytest.raises(LevlError, match="--log wandb: ConnectionError: no route; the records are in "):
        log_results(Results.read([run_dir]), ["wandb"], run_dir)
