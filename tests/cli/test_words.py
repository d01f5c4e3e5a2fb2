"""Words a command does not know: answered by that command, in one line, with what is meant."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from levl_eval.pretrain.cli import main as pretrain


def answer(words, capsys, call=main):
    assert call(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["run", "--model", "clip-nano", "--tasks", "gqa"], "--model: here it is --backbone"),
        (["run", "--model=clip-nano", "--tasks", "gqa"], "--model: here it is --backbone"),
        (["run", "--backbone", "clip-nano", "--tasks", "gqa", "--output_path", "x"], "--output_path: here it is --out"),
        (["run", "--backbone", "clip-nano", "--tasks", "gqa", "--batch_size", "8"], "--batch_size: here it is --batch-size"),
        (["run", "--datasets", "gqa", "--backbone", "clip-nano"], "--datasets: here it is --tasks"),
        (["run", "--tasks", "list"], "--tasks list: here it is `levl-eval list tasks`"),
        (["run", "--tasks=list"], "--tasks list: here it is `levl-eval list tasks`"),
        (["health", "--batch_size", "8", "--backbone", "clip-nano"], "--batch_size: here it is --batch-size"),
    ],
)
def test_spellings_of_other_evaluators_are_answered_with_ours(words, ours, capsys):
    told = answer(words, capsys)
    assert f"levl-eval {words[0]}: {ours}; see `levl-eval {words[0]} --help`" in told


def test_an_option_of_ours_is_no_spelling_of_others(capsys):
    assert "x.png: no such image" in answer(["ask", "--model", "no-such-model", "x.png", "Where?"], capsys)


@pytest.mark.parametrize(
    ("words", "command", "near"),
    [
        (["run", "--backbone", "a", "--tasks", "b", "--limits", "3"], "run", "--limit"),
        (["data", "make", "scenes", "--out", "x", "--scal", "2", "--sed", "1"], "data make", "--seed"),
        (["show", "gqa", "--jsno"], "show", "--json"),
    ],
)
def test_unrecognised_arguments_point_to_the_commands_own_help(words, command, near, capsys):
    told = answer(words, capsys)
    assert told.startswith(f"levl-eval {command}: unrecognized arguments") and f"see `levl-eval {command} --help`" in told
    assert near in told


def test_the_commands_of_levl_pretrain_too(capsys):
    told = answer(["export", "ckpt.pt", "--to", "release", "--output", "x"], capsys, pretrain)
    assert "--output: here it is --out; see `levl-pretrain export --help`" in told


def test_debug_is_known_to_every_command(capsys):
    assert main(["list", "llms", "--debug"]) == 0 and "scenes-lm" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["ask", "plan", "rerun", "verify", "data make"])
def test_every_argument_is_explained(words, capsys):
    with pytest.raises(SystemExit):
        main([*words.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  ") and line[2:3] not in ("", " "):
            assert "  " in line.strip() or following.startswith(" " * 20), line
