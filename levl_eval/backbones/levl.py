"""Own checkpoints: ckpt.pt of levl-pretrain, or its half-precision release file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Features
from levl_eval.backbones.common import EMBEDDING, LEVLJEPA, finish, two_heads, vit_blocks
from levl_eval.backbones.timm_layout import ViT
from levl_eval.models.checkpoints import load_model
from levl_eval.models.config import PretrainConfig
from levl_eval.models.published import preprocess_from
from levl_eval.models.tokenizer import encode
from levl_eval.models.towers import DualEncoder


class DualEncoderBackbone(Backbone):
    """A timm ViT with class token and a GPT-2 text tower with their heads (levl-pretrain's and the published models)."""

    def __init__(self, model: DualEncoder, tokenizer: Tokenizer | None, max_length: int, readout: str = "eot") -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length, self.readout = model, tokenizer, max_length, readout
        self.readouts = LEVLJEPA if model.text.projector is not None else EMBEDDING
        self.class_token = "pooled"
        self.depth = len(self._vit.blocks)

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    def read_texts(self, readout: str) -> None:
        """Take texts' features from another place: eot, pad77 or pad77-all."""
        self.readout = self.model.readout = readout

    @property
    def _vit(self) -> ViT:
        return cast(ViT, self.model.vision.encoder)  # as models.towers.vision_tower made it

    def encode(self, images: Tensor) -> Features:
        tokens = self._vit.forward_features(images)  # [B, 1 + N, D], after the final norm
        patch = self._vit.patch_embed.patch_size
        return Features(tokens[:, 0], tokens[:, 1:], (images.shape[-2] // patch[0], images.shape[-1] // patch[1]))

    def _blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        return vit_blocks(self._vit, images, layers, norm)

    def last_block(self) -> nn.Module:
        return self._vit.blocks[-1]

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        vision = self.model.vision
        return two_heads(vision.pre_proj(pooled), vision.projector, "image")

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        assert self.tokenizer is not None
        ids, last = encode(self.tokenizer, texts, self.max_length, self.readout)
        device = next(self.parameters()).device
        z = self.model.embed_texts(torch.from_numpy(ids).to(device), torch.from_numpy(last).to(device))
        return two_heads(z, self.model.text.projector, "text")


def load(path: str, name: str, uri: str) -> Backbone:
    """Raises UsageError naming the file where it is missing, truncated, foreign, holds pickled code or NaN."""
    model, meta = load_model(Path(path).expanduser())
    preprocess = preprocess_from(meta["preprocess"], path)
    config = PretrainConfig.model_validate(meta["config"])
    info = {k: getattr(config, k) for k in ("objective", "model", "data", "seed", "batch_size")} | {"step": meta["step"]}
    backbone = DualEncoderBackbone(model, Tokenizer.from_str(meta["tokenizer"]), config.max_length, config.text_readout)
    return finish(backbone, name, uri, preprocess, info)
