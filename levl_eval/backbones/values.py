"""Patch tokens of a last block in which every token attends to itself alone: what MaskCLIP reads of CLIP.

Zhou, Loy and Dai, "Extract Free Dense Labels from CLIP" (ECCV 2022): the last block's attention gives each token its own value, through
the output projection; residual, MLP and final norm stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Features
from levl_eval.backbones.deferred import DeferredBackbone, Known
from levl_eval.core.errors import LevlError

VERSION = 1  # of what is read; a change of any number raises it


@contextmanager
def own_values(block: nn.Module) -> Iterator[None]:
    """Within it the block's attention lets every token see itself alone."""

    def masked(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        x = args[0] if args else kwargs["hidden_states"]
        assert isinstance(x, Tensor)
        n = x.shape[1]
        mask = torch.full((n, n), -torch.inf, dtype=x.dtype, device=x.device).fill_diagonal_(0)
        name = "attention_mask" if "attention_mask" in kwargs or len(args) > 1 else "attn_mask"
        return args[:1], {**kwargs, name: mask[None, None] if name == "attention_mask" else mask}

    handle = block.register_forward_pre_hook(masked, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class ValueBackbone(DeferredBackbone):
    """A backbone whose ``encode`` gives such patch tokens; its pooled feature is the class token of that block. Otherwise ``backbone``."""

    def __init__(self, backbone: Backbone) -> None:
        # A compiled block would not see the mask: it is put in by a hook.
        super().__init__(
            Known.of(backbone), backbone.whole, backbone.precision, backbone.execution._replace(compiled=False, cuda_graphs=False)
        )
        self.to(backbone.device)

    def encoder_parts(self) -> dict[str, object]:
        return {**super().encoder_parts(), "patches": f"value {VERSION}"}

    def encode(self, images: Tensor) -> Features:
        """Raises LevlError where the encoder has no such block."""
        block = self.whole().last_block()
        if block is None:
            raise LevlError(f"{self.name}: has no last block whose values could be read; set `patches: projection`")
        with own_values(block):
            return super().encode(images)
