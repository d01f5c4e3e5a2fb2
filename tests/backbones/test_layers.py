"""Several layers, other image sizes and several views: equal to what the encoder gives by itself, refused in one line elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.common import finish
from levl_eval.cards import BackboneCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.types import ImageSet
from levl_eval.features.request import Reading
from levl_eval.features.store import FeatureStore
from levl_eval.features.views import Box, make_views
from levl_eval.runner.backbones import BackboneHandle
from tests.backbones.models import save

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def batch(n: int = 3, side: int = 64) -> ImageSet:
    rng = np.random.default_rng(0)
    held = {f"{i}": Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for i in range(n)}
    return ImageSet(tuple(held), held.__getitem__, f"test{n}{side}")


@pytest.mark.parametrize("which", ["levl", "random"])
def test_the_last_block_is_encode_and_blocks_come_in_the_order_asked(which, checkpoints):
    b = load_backbone(str(checkpoints["clip"]) if which == "levl" else "random:nano")
    with torch.no_grad():
        last, one = b.encode(X), b.encode_layers(X, [-1])
        assert torch.allclose(last.patches, one.patches, atol=1e-6) and torch.allclose(last.pooled, one.pooled, atol=1e-6)
        assert one.grid == last.grid
        two = b.encode_layers(X, [-1, 0])
    d = b.patch_dim
    assert two.patches.shape == (2, 64, 2 * d) and torch.allclose(two.patches[..., :d], last.patches, atol=1e-6)
    if b.depth > 1:
        assert not torch.allclose(two.patches[..., d:], last.patches, atol=1e-2)


def test_a_middle_block_is_the_networks_own(checkpoints):
    b = load_backbone("random:nano")
    seen = []
    hook = b.model.blocks[1].register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        b.encode(X)
        hook.remove()
        want = b.model.norm(seen[0])
        found, plain = b.encode_layers(X, [1]), b.encode_layers(X, [1], norm=False)
    assert torch.allclose(found.patches, want[:, 1:], atol=1e-5) and torch.allclose(found.pooled, want[:, 0], atol=1e-5)
    assert torch.equal(plain.patches, seen[0][:, 1:]) and torch.equal(plain.pooled, seen[0][:, 0])


def test_open_clip_and_hf_layers(tmp_path):
    import open_clip
    from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

    from levl_eval.backbones.base import Preprocess
    from levl_eval.backbones.hf import HFBackbone

    x = X[..., :32, :32]
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}  # fmt: skip
    (tmp_path / "layers-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "layers-test.json")
    torch.save(open_clip.create_model("layers-test").state_dict(), tmp_path / "w.pt")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    dino = Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2))
    siglip = SiglipVisionModel(SiglipVisionConfig(**sizes, intermediate_size=64))
    for b in (
        load_backbone(f"open_clip:layers-test/{tmp_path / 'w.pt'}"),
        finish(HFBackbone(dino, "dinov2", None), "dino", "hf:x", Preprocess(32), {}),
        finish(HFBackbone(siglip, "siglip", None), "siglip", "hf:y", Preprocess(32), {}),
    ):
        with torch.no_grad():
            last, two, plain = b.encode(x), b.encode_layers(x, (1, 2)), b.encode_layers(x, (1, 2), norm=False)
            norm = {"dino": dino.layernorm, "siglip": siglip.post_layernorm}.get(b.name)
            norm = b.model.visual.ln_post if norm is None else norm
            again = torch.cat([norm(part) for part in plain.patches.split(b.patch_dim, -1)], -1)
        assert torch.allclose(again, two.patches, atol=1e-5) and not torch.allclose(plain.patches, two.patches, atol=1e-3), b.name
        assert b.class_token == ("" if b.name == "siglip" else "pooled")
        if b.class_token:
            assert torch.allclose(last.pooled, two.pooled[:, b.dim :], atol=1e-5)
        assert b.depth == 3 and two.grid == (2, 2) and two.patches.shape == (2, 4, 2 * b.patch_dim)
        assert torch.allclose(two.patches[..., b.patch_dim :], last.patches, atol=1e-5), b.name
        assert not torch.allclose(two.patches[..., : b.patch_dim], last.patches, atol=1e-3)


def test_layers_the_backbone_does_not_have_are_one_line(tmp_path):
    b = load_backbone("random:nano")
    for wrong in ([99], [-99], []):
        with pytest.raises(LevlError, match="field `layers`"):
            b.encode_layers(X, wrong)
    b._blocks = lambda images, layers: []  # a user's encoder that gives its blocks behind the norm only
    with pytest.raises(LevlError, match="random:nano: gives its blocks behind the final norm only; set `final_norm: true`"):
        b.encode_layers(X, [-1], norm=False)
    flat = load_backbone("random:resnet10t")
    assert flat.depth == 0
    with pytest.raises(LevlError, match="last layer only"):
        FeatureStore(tmp_path).get(flat, batch(), how=Reading(layers=[-2]))


def test_layers_and_views_are_other_keys_and_negative_layers_the_same(tmp_path):
    b, images = load_backbone("random:nano"), batch()
    key = FeatureStore.key
    p = b.preprocess
    assert key(b, images, p, [-1]) == key(b, images, p, [b.depth - 1]) != key(b, images, p)
    assert key(b, images, p, [0, 1]) != key(b, images, p, [1, 0])
    assert key(b, images, p, None, make_views(64, None, None, True)) != key(b, images, p)


def test_another_size_uses_interpolated_positions(tmp_path):
    b, images = load_backbone("random:vit_tiny_patch16_224"), batch(2, 96)
    found = FeatureStore(tmp_path).get(b, images, how=Reading(replace(b.preprocess, size=96, resize_to=None)))
    assert found.grid == (6, 6) and found.patches.shape == (2, 36, 192)
    with pytest.raises(LevlError, match="100 is no multiple of its patch size 16; take 96"):
        FeatureStore(tmp_path).get(b, images, how=Reading(replace(b.preprocess, size=100)))

    class Fixed(type(b)):
        def encode(self, images):
            raise ValueError("wrong size")

    b.__class__ = Fixed  # a model without position interpolation
    with pytest.raises(LevlError, match="does not take 80 px images"):
        FeatureStore(tmp_path).get(b, images, how=Reading(replace(b.preprocess, size=80, resize_to=None)))


def test_views_are_the_cuts_encoded_one_by_one(tmp_path):
    b, images = load_backbone("random:nano"), batch(2, 96)
    p = replace(b.preprocess, size=96, resize_to=None)
    views = make_views(96, 64, 32, True)
    assert views is not None and views.boxes[:3] == (Box(0, 0, 64, 0), Box(0, 0, 64, 1), Box(0, 32, 64, 0))
    found = FeatureStore(tmp_path).get(b, images, how=Reading(p, views=views))
    assert found.patches.shape == (2, 8, 64, b.patch_dim) and found.pooled.shape == (2, 8, b.dim) and found.grid == (8, 8)
    pixels = p(images.open("1"))
    with torch.no_grad():
        own = b.encode(pixels[None, :, 32:, :64].flip(-1)).patches[0]
    assert np.allclose(found.patches[1, 5], own.numpy(), atol=2e-2)
    assert make_views(64, 64, None, False) is None
    assert [v.top for v in make_views(100, 64, 30, False).boxes[::3]] == [0, 30, 36]  # the last one ends at the border
    with pytest.raises(UsageError, match="beyond the image"):
        make_views(64, 96, None, False)
    with pytest.raises(UsageError, match="leave gaps"):
        make_views(96, 32, 48, False)


def tiny_vit(**options):
    import timm

    from levl_eval.backbones.base import Preprocess
    from levl_eval.backbones.timm import TimmBackbone

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    net = timm.models.vision_transformer.VisionTransformer(**sizes, **options)
    return finish(TimmBackbone(net), "tiny", "timm:tiny", Preprocess(32), {})


@pytest.mark.parametrize(
    "options, place",
    [
        ({}, "pooled"), ({"global_pool": "avg"}, "blocks"), ({"fc_norm": True}, "pooled"),
        ({"global_pool": "avg", "class_token": False}, ""), ({"global_pool": "map", "class_token": False}, ""),
    ],
)  # fmt: skip
def test_where_the_class_token_is_and_vits_without_prefix_tokens(options, place):
    b, x = tiny_vit(**options), X[..., :32, :32]
    assert b.class_token == place
    with torch.no_grad():
        tokens, plain, last = b.model.forward_features(x), b.encode(x), b.encode_layers(x, [-1])
        tokens = b.model.fc_norm(tokens)  # the identity where the final norm comes before the pool
    prefix = 1 if place else 0
    assert torch.allclose(last.patches, tokens[:, prefix:], atol=1e-5) and last.grid == plain.grid == (2, 2)
    if place:
        assert torch.allclose(last.pooled, tokens[:, 0], atol=1e-5)
        assert torch.allclose(plain.pooled, tokens[:, 0], atol=1e-4) == (place == "pooled")
    else:
        assert torch.allclose(last.pooled, tokens.mean(1), atol=1e-5)


def test_an_eva_without_prefix_tokens_shows_its_blocks():
    """PE-Core-G of timm and open_clip is one: asked for prefix tokens it fails inside timm."""
    import timm

    from levl_eval.backbones.base import Preprocess
    from levl_eval.backbones.timm import TimmBackbone

    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    net = timm.models.eva.Eva(**sizes, class_token=False, global_pool="map")
    b, x = finish(TimmBackbone(net), "tiny", "timm:tiny", Preprocess(32), {}), X[..., :32, :32]
    with torch.no_grad():
        assert torch.allclose(b.encode_layers(x, [-1]).patches, b.encode(x).patches, atol=1e-6)
        assert b.encode_layers(x, [0, 1]).patches.shape == (len(x), 4, 48)


def test_every_loader_says_where_its_class_token_is(checkpoints):
    assert load_backbone(str(checkpoints["clip"])).class_token == load_backbone("random:nano").class_token == "pooled"
    assert load_backbone("random:resnet10t").class_token == ""


@pytest.mark.parametrize("family", ["qwen3", "gemma4", "deepseek"])
def test_a_wrapped_encoders_norm_is_its_heads(family):
    """timm's classifiers around a larger model's encoder norm what they have pooled; only DeepSeek's encoder has a norm of its own."""
    import timm

    from levl_eval.backbones.base import Preprocess
    from levl_eval.backbones.timm import TimmBackbone

    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    module = getattr(timm.models, f"{family}_vit")
    more = {"gemma4": {"head_dim": 12, "intermediate_size": 32, "use_clipped_linears": True}}.get(family, {})
    net = getattr(module, f"{family.capitalize()}VitClassifier")(**sizes, **more).eval()
    b = finish(TimmBackbone(net), "tiny", "timm:tiny", Preprocess(64), {})
    with torch.no_grad():
        tokens, found = net.forward_features(X).reshape(len(X), 16, 24), b.encode(X)
    want = tokens if family == "deepseek" else net.norm(tokens)
    assert torch.equal(found.patches, want) and found.grid == (4, 4) and torch.equal(found.pooled, net.norm(tokens.mean(1)))


