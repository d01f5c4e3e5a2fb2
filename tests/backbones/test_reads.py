"""Facts of encoders of the hub are remembered by the files that loading was seen to read: what changed is never served from memory."""

from __future__ import annotations

import json
import os
import threading
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from levl_eval.backbones import code
from levl_eval.backbones.reads import noted_reads, sources_of
from levl_eval.cards import BackboneCard
from levl_eval.cards.registry import backbone_card
from levl_eval.core import offline
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.models.checkpoints import export
from levl_eval.runner import backbones
from levl_eval.runner.backbones import BackboneHandle
from tests.backbones.models import COMMIT, hub_folder, save, use_cache
from tests.backbones.test_hub import open_clip_repository, timm_repository

OTHER = "9876543210987654321098765432109876543210"


def handle(uri, folder, rehash=False, **card):
    known = FingerprintCache(folder / "known", rehash=rehash, say=lambda text: None)
    given = BackboneCard(name="x", uri=uri, **card) if card else backbone_card(uri)
    return BackboneHandle(given, folder / "cache", known)


def told(uri, folder, **card):
    """(what a run knows of a backbone, whether it was built to know it)"""
    one = handle(uri, folder, **card)
    facts = {"parts": one.parts(), "describe": one.describe(), "shapes": one.facts.shapes}
    return json.loads(json.dumps(facts)), one.loaded is not None


def settle():
    """Until a later change is sure to give files other times (core.files.settled)."""
    time.sleep(0.1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    use_cache(monkeypatch, tmp_path / "hub")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "hub"


def clip(hub, seed=0, repo="someone/clip"):
    folder = hub_folder(hub, repo)
    save("clip", folder, seed)
    settle()
    return folder


def edit(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **changes}))


def remembered(uri, tmp_path, **card):
    """What is told cold, after a second handle was told the same without building anything."""
    cold, built = told(uri, tmp_path, **card)
    warm, again = told(uri, tmp_path, **card)
    assert built and not again and warm == cold
    return cold


@pytest.mark.hub
@pytest.mark.parametrize("form", ["hf", "timm", "open_clip", "official", "twin", "random", "file", "random directory"])
def test_a_second_handle_builds_no_encoder_and_says_the_same(form, hub, checkpoints, tmp_path):
    torch.manual_seed(0)
    if form in ("hf", "twin", "random", "random directory"):
        folder = clip(hub)
    elif form == "timm":
        timm_repository(hub_folder(hub, "someone/vit"), img_size=32, embed_dim=24, depth=2, num_heads=2)
    elif form == "open_clip":
        pytest.importorskip("open_clip")
        open_clip_repository(hub_folder(hub, "someone/openclip"))
    elif form == "official":
        export(checkpoints["levljepa"], "safetensors", hub_folder(hub, "someone/levljepa"))
    uri = {
        "hf": "hf:someone/clip", "timm": "timm:hf-hub:someone/vit", "open_clip": "open_clip:hf-hub:someone/openclip",
        "official": "official:someone/levljepa", "twin": "twin:hf:someone/clip", "random": "random:hf:someone/clip?seed=1",
        "file": f"twin:{checkpoints['clip']}",
    }.get(form) or f"random:hf:{folder}"  # fmt: skip
    settle()
    cold = remembered(uri, tmp_path)
    one = handle(uri, tmp_path)
    assert one.parts() == cold["parts"] and one.load().weights_sha256 == cold["parts"]["weights"]


