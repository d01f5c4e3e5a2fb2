"""Which of an encoder's tokens a connector gets: patches, with or without CLS, of the last layer or of an earlier block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone
from levl_eval.cards import ConnectorSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.features.request import checked_batch
from levl_eval.features.store import FeatureSet


def layers_of_connector(spec: ConnectorSpec) -> list[int] | None:
    """The block to read as the feature store wants it, or None for the encoder's own output."""
    return None if spec.layer == "last" else [spec.layer]


def check_layer(backbone: Backbone, spec: ConnectorSpec) -> None:
    """Raises UsageError where the backbone does not have the wanted block."""
    try:
        if spec.layer != "last":
            backbone.layer_indices([spec.layer])
    except LevlError as e:
        raise UsageError(f"field `recipe.connector.layer`: {e}") from e


def encode_tokens(backbone: Backbone, images: Tensor, spec: ConnectorSpec) -> Tensor:
    """float32 [B, n, D'] tokens of preprocessed images [B, 3, H, W], without the feature store.

    Raises LevlError for what is no features.
    """
    layers = layers_of_connector(spec)
    with torch.inference_mode():
        read = backbone.encode(images) if layers is None else backbone.encode_layers(images, layers)
    features = checked_batch(backbone, read, images, layers)
    cls = features.pooled[:, None].float()
    if spec.tokens == "cls":
        return cls
    patches = features.patches.float()
    if spec.tokens == "patches":
        return patches
    _same_width(cls.shape[-1], patches.shape[-1])
    return torch.cat([cls, patches], 1)


def width_of(backbone: Backbone, spec: ConnectorSpec) -> int:
    """D' of the tokens that :func:`encode_tokens` gives: an earlier block's class token is as wide as its patches."""
    return backbone.dim if spec.tokens == "cls" and spec.layer == "last" else backbone.patch_dim


def _same_width(cls: int, patches: int) -> None:
    if cls != patches:
        raise UsageError(
            f"field `recipe.connector.tokens`: the pooled feature has width {cls}, the patches {patches}; use tokens: patches"
        )


def read_tokens(features: FeatureSet, rows: Sequence[int], spec: ConnectorSpec) -> np.ndarray:
    """float32 [b, n, D'] tokens of some images.

    Raises UsageError where a CLS token is wanted that is not as wide as the patches.
    """
    if spec.tokens == "patches":
        return features.patches[np.asarray(rows, int)].astype(np.float32)
    cls = features.pooled[np.asarray(rows, int)].astype(np.float32)[:, None]
    if spec.tokens == "cls":
        return cls
    _same_width(cls.shape[-1], features.patches.shape[-1])
    return np.concatenate([cls, features.patches[np.asarray(rows, int)].astype(np.float32)], 1)


def token_width(features: FeatureSet, spec: ConnectorSpec) -> int:
    """D' of the tokens a connector gets."""
    return features.pooled.shape[-1] if spec.tokens == "cls" else features.patches.shape[-1]
