"""`hf:` by architecture: every family equal to transformers itself, read from a hub cache as the library lays it out."""

from __future__ import annotations

import json

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.hf_families import canonical
from levl_eval.core.errors import LevlError, UsageError
from tests.backbones.models import MODELS, hub_folder, processor, save, tokenizer, use_cache
from tests.backbones.sweep import TOLERANCE, apart

MEAN = ("siglip_vision_without_head", "ijepa")
PREFIX = {
    "siglip": 0,
    "aimv2": 0,
    "ijepa": 0,
    "deit": 2,
    "dinov2_with_registers": 4,
    "dinov3_vit": 5,
    "tipsv2": 2,
    "radio": 5,
    "pixio": 2,
}


def reference(name: str, model, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(pooled, patches) by transformers' own outputs, as each model's page documents them."""
    tower = getattr(model, "vision_model", model)
    own = (64 if name == "dinov3_convnext" else 32) == x.shape[-1]
    more = (
        {}
        if own or name.startswith(("dinov", "beit", "data2vec", "tipsv2", "radio", "pixio", "aimv2"))
        else {"interpolate_pos_encoding": True}
    )
    if name == "vit_mae":
        tower.config.mask_ratio = 0.0
        more["noise"] = torch.arange((x.shape[-1] // 8) ** 2).float()[None].repeat(len(x), 1)
    out = tower(pixel_values=x, **more)
    if name == "radio":
        return out.summary, out.features
    skip = next((n for key, n in PREFIX.items() if name.startswith(key) and (key != "dinov2" or name == key)), 1)
    tokens = out.last_hidden_state
    if "clip" in name and "siglip" not in name:
        tokens = tower.post_layernorm(tokens)
    if name in ("beit", "data2vec_vision"):
        tokens = tower.pooler.layernorm(tokens)
    patches = tokens[:, skip:]
    if name in MEAN:
        return patches.mean(1), patches
    if name.startswith(("vit", "deit", "dinov")):
        return tokens[:, 0], patches
    return out.pooler_output, patches


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_architecture_is_transformers_own(name, tmp_path, monkeypatch):
    model = save(name, hub_folder(tmp_path, "someone/model"))
    use_cache(monkeypatch, tmp_path)
    b = load_backbone("hf:someone/model")
    side = b.preprocess.size
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pooled, patches = reference(name, model, x)
        found = b.encode(x)
        assert apart(found.pooled, pooled) <= TOLERANCE and apart(found.patches, patches) <= TOLERANCE
        assert found.grid == ((2, 2) if name == "dinov3_convnext" else (4, 4)) and b.info["pooled"]
        if b.depth:
            layers = b.encode_layers(x, [0, -1])
            assert apart(layers.patches[..., b.patch_dim :], found.patches) <= TOLERANCE
            assert apart(layers.patches[..., : b.patch_dim], found.patches) > 1e-3
            if b.class_token == "pooled":
                assert apart(layers.pooled[:, b.patch_dim :], found.pooled) <= TOLERANCE
        larger = torch.randn(1, 3, side + 16, side + 16, generator=torch.Generator().manual_seed(4))
        if name in ("aimv2", "aimv2_vision"):
            with pytest.raises(LevlError, match="32 x 32 pixels only"):
                b.encode(larger)
        else:
            pooled, patches = reference(name, model, larger)
            assert apart(b.encode(larger).pooled, pooled) <= TOLERANCE and apart(b.encode(larger).patches, patches) <= TOLERANCE


@pytest.mark.parametrize("name", ["clip", "metaclip_2", "siglip", "aimv2", "tipsv2"])
def test_embeddings_are_the_librarys(name, tmp_path):
    model = save(name, tmp_path)
    b = load_backbone(f"hf:{tmp_path}")
    x = torch.randn(2, 3, 32, 32)
    # "a photo of cat", padded as each family was trained: to the longest of the batch, or to full length.
    ids = torch.tensor([[1, 3, 4, 5, 6, 2]])
    mask = torch.ones_like(ids)
    if name in ("siglip", "tipsv2"):
        ids, mask = torch.cat([ids, torch.tensor([[2, 2]])], 1), torch.cat([mask, torch.zeros(1, 2, dtype=torch.long)], 1)
    inputs = {"input_ids": ids} if name == "siglip" else {"input_ids": ids, "attention_mask": mask}
    with torch.inference_mode():
        want = model(pixel_values=x, **inputs)
        assert apart(b.image_embeddings(b.encode(x).pooled)["embedding"], want.image_embeds) <= TOLERANCE
        assert apart(b.encode_text(["a photo of cat"]), want.text_embeds) <= TOLERANCE
        assert b.encode_text([]).shape == (0, want.text_embeds.shape[1])


def test_siglip_texts_are_compared_as_its_authors_do(tmp_path):
    save("siglip", tmp_path)
    b = load_backbone(f"hf:{tmp_path}")
    assert torch.equal(b.encode_text(["A photo, of CAT."]), b.encode_text(["a photo of cat"]))
    assert canonical("  It's a   CAT. ") == "its a cat"
    # As big_vision's own test of its canonicalize_text has it; class names of files have underscores for spaces.
    open_clip = pytest.importorskip("open_clip")
    for text in ("test___test_TEST", "traffic_light", "a_photo, of\ta {}.", "Ünïcode—dash 犬 🐶_!", "", "__"):
        assert canonical(text) == open_clip.tokenizer.canonicalize_text(text)
    assert torch.equal(b.encode_text(["a_photo_of cat"]), b.encode_text(["a photo of cat"]))
    assert b.text_parts()["canonical"] == 2


def test_loading_draws_no_bar_of_transformers_own(tmp_path, capfd):
    save("vit", tmp_path)
    capfd.readouterr()
    load_backbone(f"hf:{tmp_path}")
    assert "Loading weights" not in capfd.readouterr().err


def test_weights_that_are_not_there_are_one_line(tmp_path):
    """transformers fills in random values and warns; features of them would look like any other."""
    save("vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UsageError, match="lacks 16 weights of its architecture, .*layers.2") as e:
        load_backbone(f"hf:{tmp_path}")
    assert "\n" not in str(e.value)


def test_code_of_a_repository_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}))
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UsageError, match="not in transformers, and is not run"):
        load_backbone(f"hf:{tmp_path}")


def test_other_architectures_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="'bert' is not one of clip, metaclip_2, siglip"):
        load_backbone(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "settings, want",
    [
        ({"do_normalize": False}, ("squash", None, (0.0, 0.0, 0.0))),
        ({"size": {"height": 36, "width": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
         ("squash-crop", 36, (0.5, 0.4, 0.3))),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
         ("shortest", 40, (0.5, 0.4, 0.3))),
    ],
)  # fmt: skip
def test_pixels_as_the_processor_says(tmp_path, settings, want):
    save("vit", tmp_path)
    processor(tmp_path, **settings)
    p = load_backbone(f"hf:{tmp_path}").preprocess
    assert (p.resize, p.resize_to, p.mean) == want and p.size == 32


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"size": {"height": 32, "width": 40}}, "squares"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "longest edge below 64 pixels"),
        ({"size": {"longest_edge": 48}}, "neither a shortest edge nor height and width"),
        ({"rescale_factor": 1 / 127.5}, "scale pixels"),
        ({"do_resize": False}, "does not resize"),
        ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "sets do_pad, which this suite does not follow"),
        ({"resample": 7}, "resamples by 7"),
        ({"image_mean": [0.5], "image_std": [0.5]}, r"image_mean of its image processor is \(0.5,\); expected three numbers"),
        ({"image_mean": ["a", 0.5, 0.5]}, "expected three numbers"),
        ({"image_std": [0.0, 0.2, 0.2]}, "expected a std above 0"),
    ],
)
def test_pixels_this_suite_cannot_follow_are_one_line(tmp_path, settings, words):
    save("vit", tmp_path)
    processor(tmp_path, **settings)
    with pytest.raises(UsageError, match=words) as e:
        load_backbone(f"hf:{tmp_path}")
    assert "\n" not in str(e.value)


def test_every_resampling_of_pillow_is_itself(tmp_path):
    save("vit", tmp_path)
    for number, name in ((0, "nearest"), (1, "lanczos"), (4, "box"), (5, "hamming")):
        processor(tmp_path, resample=number)
        assert load_backbone(f"hf:{tmp_path}").preprocess.interpolation == name


def test_a_tokenizer_that_is_not_the_text_towers_is_one_line(tmp_path):
    """Without its files transformers makes a CLIP tokenizer of two entries: all texts would be the same."""
    save("clip", tmp_path)
    own, settings = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    whole = own.read_text()
    before = json.loads(settings.read_text())
    settings.write_text(json.dumps({k: v for k, v in before.items() if k != "pad_token"}))
    with pytest.raises(UsageError, match="has no padding token; set pad_token in tokenizer_config.json"):
        load_backbone(f"hf:{tmp_path}")
    settings.write_text(json.dumps(before))
    larger = json.loads(whole)
    larger["model"]["vocab"] |= {f"word{i}": 100 + i for i in range(80)}
    own.write_text(json.dumps(larger))
    with pytest.raises(UsageError, match="its tokenizer has 91 entries, the text tower 60; they are of two models"):
        load_backbone(f"hf:{tmp_path}")
    own.unlink()
    settings.unlink()
    with pytest.raises(UsageError, match="its tokenizer knows no words; copy tokenizer.json, or its vocabulary's files"):
        load_backbone(f"hf:{tmp_path}")


def test_files_that_are_not_whole_name_what_is_wrong(tmp_path):
    save("vit", tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, before = weights.read_bytes(), config.read_text()
    config.write_text(json.dumps({**json.loads(before), "hidden_size": 64}))
    with pytest.raises(UsageError, match="other shapes than its config.json says"):
        load_backbone(f"hf:{tmp_path}")
    config.write_text(before)
    for content in (whole[:3000], b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"):
        weights.write_bytes(content)
        with pytest.raises(UsageError, match="no whole safetensors file .* cut short, or a Git LFS pointer"):
            load_backbone(f"hf:{tmp_path}")
    weights.write_bytes(whole)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="holds no preprocessor_config.json"):
        load_backbone(f"hf:{tmp_path}")
    for name in ("someone/model@main", "a/b/c", str(config)):
        with pytest.raises(UsageError, match="neither a directory nor a name of the hub"):
            load_backbone(f"hf:{name}")


def test_random_weights_of_a_repositorys_architecture(tmp_path, monkeypatch):
    folder = hub_folder(tmp_path, "someone/model")
    save("clip", folder)
    (folder / "model.safetensors").unlink()
    use_cache(monkeypatch, tmp_path)
    a, b, c = (load_backbone(f"random:hf:someone/model{q}") for q in ("", "", "?seed=1"))
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256 and a.has_text and a.info["random_seed"] == 0
    assert a.preprocess.mean == (0.5, 0.4, 0.3) and tokenizer is not None
