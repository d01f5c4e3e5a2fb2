"""Tiny transformers models with random weights, and hub caches as the libraries themselves lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.backbones.sweep import randomise

COMMIT = "0123456789012345678901234567890123456789"


def hub_folder(cache: Path, repo: str) -> Path:
    """The snapshot folder of ``repo`` in a hub cache, as huggingface_hub finds it."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def use_cache(monkeypatch: Any, cache: Path) -> None:
    """Libraries read from ``cache`` and from nowhere else."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    for module in ("transformers.utils.hub", "huggingface_hub.file_download"):
        for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(cache), raising=False)


def processor(folder: Path, kind: str = "CLIPImageProcessor", size: Any = None, **more: Any) -> None:
    """A preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "image_processor_type": kind, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "resample": 3,
        "do_resize": True, "do_center_crop": False, "size": {"height": 32, "width": 32} if size is None else size, **more,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def tokenizer(folder: Path) -> None:
    """A tokenizer of a few words; <eos> has number 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = "a photo of cat dog . A CAT".split()
    vocabulary = {"<unk>": 0, "<bos>": 1, "<eos>": 2, **{w: i + 3 for i, w in enumerate(words)}}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)


_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "intermediate_size": 48,
}
_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60,
    "max_position_embeddings": 8,
}  # fmt: skip
_EOS = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2}
_BEIT = {**_VIT, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}

# name of the test -> (configuration class, its arguments)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIPConfig", {"vision_config": _VIT, "text_config": {**_TEXT, **_EOS}, "projection_dim": 16}),
    "clip_vision": ("CLIPVisionConfig", _VIT),
    "metaclip_2": ("MetaClip2Config", {"vision_config": _VIT, "text_config": {**_TEXT, **_EOS}, "projection_dim": 16}),
    "metaclip_2_vision": ("MetaClip2VisionConfig", _VIT),
    "siglip": ("SiglipConfig", {"vision_config": _VIT, "text_config": {**_TEXT, "projection_size": 32}}),
    "siglip_vision": ("SiglipVisionConfig", _VIT),
    "siglip_vision_without_head": ("SiglipVisionConfig", {**_VIT, "vision_use_head": False}),
    "dinov2": ("Dinov2Config", {**_VIT, "mlp_ratio": 2}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", {**_VIT, "mlp_ratio": 2, "num_register_tokens": 3}),
    "dinov3_vit": ("DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}),
    "dinov3_convnext": ("DINOv3ConvNextConfig", {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1], "image_size": 64}),
    "aimv2": ("Aimv2Config", {"vision_config": _VIT, "text_config": {**_TEXT, "eos_token_id": 2}, "projection_dim": 16}),
    "aimv2_vision": ("Aimv2VisionConfig", _VIT),
    "aimv2_native": ("Aimv2VisionConfig", {**_VIT, "is_native": True}),
    "ijepa": ("IJepaConfig", _VIT),
    "vit_mae": ("ViTMAEConfig", {**_VIT, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
                                 "decoder_intermediate_size": 16}),
    "vit": ("ViTConfig", _VIT),
    "vit_msn": ("ViTMSNConfig", _VIT),
    "deit": ("DeiTConfig", _VIT),
    "beit": ("BeitConfig", _BEIT),
    "beit_cls": ("BeitConfig", {**_BEIT, "use_mean_pooling": False}),
    "data2vec_vision": ("Data2VecVisionConfig", _BEIT),
    "tipsv2": ("Tipsv2Config", {"vision_config": {**_VIT, "mlp_ratio": 2}, "text_config": _TEXT}),
    "radio": ("RadioConfig", {**_VIT, "max_img_size": 64, "mlp_ratio": 2.0, "num_cls_tokens": 3, "num_registers": 2}),
    "pixio": ("PixioConfig", {**_VIT, "mlp_ratio": 2, "n_cls_tokens": 2}),
}  # fmt: skip


def save(name: str, folder: Path, seed: int = 0) -> Any:
    """The model of MODELS[name], random everywhere, saved with processor and tokenizer as a repository has them."""
    import transformers

    from levl_eval.backbones.hf import class_of, options_of

    kind, options = MODELS[name]
    config = getattr(transformers, kind)(**options)
    torch.manual_seed(seed)
    maker = class_of(config)
    model = (maker.from_config if hasattr(maker, "from_config") else maker)(config, **options_of(config.model_type)).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    processor(folder, size={"height": 64, "width": 64} if name == "dinov3_convnext" else None)
    if hasattr(model, "text_model"):
        tokenizer(folder)
    return model
