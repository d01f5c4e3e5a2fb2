"""What the commands share: a parser that answers a wrong word in one line, and how errors reach the user."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from levl_eval.core.distributed import launched_rank, lost_another
from levl_eval.core.errors import LevlError, Terminated, UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.output import guarded
from levl_eval.core.text import did_you_mean, printable
from levl_eval.core.user_code import place_of, told

# What other evaluators (lmms-eval, VLMEvalKit, CLIP_benchmark, mmsegmentation) call an option -> what it is called here.
FAMILIAR: dict[str, str] = {
    "--model": "--backbone", "--models": "--backbone", "--model-name": "--backbone",
    "--model-args": "--backbone", "--pretrained": "--backbone",
    "--checkpoint": "--backbone", "--backbones": "--backbone", "--encoder": "--backbone", "--dataset": "--tasks", "--datasets": "--tasks",
    "--benchmark": "--tasks", "--benchmarks": "--tasks", "--output": "--out", "--output-path": "--out", "--output-dir": "--out",
    "--work-dir": "--out", "--save-dir": "--out", "--out-dir": "--out",
    "--results-dir": "--out", "--dataset-root": "--data", "--data-root": "--data",
    "--data-dir": "--data", "--data-path": "--data", "--num-workers": "--workers", "--nproc": "--workers", "--cfg-options": "--set",
    "--gen-kwargs": "--set", "--override": "--set", "--language-model": "--llm", "--max-samples": "--limit", "--num-samples": "--limit",
    "--baseline": "--reference", "--verbose": "--debug", "--verbosity": "--debug", "--bs": "--batch-size",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong word is answered in one line, by the command it was given to."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """As ``parse_args``; an option that is unknown is answered with the one meant, where that can be told, else with near misses.

        Raises UsageError for whatever is wrong with the words.
        """
        chosen, rest = self._chosen(words)
        chosen._check_empty(words)
        if "--debug" not in chosen._option_string_actions:  # known to all: the caller looks for it itself
            words, rest = ([w for w in each if w != "--debug"] for each in (words, rest))
        chosen._check_spelling(rest)
        args, unknown = self.parse_known_args(words)
        if unknown:
            options = [o for o in unknown if o.startswith("-")]
            hint = did_you_mean(options[0].partition("=")[0], [*chosen._option_string_actions]) if options else ""
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args

    def _chosen(self, words: Sequence[str]) -> tuple[Parser, list[str]]:
        """The parser of the command (and of its own command) that the words name, and the words behind that name."""
        commands = next((a for a in self._actions if isinstance(a, argparse._SubParsersAction)), None)
        for at, word in enumerate(words):
            if commands is not None and not word.startswith("-"):
                inner = commands.choices.get(word)
                return inner._chosen(words[at + 1 :]) if isinstance(inner, Parser) else (self, list(words))
        return self, list(words)

    def _check_empty(self, words: Sequence[str]) -> None:
        """An option's value that is empty is a shell's variable that is not set: as a folder it would be the current one."""
        for before, word in zip(["", *words], words, strict=False):
            option = before if not word.strip() else word if word.endswith("=") and word.count("=") == 1 else ""
            if option.startswith("--"):
                self.error(f"{option.rstrip('=')}: is empty; give a value (is a variable of the shell not set?)")

    def _check_spelling(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        for at, word in enumerate(words):
            if word == "--":
                return
            option, equals, value = word.partition("=")
            if not option.startswith("--") or any(o.startswith(option) for o in known):
                if option in ("--tasks", "--task") and (value if equals else "".join(words[at + 1 : at + 2])) == "list":
                    self.error("--tasks list: here it is `levl-eval list tasks`")
                continue
            dashed = option.replace("_", "-")
            ours = dashed if dashed in known else FAMILIAR.get(dashed)
            if ours in known:
                self.error(f"{option}: here it is {ours}")


def guard(call: Callable[[], int], debug: bool, program: str, last: bool = False) -> int:
    """Run a command; a LevlError becomes its one line on stderr,
    Ctrl-C and SIGTERM a word on how to resume (that of the KeyboardInterrupt, if it has one).

    What nobody foresaw is one line too, unless ``debug``. The package's messages go to stderr meanwhile. The command comes to its
    end whether its output can be written or not; it failed where that was lost, unless its reader left. last: the process ends
    with it; Ctrl-C pressed once more is then no traceback of Python's own ending.
    """
    with guarded() as out:
        code = _answered(call, debug, program)
        if last and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        out.flush()
        if out.lost:
            print(
                f"{program}: stdout cannot be written ({out.lost}), a part of the output is missing; files are kept",
                file=sys.stderr,
            )
            return code or 1
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM (`kill`, `timeout`, a container's stop) raises Terminated, so that unfinished files are removed.

    Where someone else answers it, nothing is changed: a launcher, whose processes must not wait for one another when one of them
    is lost, or who calls this from another thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or launched_rank()[1] > 1 or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a child, which has inherited this
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _answered(call: Callable[[], int], debug: bool, program: str) -> int:
    """The exit code of a command, whose error is told."""
    try:
        with _terminable(), on_stderr():
            return call()
    except LevlError as e:
        if debug:
            raise
        words = printable(str(e))  # a parser's own answer begins with its command
        print(words if words.startswith((f"{program}:", f"{program} ")) else f"{program}: {words}", file=sys.stderr)
        return 2 if isinstance(e, UsageError) else 1
    except KeyboardInterrupt as e:
        terminated = isinstance(e, Terminated)
        what = "terminated" if terminated else "interrupted"
        print(f"\n{program}: {what}; {str(e) or 'run the same command again to resume from here'}", file=sys.stderr)
        return 143 if terminated else 130
    except Exception as e:
        if debug:
            raise
        if isinstance(e, PermissionError) and e.filename is not None:
            print(printable(f"{program}: {e.filename}: {e.strerror}; ask its owner for it, or name another"), file=sys.stderr)
            return 2
        if words := lost_another(e):
            print(f"{program}: {words}", file=sys.stderr)
            return 1
        whose = "--debug shows where" if place_of(e) else "a fault of this program: --debug shows where, please report it"
        print(printable(f"{program}: {told(e)}; {whose}"), file=sys.stderr)
        return 1