def silently(path, content):
    """Other bytes of the same number, with the times a change can set back."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_seed(hub, folder):
    before = (folder / "model.safetensors").read_bytes()
    save("clip", hub / "other", seed=5)
    after = (hub / "other" / "model.safetensors").read_bytes()
    assert before != after
    silently(folder / "model.safetensors", after)


def moved_ref(hub, folder):
    root = hub / "models--someone--clip"
    save("clip", root / "snapshots" / OTHER, seed=6)
    (root / "refs" / "main").write_text(OTHER)


CHANGES = {
    "weights of the same size and time": another_seed,
    "a setting of the architecture": lambda hub, folder: edit(
        folder / "config.json", vision_config={**json.loads((folder / "config.json").read_text())["vision_config"], "hidden_act": "relu"}
    ),
    "pixels": lambda hub, folder: edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1]),
    "tokenizer": lambda hub, folder: silently(
        folder / "tokenizer.json", (folder / "tokenizer.json").read_bytes().replace(b'"dog"', b'"cow"')
    ),
    "a branch that moved": moved_ref,
}  # fmt: skip


@pytest.mark.hub
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_never_served_the_old_facts(change, hub, tmp_path):
    folder = clip(hub)
    cold = remembered("hf:someone/clip", tmp_path)
    CHANGES[change](hub, folder)
    settle()
    new, built = told("hf:someone/clip", tmp_path)
    assert built and new != cold
    assert remembered_now(tmp_path) == new


def remembered_now(tmp_path):
    new, built = told("hf:someone/clip", tmp_path)
    assert not built
    return new


@pytest.mark.hub
def test_a_file_that_came_or_went_is_a_change(hub, tmp_path):
    folder = clip(hub)
    remembered("hf:someone/clip", tmp_path)
    (folder / "processor_config.json").write_text("{}")
    settle()
    assert told("hf:someone/clip", tmp_path)[1]
    (folder / "README.md").write_text("words")
    settle()
    remembered("hf:someone/clip", tmp_path)
    (folder / "README.md").unlink()
    assert told("hf:someone/clip", tmp_path)[1]


@pytest.mark.hub
@pytest.mark.parametrize("form", ["hf", "random"])
def test_another_version_of_a_library_or_of_our_loader_builds_again(form, hub, tmp_path, monkeypatch):
    clip(hub)
    uri = {"hf": "hf:someone/clip", "random": "random:hf:someone/clip"}[form]
    remembered(uri, tmp_path)
    own = code.version
    with monkeypatch.context() as m:
        m.setattr(code, "version", lambda name: "99.0" if name == "transformers" else own(name))
        new, built = told(uri, tmp_path)
        assert built and new["parts"]["code"]["transformers"] == "99.0"
    monkeypatch.setitem(code.LOADER_VERSIONS, form, 99)
    assert told(uri, tmp_path)[1]


@pytest.mark.hub
def test_cards_set_what_they_set_and_another_uri_is_another_backbone(hub, tmp_path):
    clip(hub)
    clip(hub, 3, "someone/second")
    plain = remembered("hf:someone/clip", tmp_path)
    cut, built = told("hf:someone/clip", tmp_path, preprocess={"size": 64})
    assert not built and cut["parts"]["preprocess"]["size"] == 64 != plain["parts"]["preprocess"]["size"]
    second, built = told("hf:someone/second", tmp_path)
    assert built and second["parts"]["weights"] != plain["parts"]["weights"]


@pytest.mark.hub
def test_a_twin_follows_the_card_of_its_name(hub, tmp_path, monkeypatch):
    clip(hub)
    card = tmp_path / "own.yaml"
    card.write_text("kind: backbone\nname: own\nuri: hf:someone/clip\npreprocess: {size: 64}\n")
    settle()
    first = remembered(f"twin:{card}", tmp_path, baseline=True)
    card.write_text("kind: backbone\nname: own\nuri: hf:someone/clip\npreprocess: {size: 32}\n")
    settle()
    again, built = told(f"twin:{card}", tmp_path, baseline=True)
    assert built and again["parts"]["preprocess"] != first["parts"]["preprocess"]
    # A card by name may have been read before the encoder loads, and then is not among the files seen.
    assert not told(f"twin:{card}", tmp_path, baseline=True)[1]
    other = backbone_card(str(card)).model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(backbones, "backbone_card", lambda name: other)
    assert told(f"twin:{card}", tmp_path, baseline=True)[1]


@pytest.mark.hub
def test_another_cache_of_the_hub_is_another_place(hub, tmp_path, monkeypatch):
    clip(hub)
    first = remembered("hf:someone/clip", tmp_path)
    clip(tmp_path / "elsewhere", 3)
    use_cache(monkeypatch, tmp_path / "elsewhere")
    other, built = told("hf:someone/clip", tmp_path)
    assert built and other["parts"]["weights"] != first["parts"]["weights"]


@pytest.mark.hub
@pytest.mark.parametrize("answer", [COMMIT, OTHER, "error"])
def test_where_the_hub_answers_a_newer_commit_is_loaded(answer, hub, tmp_path, monkeypatch):
    clip(hub)
    cold = remembered("hf:someone/clip", tmp_path)
    asked = []

    class Hub:
        def __init__(self, endpoint):
            pass

        def repo_info(self, name, *, revision, timeout):
            asked.append((name, revision))
            if answer == "error":
                raise ConnectionError
            return SimpleNamespace(sha=answer)

    built = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "reachable", lambda *a: True)
    load = BackboneHandle.load

    def noted(self):
        built.append(self.name)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # no test may reach for the network
        monkeypatch.setattr(offline, "reachable", lambda *a: False)
        return load(self)

    monkeypatch.setattr(BackboneHandle, "load", noted)
    assert handle("hf:someone/clip", tmp_path).parts() == cold["parts"]
    assert asked == [("someone/clip", "main")] and bool(built) == (answer != COMMIT)


@pytest.mark.hub
def test_what_was_written_while_an_encoder_loaded_is_not_remembered(hub, tmp_path, monkeypatch):
    folder = clip(hub)
    load = BackboneHandle.load

    def late(self):
        out = load(self)
        (folder / "README.md").write_text("downloaded just now")
        return out

    monkeypatch.setattr(BackboneHandle, "load", late)
    assert told("hf:someone/clip", tmp_path)[1]
    monkeypatch.setattr(BackboneHandle, "load", load)
    settle()
    remembered("hf:someone/clip", tmp_path)


@pytest.mark.hub
def test_weights_that_were_not_seen_are_not_remembered(hub, tmp_path, monkeypatch):
    clip(hub)
    monkeypatch.setattr(backbones, "sources_of", lambda reads, *a: sources_of({r for r in reads if "models--" not in r}, *a))
    assert told("hf:someone/clip", tmp_path)[1] and told("hf:someone/clip", tmp_path)[1]


@pytest.mark.hub
@pytest.mark.parametrize("damage", ["{", "[]", '{"checksum": "x"}'])
def test_damaged_facts_cost_a_loading(damage, hub, tmp_path):
    clip(hub)
    cold = remembered("hf:someone/clip", tmp_path)
    for kept in (tmp_path / "cache" / "backbones").iterdir():
        kept.write_text(damage)
    assert told("hf:someone/clip", tmp_path) == (cold, True)


@pytest.mark.hub
def test_settings_that_change_while_a_run_goes_on_are_told(hub, tmp_path):
    folder = clip(hub)
    remembered("hf:someone/clip", tmp_path)
    one = handle("hf:someone/clip", tmp_path)
    _ = one.facts
    edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    with pytest.raises(UsageError, match="its weights or settings changed while the run went on; start it again"):
        one.load()


def test_reads_are_noted_in_any_thread_and_writes_are_not(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    with noted_reads() as reads:
        threads = [threading.Thread(target=(tmp_path / "a").read_text)]
        for t in threads:
            t.start()
            t.join()
        os.close(os.open(tmp_path / "b", os.O_RDONLY))
        (tmp_path / "c").write_text("x")
    (tmp_path / "c").read_text()
    assert {os.path.basename(r) for r in reads if r.startswith(str(tmp_path))} == {"a", "b"}


def test_nothing_is_known_of_a_branch_that_is_gone(tmp_path):
    reads = {str(tmp_path / "models--a--b" / "refs" / "main")}
    assert sources_of(reads, (), time.time_ns(), 0, lambda p: sha256_file(p)) is None
