"""What is kept: damage is said and computed again, a killed writer leaves nothing that counts, and the `cache` command keeps house."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval import cli
from levl_eval.cards.registry import task_card
from levl_eval.core import kept as checked
from levl_eval.core.errors import DamagedFeatures, LevlError, UsageError
from levl_eval.core.files import locked
from levl_eval.core.in_use import hold
from levl_eval.core.progress import Progress
from levl_eval.data.leakage import content_hashes
from levl_eval.engines import fit
from levl_eval.engines.probes.texts import text_embeddings
from levl_eval.engines.vlm import floors, training
from levl_eval.engines.vlm.answers import Entry, Journal
from levl_eval.engines.vlm.training import train
from levl_eval.features.store import FeatureStore
from levl_eval.models.config import PretrainConfig
from levl_eval.pretrain import data
from levl_eval.runner import caches
from levl_eval.scenes import export
from tests.engines.vlm.models import make
from tests.engines.vlm.test_training import _args, _equal
from tests.features.test_features import images, nano  # noqa: F401 (fixtures)

KEY = "a" * 64


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(raw)


DAMAGES = {
    "flipped": _flip,
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "empty": lambda p: p.write_bytes(b""),
    "junk": lambda p: p.write_bytes(b"junk"),
    "json": lambda p: p.write_bytes(b"[1, 2]"),
}


class Texts(torch.nn.Module):
    """A backbone's text side that counts how often it is asked."""

    name, calls, device = "t", 0, torch.device("cpu")

    def encoder_parts(self):
        return {"weights": "w"}

    def text_parts(self):
        return {"tokenizer": "t"}

    def text_embeddings(self, texts):
        self.calls += 1
        return {"embedding": torch.nn.functional.normalize(torch.arange(len(texts) * 3).view(-1, 3).float(), dim=-1)}


@pytest.mark.parametrize("how", [*DAMAGES, "another's", "shapes"])
def test_texts(how, tmp_path):
    backbone, heard = Texts(), Heard()
    first = text_embeddings(backbone, ["a", "b"], tmp_path)["embedding"]
    (path,) = (tmp_path / "texts").iterdir()
    if how == "another's":
        text_embeddings(backbone, ["c", "d"], tmp_path)
        other = next(p for p in (tmp_path / "texts").iterdir() if p != path)
        shutil.copy(other, path)
    elif how == "shapes":
        checked.write_arrays(path, path.stem, {"embedding": np.zeros((3, 2), np.float32)})
    else:
        DAMAGES[how](path)
    calls = backbone.calls
    assert torch.equal(text_embeddings(backbone, ["a", "b"], tmp_path, heard)["embedding"], first)
    assert backbone.calls == calls + 1 and len(heard.lines) == 1 and "computed again" in heard.lines[0]
    assert torch.equal(text_embeddings(backbone, ["a", "b"], tmp_path, heard)["embedding"], first) and backbone.calls == calls + 1


@pytest.mark.parametrize("how", DAMAGES)
def test_content_hashes(how, images, tmp_path):  # noqa: F811
    pixels, heard = replace(images, content=None), Heard()
    first = content_hashes(pixels, tmp_path)
    (path,) = (tmp_path / "content").iterdir()
    DAMAGES[how](path)
    assert np.array_equal(content_hashes(pixels, tmp_path, heard), first) and len(heard.lines) == 1
    assert np.array_equal(content_hashes(pixels, tmp_path, heard), first) and len(heard.lines) == 1


def _meta(folder: Path, change) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


FEATURES = {
    "meta is a list": lambda f: (f / "meta.json").write_text("[]"),
    "no grid": lambda f: _meta(f, lambda m: m.pop("grid")),
    "fewer blocks": lambda f: _meta(f, lambda m: m["sha256"].pop()),
    "other images": lambda f: _meta(f, lambda m: m.update(order="0" * 64)),
    "no meta": lambda f: (f / "meta.json").unlink(),
    "no rows": lambda f: (f / "pooled.npy").unlink(),
    "header": lambda f: (f / "pooled.npy").write_bytes(b"\x93NUMPY" + (f / "pooled.npy").read_bytes()[6:60]),
}


def _folder(store: FeatureStore, array: str) -> Path:
    return next(f for f in store.entries() if (f / f"{array}.npy").exists())