def test_a_bound_of_a_clamp_may_be_infinite_and_nothing_else():
    b = load_backbone("random:nano")
    b.register_buffer("bound", torch.tensor(float("inf")))
    b.register_buffer("mean", torch.zeros(3))
    finish(b, "x", "random:nano", b.preprocess, {})
    for name, value in (("bound", torch.tensor(float("nan"))), ("mean", torch.full((3,), float("inf")))):
        kept = getattr(b, name)
        setattr(b, name, value)
        with pytest.raises(UsageError, match=f"weight {name} holds NaN or infinity"):
            finish(b, "x", "random:nano", b.preprocess, {})
        setattr(b, name, kept)


def _sized(uri: str, size: int) -> BackboneCard:
    return BackboneCard(name="x", uri=uri, preprocess={"size": size})


@pytest.mark.parametrize(("size", "grid"), [(320, (20, 20)), (64, (4, 4))])
def test_a_cards_own_size_has_its_own_grid(size, grid, tmp_path):
    """test_vit has patches of 16 pixels and images of 160."""
    card = _sized("random:test_vit", size)
    b = load_backbone(card.uri, card)
    handle = BackboneHandle(card, tmp_path, FingerprintCache(tmp_path / "fingerprints"))
    x = torch.randn(1, 3, size, size + 32)
    with torch.inference_mode():
        assert b.grid == handle.at_hand().grid == handle.load().grid == grid
        for one in (b, handle.at_hand()):
            assert one.encode_layers(x[..., :size], [0, -1]).grid == grid == one.encode(x[..., :size]).grid
            assert one.encode_layers(x, [-1]).grid == (grid[0], grid[1] + 2) == one.encode(x).grid


