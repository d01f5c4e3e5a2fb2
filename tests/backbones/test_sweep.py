"""A representative part of the sweep with every run of the tests; the whole with `-m sweep`, in parts."""

from __future__ import annotations

import pytest

from tests.backbones import sweep

TIMM = [
    "test_vit",  # class token
    "test_vit3",  # registers or attention pool, whatever timm gives its third test model
    "test_convnext",  # norm of the head
    "test_efficientnet",
    "swin_s3_tiny_224",  # channels last
    "eva02_tiny_patch14_224",  # norm behind the pooling, as all EVA02 of masked image modelling
    "vit_wee_patch16_reg1_gap_256",  # registers and a mean
    "xcit_nano_12_p16_224",
    "levit_128s",
]
OPEN_CLIP = ["ViT-S-32", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA", "PE-Core-T-16-384", "EVA02-B-16", "MobileCLIP2-S0",
             "ViT-B-32-SigLIP2-256"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_models_are_timms_own(name):
    row = sweep.run("timm", name)
    assert row["verdict"] == "equal", row


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_models_are_open_clips_own(name):
    pytest.importorskip("open_clip")
    row = sweep.run("open_clip", name)
    assert row["verdict"] == "equal", row


@pytest.mark.slow
def test_the_sweep_sees_a_mistake(monkeypatch):
    """Tokens before the norm behind the pooling, as they once were read."""
    monkeypatch.setattr("levl_eval.backbones.timm.late_norm_of", lambda model: None)
    row = sweep.run("timm", "eva02_tiny_patch14_224")
    assert row["verdict"] == "wrong" and "patches" in row["off"]


@pytest.mark.sweep
@pytest.mark.parametrize("part", [f"{i}/8" for i in range(1, 9)])
@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_every_model(library, part, tmp_path):
    """An hour and more on two cores: `python -m tests.backbones.sweep` keeps what was done."""
    pytest.importorskip(library)
    wrong = [r for r in sweep.sweep(library, part, tmp_path) if r["verdict"] == "wrong"]
    assert not wrong
