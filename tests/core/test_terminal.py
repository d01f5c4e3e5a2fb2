"""Rows in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import json

import yaml

from levl_eval.cards.registry import names
from levl_eval.cli import main
from levl_eval.core.terminal import lines_of, numbers, print_rows, yaml_text

ROWS = [["gqa", "vqa", "Questions about images, answered by a frozen language model that sees them through a connector."],
        ["x", "y", "short"]]  # fmt: skip


def test_the_last_column_is_wrapped_under_itself():
    lines = lines_of(ROWS, 60)
    assert len(lines) == 4 and all(len(line) < 60 for line in lines)
    assert lines[0].startswith("gqa  vqa  Questions") and lines[1].startswith(" " * 10) and lines[3] == "x    y    short"
    assert " ".join(" ".join(lines[:3]).split()) == "gqa vqa " + ROWS[0][2]


def test_wide_first_columns_put_it_below_and_paths_stay_whole():
    path = "/a/very/long/path/" + "x" * 60
    lines = lines_of([["n" * 30, "m" * 20, f"see {path} there"]], 60)
    assert lines[0] == "n" * 30 + "  " + "m" * 20 and any(line.strip() == path for line in lines[1:])


def test_a_pipe_gets_one_line_a_row(capsys):
    assert lines_of(ROWS, None) == ["gqa  vqa  " + ROWS[0][2], "x    y    short"] and lines_of([], 80) == []
    print_rows(ROWS)
    assert capsys.readouterr().out.splitlines() == lines_of(ROWS, None)
    for words in (["list", "tasks"], ["list", "backbones"], ["list", "sets"], ["list", "llms"]):
        assert main(words) == 0
        assert "\x1b" not in capsys.readouterr().out


def test_every_card_fits_a_terminal_of_80_columns_and_is_read_back_the_same(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name in ("pope", "ade20k-mmseg", *names("backbones")):
        assert main(["show", name, "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert main(["show", name]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80 and yaml.safe_load(text) == value
    assert len(yaml_text({"description": "word " * 99}, None).splitlines()) == 1  # a pipe gets a text in one line


def test_numbers_stand_in_one_line_each_or_below_their_name():
    heads, rows = (
        ["backbone", "space", "rank"],
        [["a-long-name", "pooled", "1.5"], ["a-long-name", "mean", "12"], ["b", "mean", "3"]],
    )
    wide = numbers(heads, rows, None)
    assert wide == [
        "backbone     space   rank",
        "a-long-name  pooled   1.5",
        "a-long-name  mean      12",
        "b            mean       3",
    ]
    narrow = numbers(heads, rows, 20)
    assert narrow == ["  space   rank", "a-long-name", "  pooled   1.5", "  mean      12", "b", "  mean       3"]


def test_the_doctor_gives_a_pipe_one_line_a_finding(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path))
    main(["doctor", "--no-self-test", "--json", "--data", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    main(["doctor", "--no-self-test", "--data", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) and all(f["what"] in line for f, line in zip(found, lines, strict=True))


def test_lists_fit_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for what in ("tasks", "backbones", "sets", "llms"):
        assert main(["list", what]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines and max(map(len, lines)) <= 80


def test_a_stage_that_tells_of_its_first_item_before_it_is_done(capsys, monkeypatch):
    from levl_eval.core import progress
    from levl_eval.core.messages import on_stderr

    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with on_stderr(), progress.Progress().stage("logistic regression", 45, "C") as bar:
        bar.advance(0, note="iteration 1")
        bar.advance(9)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "logistic regression: 0/45 (0.0 C/s) iteration 1" and " s left)" in second
