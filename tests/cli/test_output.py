"""Output that cannot be written ends no command: a pipe whose reader left, a full disk, closed streams, an encoding without a character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from levl_eval.core.command import guard

LINES = 20_000  # more than a pipe or a buffer holds


def run(code: str, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A guarded command of ``code`` whose streams are set by a line of bash, in which "$@" stands for it."""
    whole = (
        "import sys\nfrom pathlib import Path\nfrom levl_eval.core.command import guard\n"
        f"def call():\n{code}\nsys.exit(guard(call, False, 'levl-eval'))"
    )
    words = ["bash", "-o", "pipefail", "-c", shell, "bash", sys.executable, "-c", whole]
    return subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120, env={**os.environ, **environment})


def worked(done: Path, stream: str, code: int = 0) -> str:
    """Code that writes much to a stream and works on."""
    return f"  for _ in range({LINES}): print('a line of a table', file=sys.{stream})\n  Path({str(done)!r}).touch()\n  return {code}"


@pytest.mark.parametrize(
    ("stream", "shell", "code", "words"),
    [
        ("stdout", '"$@" | head -1', 0, ""),
        ("stderr", '"$@" 2>&1 >/dev/null | head -1', 0, ""),
        ("stdout", '"$@" >&-', 0, ""),
        ("stderr", '"$@" 2>&-', 0, ""),
        ("stdout", '"$@" >/dev/full', 1, "levl-eval: stdout cannot be written (No space left on device), a part of the output is missing"),
        ("stderr", '"$@" 2>/dev/full', 0, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("failed", [0, 1])
def test_the_work_is_done_and_its_exit_code_kept(tmp_path, stream, shell, code, words, failed):
    done = run(worked(tmp_path / "done", stream, failed), shell)
    assert (tmp_path / "done").exists(), "the command was ended by its output"
    assert done.returncode == max(code, failed) and done.stderr.startswith(words) and bool(done.stderr) == bool(words)
    assert done.stdout in ("", "a line of a table\n")


def test_a_few_lines_that_only_the_end_writes(tmp_path):
    assert run("  print('x')\n  return 0", '"$@" >/dev/full').returncode == 1
    done = run("  print('x')\n  return 0", '"$@" | true')
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_pipe_of_the_work_itself_is_a_failure(capsys):
    def call() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    assert guard(call, False, "levl-eval") == 1
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_characters_that_the_encoding_lacks_are_escaped(encoding):
    text = "d\u00e9\u65e5\U0001f600"
    code = f"  import json\n  print(json.dumps({text!a}, ensure_ascii=False))\n  return 0"
    done = run(code, '"$@" | iconv -f "$PYTHONIOENCODING" -t utf-8', PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and not done.stderr and json.loads(done.stdout) == text
    assert ("\u65e5" in done.stdout) == (encoding == "utf-8") and ("\u00e9" in done.stdout) == (encoding != "ascii")
