"""Loaders against the libraries themselves, and whatever can be wrong with a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.timm import timm_features
from levl_eval.cards import BackboneCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.models.checkpoints import export, load_model
from levl_eval.runner.backbones import BackboneHandle

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_own_checkpoints_give_the_encoders_tokens(checkpoints):
    b = load_backbone(str(checkpoints["levljepa"]))
    model, _ = load_model(checkpoints["levljepa"])
    with torch.no_grad():
        tokens = model.vision.encoder.forward_features(X)
        f = b.encode(X)
        assert torch.equal(f.pooled, tokens[:, 0]) and torch.equal(f.patches, tokens[:, 1:]) and f.grid == (8, 8)
        z = model.vision.pre_proj(tokens[:, 0])
        e = b.image_embeddings(f.pooled)
        assert torch.allclose(e["predicted"], torch.nn.functional.normalize(model.vision.projector(z), dim=-1), atol=1e-6)
        t = b.text_embeddings(["a cat", "two dogs on the road"])
    average = 0.5 * (e["embedding"] @ t["predicted"].T + e["predicted"] @ t["embedding"].T)
    assert torch.allclose(e["cross-image"] @ t["cross-text"].T, average, atol=1e-6)
    assert b.readouts[0].name == "image-to-predicted-text"
    assert torch.equal(b.encode_text(["a cat"]), b.text_embeddings(["a cat"])["predicted"])
    assert b.encode_text([]).shape == (0, len(b.encode_text(["a cat"])[0]))
    with pytest.raises(TypeError, match="takes a list of texts"):
        b.encode_text("a cat")
    assert not any(p.requires_grad for p in b.parameters()) and not b.training


def test_identity_follows_the_weights_not_the_path(checkpoints, tmp_path):
    copy = tmp_path / "other" / "ckpt.pt"
    copy.parent.mkdir()
    copy.write_bytes(checkpoints["clip"].read_bytes())
    a, b, c = (load_backbone(str(p)) for p in (checkpoints["clip"], copy.parent, checkpoints["siglip"]))
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert b.name == "other" and [r.name for r in b.readouts] == ["embedding"]


@pytest.mark.parametrize("form", ["official", "safetensors"])
@pytest.mark.parametrize("objective", ["levljepa", "clip"])
def test_the_published_forms_give_the_same_features(checkpoints, tmp_path, form, objective):
    export(checkpoints[objective], form, tmp_path)
    own, published = load_backbone(str(checkpoints[objective])), load_backbone(f"official:{tmp_path}")
    if form == "official":
        for block, ours in zip(published.model.vision.encoder.blocks, own.model.vision.encoder.blocks, strict=True):
            assert block.attn.num_heads == ours.attn.num_heads == 3
    assert torch.allclose(own.encode(X).patches, published.encode(X).patches, atol=1e-6)
    assert published.preprocess == own.preprocess  # as the export's config.json says; ImageNet's only where nothing says it
    assert load_backbone(str(tmp_path)).weights_sha256 == published.weights_sha256
    if form == "safetensors":
        for k, v in own.text_embeddings(["a cat on the road"]).items():
            assert torch.allclose(v, published.text_embeddings(["a cat on the road"])[k], atol=1e-5)


def test_a_card_states_a_text_readout_where_config_json_does_not(checkpoints, tmp_path):
    export(checkpoints["clip"], "safetensors", tmp_path)
    uri = f"official:{tmp_path}"
    config = json.loads((tmp_path / "config.json").read_text())
    stated = load_backbone(uri)
    with pytest.raises(UsageError, match="the card says pad77, its config.json eot; correct one of them"):
        load_backbone(uri, BackboneCard(name="x", uri=uri, readout="pad77"))
    del config["text_encoder"]["readout"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    silent = load_backbone(uri)
    card = BackboneCard(name="x", uri=uri, readout="pad77")
    told = load_backbone(uri, card)
    words = ["a cat on the road"]
    assert silent.readout == "eot" and torch.equal(silent.encode_text(words), stated.encode_text(words))
    assert told.readout == told.model.readout == "pad77" and not torch.allclose(
        told.encode_text(words), stated.encode_text(words), atol=1e-3
    )
    # A run knows who it is without building it, and one card's read-out is not another's.
    known = FingerprintCache(tmp_path / "known")
    for who, want in ((card, "pad77"), (BackboneCard(name="x", uri=uri), "eot"), (card, "pad77")):
        handle = BackboneHandle(who, tmp_path / "cache", known)
        assert handle.parts()["text"]["readout"] == handle.describe()["text"]["readout"] == want
        assert handle.load().text_parts() == handle.parts()["text"]
    with pytest.raises(UsageError, match="this form says its text read-out itself"):
        load_backbone(str(checkpoints["clip"]), BackboneCard(name="x", uri=str(checkpoints["clip"]), readout="eot"))


def test_random_is_seeded_and_nano_is_the_shipped_architecture():
    a, b, c = load_backbone("random:nano"), load_backbone("random:nano"), load_backbone("random:nano?seed=1")
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert a.grid == (8, 8) and a.dim == 192 and not a.has_text


@pytest.mark.slow
def test_timm_tokens_without_prefix_and_other_sizes():
    b = load_backbone("random:vit_tiny_patch16_224")
    x = torch.randn(1, 3, 224, 224)
    tokens = b.model.forward_features(x)
    f = b.encode(x)
    assert torch.equal(f.patches, tokens[:, 1:]) and torch.equal(f.pooled, tokens[:, 0]) and b.grid == (14, 14)
    r = load_backbone("random:vit_medium_patch16_reg4_gap_256")
    assert r.encode(torch.randn(1, 3, 256, 256)).patches.shape[1] == 256


@pytest.mark.slow
@pytest.mark.parametrize("model", ["xcit_nano_12_p16_224", "mixer_s32_224", "levit_128s", "coat_lite_tiny", "tnt_s_patch16_224"])
def test_timm_families_that_do_not_describe_their_tokens(model):
    """A class token or none, a patch size that is a number or not given: the patches are timm's own map of the last stage."""
    b = load_backbone(f"random:{model}")
    x = torch.randn(1, 3, 224, 224)
    f = b.encode(x)
    own = b.model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[-1]
    assert f.grid == tuple(own.shape[-2:]) and f.grid[0] > 1
    torch.testing.assert_close(f.patches, own.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384"])
def test_a_timm_model_whose_patches_do_not_fill_its_own_images_is_timms_own(model, monkeypatch):
    """384 pixels are 27 patches of 14 and 6 pixels that timm cuts; with its `dynamic_img_size` it refuses them."""
    import timm

    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: whole(name, **options, depth=1))
    b, x = load_backbone(f"random:{model}"), torch.randn(1, 3, 384, 384)
    plain = timm.create_model(model, num_classes=0).eval()
    plain.load_state_dict(b.model.state_dict())
    with torch.inference_mode():
        found = b.encode(x)
        assert torch.equal(found.pooled, plain(x)) and found.grid == b.grid == (27, 27)
    card = BackboneCard.model_validate({"name": "x", "uri": b.uri, "preprocess": {"size": 378}})
    with pytest.raises(UsageError, match="it does not take 378 px images .* its own size is 384"):
        load_backbone(card.uri, card)