@pytest.mark.parametrize("how", FEATURES)
def test_features(how, images, nano, tmp_path):  # noqa: F811
    good = FeatureStore(tmp_path / "features").get(nano, images, ("pooled",))
    pooled, heard = np.array(good.pooled), Heard()
    FEATURES[how](_folder(FeatureStore(tmp_path / "features"), "pooled"))
    assert caches.verify(tmp_path) or how == "no meta"
    again = FeatureStore(tmp_path / "features").get(nano, images, ("pooled",), progress=heard)
    assert not again.hit and np.array_equal(again.pooled, pooled) and len(heard.lines) == 1
    assert caches.verify(tmp_path) == []


def test_features_whose_bytes_are_damaged_are_told_and_gone_when_they_are_read(images, nano, tmp_path):  # noqa: F811
    store = FeatureStore(tmp_path / "features")
    pooled = np.array(store.get(nano, images, ("pooled",)).pooled)
    _flip(_folder(store, "pooled") / "pooled.npy")
    assert caches.verify(tmp_path)
    with pytest.raises(DamagedFeatures, match="rows 0 to 6 are damaged"):
        np.array(store.get(nano, images, ("pooled",)).pooled)
    again = store.get(nano, images, ("pooled",))
    assert not again.hit and np.array_equal(again.pooled, pooled) and caches.verify(tmp_path) == []


def test_rows_that_were_damaged_while_they_were_joined(images, nano, tmp_path, monkeypatch):  # noqa: F811
    """Chunks are removed once appended: what was appended has a checksum until the entry has one."""
    from levl_eval.features.extraction import Extraction
    from tests.features.test_features import Killed

    good = np.array(FeatureStore(tmp_path / "w").get(nano, images, batch_size=2).patches)
    read = Extraction.read_chunk

    def dying(self, chunk):
        if chunk == 2:
            raise Killed
        return read(self, chunk)

    monkeypatch.setattr(Extraction, "read_chunk", dying)
    with pytest.raises(Killed):
        FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    monkeypatch.setattr(Extraction, "read_chunk", read)
    file = next((tmp_path / "s" / "parts").rglob("patches.npy"))
    raw = bytearray(file.read_bytes())
    raw[400] ^= 1
    file.write_bytes(raw)
    heard = Heard()
    assert np.array_equal(FeatureStore(tmp_path / "s").get(nano, images, batch_size=2, progress=heard).patches, good)
    assert any("damaged" in line for line in heard.lines)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "junk"])
def test_connectors_and_their_states(how, llama, tmp_path, monkeypatch):
    def run(heard):
        job, *rest = _args(llama, tmp_path)
        return train(replace(job, progress=heard), *rest)

    whole = run(Heard())[0]
    (path,) = (tmp_path / "connectors").glob("*.safetensors")
    DAMAGES[how](path)
    heard = Heard()
    net, _, hit = run(heard)
    assert not hit and _equal(net, whole) and len(heard.lines) == 1 and "computed again" in heard.lines[0]
    assert run(heard)[2] and len(heard.lines) == 1
    path.unlink()
    monkeypatch.setattr(fit, "SAVE_EVERY", -1.0)
    original, calls = training.packed_terms, []

    def dies(*a):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*a)

    with monkeypatch.context() as patch:
        patch.setattr(training, "packed_terms", dies)
        with pytest.raises(KeyboardInterrupt):
            run(Heard())
    (state,) = (tmp_path / "connectors").glob("*.state.pt")
    DAMAGES[how](state)
    heard = Heard()
    assert _equal(run(heard)[0], whole) and len(heard.lines) == 1


@pytest.mark.parametrize(
    "how, metric",
    [
        *((how, "accuracy") for how in (*DAMAGES, "ids")), ("ids", "letter_likelihood_accuracy"),
        ("kind", "option_likelihood_accuracy"), ("words", "option_likelihood_accuracy"),
    ],
)  # fmt: skip
def test_floors(how, metric, tmp_path, monkeypatch):
    """What is kept of a floor is what its main metric reads: texts, or likelihoods; the other kind is damage."""
    asked = []
    texts, values = {"1": "yes", "2": "no"}, {"1": [-1.0, -2.0], "2": [-0.5, -1.0]}
    monkeypatch.setattr(floors, "floor_key", lambda *a: KEY)
    monkeypatch.setattr(floors, "answer_set", lambda *a, **k: asked.append(1) or SimpleNamespace(texts=texts, likelihoods=values))
    monkeypatch.setattr(floors, "option_likelihoods", lambda *a: asked.append(1) or values)
    heard = Heard()
    resources = SimpleNamespace(cache=tmp_path, language=None, progress=heard)
    data = SimpleNamespace(questions=[SimpleNamespace(question_id=n, meta={"choices": ["a", "b"]}) for n in "12"])
    card = task_card("mmbench").model_copy(update={"main_metric": metric})

    def ask():
        return floors.text_only(resources, card, None, data)  # type: ignore[arg-type]

    first, path = ask(), tmp_path / "floors" / f"{KEY}.json"
    if how == "ids":
        checked.write_json(path, KEY, {"1": first.texts.get("1", [-1.0]), "3": first.texts.get("2", [-1.0])})
    elif how in ("kind", "words"):
        checked.write_json(path, KEY, texts if how == "kind" else {"1": ["a"], "2": ["b"]})
    else:
        DAMAGES[how](path)
    assert ask() == first and len(asked) == 2 and len(heard.lines) == 1 and "computed again" in heard.lines[0]
    assert ask() == first and len(asked) == 2


