"""`twin:BACKBONE`: a backbone's architecture and preprocessing with random weights, what gains are over (`--floors random-twin`)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from levl_eval.backbones.base import Backbone
from levl_eval.backbones.common import hash_weights
from levl_eval.cards.registry import backbone_card
from levl_eval.cards.twins import twinned
from levl_eval.core.errors import UsageError
from levl_eval.core.random_state import seeded


@torch.no_grad()
def random_twin(backbone: Backbone, seed: int = 0) -> Backbone:
    """The same architecture with random weights: normal of 0.02 for matrices and embeddings as ViTs are initialised, ones and zeros
    for norms, scales and biases, torch's own rule for convolutions. Preprocessing and hence the geometry stay the same.

    ``info["twin_of"]`` is the hash of the weights it stands beside. Raises UsageError for a backbone without weights.
    """
    asked, backbone = backbone, backbone.whole()
    if next(backbone.parameters(), None) is None:
        raise UsageError(f"{backbone.name}: has no weights to draw at random; leave out its random twin")
    twin = copy.deepcopy(backbone)
    with seeded(seed):
        for module in twin.modules():
            own = dict(module.named_parameters(recurse=False))
            if isinstance(module, nn.modules.conv._ConvNd):
                module.reset_parameters()
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_parameters()
            else:
                norm = "norm" in type(module).__name__.lower()
                for name, p in own.items():
                    if p.ndim > 1:
                        p.copy_(torch.randn(p.shape).clamp(-2, 2).to(p.device) * 0.02)
                    else:
                        p.fill_(0.0 if "bias" in name or not (norm or "scale" in type(module).__name__.lower()) else 1.0)
    twin.name = f"{backbone.name} (random weights)"
    twin.info = {**backbone.info, "baseline": True, "random_seed": seed, "twin_of": backbone.weights_sha256}
    twin.weights_sha256 = hash_weights(twin)
    return asked.alike(twin)


def load(rest: str, name: str, uri: str) -> Backbone:
    """The random twin of whatever ``rest`` names: a card, a path or a URI. Raises UsageError as loading that does, and for ``oracle:``."""
    from levl_eval.backbones.loader import load_backbone

    twinned(backbone_card(rest))  # refuses a twin of itself
    twin = random_twin(load_backbone(rest))
    twin.name, twin.uri = name, uri
    twin.code = {**twin.code, "of": twin.code["loader"]}  # whose own entry becomes this loader's
    return twin
