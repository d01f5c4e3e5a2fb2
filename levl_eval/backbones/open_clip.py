"""`open_clip:MODEL/PRETRAINED`: PRETRAINED is a tag of open_clip, or a checkpoint file (.pt or .safetensors)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import EMBEDDING, finish, hub, unit, vit_blocks
from levl_eval.backbones.timm import blocks_of, class_token_of
from levl_eval.cards import near
from levl_eval.errors import UsageError


class OpenClipBackbone(Backbone):
    """A CLIP of open_clip with its own VisionTransformer or a timm tower."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer, self.readouts = model, tokenizer, EMBEDDING
        visual = model.visual
        own = hasattr(visual, "transformer") and hasattr(visual, "forward_intermediates")
        # Its own tower is read at the class token whatever its pooling (see encode).
        self.class_token = class_token_of(visual.trunk) if hasattr(visual, "trunk") else "pooled"
        self.depth = blocks_of(visual.trunk) if hasattr(visual, "trunk") else len(visual.transformer.resblocks) if own else 0

    @property
    def has_text(self) -> bool:
        return True

    def encode(self, images: Tensor) -> Features:
        visual = self.model.visual
        if hasattr(visual, "trunk"):  # a timm tower
            from levl_eval.backbones.timm import TimmBackbone

            return TimmBackbone.encode(_Trunk(visual.trunk), images)  # type: ignore[arg-type]
        side = visual.patch_size
        found = visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
        )
        patches = found["image_intermediates"][-1]
        prefix = found["image_intermediates_prefix"][-1]
        return Features(prefix[:, 0], patches, (images.shape[-2] // side[0], images.shape[-1] // side[1]))

    def _blocks(self, images: Tensor, layers: list[int]) -> list[tuple[Tensor, Tensor | None]]:
        visual = self.model.visual
        if hasattr(visual, "trunk"):
            return vit_blocks(visual.trunk, images, layers)
        order = sorted(set(layers))
        found = visual.forward_intermediates(
            images,
            indices=order,
            normalize_intermediates=True,
            output_fmt="NLC",
            output_extra_tokens=True,
            intermediates_only=True,
        )
        pairs = zip(order, found["image_intermediates"], found["image_intermediates_prefix"], strict=True)
        by_index = {i: (patches, prefix[:, 0]) for i, patches, prefix in pairs}
        return [by_index[i] for i in layers]

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        visual = self.model.visual
        if hasattr(visual, "trunk"):
            return {"embedding": unit(visual.head(pooled))}
        return {"embedding": unit(pooled @ visual.proj if visual.proj is not None else pooled)}

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        return {"embedding": unit(self.model.encode_text(self.tokenizer(texts).to(next(self.parameters()).device)))}


class _Trunk:
    """Gives a trunk the attribute TimmBackbone.encode reads."""

    def __init__(self, model: Any) -> None:
        self.model = model


def load(spec: str, name: str, uri: str) -> Backbone:
    """Raises UsageError: package missing, unknown model, hub not reached, file unreadable."""
    try:
        import open_clip
    except ImportError as e:
        raise UsageError(f"{uri}: the package open_clip_torch is not installed; pip install 'levl-eval[open-clip]'") from e
    model, slash, pretrained = spec.partition("/")
    if not slash or not pretrained:
        raise UsageError(f"{uri}: expected open_clip:MODEL/PRETRAINED, for example open_clip:ViT-B-16/openai")
    if model not in open_clip.list_models():
        raise UsageError(f"{uri}: open_clip knows no model {model!r}{near(model, open_clip.list_models())}")
    with hub(uri):
        net, _, _ = open_clip.create_model_and_transforms(model, pretrained=pretrained, weights_only=True)
    c = open_clip.get_model_preprocess_cfg(net)
    side = c["size"] if isinstance(c["size"], int) else c["size"][0]
    resize = "squash" if c.get("resize_mode") == "squash" else "shortest"
    preprocess = Preprocess(side, resize, None, c["interpolation"], tuple(c["mean"]), tuple(c["std"]))
    return finish(
        OpenClipBackbone(net, open_clip.get_tokenizer(model)), name, uri, preprocess, {"library": "open_clip", "model": spec}
    )
