"""Where the file system has no locks: files stand for them, that is said once, and what the mounts say of locks is heard."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from levl_eval.core.errors import LevlError
from levl_eval.core.files import locked
from levl_eval.core.soft_locks import local_only, mount_options

MOUNTS = """22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:50 / /home rw,relatime - nfs4 server:/home rw,vers=4.2,local_lock=none
41 22 0:51 / /home/old rw,relatime - nfs server:/old rw,vers=3,nolock
42 22 0:52 / /scratch rw,relatime - lustre mds:/s rw,flock
43 22 0:53 / /fast rw,relatime - lustre mds:/f rw,localflock
44 22 0:54 / /with\\040space rw - nfs server:/x rw,local_lock=flock
"""


def _refusing(number):
    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    return flock


def test_files_stand_for_locks_and_it_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", _refusing(errno.ENOSYS))
    with caplog.at_level("INFO", "levl_eval"), locked(tmp_path / "l" / "a") as ours:
        assert ours
        with locked(tmp_path / "l" / "a", wait=False) as second, locked(tmp_path / "l" / "b", wait=False) as other:
            assert not second and other  # before: everyone got it, without a word
        assert [p.name for p in (tmp_path / "l").iterdir()] in (["a", "b"], ["b", "a"])  # no marker among them
    with locked(tmp_path / "l" / "a", wait=False) as again:
        assert again
    lines = [r.getMessage() for r in caplog.records if "has no locks" in r.getMessage()]
    assert len(lines) == 1 and "flock: Function not implemented" in lines[0] and "mount Lustre with `-o flock`" in lines[0]


HOLD = """
import fcntl, os, sys, errno
def flock(handle, how):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
from levl_eval.core.files import locked
with locked(sys.argv[1], wait=True):
    print("held", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), int(sys.argv[2]))
"""


def test_another_process_is_kept_out_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _refusing(errno.EOPNOTSUPP))
    words = [sys.executable, "-c", HOLD, str(tmp_path / "l" / "a"), "0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with locked(tmp_path / "l" / "a", wait=False) as ours:
            assert not ours
        other.stdin.close()
        with locked(tmp_path / "l" / "a") as ours:
            assert ours


def test_an_error_that_is_none_of_locks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _refusing(errno.EIO))
    with pytest.raises(LevlError, match="a: cannot be locked"), locked(tmp_path / "a"):
        pass


@pytest.mark.parametrize(
    ("path", "kind", "wrong"),
    [
        ("/home/me/out", "nfs4", ""), ("/home/old/out", "nfs", "nolock"),
        ("/scratch/out", "lustre", ""), ("/fast/out", "lustre", "localflock"),
        ("/with space/out", "nfs", "local_lock=flock"), ("/homeless", "ext4", ""), ("/", "ext4", ""),
    ],
)  # fmt: skip
def test_mounts_whose_locks_hold_on_one_machine_only(path, kind, wrong):
    from pathlib import Path

    assert mount_options(Path(path), MOUNTS)[0] == kind
    answer = local_only(Path(path), MOUNTS)
    assert (f"mounted as {kind} with `{wrong}`" in answer) if wrong else answer == ""
