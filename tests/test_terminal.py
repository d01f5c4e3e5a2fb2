"""Rows in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

from levl_eval.cli import main
from levl_eval.terminal import lines_of, print_rows

ROWS = [["gqa", "vqa", "Questions about pictures, answered by a frozen language model that sees them through a connector."], ["x", "y", "short"]]  # fmt: skip


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


def test_lists_fit_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for what in ("tasks", "backbones", "sets", "llms"):
        assert main(["list", what]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines and max(map(len, lines)) <= 80
