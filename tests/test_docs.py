"""The walk-through, run as a reader runs it: every block in order, in one empty folder and one Python session."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from levl_eval.cli.app import build_parser, main

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def commands(block):
    return [shlex.split(line) for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_walk_through_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    session: dict = {"__name__": "walkthrough"}
    blocks = BLOCK.findall(text)
    assert {kind for kind, _ in blocks} == {"sh", "python"} and len(blocks) >= 7
    said = []
    for kind, block in blocks:
        if kind == "sh":
            for command in commands(block):
                assert command[0] == "levl-eval"
                assert main(command[1:]) == 0, command
        else:
            exec(compile(block, "docs/walkthrough.md", "exec"), session)
        said.append(capsys.readouterr())
    drawn = np.asarray(Image.open(tmp_path / "pca.png"))
    assert drawn.shape == (256, 512, 3) and len(np.unique(drawn[:, 256:].reshape(-1, 3), axis=0)) > 8
    records = session["records"]
    assert [r.status for r in records] == ["done"] * 4 and "already there" in said[5].err
    assert session["found"].images > 0 and "were not measured alike" in said[4].out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    table = pandas.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert set(table["backbone"]) == {"levljepa-nano", "random-nano"} and len(table) == len(session["table"])


def test_commands_named_in_running_text_parse():
    """What stands in backticks and begins with levl-eval is a command this version has."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    named = [words for text in pages for words in re.findall(r"`levl-eval ([^`]+)`", text)]
    assert len(named) >= len(pages)
    for words in named:
        build_parser().parse_args(shlex.split(words))


def test_the_reference_holds_every_public_name():
    """The pages are built from the code with warnings as errors (`make docs`); which names they hold is said here."""
    import levl_eval
    from levl_eval import metrics, pretrain, vlm

    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    text += (ROOT / "docs" / "_hooks.py").read_text(encoding="utf-8")
    errors = {"LevlError", "UsageError", "ProtocolMismatch"}  # on the page of their module
    assert "::: levl_eval.core.errors" in text
    for name in {*levl_eval.__all__, *metrics.__all__, *pretrain.__all__, *vlm.__all__} - errors:
        assert re.search(rf"^::: levl_eval\.(?:[\w.]+\.)?{name}$|::: levl_eval\.[\w.]+\.{name}\\n", text, re.M), name
