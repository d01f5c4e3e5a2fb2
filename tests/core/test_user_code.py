"""Errors of a user's own Python: file and line in one message, no traceback."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from levl_eval.core.command import guard
from levl_eval.core.user_code import place_of, told

HEAD = """import torch
from levl_eval.backbones.base import Backbone, Features, Preprocess


class Mine(Backbone):
    preprocess = Preprocess(size=32)

    def encode(self, images):
        {encode}
        return Features(x.mean(1), x, (2, 2))


def factory():
    {factory}
    return Mine()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(**parts):
        lines = {"encode": "x = torch.zeros(len(images), 4, 8)", "factory": "pass", **parts}
        (tmp_path / "mine_enc.py").write_text(HEAD.format(**lines))
        return tmp_path / "mine_enc.py"

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mine_enc", raising=False)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    yield write
    __import__("sys").modules.pop("mine_enc", None)


@pytest.mark.parametrize(
    ("parts", "line", "words"),
    [
        ({"factory": "raise ValueError('no weights here')"}, 14, "ValueError: no weights here"),
        ({"factory": "None.weights"}, 14, "AttributeError"),
        ({"encode": "x = images @ torch.zeros(3, 3)"}, 9, "RuntimeError"),
        ({"factory": "return )"}, 14, "SyntaxError"),
    ],
)
def test_a_factory_that_fails_is_told_with_file_and_line(module, world, parts, line, words, capsys):
    path = module(**parts)
    assert main(["run", "--backbone", "py:mine_enc:factory", "--tasks", "knn", "--data", str(world), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{path}, line {line})" in told and words in told


def test_our_own_errors_have_no_such_place():
    try:
        raise UnicodeError("x")
    except UnicodeError as e:
        assert "test_user_code.py, line " in place_of(e)
    try:
        int("x")
    except ValueError as e:
        error = e.with_traceback(None)
    assert place_of(error) == "" and told(error).startswith("ValueError: ")


def test_an_error_of_ours_is_one_line_too(capsys):
    def fails():
        raise ZeroDivisionError("of ours")

    assert guard(fails, False, "levl-eval") == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "ZeroDivisionError: of ours" in told and "--debug" in told
    with pytest.raises(ZeroDivisionError):
        guard(fails, True, "levl-eval")
