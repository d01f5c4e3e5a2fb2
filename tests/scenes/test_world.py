"""A generated world is whole or not there: other seeds, killed writers, changed files, and what is not ours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levl_eval import cli
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.runner import caches
from levl_eval.scenes import manifest
from levl_eval.scenes.export import cached_world, make_scenes, world_folder

FEW = {
    part: 12
    for part in (
        "gqa/train", "gqa/testdev", "vqav2/train2014", "vqav2/val2014", "pope/val2014", "ade20k/training", "ade20k/validation",
        "classification/train", "classification/test", "imagenet9/train", "imagenet9/val",
    )
}  # fmt: skip
LABEL = "ade20k/ADEChallengeData2016/annotations/training/ADE_train_00000003.png"


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def make(out: Path, seed: int = 0) -> tuple[str, list[str]]:
    heard = Heard()
    return make_scenes(out, seed=seed, size=64, counts=FEW, progress=heard), heard.lines


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def zero(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("zero")
    assert make(out) == ("written", []) and make(out) == ("there", [])
    return out


@pytest.fixture
def copied(zero, tmp_path) -> Path:
    return Path(shutil.copytree(zero, tmp_path / "w"))


WRITER = """
import sys
from pathlib import Path
from tests.scenes.test_world import make
print("ready", flush=True)
make(Path(sys.argv[1]), seed=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.3, 0.8])
def test_another_seed_killed_half_way_and_then_the_first_again(zero, copied, after):
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    p = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(copied)], env=env, cwd=root, stdout=subprocess.PIPE, start_new_session=True
    )
    assert p.stdout is not None and p.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60
    while (copied / "scenes.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after)
    os.killpg(p.pid, signal.SIGKILL)
    p.communicate()
    if not (copied / "scenes.json").exists():
        assert manifest.damage(copied) == "was left unfinished"
    (copied / "gqa" / "images").mkdir(parents=True, exist_ok=True)
    (copied / "gqa" / "images" / "of-a-larger-world.jpg").write_bytes(b"old")
    done, said = make(copied)
    assert done == "written again" and len(said) == 1
    assert files(copied) == files(zero)


CHANGES = {
    "label": lambda w: (w / LABEL).write_bytes((w / LABEL).read_bytes()[:-5] + b"12345"),
    "cut": lambda w: (w / LABEL).write_bytes(b""),
    "missing": lambda w: (w / LABEL).unlink(),
    "more": lambda w: (
        (w / "classification" / "train" / "more").mkdir() or (w / "classification/train/more/1.jpg").write_bytes(b"x")
    ),
    "questions": lambda w: (w / "pope/coco_pope_random.json").write_text("[]"),
    "list": lambda w: (w / manifest.FILES).write_text("{}"),
    "manifest": lambda w: (w / manifest.MANIFEST).write_text("[]"),
    "old": lambda w: (w / manifest.MANIFEST).write_text(
        json.dumps({k: v for k, v in json.loads((w / manifest.MANIFEST).read_text()).items() if k not in ("files", "parts")})
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_world_is_said_and_repaired(how, zero, copied):
    times = (copied / LABEL).stat()
    CHANGES[how](copied)
    if how == "label":  # of equal size and with its old times: ctime tells
        os.utime(copied / LABEL, ns=(times.st_atime_ns, times.st_mtime_ns))
    done, said = make(copied)
    assert done == "written again" and len(said) == 1 and "\n" not in said[0]
    assert files(copied) == files(zero) and make(copied) == ("there", [])


def test_looking_at_a_whole_world_reads_few_of_its_files(copied, monkeypatch):
    assert make(copied)[0] == "there"  # a copy: its times say nothing, so all is read once
    read = []
    original = manifest.sha256_file
    time.sleep(0.02)
    os.replace(shutil.copy2(copied / "scenes.json", copied / "again"), copied / "scenes.json")
    (copied / "scenes.json").touch()
    monkeypatch.setattr(manifest, "sha256_file", lambda p: read.append(p) or original(p))
    assert make(copied)[0] == "there" and len(read) == 0
    assert manifest.damage(copied, full=True) == "" and len(read) > 100


@pytest.mark.slow
def test_what_is_not_ours_is_never_touched(zero, copied, tmp_path):
    mine = tmp_path / "mine"
    (mine / "gqa").mkdir(parents=True)
    (mine / "gqa" / "x.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no world of"):
        make(mine)
    assert files(mine) == {"gqa/x.txt": b"mine"}
    (copied / "cifar10").mkdir()
    (copied / "cifar10" / "x.bin").write_bytes(b"mine")
    (copied / "vqav2" / "hard.jpg").hardlink_to(mine / "gqa" / "x.txt")
    (copied / "pope" / "soft").symlink_to(mine, target_is_directory=True)
    assert make(copied, seed=1)[0] == "written again"
    assert (copied / "cifar10" / "x.bin").read_bytes() == b"mine" and files(mine) == {"gqa/x.txt": b"mine"}
    assert not (copied / "vqav2" / "hard.jpg").exists() and not (copied / "pope" / "soft").is_symlink()
    shutil.rmtree(copied / "gqa")
    (copied / "gqa").symlink_to(mine / "gqa", target_is_directory=True)
    with pytest.raises(UsageError, match="gqa: is a link"):
        make(copied)
    assert files(mine) == {"gqa/x.txt": b"mine"}


@pytest.mark.slow
def test_the_command_says_what_it_did(tmp_path, capsys, monkeypatch):
    from levl_eval.scenes import export

    monkeypatch.setattr(export, "COUNTS", FEW)
    words = ["data", "make", "scenes", "--out", str(tmp_path / "w"), "--size", "64"]
    for expected in ("written;", "there already, whole;"):
        assert cli.main(words) == 0 and expected in capsys.readouterr().out
    CHANGES["label"](tmp_path / "w")
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert f"{LABEL} was changed; written again" in err and "written again;" in out
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_text("")
    assert cli.main(["data", "make", "scenes", "--out", str(tmp_path / "x")]) == 2


@pytest.mark.slow
def test_the_caches_world_has_its_version_in_its_name_and_is_one_of_its_kinds(tmp_path, monkeypatch):
    from levl_eval.scenes import VERSION, export

    monkeypatch.setattr(export, "COUNTS", FEW)
    folder = cached_world(tmp_path, Progress(quiet=True))
    assert folder == world_folder(tmp_path) and folder.name.startswith(f"seed0-v{VERSION}-")
    (entry,) = caches.listed(tmp_path)
    assert entry.kind == "scenes" and entry.whole and caches.verify(tmp_path) == []
    CHANGES["label"](folder)
    assert caches.verify(tmp_path) == [f"scenes {folder.name[:12]}: {LABEL} was changed"]
    assert len(caches.clear(tmp_path)[0]) == 1 and not folder.exists()
