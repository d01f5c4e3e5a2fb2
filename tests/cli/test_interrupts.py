"""Ctrl-C is one line and exit code 130, also while the commands' own modules are still being read; SIGTERM one and 143."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from levl_eval.cli import main
from levl_eval.cli.launching import interrupted
from levl_eval.cli.options import out_folder
from levl_eval.core import command
from levl_eval.core.errors import Terminated

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


_TERMINATED = """
import os, signal, sys
from pathlib import Path
from levl_eval.core import files
from levl_eval.core.command import guard
from levl_eval.core.errors import Terminated

def call():
    if sys.argv[2] == "child":
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return 0
    with files.atomic_path(Path(sys.argv[1]) / "table.csv") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
    return 0

code = guard(call, False, "levl-eval")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
sys.exit(code)
"""


def _terminated(folder, what, **more):
    words = [sys.executable, "-c", _TERMINATED, str(folder), what]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env={**os.environ, **more})


def test_sigterm_is_one_line_and_leaves_no_unfinished_file(tmp_path):
    done = _terminated(tmp_path, "write")
    assert done.returncode == 143 and not done.stdout
    assert done.stderr.strip() == "levl-eval: terminated; run the same command again to resume from here"
    assert not list(tmp_path.iterdir())


def test_sigterm_of_a_child_or_of_a_launchers_process_ends_it_at_once(tmp_path):
    done = _terminated(tmp_path, "child")
    assert (done.returncode, done.stdout.strip()) == (0, str(-signal.SIGTERM))
    assert _terminated(tmp_path, "write", RANK="0", WORLD_SIZE="2").returncode == -signal.SIGTERM


def test_sigterm_asks_nobody_whether_copies_are_to_end(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: pytest.fail("asked")))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True, write=lambda text: None, flush=lambda: None))
    launch = SimpleNamespace(name="1", going_on="copies go on", queue=None, jobs=[])
    with pytest.raises(Terminated, match="copies go on"):
        interrupted(launch, Terminated())


def test_a_run_without_a_folder_names_it_for_sigterm_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = SimpleNamespace(out=None, words=["run"])
    with pytest.raises(Terminated, match=r"`levl-eval run --out runs/\S+` resumes from here"), out_folder(args):
        raise Terminated


_IMPATIENT = """
import atexit, os, signal, sys
sys.argv = ["levl-eval", "list"]
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
import {module} as door
from levl_eval.core import command
def interrupted(*args):
    raise KeyboardInterrupt
command.on_stderr = interrupted
sys.exit(door.main({given}))
"""


@pytest.mark.parametrize("module", ["levl_eval.cli", "levl_eval.cli.pretrain", "levl_eval.pretrain.cli"])
def test_ctrl_c_once_more_is_no_traceback_of_pythons_ending(module):
    code = _IMPATIENT.format(module=module, given="")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGINT and done.stderr.strip().count("\n") == 0, done.stderr


def test_who_calls_main_keeps_ctrl_c():
    before = signal.getsignal(signal.SIGINT)
    assert main(["list", "nothing"]) == 2 and signal.getsignal(signal.SIGINT) is before
