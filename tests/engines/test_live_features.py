"""Encoders inside a training step, and on a user's own images, are looked at in every batch too, as those whose features are stored."""

from __future__ import annotations

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Features
from levl_eval.cards.vlm import ConnectorSpec
from levl_eval.core.errors import LevlError
from levl_eval.engines.depth.recipe import Tokens
from levl_eval.engines.segmentation.mmseg_backbone import LevlBackbone
from levl_eval.engines.vlm.tokens import encode_tokens

IMAGES = torch.rand(2, 3, 64, 64)
READERS = {
    "mmseg": lambda b: LevlBackbone(b, normalized=True)(IMAGES)[0],
    "depth recipe": lambda b: Tokens(b, None)(IMAGES),
    "vlm": lambda b: encode_tokens(b, IMAGES, ConnectorSpec()),
}
CHANGES = {
    "one row for many": (lambda f: Features(f.pooled[:1], f.patches[:1], f.grid), r"encode: `pooled` has shape \[1, 192\] for 2 images"),
    "width": (lambda f: f._replace(patches=f.patches[..., :8]), r"of 2 images are 192 and 8 wide, those of one were 192 and 192"),
    "whole numbers": (lambda f: f._replace(patches=f.patches.long()), "`patches` is no tensor of floats"),
    "grid": (lambda f: f._replace(grid=(4, 4)), r"64 patch tokens do not form its grid \(4, 4\)"),
    "nothing": (lambda f: None, "encode returned NoneType"),
}  # fmt: skip


def changed(monkeypatch, change):
    nano = load_backbone("random:nano")
    encode = nano.encode
    monkeypatch.setattr(nano, "encode", lambda x: change(encode(x)))
    return nano


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_features_is_refused(reader, change, monkeypatch):
    how, message = CHANGES[change]
    with pytest.raises(LevlError, match="random:nano: .*" + message):
        READERS[reader](changed(monkeypatch, how))


@pytest.mark.parametrize("reader", ["mmseg", "depth recipe"])
def test_what_is_not_finite_is_refused(reader, monkeypatch):
    def nan_of_the_second(f: Features) -> Features:
        patches = f.patches.clone()
        patches[1, 3] = torch.nan
        return f._replace(patches=patches)

    with pytest.raises(
        LevlError, match="random:nano: features of 1 of 2 images are not finite; the weights are broken or overflow on"
    ):
        READERS[reader](changed(monkeypatch, nan_of_the_second))


@pytest.mark.parametrize("reader", READERS)
def test_a_grid_of_tensors_is_one_of_numbers(reader, monkeypatch):
    plain = READERS[reader](load_backbone("random:nano"))
    assert torch.equal(READERS[reader](changed(monkeypatch, lambda f: f._replace(grid=torch.tensor([8, 8])))), plain)
