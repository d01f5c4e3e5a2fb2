"""An image processor of transformers that does something other than its settings say is refused when it is loaded."""

from __future__ import annotations

import pytest

from levl_eval import UsageError
from levl_eval.backbones.hf_pixels import check_pixels, preprocess_of

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
        ("CLIPImageProcessor", {"size": {"shortest_edge": 61}, "crop_size": {"height": 33, "width": 33}}),  # a crop that begins at 14 or at 14.5
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}),
        ("DeiTImageProcessor", {}),  # squashed, then cropped
        ("SiglipImageProcessor", {"resample": 1}),  # lanczos, which torchvision's tensors have as bicubic
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 0}),
        ("Siglip2ImageProcessor", {}),
    ],
)  # fmt: skip
def test_processors_that_do_what_they_say_are_read(kind, settings):
    checked(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("CLIPImageProcessor", {"do_center_crop": False, "size": {"shortest_edge": 40}}, "scales the shortest edge to 40 and crops nothing"),
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
