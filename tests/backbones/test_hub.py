"""Hub caches and directories as the libraries lay them out, the same weights in three libraries, and what happens without a network."""

from __future__ import annotations

import json
import time

import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Preprocess
from levl_eval.cards.registry import backbone_card, names
from levl_eval.core import offline
from levl_eval.core.errors import UsageError
from levl_eval.models.checkpoints import export
from tests.backbones.models import COMMIT, MODELS, hub_folder, processor, save, use_cache
from tests.backbones.sweep import TOLERANCE, apart, randomise

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timm_repository(folder, architecture="vit_tiny_patch16_224", **args):
    """A repository as timm's save_for_hf writes it."""
    import timm
    from safetensors.torch import save_file

    net = timm.create_model(architecture, num_classes=0, **args).eval()
    randomise(net)
    config = {"architecture": architecture, "num_classes": 0, "model_args": args,
              "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear",
                                 "crop_pct": 0.8, "crop_mode": "center", "num_classes": 0}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), str(folder / "model.safetensors"))
    return net


@pytest.mark.hub
def test_timm_from_hub_and_directory(tmp_path, monkeypatch):
    net = timm_repository(hub_folder(tmp_path, "someone/vit"), img_size=32, embed_dim=24, depth=2, num_heads=2)
    use_cache(monkeypatch, tmp_path)
    with torch.inference_mode():
        tokens = net.forward_features(X)
        for uri in (
            "timm:hf-hub:someone/vit",
            "timm:hf_hub:someone/vit",
            f"timm:local-dir:{hub_folder(tmp_path, 'someone/vit')}",
        ):
            b = load_backbone(uri)
            assert apart(b.encode(X).patches, tokens[:, 1:]) <= TOLERANCE and b.grid == (2, 2)
            assert b.preprocess == Preprocess(32, "shortest", 40, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(UsageError, match="holds no config.json"):
        load_backbone(f"timm:local-dir:{tmp_path / 'none'}")


CLIP = {"embed_dim": 16, "quick_gelu": False,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}  # fmt: skip


def open_clip_repository(folder, weights=True):
    import open_clip
    from safetensors.torch import save_file

    pixels = {
        "size": [32, 32],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": pixels}))
    net = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    randomise(net)
    if weights:
        save_file(net.state_dict(), str(folder / "open_clip_model.safetensors"))
    return net


@pytest.mark.hub
def test_open_clip_from_hub_and_directory(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    folder = hub_folder(tmp_path, "someone/clip")
    net = open_clip_repository(folder)
    use_cache(monkeypatch, tmp_path)
    texts = ["a cat on the road"]
    with torch.inference_mode():
        for uri in ("open_clip:hf-hub:someone/clip", f"open_clip:local-dir:{folder}"):
            b = load_backbone(uri)
            assert apart(b.image_embeddings(b.encode(X).pooled)["embedding"], net.encode_image(X, normalize=True)) <= TOLERANCE
            assert (
                apart(b.encode_text(texts), net.encode_text(open_clip.get_tokenizer("ViT-B-16")(texts), normalize=True))
                <= TOLERANCE
            )
            assert b.preprocess == Preprocess(32, "squash", None, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        # Another size: once when the weights are read (the library's own), and at every image; the same positions.
        larger = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        forced = load_backbone(f"open_clip:local-dir:{folder}?image_size=64")
        own = open_clip.create_model(f"local-dir:{folder}", force_image_size=64).eval()
        assert forced.preprocess.size == 64 and forced.grid == (4, 4)
        assert (
            apart(forced.image_embeddings(forced.encode(larger).pooled)["embedding"], own.encode_image(larger, normalize=True))
            <= TOLERANCE
        )
        assert apart(b.encode(larger).patches, forced.encode(larger).patches) <= TOLERANCE
        assert apart(b.encode_layers(larger, [-1]).patches, forced.encode(larger).patches) <= TOLERANCE
        assert apart(b.encode(X).patches, load_backbone(f"open_clip:local-dir:{folder}").encode(X).patches) == 0


@pytest.mark.hub
def test_the_published_form_from_the_hub(checkpoints, tmp_path, monkeypatch):
    export(checkpoints["levljepa"], "safetensors", hub_folder(tmp_path, "someone/levljepa"))
    use_cache(monkeypatch, tmp_path)
    own, found = load_backbone(str(checkpoints["levljepa"])), load_backbone("official:someone/levljepa")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert apart(found.encode(x).patches, own.encode(x).patches) <= TOLERANCE and found.preprocess == own.preprocess


def test_open_clip_without_its_weights_is_one_line(tmp_path):
    """The library warns and goes on with random values."""
    pytest.importorskip("open_clip")
    open_clip_repository(tmp_path, weights=False)
    with pytest.raises(UsageError, match="could not be loaded") as e:
        load_backbone(f"open_clip:local-dir:{tmp_path}")
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_what_open_clips_weights_want():
    """Activation and pixels of the tag, where the architecture's name says neither."""
    pytest.importorskip("open_clip")
    from open_clip.transformer import QuickGELU

    from tests.backbones.sweep import _finite, hub_texts, shallow, without_init

    def kinds(uri):
        with without_init(), _finite(), shallow():
            b = load_backbone(uri)
        return b, {type(m) for m in b.model.modules()}

    b, layers = kinds("random:open_clip:ViT-B-32/openai")
    assert QuickGELU in layers and "QuickGELU" in b.info["activation"]
    _, layers = kinds("random:open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert QuickGELU not in layers
    # its architecture is of QuickGELU under this name, its tag silent; open_clip computes QuickGELU
    with hub_texts("roberta-ViT-B-32"):
        _, layers = kinds("random:open_clip:roberta-ViT-B-32/laion2b_s12b_b32k")
    assert QuickGELU in layers
    b, _ = kinds("random:open_clip:PE-Core-T-16-384/meta")
    assert (b.preprocess.resize, b.preprocess.mean) == ("squash", (0.5, 0.5, 0.5))
    for uri, words in [
        ("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k", "neither a file nor weights"),
        ("open_clip:ViT-B-32/opena", "did you mean openai"),
        ("open_clip:ViT-B-32/openai?size=3", "only image_size=PIXELS"),
    ]:
        with pytest.raises(UsageError, match=words):
            load_backbone(uri)


def test_the_same_clip_weights_in_hf_open_clip_and_timm(tmp_path):
    """OpenAI's ViT in three libraries, joined by renaming: features, tokens and embeddings to 1e-5."""
    open_clip = pytest.importorskip("open_clip")
    import timm
    from transformers import CLIPVisionConfig

    from levl_eval.backbones.hf import HFBackbone
    from levl_eval.backbones.open_clip import OpenClipBackbone
    from levl_eval.backbones.timm import TimmBackbone

    (tmp_path / "cross-clip.json").write_text(json.dumps(CLIP | {"quick_gelu": True}))
    open_clip.add_model_config(tmp_path / "cross-clip.json")
    net = open_clip.create_model("cross-clip").eval()
    randomise(net)
    config = CLIPVisionConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=32,
                              patch_size=16, hidden_act="quick_gelu")  # fmt: skip
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel(config).eval()
    own = {k.removeprefix("visual."): v for k, v in net.state_dict().items() if k.startswith("visual.")}
    state = {"embeddings.class_embedding": own["class_embedding"], "embeddings.patch_embedding.weight": own["conv1.weight"],
             "embeddings.position_embedding.weight": own["positional_embedding"]}  # fmt: skip
    for a, b in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        state |= {f"{b}.{p}": own[f"{a}.{p}"] for p in ("weight", "bias")}
    for i in range(2):
        old, new = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for p in ("weight", "bias"):
            for a, b in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
                ("attn.out_proj", "self_attn.out_proj"),
            ):
                state[f"{new}.{b}.{p}"] = own[f"{old}.{a}.{p}"]
            for part, b in zip(own[f"{old}.attn.in_proj_{p}"].chunk(3), "qkv", strict=True):
                state[f"{new}.self_attn.{b}_proj.{p}"] = part
    expected = set(tower.state_dict())
    tower.load_state_dict({k: v for k, v in state.items() if k in expected}, strict=True)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=0, pre_norm=True, norm_layer=torch.nn.LayerNorm,
        act_layer=timm.layers.get_act_layer("quick_gelu"),
    ).eval()  # fmt: skip
    vit.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(
            {k: v for k, v in net.state_dict().items() if k.startswith("visual.")}, vit
        ),
        strict=False,
    )
    with torch.inference_mode():
        a, b, c = (kind.encode(X) for kind in (OpenClipBackbone(net, None), HFBackbone(tower, "clip", None), TimmBackbone(vit)))
    for other in (b, c):
        assert apart(other.pooled, a.pooled) <= TOLERANCE and apart(other.patches, a.patches) <= TOLERANCE


def rename_vit(state, siglip):
    """A timm ViT's weights under transformers' names (SigLIP's or DINOv2's)."""
    out = {}
    norms = ("layer_norm1", "layer_norm2") if siglip else ("norm1", "norm2")
    for key, value in state.items():
        if key.startswith("blocks."):
            _, i, rest = key.split(".", 2)
            to = f"encoder.layers.{i}." if siglip else f"encoder.layer.{i}."
            if rest.startswith("attn.qkv."):
                for part, name in zip(value.chunk(3), "qkv", strict=True):
                    out[f"{to}{'self_attn' if siglip else 'attention'}.{name}_proj.{rest[9:]}"] = part
                continue
            for a, b in (("norm1", norms[0]), ("norm2", norms[1]), ("attn.proj", "self_attn.out_proj" if siglip else "attention.o_proj"),
                         ("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")):  # fmt: skip
                rest = rest.replace(a, b) if rest.startswith(a) else rest
            out[to + rest] = value
    return out


def test_the_same_dinov2_weights_in_hf_and_timm():
    import timm
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    from levl_eval.backbones.hf import HFBackbone
    from levl_eval.backbones.timm import TimmBackbone

    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0, init_values=1.0, reg_tokens=4, no_embed_class=True
    ).eval()  # fmt: skip
    randomise(vit)
    config = Dinov2WithRegistersConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16,
                                       num_register_tokens=4)  # fmt: skip
    tower = Dinov2WithRegistersModel(config).eval()
    own = vit.state_dict()
    # timm adds positions to patches alone, transformers also to the class token
    state = rename_vit(own, siglip=False) | {
        "embeddings.cls_token": own["cls_token"], "embeddings.register_tokens": own["reg_token"],
        "embeddings.position_embeddings": torch.cat([torch.zeros_like(own["cls_token"]), own["pos_embed"]], 1),
        "embeddings.patch_embeddings.projection.weight": own["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": own["patch_embed.proj.bias"],
        "layernorm.weight": own["norm.weight"], "layernorm.bias": own["norm.bias"],
    }  # fmt: skip
    missing = tower.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and [k for k in missing.missing_keys if "mask_token" not in k] == []
    with torch.inference_mode():
        a, b = HFBackbone(tower, "dinov2_with_registers", None).encode(X), TimmBackbone(vit).encode(X)
    assert apart(a.pooled, b.pooled) <= TOLERANCE and apart(a.patches, b.patches) <= TOLERANCE


def test_the_same_siglip_weights_in_hf_and_timm():
    import timm
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from levl_eval.backbones.hf import HFBackbone
    from levl_eval.backbones.timm import TimmBackbone

    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0, class_token=False, global_pool="map",
        act_layer="gelu_tanh",
    ).eval()  # fmt: skip
    randomise(vit)
    config = SiglipVisionConfig(
        hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    tower = SiglipVisionModel(config).eval()
    own = vit.state_dict()
    state = rename_vit(own, siglip=True) | {
        "embeddings.position_embedding.weight": own["pos_embed"][0],
        "embeddings.patch_embedding.weight": own["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": own["patch_embed.proj.bias"], "post_layernorm.weight": own["norm.weight"],
        "post_layernorm.bias": own["norm.bias"], "head.probe": own["attn_pool.latent"],
        "head.attention.in_proj_weight": torch.cat([own["attn_pool.q.weight"], own["attn_pool.kv.weight"]]),
        "head.attention.in_proj_bias": torch.cat([own["attn_pool.q.bias"], own["attn_pool.kv.bias"]]),
        **{f"head.{b}.{p}": own[f"attn_pool.{a}.{p}"] for p in ("weight", "bias") for a, b in
           (("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"))},
    }  # fmt: skip
    tower.load_state_dict(state, strict=True)
    with torch.inference_mode():
        a, b = HFBackbone(tower, "siglip", None).encode(X), TimmBackbone(vit).encode(X)
    assert apart(a.pooled, b.pooled) <= TOLERANCE and apart(a.patches, b.patches) <= TOLERANCE


@pytest.mark.parametrize("uri", [
    "timm:vit_tiny_patch16_224", "hf:someone/model", "open_clip:ViT-B-32/laion2b_s34b_b79k", "official:someone/levljepa",
])  # fmt: skip
def test_without_a_network_the_answer_takes_two_seconds(uri, monkeypatch, tmp_path):
    """Nothing is said about being offline, and the hub does not answer: no library's retries are waited for."""
    import huggingface_hub.constants as constants

    if uri.startswith("open_clip"):
        pytest.importorskip("open_clip")
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(offline, "proxy_of", lambda: None)
    offline.reachable.cache_clear()
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)  # what a retry waits
    for warm in (False, True):  # the first round also imports the library
        start = time.process_time()  # of this process alone: a busy machine is no retry
        with pytest.raises(UsageError, match="hub cannot be reached"):
            load_backbone(uri)
        if warm:
            assert time.process_time() - start + offline.PATIENCE_S < 2.0 and sum(slept) < 0.1
    assert constants.HF_HUB_OFFLINE is False
    offline.reachable.cache_clear()


def test_a_lit_patch_lights_its_token():
    """Rows and columns: the token that changes most is the one of the patch that was lit, behind prefix tokens too."""
    import timm

    from levl_eval.backbones.timm import TimmBackbone

    for options in (
        {},
        {"reg_tokens": 3},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "map"},
    ):
        torch.manual_seed(0)
        b = TimmBackbone(timm.models.vision_transformer.VisionTransformer(
            img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0, **options
        ).eval())  # fmt: skip
        dark, lit = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
        lit[:, :, 16:32, 48:64] = 5.0
        with torch.inference_mode():
            change = (b.encode(lit).patches - b.encode(dark).patches).norm(dim=-1)[0]
        assert divmod(int(change.argmax()), b.encode(dark).grid[1]) == (1, 3), options


