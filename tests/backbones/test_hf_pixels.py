"""An image processor of transformers that does something other than its settings say is refused when it is loaded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval import UsageError
from levl_eval.backbones.hf_pixels import check_pixels, preprocess_of
from levl_eval.cards import PreprocessOverride

transformers = pytest.importorskip("transformers")


def checked(kind, **settings):
    processor = getattr(transformers, kind)(**settings)
    preprocess = preprocess_of(processor, "hf:x")
    check_pixels(processor, preprocess, "hf:x")
    return preprocess


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("CLIPImageProcessor", {}),
        # a crop that begins at 14 or at 14.5
        ("CLIPImageProcessor", {"size": {"shortest_edge": 61}, "crop_size": {"height": 33, "width": 33}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}),
        ("DeiTImageProcessor", {}),  # squashed, then cropped
        ("SiglipImageProcessor", {"resample": 1}),  # lanczos, which torchvision's tensors have as bicubic
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 0}),
        ("Siglip2ImageProcessor", {}),
        ("DeiTImageProcessor", {"size": {"height": 246, "width": 246}}),  # Pillow 13 resizes portrait images to their height first
        # padded: the odd row lies behind
        ("CLIPImageProcessor", {"size": {"shortest_edge": 61}, "crop_size": {"height": 98, "width": 98}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 61}, "crop_size": {"height": 32, "width": 32}}),
        ("DINOv3ViTImageProcessor", {}),  # resizes floats, on tensors alone
        ("CLIPImageProcessor", {"resample": 4}),  # box, which tensors do not have
    ],
)  # fmt: skip
def test_processors_that_do_what_they_say_are_read(kind, settings):
    checked(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("CLIPImageProcessor", {"do_center_crop": False, "size": {"shortest_edge": 40}},
         "scales the shortest edge to 40 and crops nothing"),
        ("LevitImageProcessor", {}, "pixels are 16 of 255 levels from what its settings say"),
        ("PerceiverImageProcessor", {}, r"makes \(3, 224, 224\) of an image of 672 x 336, its settings say \(3, 256, 256\)"),
        ("VideoMAEImageProcessor", {}, r"makes \(1, 3, 224, 224\)"),
        ("ImageGPTImageProcessor", {}, "cannot be run on an image alone"),
    ],
)  # fmt: skip
def test_one_that_does_something_else_is_refused_in_one_line(kind, settings, message):
    with pytest.raises(UsageError, match=message) as e:
        checked(kind, **settings)
    assert "\n" not in str(e.value) and "use py:" in str(e.value)


@pytest.mark.parametrize("kind", ["CLIPImageProcessor", "BitImageProcessor", "DeiTImageProcessor"])
@pytest.mark.parametrize(("side", "crop"), [(32, 32), (61, 32), (36, 33), (33, 32)])
def test_a_crop_begins_where_transformers_begins_it(kind, side, crop):
    """Pixels of noise: a crop a row off is no pixel the same. On Pillow to the pixel; on tensors but for rounding."""
    size = {"height": side, "width": side} if kind.startswith("DeiT") else {"shortest_edge": side}
    settings = {"size": size, "crop_size": {"height": crop, "width": crop}}
    preprocess, rng = checked(kind, **settings), np.random.default_rng(side)
    exact, fast = (getattr(transformers, name)(**settings) for name in (f"{kind}Pil", kind))
    for wide, high in [(64, 43), (43, 64), (50, 50), (90, 41), (41, 90), (640, 427), (427, 641), (500, 375)]:
        image = Image.fromarray(rng.integers(0, 256, (high, wide, 3), np.uint8))
        ours = preprocess(image)
        np.testing.assert_allclose(ours, exact(images=image, return_tensors="pt")["pixel_values"][0], atol=1e-5)
        far = (
            (ours - fast(images=image, return_tensors="pt")["pixel_values"][0]).abs()
            * torch.tensor(preprocess.std)[:, None, None]
            * 255
        )
        assert (far > 2.01).float().mean() < 0.02, (wide, high)  # where a pass beyond 0 or 255 is cut


def test_a_card_that_says_how_to_resize_crops_as_torchvision_does():
    """Shipped cards state their authors' pixels, whatever library loads the weights."""
    own = preprocess_of(transformers.BitImageProcessor(size={"shortest_edge": 256}), "hf:x")
    assert own.crop == "floor" and own.describe()["crop"] == "floor"
    stated = PreprocessOverride.model_validate({"resize": "shortest", "resize_to": 256}).model_dump(exclude_none=True)
    assert replace(own, **stated).crop == "round" and "crop" not in replace(own, **stated).describe()
    assert replace(own, **PreprocessOverride(interpolation="bilinear").model_dump(exclude_none=True)).crop == "floor"
    assert PreprocessOverride(resize="shortest", crop="floor").crop == "floor"
