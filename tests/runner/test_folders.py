"""Where a run goes without --out: a folder of its own, `runs/latest` leads to it, and Ctrl-C names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.runner.folders import latest_folder, run_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_call_has_a_folder_of_its_own_and_latest_is_the_last(here):
    with run_folder(None) as first, run_folder(None) as second:
        for out in (first, second):
            (out / "records").mkdir()
            (out / "records" / "r.json").write_text("{}")
    assert first != second and first.parent == second.parent == Path("runs")
    assert os.readlink("runs/latest") == second.name and (Path("runs/latest") / "records" / "r.json").exists()


def test_a_folder_that_was_asked_for_is_taken_as_it_is(here):
    with run_folder("mine") as out:
        assert out == Path("mine") and not out.exists()
    assert list(here.iterdir()) == []


def test_of_a_run_that_wrote_nothing_nothing_is_left(here):
    with run_folder(None) as first:
        (first / "leaderboard.csv").write_text("")
    with pytest.raises(UsageError), run_folder(None) as second:
        (second / "records").mkdir()
        raise UsageError("wrong")
    assert not second.exists() and os.readlink("runs/latest") == first.name


def test_a_real_folder_named_latest_stays(here):
    (here / "runs" / "latest" / "records").mkdir(parents=True)
    with run_folder(None) as out:
        (out / "x").write_text("")
    assert not (here / "runs" / "latest").is_symlink() and out.is_dir()


def test_processes_of_a_launcher_need_a_name(here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--out DIR"), run_folder(None):
        pass


def test_a_wrong_name_leaves_no_folder(here, capsys):
    assert main(["run", "--backbone", "nosuch", "--tasks", "gqa"]) == 2
    assert main(["run", "--backbone", "random:nano", "--tasks", "gqa", "--llm", "nosuch", "--data", str(here)]) == 2
    assert not (here / "runs").exists() or list((here / "runs").iterdir()) == []


def test_ctrl_c_names_the_command_that_goes_on(here, monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("levl_eval.runner.evaluate.evaluate", interrupted)
    assert main(["run", "--backbone", "random:nano", "--tasks", "knn", "--set", "knn.temperature=0.1"]) == 130
    told = capsys.readouterr().err
    command = told.split("`")[1]
    assert command.startswith("levl-eval run --backbone random:nano --tasks knn --set knn.temperature=0.1 --out runs/2")
    assert main(["run", "--backbone", "random:nano", "--tasks", "knn", "--out", "mine"]) == 130
    assert capsys.readouterr().err.split("`")[1] == "levl-eval run --backbone random:nano --tasks knn --out mine"


def test_what_is_added_goes_to_the_newest_run_or_a_new_one(here):
    first = latest_folder()
    assert os.readlink("runs/latest") == first.name and latest_folder() == first  # no real folder takes the link's name
    with run_folder(None) as second:
        (second / "x").write_text("")
    assert latest_folder() == second
