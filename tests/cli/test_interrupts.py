"""Ctrl-C is one line and exit code 130, also while the commands' own modules are still being read."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from levl_eval.core import command

_READING = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from {door} import main
sys.exit(main({words!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "module", "words", "program"),
    [
        ("levl_eval.cli", "levl_eval.cli.options", ["import", "x", "--task", "pope", "--name", "n"], "levl-eval"),
        ("levl_eval.cli.pretrain", "levl_eval.pretrain.cli", ["steps=1"], "levl-pretrain"),
        ("levl_eval.cli.pretrain", "levl_eval.cli.launching", ["fields"], ""),  # which the training does not read
    ],
)
def test_ctrl_c_while_modules_are_read(tmp_path, door, module, words, program):
    code = _READING.format(door=door, module=module, words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    if not program:
        assert done.returncode == 0
        return
    assert done.returncode == 130 and not done.stdout
    assert done.stderr.strip() == f"{program}: interrupted; run the same command again to resume from here"


@pytest.mark.parametrize(
    ("module", "words"),
    [("levl_eval.cli", ["list", "nothing"]), ("levl_eval.cli.pretrain", ["export"]), ("levl_eval.pretrain.cli", ["export"])],
)
def test_a_command_has_one_guard(module, words, monkeypatch):
    """Within another, --debug would be answered by the outer one, and messages written twice."""
    main, calls, guard = importlib.import_module(module).main, [], command.guard

    def counted(*args):
        calls.append(args)
        return guard(*args)

    monkeypatch.setattr(command, "guard", counted)
    for name in ("levl_eval.cli", "levl_eval.cli.app"):
        if hasattr(importlib.import_module(name), "guard"):
            monkeypatch.setattr(f"{name}.guard", counted)
    assert main(words) == 2 and len(calls) == 1
