"""`hf:REPO_OR_DIR`: CLIP, SigLIP, SigLIP 2 and DINOv2 families of transformers, with their own image processors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import EMBEDDING, finish, hub, unit
from levl_eval.errors import UsageError

_FAMILIES = ("clip", "siglip", "siglip2", "dinov2", "dinov2_with_registers")
_PIL = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def as_patches(images: Tensor, patch: int) -> dict[str, Tensor]:
    """Images [B, 3, H, W] as the variable-size SigLIP 2 takes them: patches [B, N, patch * patch * 3] row by row, none of them padding."""
    x = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, 3, h, p, w, p]
    rows, columns = x.shape[2], x.shape[4]
    flat = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": flat, "pixel_attention_mask": flat.new_ones(flat.shape[:2], dtype=torch.int32),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(images), device=images.device),
    }  # fmt: skip


class HFBackbone(Backbone):
    """A vision tower of transformers; with text where the family has it."""

    def __init__(self, model: Any, family: str, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.family, self.tokenizer = model, family, tokenizer
        self.depth = self._tower.config.num_hidden_layers
        self.class_token = "" if family.startswith("siglip") else "pooled"
        if tokenizer is not None:
            self.readouts = EMBEDDING

    @property
    def _tower(self) -> Any:
        return self.model.vision_model if hasattr(self.model, "vision_model") else self.model

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    def _run(self, images: Tensor, **more: Any) -> Any:
        """The tower's output; positions are interpolated where the size is not the model's own."""
        config = self._tower.config
        if self.family == "siglip2":
            return self._tower(**as_patches(images, config.patch_size), **more)
        default = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        if not self.family.startswith("dinov2") and images.shape[-1] != default:  # DINOv2 interpolates always
            more["interpolate_pos_encoding"] = True
        return self._tower(pixel_values=images, **more)

    def _blocks(self, images: Tensor, layers: list[int]) -> list[tuple[Tensor, Tensor | None]]:
        tower = self._tower
        norm = tower.layernorm if self.family.startswith("dinov2") else tower.post_layernorm
        skip = 0 if self.family.startswith("siglip") else 1 + getattr(tower.config, "num_register_tokens", 0)
        states = self._run(images, output_hidden_states=True).hidden_states  # the embeddings, then every block
        tokens = [norm(states[i + 1]) for i in layers]
        return [(t[:, skip:], t[:, 0] if skip else None) for t in tokens]

    def encode(self, images: Tensor) -> Features:
        tower = self._tower
        config = tower.config
        grid = (images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size)
        out = self._run(images)
        tokens = out.last_hidden_state
        if self.family == "clip":  # its final norm is applied to the class token only; the patch tokens get the same one
            return Features(out.pooler_output, tower.post_layernorm(tokens[:, 1:]), grid)
        if self.family.startswith("siglip"):
            return Features(out.pooler_output, tokens, grid)
        skip = 1 + getattr(config, "num_register_tokens", 0)
        return Features(tokens[:, 0], tokens[:, skip:], grid)

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        return {"embedding": unit(self.model.visual_projection(pooled) if self.family == "clip" else pooled)}

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        text = self.model.text_model
        length = text.config.max_position_embeddings
        # SigLIP was trained on texts padded to full length and without a mask; CLIP reads at the end token.
        full = self.family.startswith("siglip")
        batch = self.tokenizer(
            texts, padding="max_length" if full else True, truncation=True, max_length=length, return_tensors="pt"
        )
        device = next(self.parameters()).device
        if full:
            return {"embedding": unit(text(input_ids=batch["input_ids"].to(device)).pooler_output)}
        out = text(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
        return {"embedding": unit(self.model.text_projection(out.pooler_output))}


def _preprocess(processor: Any) -> Preprocess:
    """An image processor's settings as data.

    SigLIP 2 of variable size keeps the aspect ratio within a number of patches; the suite's pictures are squares, so it gets the
    largest square of so many.
    """
    if hasattr(processor, "max_num_patches"):
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        how = _PIL.get(int(getattr(processor, "resample", 2) or 0), "bilinear")
        return Preprocess(side, "squash", None, how, tuple(processor.image_mean), tuple(processor.image_std))
    size, crop = processor.size, getattr(processor, "crop_size", None)
    interpolation = _PIL.get(int(getattr(processor, "resample", 3) or 0), "bicubic")
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    shortest = size.get("shortest_edge") if hasattr(size, "get") else getattr(size, "shortest_edge", None)
    if shortest and getattr(processor, "do_center_crop", False) and crop is not None:
        side = crop["height"] if hasattr(crop, "__getitem__") else crop.height
        return Preprocess(side, "shortest", shortest, interpolation, mean, std)
    side = shortest or (size["height"] if hasattr(size, "__getitem__") else size.height)
    return Preprocess(side, "shortest" if shortest else "squash", None, interpolation, mean, std)


def load(repo: str, name: str, uri: str) -> Backbone:
    """Raises UsageError: not one of the families, incomplete directory, hub not reached."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    with hub(uri):
        config = AutoConfig.from_pretrained(repo)
        family = config.model_type.removesuffix("_model")
        if family not in _FAMILIES:
            raise UsageError(
                f"{uri}: model type {config.model_type!r} is not one of {', '.join(_FAMILIES)}; use timm:, open_clip: or py:"
            )
        processor = AutoImageProcessor.from_pretrained(repo)
        model = AutoModel.from_pretrained(repo, use_safetensors=None, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(repo) if hasattr(model, "text_model") else None
    return finish(
        HFBackbone(model, family, tokenizer), name, uri, _preprocess(processor), {"library": "transformers", "family": family}
    )
