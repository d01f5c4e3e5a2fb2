"""The cache keeps house: `cache ls`, `verify`, `prune` and `clear`, what a run is at, and what is another user's."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval import cli
from levl_eval.core import kept as checked
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import locked
from levl_eval.core.in_use import hold
from levl_eval.core.progress import Progress
from levl_eval.engines.probes.texts import text_embeddings
from levl_eval.features.store import FeatureStore
from levl_eval.models.config import PretrainConfig
from levl_eval.pretrain import data
from levl_eval.runner import caches
from levl_eval.scenes import export
from tests.features.test_features import images, nano  # noqa: F401 (fixtures)
from tests.runner.test_damage import Texts, flip_a_bit, folder_of

KEY = "a" * 64


def _filled(cache: Path) -> None:
    """One entry of most kinds, used ten days apart, the first named the longest ago."""
    names = [
        f"texts/{KEY}.npz", f"floors/{KEY}.json", f"content/{KEY}.npz", f"connectors/{KEY}.safetensors", f"backbones/{KEY}.json",
        f"pretrain/scenes-{KEY[:32]}/pixels.npy", f"features/{KEY[:2]}/{KEY}/meta.json",
    ]  # fmt: skip
    for k, name in enumerate(names):
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        stamp = time.time() - 86400 * 10 * (len(names) - k)
        os.utime(path, (stamp, stamp))
    for name in (
        "notes.txt",
        "texts/notes.txt",
        "features/mine/array.npy",
        f"texts/{KEY}.npz.bak",
        "connectors/other.safetensors",
    ):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("foreign")
    os.utime(cache / "pretrain" / f"scenes-{KEY[:32]}", (0, 0))


def _foreign(cache: Path) -> int:
    return sum(f.read_text() == "foreign" for f in cache.rglob("*") if f.is_file() and f.stat().st_size == 7)


def test_prune_removes_what_was_used_least_recently(tmp_path):
    _filled(tmp_path)
    assert [e.kind for e in caches.listed(tmp_path)] == [
        "texts",
        "floors",
        "content",
        "connectors",
        "backbones",
        "pools",
        "features",
    ]
    checked.mark_used(tmp_path / f"texts/{KEY}.npz")
    removed, left = caches.prune(tmp_path, 3000)
    assert [e.kind for e in removed] == ["floors", "content", "connectors", "backbones"] and left == 3000
    assert caches.prune(tmp_path, 3000) == ([], 3000) and _foreign(tmp_path) == 5
    removed, left = caches.clear(tmp_path)
    assert len(removed) == 3 and left == 0 and caches.listed(tmp_path) == [] and _foreign(tmp_path) == 5


def test_what_a_process_is_at_stays(tmp_path):
    _filled(tmp_path)
    with locked(tmp_path / "features" / "locks" / KEY):
        removed, left = caches.clear(tmp_path)
    assert [e.kind for e in caches.listed(tmp_path)] == ["features"] and left == 1000 and len(removed) == 6
    state = tmp_path / "connectors" / f"{KEY}.state.pt"
    state.write_bytes(b"x")
    assert caches.prune(tmp_path, 0)[0][0].kind == "features" and state.exists()  # made within the last hour


READER = """
import sys
from pathlib import Path
from levl_eval.core.in_use import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", [f"scenes/seed0-v5-{KEY[:16]}", f"pretrain/csv-{KEY[:32]}", "pretrain/probe-64"])
def test_a_folder_that_a_run_reads_stays(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(1000))
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    reader = subprocess.Popen([sys.executable, "-c", READER, str(folder)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == b"held\n"
        assert caches.prune(tmp_path, 0) == ([], 1000) and caches.clear(tmp_path) == ([], 1000)
        assert (folder / "file").exists()
    finally:
        reader.communicate()
    hold(folder)  # what this process itself read is no hindrance to it
    assert len(caches.clear(tmp_path)[0]) == 1 and not folder.exists()


def test_worlds_and_pools_are_held_by_who_reads_them(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(export, "make_scenes", lambda folder, **_: "there")
    monkeypatch.setattr(export, "hold", held.append)
    world = export.cached_world(tmp_path, Progress(quiet=True))
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.csv").write_text("image,caption\na.png,a dog\nb.png,a cat\n")
    monkeypatch.setattr(data, "hold", held.append)
    config = PretrainConfig(data=f"csv:{tmp_path / 'c.csv'}", batch_size=2, augmentation="standard", image_size=32)
    pool = data.open_pool(config, tmp_path, Progress(quiet=True))
    assert held[0] == world and held[1] == pool.pixels.path.parent
    shutil.rmtree(held[1])
    with pytest.raises(LevlError, match=r"images\.bin: cannot be read .*the same command again"):
        pool.pixels[0]


def test_folders_that_are_nobodys_pool_or_world_are_not_touched(tmp_path):
    """As where LEVL_CACHE is a folder that the user's own checkpoints lie in."""
    theirs = ["pretrain/run1/ckpt.pt", "pretrain/scenes-small/ckpt.pt", "scenes/seed1/ckpt.pt", "fingerprints/alice.png"]
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"theirs")
    assert caches.listed(tmp_path) == [] and caches.clear(tmp_path) == ([], 0)
    assert all((tmp_path / name).read_bytes() == b"theirs" for name in theirs)


def test_using_an_entry_is_noted(images, nano, tmp_path):  # noqa: F811
    store = FeatureStore(tmp_path / "features")
    store.get(nano, images, ("pooled",))
    meta = next(store.entries()) / "meta.json"
    os.utime(meta, (0, 0))
    store.get(nano, images, ("pooled",))
    assert time.time() - meta.stat().st_mtime < 100


def test_the_command(images, nano, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path))
    FeatureStore(tmp_path / "features").get(nano, images)
    text_embeddings(Texts(), ["a"], tmp_path)

    def say(*words):
        capsys.readouterr()
        return cli.main(["cache", *words]), capsys.readouterr().out

    code, out = say("ls", "--json")
    rows = {r["kind"]: r for r in json.loads(out)}
    assert code == 0 and rows["features"]["images"] == 7 and rows["texts"]["bytes"] > 0
    assert "7 images" in say("ls")[1] and say("verify") == (0, "0 broken\n")
    (text,) = (tmp_path / "texts").iterdir()
    flip_a_bit(text)
    code, out = say("verify", "--json")
    assert code == 1 and len(json.loads(out)["broken"]) == 1 and json.loads(out)["broken"][0].startswith("texts ")
    code, out = say("prune", "--limit", "1kB", "--kind", "texts")
    assert code == 0 and ("0 entries" in out or "1 entries" in out)
    for words in (["prune"], ["ls", "--limit", "1GB"], ["prune", "--limit", "much"], ["ls", "--kind", "feature"]):
        assert cli.main(["cache", *words]) == 2
    code, out = say("clear", "--json")
    assert code == 0 and json.loads(out)["left"] == 0 and say("ls", "--json")[1] == "[]\n"


def test_sizes():
    from levl_eval.cli.cache import size_of

    assert [size_of(t) for t in ("200GB", "1.5 kb", "2GiB", "17", "3T")] == [200 * 10**9, 1500, 2 << 30, 17, 3 * 10**12]


def test_an_unknown_kind_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="--kind x: there are features"):
        caches.listed(tmp_path, ["x"])


