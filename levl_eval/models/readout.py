"""The last block of a tower computed for the one token that is read there.

An objective reads the class token of the last block (docs/paper.md), so the block's other outputs have no gradient and no use while
training: keys and values of all tokens are needed, everything behind them only for that token. Same sums, other rounding; of a
ViT with L blocks this leaves out about 0.8 / L of the arithmetic, a fifth at nano.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor

from levl_eval.models import bf16


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, fused: bool) -> Tensor:
    """Attention of one query a row: query [B, 1, D], key and value [B, N, D] -> [B, 1, D]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if fused:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


class ClassTokenBlock(Block):
    """timm's pre-norm block (no layer scale, no norm of queries, no dropout: as :func:`model.vision_tower` builds it).

    With ``only_class_token`` and in training mode it returns [B, 1, D], the class token alone; else all tokens as always.
    """

    only_class_token = False
    fused = False  # towers.fuse_blocks

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        out: Tensor
        if self.fused and bf16.active(self) and not args and not kwargs:
            return bf16.vit_block(self, x, self.only_class_token)
        if not (self.only_class_token and self.training) or args or kwargs:
            out = super().forward(x, *args, **kwargs)
            return out
        first, normed, attention = x[:, :1], self.norm1(x), self.attn
        width = x.shape[-1]
        weight, bias = attention.qkv.weight, attention.qkv.bias
        query = F.linear(normed[:, :1], weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        first = first + attention.proj(attend(query, key, value, attention.num_heads, attention.fused_attn))
        out = first + self.mlp(self.norm2(first))
        return out


class ProductPatchEmbed(PatchEmbed):
    """timm's patch embedding, which with ``fused`` (towers.fuse_blocks) cuts the image itself and multiplies once."""

    fused = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        if not (self.fused and bf16.active(self)):
            out = super().forward(x)
            return out
        return bf16.patches(self, x)
