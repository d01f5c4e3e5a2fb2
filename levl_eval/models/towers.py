"""The towers and heads of docs/paper.md: a timm ViT, a GPT-2 from scratch, BatchNorm heads and predictors.

Module names (encoder, pre_proj, projector) and the indices within heads are those of the published checkpoints (docs/paper.md),
so that state dictionaries can be exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from levl_eval.core.third_party import repair
from levl_eval.models import attention, bf16

if TYPE_CHECKING:
    from levl_eval.models.config import PretrainConfig

repair()

_GROUP = 128  # tokens of a small tower that cost what a group of texts costs in calls


def vision_tower(width: int, depth: int, heads: int, patch: int, image_size: int) -> nn.Module:
    """A timm ViT with class token and learned positions, without classifier; other image sizes by position interpolation.

    While training only the class token leaves the last block (readout.py): the objectives read nothing else.
    """
    from timm.models.vision_transformer import VisionTransformer

    from levl_eval.models.readout import ClassTokenBlock, ProductPatchEmbed

    net: nn.Module = VisionTransformer(
        img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, dynamic_img_size=True,
        block_fn=ClassTokenBlock, embed_layer=ProductPatchEmbed,
    )  # fmt: skip
    net.blocks[-1].only_class_token = True  # type: ignore[union-attr,index]
    return net


def text_tower(width: int, depth: int, heads: int, vocab: int, length: int) -> nn.Module:
    """A GPT-2 from scratch without dropout."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=width, n_layer=depth, n_head=heads, n_inner=4 * width,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's gelu_new, one kernel instead of eight
    )  # fmt: skip
    attention.register()
    model = GPT2Model(config)
    model.set_attn_implementation(attention.FUSED)
    out: nn.Module = model
    return out


