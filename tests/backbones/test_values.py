"""The value path: in each family the last block's attention is each token's own value, computed here from its weights."""

from __future__ import annotations

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Preprocess
from levl_eval.backbones.common import finish
from levl_eval.backbones.values import ValueBackbone


def by_hand(x, norm, values, project, rest):
    """x [B, n, D] before the last block."""
    y = x + project(values(norm(x)))
    return rest(y)


def caught(block, backbone, images):
    """What enters a block."""
    inputs = []
    handle = block.register_forward_pre_hook(lambda m, args, kwargs: inputs.append(args[0].detach()), with_kwargs=True)
    features = backbone.encode(images)
    handle.remove()
    return inputs[0], features


def check(backbone, norm, values, project, rest, final, grid):
    torch.manual_seed(0)
    images = torch.randn(2, 3, backbone.preprocess.size, backbone.preprocess.size)
    value = ValueBackbone(backbone)
    with torch.inference_mode():
        x, plain = caught(backbone.last_block(), backbone, images)
        wanted = final(by_hand(x, norm, values, project, rest))
        found = value.encode(images)
        again = backbone.encode(images)
    assert torch.allclose(found.patches, wanted[:, 1:], atol=1e-5) and found.grid == grid
    assert torch.allclose(found.pooled, wanted[:, 0], atol=1e-5)
    assert not torch.allclose(found.patches, plain.patches, atol=1e-2)
    assert torch.equal(again.patches, plain.patches)  # nothing is left of it
    assert (
        value.encoder_parts() != backbone.encoder_parts()
        and value.projects_patches
        and value.readouts == tuple(backbone.readouts)
    )


def test_of_levl_checkpoints(checkpoints):
    backbone = load_backbone(str(checkpoints["clip"]))
    block = backbone.last_block()
    d = backbone.dim
    w, b = block.attn.qkv.weight[2 * d :], block.attn.qkv.bias[2 * d :]
    check(
        backbone, block.norm1, lambda x: x @ w.T + b, block.attn.proj, lambda y: y + block.mlp(block.norm2(y)), backbone._vit.norm,
        backbone.grid,
    )  # fmt: skip


@pytest.mark.slow
def test_of_open_clip():
    import open_clip

    from levl_eval.backbones.open_clip import OpenClipBackbone

    torch.manual_seed(1)
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    net = open_clip.CLIP(24, vision, {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1})
    backbone = finish(OpenClipBackbone(net, open_clip.SimpleTokenizer()), "tiny", "open_clip:tiny", Preprocess(32), {})
    block = backbone.last_block()
    w, b = block.attn.in_proj_weight[128:], block.attn.in_proj_bias[128:]
    torch.nn.init.normal_(block.attn.in_proj_bias)
    check(
        backbone, block.ln_1, lambda x: x @ w.T + b, block.attn.out_proj, lambda y: y + block.mlp(block.ln_2(y)), net.visual.ln_post,
        (4, 4),
    )  # fmt: skip


@pytest.mark.slow
def test_of_transformers():
    from transformers import CLIPConfig, CLIPModel

    from levl_eval.backbones.hf import HFBackbone

    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    net = CLIPModel(
        CLIPConfig(
            vision_config={**shape, "image_size": 32, "patch_size": 8}, text_config={**shape, "vocab_size": 99}, projection_dim=24
        )
    )
    backbone = finish(HFBackbone(net, "clip", object()), "tiny", "hf:tiny", Preprocess(32), {})
    block = backbone.last_block()
    check(
        backbone, block.layer_norm1, block.self_attn.v_proj, block.self_attn.out_proj, lambda y: y + block.mlp(block.layer_norm2(y)),
        net.vision_model.post_layernorm, (4, 4),
    )  # fmt: skip


def test_an_attention_pool_projects_no_patches():
    assert load_backbone("oracle:words").projects_patches
    assert not load_backbone("oracle:classes").projects_patches and load_backbone("oracle:classes").last_block() is None
