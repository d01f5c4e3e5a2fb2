"""A run that begins with an earlier run's weights: what it takes over, what it begins anew, what it says of it, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.core.progress import Progress
from levl_eval.models.checkpoints import export, read, read_any, save, save_release
from levl_eval.models.config import parse_config
from levl_eval.pretrain.beginning import beginning
from levl_eval.pretrain.loop import Trainer

SMALL = ["batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1", "vocab_size=400",
         "precision=fp32", "threads=1", "warmup=2", "objective=clip"]  # fmt: skip


def _trainer(tmp_path, out, *words) -> Trainer:
    return Trainer(parse_config([f"out={tmp_path / out}", *SMALL, *words]), Progress(quiet=True), tmp_path / "cache")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run's folder."""
    tmp_path = tmp_path_factory.mktemp("first")
    _trainer(tmp_path, "a", "steps=3", "seed=5").run()
    return tmp_path / "a"


@pytest.mark.parametrize("form", ["file", "folder", "release"])
def test_it_begins_with_the_weights_and_tokenizer_and_anew_in_all_else(first, tmp_path, form):
    source = first / "ckpt.pt" if form == "file" else first
    if form == "release":
        (source,) = export(first / "ckpt.pt", "release", tmp_path / "backbone.safetensors")
    state = read_any(source if form == "release" else first / "ckpt.pt")
    trainer = _trainer(tmp_path, "b", "steps=4", "seed=6", f"init_from={source}")
    assert trainer.step == 0 and trainer.end == 4 and not trainer.optimizer.state_dict()["state"]
    assert trainer.tokenizer.to_str() == state["tokenizer"]
    for k, v in state["vision"]["encoder"].items():
        assert torch.equal(trainer.model.vision.encoder.state_dict()[k], v), k
    assert torch.equal(trainer.model.logit_scale.detach(), state["logit"]["scale"])
    drawn = _trainer(tmp_path, "c", "steps=4", "seed=6")
    assert not torch.equal(
        trainer.model.vision.pre_proj.state_dict()["0.weight"], drawn.model.vision.pre_proj.state_dict()["0.weight"]
    )


@pytest.mark.slow
def test_what_it_began_with_stays_in_its_checkpoints_and_releases(first, tmp_path):
    (release,) = export(first / "ckpt.pt", "release", tmp_path / "backbone.safetensors")
    _trainer(tmp_path, "b", "steps=1", "seed=6", f"init_from={release}").run()
    _trainer(tmp_path, "c", "steps=2", "seed=7", f"init_from={tmp_path / 'b'}", "lr=3e-4").run()
    history = read(tmp_path / "c" / "ckpt.pt")["earlier"]
    assert [(h["file"], h["step"], h["seed"], h["batch_size"]) for h in history] == [
        ("backbone.safetensors", 3, 5, 16), ("ckpt.pt", 1, 6, 16),
    ]  # fmt: skip
    assert history[0]["sha256"] == sha256_file(release) and history[1]["sha256"] == sha256_file(tmp_path / "b" / "ckpt.pt")
    (last,) = export(tmp_path / "c" / "ckpt.pt", "release", tmp_path / "last.safetensors")
    assert read_any(last)["earlier"] == history
    with safe_open(last, "pt") as f:
        assert str(tmp_path) not in json.dumps(f.metadata())  # no folder of this machine
    # What has never begun elsewhere says nothing of it.
    assert "earlier" not in read(first / "ckpt.pt")


def test_a_release_names_no_folder_in_its_history_either(first, tmp_path):
    state = read(first / "ckpt.pt")
    run = {"file": "ckpt.pt", "sha256": "0", "step": 3, "objective": "clip", "seed": 1, "batch_size": 16, "lr": 1e-3}
    for data, cut in (
        ("csv:/home/me/pairs.csv", "csv:pairs.csv"),
        ("scenes", "scenes"),
        ("hf:org/name:train", "hf:org/name:train"),
    ):
        save_release(tmp_path / "r.safetensors", {**state, "earlier": [{**run, "data": data}]})
        assert [h["data"] for h in read_any(tmp_path / "r.safetensors")["earlier"]] == [cut]