def pre_projection(width: int, hidden: Sequence[int], dim: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, BatchNorm, GELU for each of the hidden widths, and a Linear (docs/paper.md): without it the encoder's final LayerNorm would
    suppress the variance that SIGReg needs.

    Dropout, where there is any, stands within the activation, so that layers keep the published indices 0,1 / 3,4 / ... / 3 depth.
    """
    layers: list[nn.Module] = []
    for before, size in zip([width, *hidden], hidden, strict=False):
        activation: nn.Module = nn.Sequential(nn.GELU(), nn.Dropout(dropout)) if dropout else nn.GELU()
        layers += [nn.Linear(before, size), nn.BatchNorm1d(size), activation]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else width, dim))


def predictor(dim: int, hidden: Sequence[int], dropout: float, last_dropout: bool = True) -> nn.Sequential:
    """torchvision's MLP as published: Linear, BatchNorm, GELU, Dropout for each of the hidden widths, Linear, Dropout
    (indices 0,1 / 4,5 / ... / 4 depth). last_dropout: whether the one behind the last Linear is there.
    """
    layers: list[nn.Module] = []
    for before, size in zip([dim, *hidden], hidden, strict=False):
        layers += [nn.Linear(before, size), nn.BatchNorm1d(size), nn.GELU(), nn.Dropout(dropout)]
    layers.append(nn.Linear(hidden[-1] if hidden else dim, dim))
    return nn.Sequential(*layers, nn.Dropout(dropout)) if last_dropout else nn.Sequential(*layers)


class Tower(nn.Module):
    """One modality: encoder, pre_proj and, for LeVLJEPA, its predictor ``projector``."""

    def __init__(self, encoder: nn.Module, pre_proj: nn.Module, projector: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.pre_proj, self.projector = encoder, pre_proj, projector


class DualEncoder(nn.Module):
    """Vision and text towers, and for the contrastive objectives the learned scale (and bias)."""

    # What accelerate's FSDP wraps, each block a unit, where its configuration names no classes.
    _no_split_modules = ("ClassTokenBlock", "GPT2Block")

    def __init__(
        self, vision: Tower, text: Tower, objective: str, scale: float | None = None, bias: float = -10.0, buckets: int = 1,
        readout: str = "eot",
    ) -> None:  # fmt: skip
        """readout: "eot"; "pad77"; or "pad77-all", the same without an attention mask (config.pad77_attends)."""
        super().__init__()
        self.vision, self.text, self.objective, self.buckets, self.readout = vision, text, objective, buckets, readout
        self.fused = False  # fuse_blocks
        self.predicts_views = False  # config.plus_predicts
        if objective in ("clip", "siglip"):  # OpenCLIP's initialisation; SigLIP's: t' = log 10, b = -10
            first = scale or (1 / 0.07 if objective == "clip" else 10.0)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(first)))
        if objective == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(float(bias)))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> z_v [B, d], from the class token after the final norm."""
        out: Tensor = self.vision.pre_proj(self.vision.encoder(pixels))
        return out

    def embed_views(self, crops: Sequence[Tensor]) -> Tensor:
        """Crops of one size each, [V_k, B, 3, S_k, S_k] -> z [V, B, d]; one BatchNorm over all views together."""
        pooled = torch.cat([self.vision.encoder(x.flatten(0, 1)) for x in crops if len(x)])
        out: Tensor = self.vision.pre_proj(pooled).unflatten(0, (-1, crops[0].shape[1]))
        return out

    def embed_texts(self, ids: Tensor, last: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Token ids [B, L] and the index of each row's last token before padding [B] -> z_t [B, d] (docs/paper.md).

        eot: the tower is causal and is read at that token, so what stands behind it, and how far rows are padded, cannot change the
        result; no attention mask is needed, and rows of similar length are run together without the padding of the longest.
        pad77: read at the last position, L - 1, which attends to the tokens up to that index and to no padding, not even itself; where it
        stands does change the result, so rows must be padded to the maximal length.

        lengths: ``last`` as numbers, where the caller has them, so that a GPU need not be waited for to group rows.
        """
        out: Tensor = self.text.pre_proj(self.text_states(ids, last, lengths))
        return out

    def text_states(self, ids: Tensor, last: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        rows = torch.arange(len(ids), device=ids.device)
        if self.fused and bf16.active(self) and self.readout == "eot":
            return self._fused_states(ids, last, lengths)
        if self.readout != "eot":
            mask = None
            if self.readout == "pad77":
                mask = (torch.arange(ids.shape[1], device=ids.device) <= last[:, None]).long()
            return text_states(self.text.encoder, ids, mask)[:, -1]
        if not self.training or self.buckets < 2 or len(ids) < 4 * self.buckets:
            return text_states(self.text.encoder, ids)[rows, last]
        return self._in_groups(
            ids, last, lengths, self.buckets, lambda i, at: text_states(self.text.encoder, i)[rows[: len(i)], at]
        )

    def _in_groups(
        self, ids: Tensor, last: Tensor, lengths: Sequence[int] | None, count: int, states: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """``states`` of ``count`` groups of rows of similar length, each without the padding of the longest row of all."""
        order = last.argsort(stable=True)
        sizes = [len(group) for group in order.chunk(count)]
        ends = list(accumulate(sizes))
        longest = sorted(last.tolist() if lengths is None else lengths)  # in the order of ``order``
        made = []
        for size, end in zip(sizes, ends, strict=True):
            group = order[end - size : end]
            made.append(states(ids[group, : longest[end - 1] + 1], last[group]))
        return torch.cat(made)[order.argsort()]

    def _fused_states(self, ids: Tensor, last: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """In as many groups as spare tokens enough to pay for their calls."""
        longest = sorted(last.tolist() if lengths is None else lengths)

        def cost(count: int) -> int:
            size = -(-len(ids) // count)
            groups = [longest[at : at + size] for at in range(0, len(ids), size)]
            return sum(len(group) * (int(group[-1]) + 1) + _GROUP for group in groups)

        count = min(range(1, max(1, min(self.buckets, len(ids) // 4)) + 1), key=cost)
        return self._in_groups(
            ids[:, : longest[-1] + 1], last, lengths, count, lambda i, at: bf16.last_states(self.text.encoder, i, at)
        )

    def forward(
        self, pixels: Tensor | Sequence[Tensor], ids: Tensor | None = None, last: Tensor | None = None, global_views: int = 0,
        lengths: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Everything an objective needs of a batch: z_v, z_t [B, d]; p_v, p_t, the predictions of the other modality, where there
        are predictors (p_v [V, B, d] where each view predicts); logit_scale, logit_bias; views [V, B, d] where pixels are crops
        (then z_v is the mean of the global ones).
        Without texts: pooled, the class token [B, D], alone (for probes).
        """
        out: dict[str, Tensor] = {}
        if ids is None or last is None:
            return {"pooled": self.vision.encoder(pixels)}
        if isinstance(pixels, Tensor):
            out["z_v"] = self.embed_images(pixels)
        else:
            out["views"] = self.embed_views(pixels)
            out["z_v"] = out["views"][:global_views].mean(0)
        out["z_t"] = self.embed_texts(ids, last, lengths)
        if self.vision.projector is not None and self.text.projector is not None:
            seen = out["views"] if self.predicts_views and "views" in out else out["z_v"]
            predicted = self.vision.projector(seen.flatten(0, -2))  # one BatchNorm over all views together
            out["p_v"], out["p_t"] = predicted.view_as(seen), self.text.projector(out["z_t"])
        for name in ("logit_scale", "logit_bias"):
            if hasattr(self, name):
                out[name] = getattr(self, name) * 1.0
        return out


def plain_attention(model: DualEncoder) -> None:
    """Attention as two matrix products instead of the fused kernel.

    torch's fused CPU kernel has a slow backward in bfloat16: at nano (65 tokens, batch 128, one AVX-512-BF16 core) forward and
    backward take 102 ms fused and 22 ms plain; in float32 the fused one wins (38 against 43 ms). Same sums, other rounding.
    """
    for block in model.vision.encoder.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False
    model.text.encoder.set_attn_implementation(attention.PLAIN)  # type: ignore[operator]


def fuse_blocks(model: DualEncoder) -> None:
    """Training steps under autocast to bfloat16 on a CPU by the blocks of bf16.py; everything else stays as it was."""
    model.fused = True
    for part in (model.vision.encoder.patch_embed, *model.vision.encoder.blocks):  # type: ignore[misc]
        part.fused = True


def text_states(encoder: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Last hidden states [B, L, width] of a GPT-2 at positions 0 to L - 1; mask [B, L]: 1 where a token may be attended to."""
    whole = None if mask is None else attention.causal_mask(mask)
    out: Tensor = encoder(input_ids=ids, attention_mask=whole, use_cache=False).last_hidden_state
    return out


def build_model(config: PretrainConfig | Mapping[str, object], vocab: int) -> DualEncoder:
    """The model of a configuration (config.PretrainConfig, or its dictionary) for a tokenizer of ``vocab`` tokens."""
    from levl_eval.models.config import PretrainConfig, head_dims, predictor_dims, readout_of

    c = config if isinstance(config, PretrainConfig) else PretrainConfig.model_validate(config)
    v, t = c.vision, c.text
    predicts = c.objective in ("levljepa", "levljepa_plus") and c.prediction == "predictor"

    def head() -> nn.Module | None:
        return predictor(c.embed_dim, predictor_dims(c), c.dropout, c.last_dropout) if predicts else None

    def tower(encoder: nn.Module, width: int) -> Tower:
        return Tower(encoder, pre_projection(width, head_dims(c), c.embed_dim, c.head_dropout), head())

    model = DualEncoder(
        tower(vision_tower(v.width, v.depth, v.heads, v.patch or 16, c.image_size), v.width),
        tower(text_tower(t.width, t.depth, t.heads, vocab, max(c.positions or 0, c.max_length)), t.width),
        c.objective, c.logit_scale_init, c.logit_bias_init, c.text_buckets, readout_of(c),
    )  # fmt: skip
    model.predicts_views = c.plus_predicts == "views"
    return model
