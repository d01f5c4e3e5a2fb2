"""`levl-eval compare`: a word is a backbone or a run directory, and never the one for the other."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from tests.report.conftest import run_dir  # noqa: F401  (a fixture)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_named_like_a_backbone_does_not_hide_it(here, run_dir, capsys):  # noqa: F811
    (here / "good").mkdir()  # a checkpoint's folder, say
    assert main(["compare", "good", "random", "--in", str(run_dir)]) == 0
    assert "good is better than random" in " ".join(capsys.readouterr().out.split())


def test_a_run_directory_named_like_a_backbone_is_ambiguous(here, run_dir, capsys):  # noqa: F811
    (here / "good" / "records").mkdir(parents=True)
    assert main(["compare", "good", "random", "--in", str(run_dir)]) == 2
    told = capsys.readouterr().err
    assert "./good" in told and f"{run_dir}:good" in told


def test_a_path_is_no_backbones_name(here, run_dir, capsys):  # noqa: F811
    assert main(["compare", "runs/typo", "random", "--in", str(run_dir)]) == 2
    assert "runs/typo: no such file or directory" in capsys.readouterr().err
    (here / "empty").mkdir()
    assert main(["compare", "empty", "random", "--in", str(run_dir)]) == 2
    assert "empty: is a folder without records" in capsys.readouterr().err
