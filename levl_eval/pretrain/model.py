"""The towers and heads of PAPER 1.4: a timm ViT, a GPT-2 from scratch, BatchNorm heads and predictors.

Module names (encoder, pre_proj, projector) and the indices within heads are those of the published checkpoints (PAPER 1.10),
so that state dictionaries can be exchanged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from levl_eval._compat import repair

repair()


def vision_tower(width: int, depth: int, heads: int, patch: int, image_size: int) -> nn.Module:
    """A timm ViT with class token and learned positions, without classifier; other image sizes by position interpolation."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, dynamic_img_size=True
    )


def text_tower(width: int, depth: int, heads: int, vocab: int, length: int) -> nn.Module:
    """A GPT-2 from scratch without dropout."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=width, n_layer=depth, n_head=heads, n_inner=4 * width,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2Model(config)


def pre_projection(width: int, hidden: int, dim: int) -> nn.Sequential:
    """Linear, BatchNorm, GELU, Linear: before it the final LayerNorm would suppress the variance that SIGReg needs (PAPER 1.3)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, dim))


def predictor(dim: int, hidden: int, depth: int, dropout: float) -> nn.Sequential:
    """An MLP with ``depth`` hidden layers of Linear, BatchNorm, GELU, Dropout and a last Linear (indices 0,1 / 4,5 / ... / 4 depth)."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(dim if i == 0 else hidden, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, dim))


class Tower(nn.Module):
    """One modality: encoder, pre_proj and, for LeVLJEPA, its predictor ``projector``."""

    def __init__(self, encoder: nn.Module, pre_proj: nn.Module, projector: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.pre_proj, self.projector = encoder, pre_proj, projector


class DualEncoder(nn.Module):
    """Vision and text towers, and for the contrastive objectives the learned scale (and bias)."""

    def __init__(self, vision: Tower, text: Tower, objective: str) -> None:
        super().__init__()
        self.vision, self.text, self.objective = vision, text, objective
        if objective == "clip":  # OpenCLIP's initialisation
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        elif objective == "siglip":  # SigLIP's: t' = log 10, b = -10
            self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> z_v [B, d], from the class token after the final norm."""
        return self.vision.pre_proj(self.vision.encoder(pixels))

    def embed_texts(self, ids: Tensor, last: Tensor) -> Tensor:
        """Token ids [B, L] and the index of each row's end-of-text token [B] -> z_t [B, d].

        The tower is causal and is read at the end-of-text token, so what stands behind it, and how far rows are padded, cannot
        change the result; no attention mask is needed.
        """
        return self.text.pre_proj(text_states(self.text.encoder, ids)[torch.arange(len(ids), device=ids.device), last])


def plain_attention(model: DualEncoder) -> None:
    """Attention as two matrix products instead of the fused kernel.

    torch's fused CPU kernel has a slow backward in bfloat16: at nano (65 tokens, batch 128, one AVX-512-BF16 core) forward and
    backward take 102 ms fused and 22 ms plain; in float32 the fused one wins (38 against 43 ms). Same sums, other rounding.
    """
    for block in model.vision.encoder.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # type: ignore[union-attr]
    model.text.encoder.set_attn_implementation("eager")  # type: ignore[operator]


def text_states(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Last hidden states [B, L, width] of a GPT-2."""
    return encoder(input_ids=ids, use_cache=False).last_hidden_state


def build_model(config: Any, vocab: int) -> DualEncoder:
    """The model of a configuration (config.PretrainConfig, or its dictionary) for a tokenizer of ``vocab`` tokens."""
    from levl_eval.pretrain.config import PretrainConfig

    c = config if isinstance(config, PretrainConfig) else PretrainConfig.model_validate(config)
    v, t = c.vision, c.text
    predicts = c.objective == "levljepa"

    def head() -> nn.Module | None:
        return predictor(c.embed_dim, c.predictor_width, c.predictor_depth, c.dropout) if predicts else None

    image = Tower(
        vision_tower(v.width, v.depth, v.heads, v.patch or 16, c.image_size),
        pre_projection(v.width, c.head_width, c.embed_dim),
        head(),
    )
    text = Tower(
        text_tower(t.width, t.depth, t.heads, vocab, c.positions or c.max_length),
        pre_projection(t.width, c.head_width, c.embed_dim),
        head(),
    )
    return DualEncoder(image, text, c.objective)