def test_a_norm_of_a_heads_hidden_layer_is_not_the_tokens():
    b = load_backbone("random:inception_next_atto")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(b.encode(images).patches, b.model.forward_features(images).flatten(2).transpose(1, 2))


def test_a_timm_model_without_one_grid_is_one_line():
    with pytest.raises(UsageError, match="random:crossvit_9_240: this timm model gives no one set of tokens"):
        load_backbone("random:crossvit_9_240")


@pytest.mark.slow
def test_a_timm_model_that_gives_its_class_token_alone_is_refused():
    """PiT: its class token would have been taken for a grid of one patch."""
    with pytest.raises(UsageError, match="random:pit_ti_224: this timm model gives its class token alone"):
        load_backbone("random:pit_ti_224")


class Encoder(torch.nn.Module):
    """As timm's encoders of larger models are: tokens, and no head, or none that knows ``pre_logits``."""

    num_features, num_prefix_tokens = 8, 0

    def __init__(self, head):
        super().__init__()
        self.forward_head = head

    def forward_features(self, x):
        return torch.zeros(len(x), 4, 8)


def _no_head(tokens, pre_logits=False):
    raise NotImplementedError("does not support classification use cases")


def _other_fault(tokens, pre_logits=False):
    return tokens + None


def test_an_encoder_without_a_head_is_refused_and_other_faults_are_told_as_such():
    x = torch.zeros(1, 3, 32, 32)
    for head in (_no_head, lambda tokens: tokens):
        with pytest.raises(LevlError, match="the encoder of a larger one and pools nothing"):
            timm_features(Encoder(head), x)
    with pytest.raises(TypeError, match="NoneType"):
        timm_features(Encoder(_other_fault), x)
    merging = Encoder(_no_head)
    merging.encoder = torch.nn.Module()
    merging.encoder.merger = torch.nn.Linear(1, 1)
    with pytest.raises(LevlError, match="merged for a language model"):
        timm_features(merging, x)


def _processor(kind, path, size, **more):
    path.mkdir(parents=True, exist_ok=True)
    (path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": kind,
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.2, 0.2, 0.2],
                "resample": 3,
                "do_resize": True,
                "size": size,
                **more,
            }
        )
    )


def _tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "<bos>": 1, "<eos>": 2, **{w: i + 3 for i, w in enumerate("a photo of cat dog".split())}}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)


