"""A command of ours in a process of its own, forked after the imports: for the benchmarks that end it by signal 9."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Main = Callable[[Sequence[str]], int]


def start(main_of: Callable[[], Main], words: Sequence[str], cache: Path, output: Path, own_group: bool = False) -> int:
    """Run ``main_of()(words)`` in a forked process; its id.

    main_of: imports the command there and gives its entry point. cache: its $LEVL_CACHE. output: the file its output goes to.
    own_group: it leads a process group, so that what it starts can be ended with it.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if own_group:
            os.setsid()
        os.environ["LEVL_CACHE"] = str(cache)
        with open(output, "w") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        code = main_of()(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