@pytest.mark.parametrize("bad", ["runs", [1], [{"file": "x"}]])
def test_a_history_of_another_kind_is_told(first, tmp_path, bad):
    save(tmp_path / "ckpt.pt", {**read(first / "ckpt.pt"), "earlier": bad})
    with pytest.raises(UsageError, match=r"ckpt.pt: field `earlier` is missing or of another kind"):
        read(tmp_path / "ckpt.pt")


@pytest.mark.slow
def test_a_resumed_run_needs_the_file_no_more_but_the_same_word(first, tmp_path):
    (release,) = export(first / "ckpt.pt", "release", tmp_path / "backbone.safetensors")
    words = ("seed=6", f"init_from={release}")
    _trainer(tmp_path, "whole", "steps=4", *words).run()
    stopped = _trainer(tmp_path, "b", "steps=4", *words)
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    stopped.feed.close()
    release.unlink()
    resumed = _trainer(tmp_path, "b", "steps=4", *words)
    assert resumed.step == 2
    resumed.run()
    whole, again = (read(tmp_path / x / "ckpt.pt") for x in ("whole", "b"))
    assert all(torch.equal(v, again["text"]["encoder"][k]) for k, v in whole["text"]["encoder"].items())
    assert whole["earlier"] == again["earlier"]
    with pytest.raises(UsageError, match="field `init_from` was"):
        _trainer(tmp_path, "b", "steps=4", "seed=6")


def test_a_shipped_backbone_by_its_name(tmp_path):
    start = beginning(parse_config(["objective=clip", "init_from=clip-nano"]))
    assert start is not None and start.path.name == "clip-nano.safetensors"
    assert start.history()[-1]["objective"] == "clip"
    assert beginning(parse_config([])) is None


def test_what_weights_do_not_show_is_told_where_it_differs(first):
    def told(*words):
        config = parse_config([*SMALL, f"init_from={first}", *words])
        return [line.partition("ckpt.pt ")[2] or line for line in beginning(config).differences(config)]

    assert told() == told("lr=1", "seed=9") == []
    assert told("mean=[0.5,0.5,0.5]", "resize=crop") == [
        "was trained with resize=squash, this run has shortest",
        "was trained with mean=[0.48145466, 0.4578275, 0.40821073], this run has [0.5, 0.5, 0.5]",
    ]
    assert told("text_readout=pad77") == ["was trained with text_readout=eot, this run has pad77"]
    assert told("tokenizer=gpt2") == ["warning: tokenizer=gpt2 is not read, init_from= brings the one it was trained with"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init_from=NOWHERE/ckpt.pt"], r"field `init_from`: .*no such file"),
        (["init_from=clip-nanoo"], "field `init_from`: unknown backbone 'clip-nanoo' .did you mean clip-nano"),
        (["init_from=random-nano"], "field `init_from`: random-nano is no checkpoint of levl-pretrain"),
        (["init_from=FIRST", "vision.width=96"],
         r"field `init_from`: .*ckpt.pt \(clip\) is another model than this configuration describes"),
        (["init_from=FIRST", "objective=siglip"], r"field `init_from`: .*ckpt.pt \(clip\) is another model"),
        (["init_from=FIRST", "objective=levljepa"], r"field `init_from`: .*ckpt.pt \(clip\) is another model"),
        (["init_from=FIRST", "vision.heads=6"],
         r"field `init_from`: .*ckpt.pt was trained with vision.heads=3, here 6; give vision.heads=3"),
        (["init_from=FIRST", "text.heads=2"], r"field `init_from`: .*ckpt.pt was trained with text.heads=4, here 2; give text.heads=4"),
        (["init_from=LEVLJEPA"], r"field `init_from`: .*levljepa-nano.safetensors \(levljepa\) is another model"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_with_is_told_in_one_line_before_images_are_read(first, tmp_path, words, message, monkeypatch):
    words = [w.replace("FIRST", str(first)).replace("NOWHERE", str(tmp_path)).replace("LEVLJEPA", "levljepa-nano") for w in words]
    monkeypatch.setattr(
        "levl_eval.pretrain.loop.open_feed", lambda *a: pytest.fail("images are read before the weights are known to fit")
    )
    with pytest.raises(UsageError, match=message) as e:
        _trainer(tmp_path, "b", "steps=1", *words)
    assert "\n" not in str(e.value)


def test_a_file_with_code_in_it_is_never_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError):
        _trainer(tmp_path, "b", "steps=1", f"init_from={tmp_path / 'ckpt.pt'}")
    assert not (tmp_path / "ran").exists()
