"""What an encoder gives is looked at in every batch: its first image alone is no proof."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Features
from levl_eval.core.errors import LevlError
from levl_eval.data.images import image_set
from levl_eval.features.extraction import cast
from levl_eval.features.store import FeatureStore


@pytest.fixture
def images(tmp_path):
    (tmp_path / "i").mkdir()
    for k in range(5):
        Image.new("RGB", (70, 80), (10 * k, 90, 200)).save(tmp_path / "i" / f"{k}.png")
    return image_set([f"{k}.png" for k in range(5)], lambda n: tmp_path / "i" / n, str(tmp_path), "")


def nan_of_the_second(f: Features) -> Features:
    pooled = f.pooled.clone()
    pooled[1] = torch.nan
    return f._replace(pooled=pooled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: Features(f.pooled[:1], f.patches[:1], f.grid), r"random:nano: encode: `pooled` has shape \[1, 192\] for 2 images"),
        (lambda f: f._replace(patches=f.patches[:1]), r"`patches` has shape \[1, 64, 192\] for 2 images"),
        (lambda f: f._replace(pooled=f.pooled.long()), "`pooled` is no tensor of floats"),
        (lambda f: f._replace(pooled=f.pooled[:, :8]), "of 2 images are 8 and 192 wide, those of one were 192 and 192"),
        (lambda f: f._replace(grid=(4, 4)), r"64 patch tokens do not form its grid \(4, 4\)"),
        (nan_of_the_second,
         "pooled features of image 1.png are not finite; the weights are broken or overflow on this image, as 1 of its batch"),
        (lambda f: None, "encode returned NoneType"),
    ],
)  # fmt: skip
def test_batches_that_are_not_what_the_first_image_was(tmp_path, images, monkeypatch, change, message):
    nano = load_backbone("random:nano")
    encode = nano.encode
    monkeypatch.setattr(nano, "encode", lambda x: change(encode(x)) if len(x) > 1 else encode(x))
    with pytest.raises(LevlError, match=message):
        FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)


def test_an_encoder_whose_tokens_are_fewer_in_some_batches(tmp_path, images, monkeypatch):
    nano = load_backbone("random:nano")
    encode = nano.encode

    def fewer(x):
        f = encode(x)
        return f if len(x) > 1 else Features(f.pooled, f.patches[:, :16], (4, 4))

    monkeypatch.setattr(nano, "encode", fewer)
    message = r"random:nano: features of image 4.png have another shape than others \(.*patches \[16, 192\].*patches \[64, 192\]"
    with pytest.raises(LevlError, match=message):
        FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)


def test_a_grid_of_tensors_is_one_of_numbers(tmp_path, images, monkeypatch):
    nano = load_backbone("random:nano")
    encode = nano.encode
    monkeypatch.setattr(nano, "encode", lambda x: encode(x)._replace(grid=torch.tensor([8, 8])))
    found = FeatureStore(tmp_path / "s").get(nano, images, batch_size=2)
    assert found.grid == (8, 8) and all(type(n) is int for n in found.grid)


def test_what_is_kept_is_a_copy():
    """An encoder may give its results in the same memory each time."""
    pooled = torch.ones(2, 4)
    kept = cast(Features(pooled, torch.ones(2, 1, 4), (1, 1)), ("pooled",), np.dtype(np.float16), "b", ("x", "y"))
    pooled.zero_()
    assert kept.arrays["pooled"].sum() == 8
