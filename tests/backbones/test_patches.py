"""The patch that inputs of other sizes are fitted to, of encoders that leave what is beyond whole patches and of those that round up."""

import pytest
import torch

from levl_eval.backbones.base import Preprocess, missing_pixels, patch_of
from levl_eval.backbones.common import finish, prepare_by, resized
from levl_eval.backbones.timm import TimmBackbone
from levl_eval.cards import PropagationCard
from levl_eval.cards.loading import BackboneCard
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.engines.depth.recipe import Tokens
from levl_eval.engines.propagation.task import geometry
from levl_eval.runner.backbones import BackboneHandle


@pytest.mark.parametrize(
    ("size", "rows", "depth", "patch"),
    [
        (224, 14, 12, 16), (224, 16, 24, 14), (384, 27, 27, 14), (240, 7, 12, 32), (64, 8, 4, 8), (98, 7, 12, 14), (60, 7, 2, 8),
        (224, 7, 0, 32), (240, 8, 0, 32), (300, 10, 0, 32), (299, 10, 0, 32), (240, 7, 0, 32), (224, 4, 0, 64), (32, 1, 0, 32),
        (224, 14, 0, 16), (224, 16, 0, 14), (384, 27, 0, 14), (100, 7, 0, 14), (7, 9, 0, 1),
    ],
)  # fmt: skip
def test_the_patch_of_a_grid(size, rows, depth, patch):
    assert patch_of(size, rows, depth) == patch


def small(preprocess: int) -> TimmBackbone:
    import timm

    net = timm.create_model("mobilenetv3_small_050", num_classes=0)
    return finish(TimmBackbone(net), "m", "timm:m", Preprocess(preprocess, "squash"), {})


def fixed() -> TimmBackbone:
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=60, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    return finish(TimmBackbone(net), "f", "timm:f", Preprocess(60, "squash"), {})


def test_grids_of_other_sizes_are_those_of_an_encoder_that_rounds_up():
    b = small(112)
    assert b.grid == (4, 4)  # of patches of 32, not of 28
    for size in (112, 128, 140, 256):
        prepare_by(b, Preprocess(size, "squash"))
        assert b.grid == resized((4, 4), 112, size, b.depth), size


def test_images_are_filled_up_to_whole_patches_of_an_encoder_that_rounds_up():
    b = small(112)
    assert missing_pixels(torch.zeros(1, 3, 128, 256), b) == (0, 0)
    assert missing_pixels(torch.zeros(1, 3, 120, 250), b) == (8, 6)
    assert Tokens(b, None)(torch.zeros(1, 3, 128, 256)).shape[-2:] == (4, 8)
    dino = PropagationCard.model_validate({
        "kind": "task", "name": "p", "description": "d", "main_metric": "j_and_f", "data": {"layout": "davis", "directory": "d"},
        "size": 480, "multiple": 64,
    })  # fmt: skip
    assert geometry(dino, b).resize_to == 64  # was refused: no multiple of 28


def test_images_of_the_encoder_s_own_size_are_not_padded():
    """SigLIP's 384 pixels in patches of 14: another size it does not take."""
    b = fixed()
    assert b.grid == (7, 7)
    assert Tokens(b, None)(torch.zeros(2, 3, 60, 60)).shape == (2, 16, 7, 7)
    mmseg = pytest.importorskip("levl_eval.engines.segmentation.mmseg_backbone")
    assert mmseg.LevlBackbone(b)(torch.zeros(2, 3, 60, 60))[0].shape == (2, 16, 7, 7)


@pytest.mark.slow
def test_the_patch_is_part_of_the_identity_where_it_was_another_one(tmp_path):
    def patch(uri: str, engine: str) -> object:
        handle = BackboneHandle(BackboneCard(name="b", uri=uri), tmp_path, FingerprintCache(None))
        code = handle.parts(engine)["code"]
        assert isinstance(code, dict)
        return code.get("patch")

    assert patch("random:nano", "propagation") is None
    assert patch("random:mobilenetv3_small_050", "propagation") is None  # 7 rows of 224
    assert [patch("random:efficientnet_b1", engine) for engine in ("knn", "mmseg", "propagation")] == [None, "32", "32"]
