"""Remembered content hashes: never stale, safe for several processes, and a damaged file is noticed."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from levl_eval.core.errors import LevlError
from levl_eval.data import fingerprint_cache
from levl_eval.data.fingerprint_cache import END, FILE, FingerprintCache

OLD = 0.08  # s; what has changed within 0.05 s is not remembered


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def reads(monkeypatch):
    """Names of files that are read whole."""
    seen = []
    whole = FingerprintCache.hash_whole

    def noted(name):
        seen.append(os.path.basename(name))
        return whole(name)

    monkeypatch.setattr(FingerprintCache, "hash_whole", staticmethod(noted))
    return seen


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(5 * END))
    time.sleep(OLD)
    return path


def test_a_file_is_read_once(tmp_path, big, reads):
    first = FingerprintCache(tmp_path / "cache").sha256(big)
    assert first == sha(big.read_bytes()) and reads == ["big.bin"]
    cache = FingerprintCache(tmp_path / "cache")
    assert cache.sha256(big) == first and reads == ["big.bin"]
    assert FingerprintCache(tmp_path / "cache", rehash=True).sha256(big) == first and len(reads) == 2
    assert FingerprintCache(None).sha256(big) == first and len(reads) == 3


@pytest.mark.parametrize("at", [0, END * 2 + 7, END * 5 - 1], ids=["first", "middle", "last"])
def test_a_change_in_place_of_equal_size_and_time_is_noticed(tmp_path, big, at):
    cache, before = FingerprintCache(tmp_path / "cache"), big.stat()
    old = cache.sha256(big)
    data = bytearray(big.read_bytes())
    data[at] ^= 1
    with open(big, "r+b") as f:
        f.write(data)
    os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert big.stat().st_mtime_ns == before.st_mtime_ns and big.stat().st_size == before.st_size
    assert cache.sha256(big) == sha(bytes(data)) != old


@pytest.mark.parametrize("at", [0, END * 5 - 1], ids=["first", "last"])
def test_the_ends_are_looked_at_where_no_time_tells(tmp_path, big, at, monkeypatch):
    """A file system without ctime."""
    monkeypatch.setattr(fingerprint_cache, "stat_mark", lambda s: b"same")
    cache = FingerprintCache(tmp_path / "cache")
    old = cache.sha256(big)
    data = bytearray(big.read_bytes())
    data[at] ^= 1
    big.write_bytes(data)
    time.sleep(OLD)
    assert cache.sha256(big) == sha(bytes(data)) != old


def test_what_has_just_changed_is_not_remembered(tmp_path, reads):
    path = tmp_path / "new.bin"
    cache = FingerprintCache(tmp_path / "cache")
    for k in range(3):
        path.write_bytes(b"%d" % k)
        assert cache.sha256(path) == sha(b"%d" % k)
    path.write_bytes(b"x")
    cache.sha256(path)
    cache.sha256(path)
    assert len(reads) == 5


def test_links_are_followed_to_what_they_point_at_now(tmp_path, big):
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")
    time.sleep(OLD)
    link, cache = tmp_path / "link", FingerprintCache(tmp_path / "cache")
    link.symlink_to(big)
    assert cache.sha256(link) == sha(big.read_bytes())
    link.unlink()
    link.symlink_to(other)
    assert cache.sha256(link) == sha(b"other")


def _fill(folder, files, count=1):
    code = (
        "import sys; from levl_eval.data.fingerprint_cache import FingerprintCache\n"
        "c = FingerprintCache(sys.argv[1])\n"
        "for _ in range(int(sys.argv[3])): out = c.hash_files(open(sys.argv[2]).read().split())\n"
        "print(*[h for h, _ in out])"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(files), str(count)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def many(tmp_path):
    paths = []
    for k in range(3000):
        (tmp_path / f"f{k}").write_bytes(b"%d" % k)
        paths.append(str(tmp_path / f"f{k}"))
    listed = tmp_path / "list"
    listed.write_text("\n".join(paths))
    time.sleep(OLD)
    return listed, [sha(b"%d" % k) for k in range(3000)]


@pytest.mark.slow
def test_two_processes_fill_it_at_once(tmp_path, many, reads):
    listed, expected = many
    running = [_fill(tmp_path / "cache", listed) for _ in range(2)]
    for p in running:
        out, _ = p.communicate(timeout=120)
        assert p.returncode == 0 and out.split() == expected
    assert [h for h, _ in FingerprintCache(tmp_path / "cache").hash_files(listed.read_text().split())] == expected
    assert reads == []


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file(tmp_path, many):
    listed, expected = many
    for pause in (0.2, 0.5, 0.9):
        p = _fill(tmp_path / "cache", listed, 50)
        time.sleep(pause)
        p.send_signal(signal.SIGKILL)
        p.wait()
        said: list[str] = []
        cache = FingerprintCache(tmp_path / "cache", say=said.append)
        assert [h for h, _ in cache.hash_files(listed.read_text().split())] == expected and not said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no data base", "cut", "zeros inside"])
def test_a_damaged_file_is_built_anew_and_said_once(tmp_path, many, how):
    listed, expected = many
    FingerprintCache(tmp_path / "cache").hash_files(listed.read_text().split())
    path = tmp_path / "cache" / FILE
    data = path.read_bytes()
    damaged = {"no data base": b"x" * 500, "cut": data[: len(data) // 2], "zeros inside": data[:100] + bytes(8000) + data[8100:]}
    path.write_bytes(damaged[how])
    said: list[str] = []
    cache = FingerprintCache(tmp_path / "cache", say=said.append)
    for _ in range(2):
        assert [h for h, _ in cache.hash_files(listed.read_text().split())] == expected
    assert len(said) == 1 and FILE in said[0] and "\n" not in said[0]
    said.clear()
    again = FingerprintCache(tmp_path / "cache", say=said.append)
    assert [h for h, _ in again.hash_files(listed.read_text().split())] == expected and not said


def test_a_flipped_bit_in_an_entry_is_noticed(tmp_path, big, reads):
    cache = FingerprintCache(tmp_path / "cache")
    right = cache.sha256(big)
    cache.close()
    path = tmp_path / "cache" / FILE
    raw = bytes.fromhex(right)
    data = path.read_bytes()
    assert data.count(raw) == 1
    path.write_bytes(data.replace(raw, bytes([raw[0] ^ 1]) + raw[1:]))
    said: list[str] = []
    again = FingerprintCache(tmp_path / "cache", say=said.append)
    assert again.sha256(big) == right and len(said) == 1 and "damaged entry" in said[0]
    assert FingerprintCache(tmp_path / "cache", say=said.append).sha256(big) == right and len(said) == 1 and len(reads) == 2


def test_without_a_place_to_write_files_are_hashed_all_the_same(tmp_path, big):
    (tmp_path / "file").write_text("")
    said: list[str] = []
    cache = FingerprintCache(tmp_path / "file" / "below", say=said.append)
    assert cache.sha256(big) == cache.sha256(big) == sha(big.read_bytes()) and len(said) == 1


def test_a_locked_file_is_done_without(tmp_path, big, monkeypatch):
    FingerprintCache(tmp_path / "cache").sha256(big)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout, **k: connect(path, timeout=0.1, **k))
    holder = connect(tmp_path / "cache" / FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    said: list[str] = []
    assert FingerprintCache(tmp_path / "cache", say=said.append).sha256(big) == sha(big.read_bytes()) and len(said) == 1
    holder.close()


def test_the_jobs_of_a_run_open_a_sets_files_once(tmp_path, monkeypatch):
    """Before, every job of a run opened each file of its sets again: 8 readings for 2 backbones on 2 tasks."""
    files = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(files):
        path.write_bytes(os.urandom(100 + k))
    time.sleep(OLD)
    opened, ends = [], fingerprint_cache.ends_of
    monkeypatch.setattr(fingerprint_cache, "ends_of", lambda path: opened.append(path) or ends(path))
    FingerprintCache(tmp_path / "cache").hash_files(files)
    opened.clear()
    cache = FingerprintCache(tmp_path / "cache")
    with cache.watch() as touched:
        jobs = [cache.hash_files(files) for _ in range(4)]
    assert len(opened) == len(files) and set(touched) == {str(f) for f in files}
    assert all(job == [(sha(f.read_bytes()), True) for f in files] for job in jobs)
    before = files[2].stat()
    files[2].write_bytes(os.urandom(102))
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(OLD)
    assert cache.hash_files(files)[2] == (sha(files[2].read_bytes()), True)
    files[3].unlink()
    with pytest.raises(LevlError):
        cache.hash_files(files)