def test_digests_of_trees_see_types_names_and_shapes():
    t = torch.arange(6.0)
    values = [t, t.view(2, 3), t.int(), {"a": t}, {"b": t}, [t], 1, 1.0, "1", True, None, [], {}, np.arange(6.0)]
    assert len({checked.tree_digest(v) for v in values}) == len(values)
    assert (
        checked.tree_digest({"a": 1, "b": 2})
        == checked.tree_digest({"b": 2, "a": 1})
        == checked.tree_digest(copy.copy({"a": 1, "b": 2}))
    )


def test_features_of_another_user_are_told_and_stay(images, nano, tmp_path, monkeypatch, capsys):  # noqa: F811
    store = FeatureStore(tmp_path / "features")
    store.get(nano, images, ("pooled",))
    folder = folder_of(store, "pooled")
    read = Path.read_text

    def refused(path: Path, *args, **kwargs):
        if path == folder / "meta.json":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(LevlError, match="this user may not read these features.*; ask their owner"):
        store.get(nano, images, ("pooled",))
    assert folder.is_dir()
    (line,) = caches.verify(tmp_path)
    assert "this user may not read" in line
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path))
    assert cli.main(["cache", "ls"]) == 0 and "its description cannot be read" in capsys.readouterr().out


def test_folders_of_another_user_are_told(images, nano, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path))
    store = FeatureStore(tmp_path / "features")
    store.get(nano, images, ("pooled",))
    hidden = folder_of(store, "pooled").parent
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(hidden) and access(path, mode))
    for what, code, words in (("ls", 0, " entries "), ("verify", 1, "0 broken, 1 folders not read")):
        assert cli.main(["cache", what]) == code
        out, err = capsys.readouterr()
        assert words in out and f"{hidden}: passed over: this user may not read it" in err
    hidden = tmp_path
    assert cli.main(["cache", "ls"]) == 2
    assert "set LEVL_CACHE to another folder" in capsys.readouterr().err