def test_pixels_of_timm_that_squash_and_crop():
    """timm's own evaluation transform, to the pixel."""
    import timm.data
    from torchvision.transforms.functional import to_tensor

    from levl_eval.backbones.timm import preprocess_of

    config = {
        "input_size": (3, 32, 32),
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    net = torch.nn.Module()
    net.pretrained_cfg = net.default_cfg = config  # type: ignore[assignment]

    image = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 60).convert("RGB")
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    p = preprocess_of(net)
    assert (p.resize, p.resize_to, p.size) == ("squash-crop", 40, 32)
    assert torch.allclose(p(image), own(image), atol=1e-6) and to_tensor(image).shape[-1] == 90
    for mode, size, words in (("border", (3, 32, 32), "prepares its images by 'border'"), ("center", (3, 32, 24), "squares")):
        net.pretrained_cfg = {**config, "crop_mode": mode, "input_size": size}
        with pytest.raises(UsageError, match=words):
            preprocess_of(net, "timm:x")


# The architecture of each card's repository, small; transformers' type as the published config.json has it.
HF_CARDS = {
    "clip-vit-b-16": "clip", "clip-vit-l-14-336": "clip", "metaclip2-vit-h-14": "metaclip_2", "siglip-vit-b-16": "siglip",
    "siglip2-vit-b-16": "siglip", "dinov2-vit-b-14": "dinov2", "dinov2-reg-vit-b-14": "dinov2_with_registers",
    "dinov3-vit-b-16": "dinov3_vit", "c-radiov3-b": "radio", "mae-vit-b-16": "vit_mae", "ijepa-vit-h-14": "ijepa",
    "tipsv2-vit-b-14": "tipsv2", "webssl-dino-300m": "dinov2",
}  # fmt: skip


