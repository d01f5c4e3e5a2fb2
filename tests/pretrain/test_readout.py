"""The last block computed for its read-out token alone: the same numbers and gradients as the whole block."""

from __future__ import annotations

import copy

import pytest
import torch

from levl_eval.models.towers import vision_tower


@pytest.mark.parametrize("fused", [True, False])
def test_the_class_token_alone_gives_the_same_state_and_gradients(fused):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    ours = vision_tower(24, 2, 3, 8, 16).double()
    whole = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True)
    whole = whole.double()
    whole.load_state_dict(ours.state_dict())
    for block in [*ours.blocks, *whole.blocks]:
        block.attn.fused_attn = fused
    for size in (16, 24):  # 24: positions are interpolated
        x, weight = torch.randn(5, 3, size, size).double(), torch.randn(5, 24).double()
        results = []
        for net in (ours, whole):
            net.train().zero_grad(set_to_none=True)
            y = net(x)
            (y * weight).sum().backward()
            results.append([y.detach(), *(p.grad for p in net.parameters())])
        assert len(results[0]) == len(results[1]) > 20
        for one, two in zip(*results, strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    assert ours.train().forward_features(x).shape[1] == 1
    assert torch.equal(copy.deepcopy(ours).eval().forward_features(x), whole.eval().forward_features(x))  # patches for evaluation