def test_a_floor_that_two_workers_come_to_at_once_is_asked_for_once(tmp_path, monkeypatch):
    asked, inside, go_on = [], threading.Event(), threading.Event()

    def answer(*a, **k):
        asked.append(1)
        inside.set()
        assert go_on.wait(60)
        return SimpleNamespace(texts={"1": "yes"}, likelihoods={})

    monkeypatch.setattr(floors, "floor_key", lambda *a: KEY)
    monkeypatch.setattr(floors, "answer_set", answer)
    resources = SimpleNamespace(cache=tmp_path, language=None, progress=Heard())
    data = SimpleNamespace(questions=[SimpleNamespace(question_id="1", meta={})])
    with ThreadPoolExecutor(2) as workers:
        ask = (floors.text_only, resources, task_card("pope"), None, data)
        first = workers.submit(*ask)
        assert inside.wait(60)
        second = workers.submit(*ask)
        with pytest.raises(FutureTimeout):
            second.result(0.5)
        go_on.set()
        assert first.result(60) == second.result(60) and len(asked) == 1


def test_journals_leave_out_what_is_torn_damaged_or_anothers(tmp_path):
    mine, other = Journal(tmp_path / f"{KEY}.jsonl"), Journal(tmp_path / f"{'b' * 64}.jsonl")
    mine.append([Entry("1", "yes", [])])
    mine.append([Entry("2", "no", [])])
    other.append([Entry("3", "no", [])])
    with open(mine.path, "ab") as f:
        f.write(other.path.read_bytes() + b'{"a": 1}\n[["4", "old", []]]\n7\n' + b'["torn')
    assert [e[0] for e in mine.read()] == ["1", "2"] and mine.broken == 4
    assert not mine.path.read_bytes().endswith(b"torn")
    mine.path.write_bytes(mine.path.read_bytes().replace(b"yes", b"yet"))
    assert [e[0] for e in mine.read()] == ["2"] and mine.broken == 5


WRITER = """
import sys
from pathlib import Path
import numpy as np
from levl_eval.core import kept as checked
folder, key = Path(sys.argv[1]), "a" * 64
big = np.random.default_rng(0).normal(size=(400, 500))
print("ready", flush=True)
while True:
    checked.write_arrays(folder / "texts" / f"{key}.npz", key, {"x": big})
    checked.write_json(folder / "floors" / f"{key}.json", key, {str(i): "yes" for i in range(20000)})
    checked.write_state(folder / "connectors" / f"{key}.state.pt", key, {"step": 1, "losses": list(range(50000))})
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.02, 0.11, 0.23, 0.37])
def test_a_writer_killed_with_9_leaves_nothing_that_counts(after, tmp_path):
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    p = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=env, cwd=root, stdout=subprocess.PIPE)
    assert p.stdout is not None and p.stdout.readline() == b"ready\n"
    time.sleep(after)
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()
    assert caches.verify(tmp_path) == []  # whatever is there under its name is whole
    for file in tmp_path.rglob("*.tmp"):
        os.utime(file, (0, 0))
    caches.clear(tmp_path)
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


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
    _flip(text)
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
    folder = _folder(store, "pooled")
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
    hidden = _folder(store, "pooled").parent
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(hidden) and access(path, mode))
    for what, code, words in (("ls", 0, " entries "), ("verify", 1, "0 broken, 1 folders not read")):
        assert cli.main(["cache", what]) == code
        out, err = capsys.readouterr()
        assert words in out and f"{hidden}: passed over: this user may not read it" in err
    hidden = tmp_path
    assert cli.main(["cache", "ls"]) == 2
    assert "set LEVL_CACHE to another folder" in capsys.readouterr().err