def test_every_hf_card_is_tried_below():
    assert {n for n in names("backbones") if backbone_card(n).uri.startswith("hf:")} == set(HF_CARDS)
    for name in names("backbones"):
        card = backbone_card(name)
        if card.uri.startswith(("hf:", "open_clip:", "timm:")):
            assert (
                card.licence
                and card.training_data
                and card.citation
                and card.preprocess
                and "ooled" in card.description + str(card)
            ), name


@pytest.mark.hub
@pytest.mark.parametrize("name", list(HF_CARDS))
def test_hf_cards_load_from_a_hub_cache(name, tmp_path, monkeypatch):
    card = backbone_card(name)
    save(HF_CARDS[name], hub_folder(tmp_path, card.uri.partition(":")[2]))
    use_cache(monkeypatch, tmp_path)
    b = load_backbone(name)
    assert b.name == name and b.preprocess.size == card.preprocess.size and b.preprocess.mean == card.preprocess.mean
    if "cls" in b.info["pooled"].lower():
        assert b.class_token == "pooled"
    assert COMMIT and MODELS and processor


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in names("backbones") if backbone_card(n).uri.startswith(("open_clip:", "timm:"))])
def test_timm_and_open_clip_cards_have_their_architecture(name):
    """With random weights: the tag exists, the tower is read, and the card's pixels are those of its weights unless it says why not."""
    from tests.backbones.sweep import _finite, hub_texts, shallow, without_init

    uri = backbone_card(name).uri
    with without_init(), _finite(), shallow():
        if uri.startswith("open_clip:"):
            pytest.importorskip("open_clip")
            with hub_texts(uri.partition(":")[2].partition("/")[0]):
                b = load_backbone(f"random:{uri}")
        else:
            b = load_backbone(f"random:{uri.partition(':')[2]}")
    card = backbone_card(name).preprocess
    assert (b.preprocess.size, b.preprocess.mean, b.preprocess.std) == (card.size, card.mean, card.std) and b.grid[0] > 1


def test_no_published_weights_of_open_clip_are_refused_for_their_activation(monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    from levl_eval.backbones.open_clip import parse, tag_settings

    for model, tag in open_clip.list_pretrained():
        tag_settings(parse(f"{model}/{tag}", "x"), f"open_clip:{model}/{tag}")
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"mean": (0.5, 0.5, 0.5)})
    with pytest.raises(UsageError, match="take ViT-B-32/metaclip_400m"):
        tag_settings(parse("ViT-B-32-quickgelu/metaclip_400m", "x"), "x")
