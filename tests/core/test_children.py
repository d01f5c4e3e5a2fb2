"""A command that is killed alone leaves no worker processes, which would hold its locks: the same command again comes to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levl_eval.core.children import begin_child, process_pool

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")

COMMANDS = {
    "scenes": ("levl_eval.cli", ["data", "make", "scenes", "--out", "w", "--scale", "0.05"]),
    "pool": ("levl_eval.cli.pretrain", ["steps=2", "batch_size=4", "scenes_pool=300", "out=run", "diagnose_images=16"]),
}
_MAIN = "import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("what", COMMANDS)
def test_a_killed_command_leaves_no_workers_that_hold_its_locks(what, tmp_path):
    module, words = COMMANDS[what]
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _MAIN.format(module=module), *words]
    first = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not _children(first.pid) and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    workers = _children(first.pid)
    assert workers
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    try:
        limit = time.monotonic() + 15
        while any(map(_alive, workers)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not any(map(_alive, workers))
        again = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stderr
    finally:
        for worker in filter(_alive, workers):
            os.kill(worker, signal.SIGKILL)


def test_work_that_has_not_begun_is_dropped_where_the_body_fails():
    with pytest.raises(KeyboardInterrupt), process_pool(1) as pool:
        waiting = [pool.submit(time.sleep, 0.2) for _ in range(40)]
        raise KeyboardInterrupt
    assert sum(f.cancelled() for f in waiting) > 30


def test_a_process_that_is_no_worker_keeps_its_signals():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    begin_child()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