def test_a_cards_size_that_the_library_does_not_take_is_one_line(tmp_path):
    # the last raises IndexError
    for uri, size in (("random:test_vit", 165), ("random:levit_128s", 256), ("random:mvitv2_tiny", 256)):
        card = _sized(uri, size)
        for load in (
            lambda c=card: load_backbone(c.uri, c),
            BackboneHandle(card, tmp_path, FingerprintCache(tmp_path / "f")).load,
        ):
            with pytest.raises(UsageError, match=rf"preprocess.size`: it does not take {size} px images .* its own size is"):
                load()


def test_a_size_that_the_patch_does_not_divide_keeps_its_patch(tmp_path):
    """transformers cuts what is left at the edge: 39 pixels are four patches of 8, not of 9."""
    save("dinov2", tmp_path)
    card = _sized(f"hf:{tmp_path}", 39)
    b = load_backbone(card.uri, card)
    with torch.inference_mode():
        for high, wide, grid in ((39, 39, (4, 4)), (64, 48, (8, 6)), (72, 40, (9, 5))):
            x = torch.randn(1, 3, high, wide)
            assert b.encode_layers(x, [0, -1]).grid == grid == b.encode(x).grid


def test_stored_tokens_that_do_not_form_their_grid_are_computed_again(tmp_path, caplog):
    b, store, images = load_backbone("random:nano"), FeatureStore(tmp_path), batch()
    want = store.get(b, images, ("patches",), how=Reading(layers=(0, 1)))
    file = next(f for f in tmp_path.rglob("meta.json") if json.loads(f.read_text())["array"] == "patches")
    meta = json.loads(file.read_text())
    del meta["checksum"]
    meta["grid"] = [4, 4]
    file.write_text(json.dumps({**meta, "checksum": digest(meta)}))
    with caplog.at_level("INFO"):
        found = store.get(b, images, ("patches",), how=Reading(layers=(0, 1)), progress=Progress())
    assert found.grid == want.grid == (8, 8) and not found.hit
    assert "its 64 patch tokens do not form its grid 4 x 4; computed again" in caplog.text