def test_hf_dinov2_and_clip_towers(tmp_path):
    from transformers import CLIPVisionConfig, Dinov2Config, Dinov2Model
    from transformers.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig

    torch.manual_seed(0)
    dino = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2)
    ).eval()
    dino.save_pretrained(tmp_path / "dino")
    _processor(
        "BitImageProcessor", tmp_path / "dino", {"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 28, "width": 28}
    )
    b = load_backbone(f"hf:{tmp_path / 'dino'}")
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        tokens = dino(pixel_values=x).last_hidden_state
    assert torch.allclose(b.encode(x).patches, tokens[:, 1:], atol=1e-6) and torch.allclose(
        b.encode(x).pooled, tokens[:, 0], atol=1e-6
    )
    assert b.preprocess == Preprocess(28, "shortest", 32, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "floor")
    assert b.grid == (2, 2)

    text = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=60,
        max_position_embeddings=12,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).eval()
    clip.save_pretrained(tmp_path / "clip")
    _processor(
        "CLIPImageProcessor", tmp_path / "clip", {"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    )
    _tokenizer(tmp_path / "clip")
    c = load_backbone(f"hf:{tmp_path / 'clip'}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = clip.visual_projection(clip.vision_model(pixel_values=x).pooler_output)
        found = c.image_embeddings(c.encode(x).pooled)["embedding"]
    assert torch.allclose(found, torch.nn.functional.normalize(want, dim=-1), atol=1e-6) and c.encode(x).patches.shape == (
        2,
        4,
        32,
    )
    ids = torch.tensor([[1, 3, 4, 5, 6, 2]])
    with torch.no_grad():
        own = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    assert torch.allclose(c.encode_text(["a photo of cat"]), torch.nn.functional.normalize(own, dim=-1), atol=1e-5)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip_2_of_fixed_and_of_variable_size(tmp_path, family):
    """Published SigLIP 2 of fixed size is of transformers' type siglip, the others of type siglip2; positions are interpolated as there."""
    import transformers
    from transformers import AutoImageProcessor

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    vision |= {"image_size": 32} if family == "siglip" else {"num_patches": 16}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60,
            "max_position_embeddings": 8, "projection_size": 32}  # fmt: skip
    name = family.capitalize()
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    model = getattr(transformers, f"{name}Model")(config).eval()
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight)
    model.save_pretrained(tmp_path)
    _tokenizer(tmp_path)
    if family == "siglip":
        _processor("SiglipImageProcessor", tmp_path, {"height": 32, "width": 32}, resample=2)
    else:
        _processor("Siglip2ImageProcessor", tmp_path, None, resample=2, patch_size=8, max_num_patches=16)
    b = load_backbone(f"hf:{tmp_path}")
    assert b.preprocess == Preprocess(32, "squash", None, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)) and b.has_text
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8))
    for side in (32, 48):  # the model's own positions, and interpolated ones
        x = b.preprocess.normalize(pixels[:side, :side])[None]
        if family == "siglip":
            inputs = {"pixel_values": x, "interpolate_pos_encoding": side != 32}
        else:
            own = AutoImageProcessor.from_pretrained(tmp_path, max_num_patches=(side // 8) ** 2)
            inputs = dict(own(Image.fromarray(pixels[:side, :side].numpy()), return_tensors="pt"))
        with torch.no_grad():
            want = model.vision_model(**inputs)
            found = b.encode(x)
        assert found.grid == (side // 8, side // 8) and found.patches.shape[1] == (side // 8) ** 2
        assert torch.allclose(found.patches, want.last_hidden_state, atol=1e-5)
        assert torch.allclose(found.pooled, want.pooler_output, atol=1e-5)
        assert torch.allclose(b.encode_layers(x, [-1]).patches, want.last_hidden_state, atol=1e-5)


def test_open_clip_tokens(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}  # fmt: skip
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    torch.manual_seed(0)
    net = open_clip.create_model("tiny-test").eval()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    b = load_backbone(f"open_clip:tiny-test/{tmp_path / 'w.pt'}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = torch.nn.functional.normalize(net.encode_image(x), dim=-1)
        f = b.encode(x)
        assert torch.allclose(b.image_embeddings(f.pooled)["embedding"], want, atol=1e-5)
        assert f.patches.shape == (2, 4, 64) and b.grid == (2, 2)
        assert torch.allclose(
            b.encode_text(["a cat"]),
            torch.nn.functional.normalize(net.encode_text(open_clip.get_tokenizer("tiny-test")(["a cat"])), dim=-1),
            atol=1e-5,
        )


class Mine(Backbone):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Conv2d(3, 4, 8, 8)
        self.preprocess = Preprocess(16)

    def encode(self, images):
        m = self.w(images)
        return Features(m.mean((2, 3)), m.flatten(2).transpose(1, 2), (m.shape[2], m.shape[3]))


def test_a_users_own_python():
    b = load_backbone(f"py:{__name__}:Mine")
    assert b.grid == (2, 2) and b.dim == 4 and len(b.weights_sha256) == 64
    with pytest.raises(UsageError, match="factory"):
        load_backbone("py:os")
    with pytest.raises(UsageError, match="returned"):
        load_backbone("py:builtins:dict")


def test_card_overrides_and_checksum(checkpoints):
    uri = f"levl:{checkpoints['clip']}"
    b = load_backbone(uri, BackboneCard(name="x", uri=uri, preprocess={"mean": [0.1, 0.2, 0.3], "resize": "shortest"}))
    assert b.preprocess.mean == (0.1, 0.2, 0.3) and b.preprocess.resize == "shortest" and b.preprocess.size == 64
    with pytest.raises(UsageError, match="SHA-256"):
        load_backbone(uri, BackboneCard(name="x", uri=uri, sha256="0" * 64))


def test_broken_and_unknown_ones_are_one_line(tmp_path, checkpoints):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "vision_encoder.safetensors").write_bytes(b"123")
    (tmp_path / "half" / "text_encoder.safetensors").write_bytes(b"123")
    nan = load_model(checkpoints["clip"])[0]
    for uri, words in [
        ("random:vit_tny_patch16_224", "did you mean vit_tiny_patch16_224"),
        ("random:nano?sed=1", "seed=NUMBER"),
        ("timm:nope_nope", "timm knows no model"),
        ("open_clip:ViT-B-16", "MODEL/PRETRAINED"),
        ("open_clip:ViT-Q-99/openai", "open_clip knows no model"),
        (f"official:{tmp_path / 'none'}", "no such directory"),
        (f"official:{tmp_path / 'half'}", "truncated"),
        (str(tmp_path / "empty"), "holds neither"),
        (f"hf:{tmp_path / 'empty'}", "cannot be loaded"),
        ("py:no.such.module:f", "installed"),
    ]:
        with pytest.raises(UsageError, match=words) as e:
            load_backbone(uri)
        assert "\n" not in str(e.value), uri
    assert nan is not None


@pytest.mark.parametrize(
    "uri", ["hf:openai/clip-vit-base-patch16", "official:lukaskuhn/LeVLJEPA-ViT-B-DataComp-200k", "timm:vit_tiny_patch16_224"]
)
def test_an_unreachable_hub_is_one_line(uri, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="hub cannot be reached") as e:
        load_backbone(uri)
    assert "\n" not in str(e.value)


def test_preprocess_geometry():
    image = Image.fromarray(np.arange(40 * 80 * 3, dtype=np.uint8).reshape(40, 80, 3))
    crop = Preprocess(20, "shortest", 30)
    assert crop(image).shape == (3, 20, 20) and Preprocess(20, "squash")(image).shape == (3, 20, 20)
    assert np.array_equal(Preprocess(20).geometry(image.resize((20, 20))), image.resize((20, 20)))  # a square is left alone
    flat = Preprocess(8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))(Image.new("RGB", (9, 9), (255, 0, 51)))
    assert torch.allclose(flat[:, 0, 0], torch.tensor([2.0, -2.0, -1.2]), atol=1e-6)


SIZES = [(64, 64), (65, 64), (64, 67), (101, 97), (97, 101), (500, 375), (375, 500), (333, 500), (640, 427), (427, 641),
         (31, 200), (9, 7), (7, 90), (224, 223), (1, 1), (3, 301)]  # fmt: skip


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "resize_to"), [(64, None), (63, 73), (32, 37), (96, 65), (97, 64)])
def test_shortest_side_and_crop_are_torchvisions_to_the_pixel(method, size, resize_to):
    from torchvision import transforms

    how = getattr(transforms.InterpolationMode, method.upper())
    theirs = transforms.Compose([transforms.Resize(resize_to or size, how), transforms.CenterCrop(size)])
    labels = transforms.Compose(
        [transforms.Resize(resize_to or size, transforms.InterpolationMode.NEAREST), transforms.CenterCrop(size)]
    )
    ours, rng = Preprocess(size, "shortest", resize_to, method), np.random.default_rng(size)
    for width, height in SIZES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        assert np.array_equal(ours.geometry(image), theirs(image)), (width, height)
        mask = Image.fromarray(rng.integers(1, 200, (height, width)).astype(np.int32))
        assert np.array_equal(ours.geometry(mask, nearest=True), labels(mask)), (width, height)
        if size > (resize_to or size):  # what lies around the image has no label
            void = np.asarray(ours.geometry(mask, nearest=True, fill=255))
            assert np.array_equal(void == 255, np.asarray(labels(mask)) == 0), (width, height)
