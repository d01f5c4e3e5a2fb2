"""What is kept and is damaged: it is said and computed again, and a killed writer leaves nothing that counts."""

from __future__ import annotations

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

from levl_eval.cards.registry import task_card
from levl_eval.core import kept as checked
from levl_eval.core.errors import DamagedFeatures
from levl_eval.core.progress import Progress
from levl_eval.data.leakage import content_hashes
from levl_eval.engines import fit
from levl_eval.engines.probes.texts import text_embeddings
from levl_eval.engines.vlm import floors, training
from levl_eval.engines.vlm.answers import Entry, Journal
from levl_eval.engines.vlm.training import train
from levl_eval.features.store import FeatureStore
from levl_eval.runner import caches
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


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(raw)


DAMAGES = {
    "flipped": flip_a_bit,
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


def folder_of(store: FeatureStore, array: str) -> Path:
    return next(f for f in store.entries() if (f / f"{array}.npy").exists())


@pytest.mark.parametrize("how", FEATURES)
def test_features(how, images, nano, tmp_path):  # noqa: F811
    good = FeatureStore(tmp_path / "features").get(nano, images, ("pooled",))
    pooled, heard = np.array(good.pooled), Heard()
    FEATURES[how](folder_of(FeatureStore(tmp_path / "features"), "pooled"))
    assert caches.verify(tmp_path) or how == "no meta"
    again = FeatureStore(tmp_path / "features").get(nano, images, ("pooled",), progress=heard)
    assert not again.hit and np.array_equal(again.pooled, pooled) and len(heard.lines) == 1
    assert caches.verify(tmp_path) == []


def test_features_whose_bytes_are_damaged_are_told_and_gone_when_they_are_read(images, nano, tmp_path):  # noqa: F811
    store = FeatureStore(tmp_path / "features")
    pooled = np.array(store.get(nano, images, ("pooled",)).pooled)
    flip_a_bit(folder_of(store, "pooled") / "pooled.npy")
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
