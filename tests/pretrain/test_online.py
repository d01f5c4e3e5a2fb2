"""What a run is measured on while it goes, and that measuring does not move it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.metrics.statistics import wilson
from levl_eval.models.checkpoints import load_model, read
from levl_eval.models.config import parse_config
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.online import Probe, readouts

SMALL = ["batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1", "vocab_size=400",
         "precision=fp32", "log_every=1", "threads=1", "warmup=2", "diagnose_images=8", "diagnose_every=3", "steps=6"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes by brightness: eight images to train on, four to test."""
    path = tmp_path_factory.mktemp("probe")
    for split, count in (("train", 8), ("test", 4)):
        for label, colour in (("dark", 20), ("grey", 120), ("light", 220)):
            (path / split / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((40, 40, 3), colour + i, np.uint8)).save(path / split / label / f"{i}.png")
    return path


def _trainer(tmp_path, *words, out="a"):
    return Trainer(parse_config([f"out={tmp_path / out}", *SMALL, *words]), Progress(quiet=True), tmp_path / "cache")


def _lines(tmp_path, out="a"):
    return [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_readout_is_measured_with_its_interval(tmp_path, folder):
    t = _trainer(tmp_path, f"probe={folder}")
    found = t.diagnose()
    names = [
        "probe_knn",
        "probe_zeroshot",
        *(f"probe_zeroshot/{n}" for n in ("embedding", "predicted-image-to-text", "predictor-pair", "average")),
    ]
    assert set(k for k in found if k.startswith("probe")) == {n + end for n in names for end in ("", "_low", "_high")}
    assert all((found[n + "_low"], found[n + "_high"]) == wilson(found[n] * 12, 12) for n in names)
    g = torch.Generator().manual_seed(0)
    out = {k: torch.randn(5, 4, generator=g) for k in ("z_v", "z_t", "p_v", "p_t")}

    def cosine(a, b):
        return F.cosine_similarity(out[a][:, None], out[b][None], dim=-1)

    got = readouts(out)
    assert torch.allclose(got["average"], (cosine("z_v", "p_t") + cosine("p_v", "z_t")) / 2, atol=1e-6)
    assert torch.allclose(got["predictor-pair"], cosine("p_v", "p_t"), atol=1e-6) and next(iter(got)) == "image-to-predicted-text"
    assert list(readouts({k: out[k] for k in ("z_v", "z_t")})) == ["embedding"]


def test_names_of_readouts_are_those_of_the_evaluator(checkpoints):
    from levl_eval.backbones import load_backbone

    backbone = load_backbone(f"levl:{checkpoints['levljepa']}")
    out = {k: torch.eye(2) for k in ("z_v", "z_t", "p_v", "p_t")}
    assert [r.name for r in backbone.readouts] == list(readouts(out))
    assert [r.name for r in load_backbone(f"levl:{checkpoints['clip']}").readouts] == list(
        readouts({"z_v": out["z_v"], "z_t": out["z_t"]})
    )


@pytest.mark.slow
def test_an_attentive_probe_learns_and_leaves_the_run_as_it_is(tmp_path, folder):
    _trainer(tmp_path, "dropout=0.1", out="plain").run()
    t = _trainer(tmp_path, "dropout=0.1", f"probe={folder}", "attentive_every=1")
    t.attentive.lr = 0.01
    t.run()
    a, b = (load_model(tmp_path / x / "ckpt.pt")[0].state_dict() for x in ("plain", "a"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert t.attentive.taken == 6 and t.model.vision.encoder.training
    for _ in range(60):
        t.attentive.step(t.model.vision.encoder, lambda x: t.pixels(x.numpy(), None))
    found = t.attentive.accuracy(t.model.vision.encoder, lambda x: t.pixels(x.numpy(), None))
    assert found["probe_attentive"] == 1.0 and "probe_attentive_top5" not in found  # three classes
    assert "probe_attentive" in _lines(tmp_path)[2] and "probe_attentive" not in _lines(tmp_path)[1]
    with pytest.raises(UsageError, match="^attentive_every is 1, but there is no probe; give probe=DIR or probe=scenes$"):
        parse_config(["attentive_every=1"])


@pytest.mark.slow
def test_an_interrupted_run_has_the_same_attentive_probe(tmp_path, folder):
    words = [f"probe={folder}", "attentive_every=2", "save_every=3"]
    _trainer(tmp_path, *words, out="whole").run()
    part = _trainer(tmp_path, *words, out="part")
    part.wrapped.train()
    for _ in range(3):
        part.train_step()
        if part.step % 2 == 0:
            part.attentive.step(part.model.vision.encoder, lambda x: part.pixels(x.numpy(), None))
    part.save()
    part.feed.close()
    _trainer(tmp_path, *words, out="part").run()
    a, b = (read(tmp_path / x / "ckpt.pt")["attentive"] for x in ("whole", "part"))
    assert a["taken"] == b["taken"] == 3 and all(torch.equal(a["head"][k], b["head"][k]) for k in a["head"])
    assert _lines(tmp_path, "whole")[-1]["probe_attentive"] == _lines(tmp_path, "part")[-1]["probe_attentive"]


@pytest.mark.slow
def test_neighbours_are_drawn(tmp_path, folder):
    t = _trainer(tmp_path, f"probe={folder}", "neighbours=2", "steps=3")
    t.run()
    sheet = np.asarray(Image.open(tmp_path / "a" / "neighbours" / "step-3.png"))
    assert sheet.shape == (128, 6 * 64, 3) and [p.name for p in (tmp_path / "a" / "neighbours").iterdir()] == ["step-3.png"]
    assert sheet[0, 0, 0] == 20 and sheet[-1, 0, 0] == 223  # the first and the last test image
    probe = Probe(folder, 16, "squash")
    found = {s: probe.pixels[s].float().mean((1, 2, 3))[:, None] - 121 for s in ("train", "test")}
    found = {s: torch.cat([x, torch.ones_like(x)], 1) for s, x in found.items()}
    drawn = probe.neighbours(found, 1)[0, ::16, 0]
    assert drawn[0] == 20 and set(drawn[1:].tolist()) <= set(range(20, 28))  # dark beside dark
