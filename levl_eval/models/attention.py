"""Causal attention for the text tower, registered with transformers under names of ours.

transformers' own implementations make a mask first, and to see whether one is needed read values of the batch: a GPU is waited for at each
call. For names it has no mask for it makes none. A mask that is given must be whole, [B, 1, L, L], True where a token may be attended to.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FUSED, PLAIN = "levl_causal", "levl_causal_plain"


def causal_mask(real: Tensor) -> Tensor:
    """[B, L], 1 at real tokens -> [B, 1, L, L]: each position sees the real tokens up to itself."""
    size = real.shape[1]
    return torch.ones(size, size, dtype=torch.bool, device=real.device).tril() & real.bool()[:, None, None, :]


def _whole(mask: Tensor | None) -> Tensor | None:
    if mask is not None and mask.ndim != 4:
        raise ValueError(f"the text tower takes whole masks [B, 1, L, L] (attention.causal_mask), not {list(mask.shape)}")
    return mask


def fused(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """torch's fused kernel. query, key, value: [B, H, L, D] -> [B, L, H, D]."""
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=_whole(attention_mask), is_causal=attention_mask is None)
    return out.transpose(1, 2), None


def plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The same as two products (towers.plain_attention says when)."""
    size = query.shape[2]
    mask = _whole(attention_mask)
    seen = mask if mask is not None else torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    out = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) @ value
    return out.transpose(1, 2), None


def register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(FUSED, fused)
    AttentionInterface.register(PLAIN, plain)
