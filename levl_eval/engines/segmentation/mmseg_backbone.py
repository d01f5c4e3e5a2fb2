"""A frozen backbone in mmsegmentation's registry: ``backbone=dict(type="LevlBackbone", uri="levl:ckpt.pt")`` in any config.

Importing this module registers it (``custom_imports = dict(imports=["levl_eval.engines.segmentation.mmseg_backbone"])``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from levl_eval.core.third_party import repair_mmseg

repair_mmseg()

from mmengine.model import BaseModule  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

from levl_eval.backbones import load_backbone  # noqa: E402
from levl_eval.backbones.base import Backbone, missing_pixels  # noqa: E402
from levl_eval.features.request import Encoder, check_finite  # noqa: E402


@MODELS.register_module()
class LevlBackbone(BaseModule):
    """Patch tokens of a levl-eval backbone as feature maps, without gradient and always in eval mode.

    uri: card name, path or URI. layers: blocks to give, one map each, -1 the last; None: one map of the encoder's own output.
    normalized: images arrive standardised by the backbone's own mean and std (what the data preprocessor must then hold,
    times 255); False: they arrive as RGB in 0..255 and are standardised here. ``out_channels`` is the width of each map.

    The encoder is no submodule: mmengine's checkpoints hold the head alone, and optimisers never see its weights.
    """

    def __init__(
        self,
        uri: str | Backbone,
        layers: Sequence[int] | None = None,
        normalized: bool = False,
        init_cfg: dict[str, object] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        backbone = load_backbone(uri) if isinstance(uri, str) else uri
        self._held = [backbone]  # in a list: torch does not register it
        self.layers = None if layers is None else tuple(backbone.layer_indices(layers))
        self.normalized = normalized
        self.out_channels = backbone.patch_dim

    @property
    def encoder(self) -> Backbone:
        return self._held[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] -> one [B, D, h, w] a layer.

        H and W that are no multiple of the patch are padded with zeros, unless both are the encoder's own size. Raises LevlError
        for what the encoder gives that is no features of the images.
        """
        b = self.encoder
        device = next(b.parameters()).device
        if device != images.device:
            b.to(images.device)
        x = images if self.normalized else b.preprocess.normalize(images.movedim(1, -1))
        high, wide = missing_pixels(x, b)
        x = torch.nn.functional.pad(x, (0, wide, 0, high))
        features = Encoder(b, self.layers)(x)
        check_finite(b, features.patches)
        maps = features.patches.transpose(1, 2).unflatten(2, features.grid)
        return tuple(m.clone() for m in maps.split(self.out_channels, 1))  # clone: no inference tensor reaches autograd
