"""Which of an encoder's tokens a connector gets: patches, with or without CLS, of the last layer or of an earlier block."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Features
from levl_eval.cards import ConnectorSpec
from levl_eval.errors import UsageError
from levl_eval.features import FeatureSet


class LayerView(Backbone):
    """A backbone whose patch tokens are those behind one of its blocks, before any final norm.

    Its ``weights_sha256`` names the block too, so that the feature store keeps the two apart.
    """

    def __init__(self, inner: Backbone, layer: int) -> None:
        super().__init__()
        self.inner = inner
        for name in ("name", "uri", "preprocess", "dim", "patch_dim", "grid", "info"):
            setattr(self, name, getattr(inner, name))
        blocks = _blocks(inner)
        if not -len(blocks) <= layer < len(blocks):
            raise UsageError(
                f"field `recipe.connector.layer`: {inner.name} has {len(blocks)} blocks, expected {-len(blocks)}..{len(blocks) - 1}, found {layer}"
            )
        self.block = layer % len(blocks)
        self.weights_sha256 = hashlib.sha256(f"{inner.weights_sha256}:block {self.block}".encode()).hexdigest()
        self._list = [blocks]  # not registered a second time
        with torch.inference_mode():
            device = next((p.device for p in inner.parameters()), torch.device("cpu"))
            self.patch_dim = self.encode(
                torch.zeros(1, 3, inner.preprocess.size, inner.preprocess.size, device=device)
            ).patches.shape[-1]

    def encode(self, images: Tensor) -> Features:
        kept: list[Tensor] = []
        handle = self._list[0][self.block].register_forward_hook(
            lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            found = self.inner.encode(images)
        finally:
            handle.remove()
        tokens = kept[-1]
        if tokens.ndim == 3 and tokens.shape[0] != len(images) and tokens.shape[1] == len(images):
            tokens = tokens.transpose(0, 1)
        n = found.grid[0] * found.grid[1]
        if tokens.ndim != 3 or tokens.shape[1] < n:
            raise UsageError(
                f"field `recipe.connector.layer`: block {self.block} of {self.name} gives no {n} patch tokens; use layer: last"
            )
        return Features(found.pooled, tokens[:, -n:], found.grid)


def _blocks(backbone: Backbone) -> Any:
    """The image encoder's list of blocks: of all lists of equal modules that run when an image is encoded, the longest."""
    called: set[str] = set()
    lists = {
        name: m
        for name, m in backbone.named_modules()
        if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) > 1 and len({type(c) for c in m}) == 1
    }
    handles = [m[-1].register_forward_hook(lambda *a, name=name: called.add(name)) for name, m in lists.items()]
    try:
        with torch.inference_mode():
            device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
            backbone.encode(torch.zeros(1, 3, backbone.preprocess.size, backbone.preprocess.size, device=device))
    finally:
        for h in handles:
            h.remove()
    if not called:
        raise UsageError(f"field `recipe.connector.layer`: {backbone.name} has no list of blocks; use layer: last")
    return lists[max(sorted(called), key=lambda name: len(lists[name]))]


def view(backbone: Backbone, spec: ConnectorSpec) -> Backbone:
    """The backbone as a connector sees it. Raises UsageError where it lacks the wanted layer."""
    return backbone if spec.layer == "last" else LayerView(backbone, spec.layer)


def read_tokens(features: FeatureSet, rows: Sequence[int], spec: ConnectorSpec) -> np.ndarray:
    """float32 [b, n, D'] tokens of some images.

    Raises UsageError where a CLS token is wanted that is not as wide as the patches.
    """
    if spec.tokens == "patches":
        return np.stack([features.patches[r] for r in rows]).astype(np.float32)
    cls = np.stack([features.pooled[r] for r in rows]).astype(np.float32)[:, None]
    if spec.tokens == "cls":
        return cls
    if cls.shape[-1] != features.patches.shape[-1]:
        raise UsageError(
            f"field `recipe.connector.tokens`: the global read-out has width {cls.shape[-1]}, the patches {features.patches.shape[-1]}; use tokens: patches"
        )
    return np.concatenate([cls, np.stack([features.patches[r] for r in rows]).astype(np.float32)], 1)


def token_width(features: FeatureSet, spec: ConnectorSpec) -> int:
    """D' of the tokens a connector gets."""
    return features.pooled.shape[-1] if spec.tokens == "cls" else features.patches.shape[-1]
