"""The image towers of open_clip: what is pooled before the projection, and which tokens the tower itself norms last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from levl_eval.backbones.base import Features
from levl_eval.backbones.timm import timm_blocks, timm_features
from levl_eval.backbones.timm_layout import blocks_of, class_token_of, pooling_of
from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer


class Tower:
    """One image tower: ``features`` of images, ``project`` from pooled to the joint space, ``blocks`` of a ViT."""

    depth = 0
    class_token: Literal["pooled", "blocks", ""] = ""
    pooled = tokens = ""  # in words, for records

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def features(self, images: Tensor) -> Features:
        raise NotImplementedError

    def project(self, pooled: Tensor) -> Tensor:
        raise NotImplementedError

    def blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        raise NotImplementedError

    def last_block(self) -> nn.Module | None:
        """See Backbone.last_block."""
        return None


class OwnViT(Tower):
    """open_clip's VisionTransformer: one class token always, whatever it pools."""

    visual: VisionTransformer

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__(visual)
        self.depth = len(visual.transformer.resblocks)
        attention = getattr(visual, "attn_pool", None) is not None
        # A norm that follows the attention pool has the pool's width; the tokens' own last norm is then the pool's norm of its keys.
        self.norm = visual.attn_pool.ln_k if attention and not getattr(visual, "attn_pool_contrastive", None) else visual.ln_post
        plain = not attention and visual.pool_type == "tok"
        self.class_token = "pooled" if plain else "blocks"
        self.tokens = "after the norm of the attention pool's keys" if self.norm is not visual.ln_post else "after the final norm"
        order = ", then the final norm" if visual.final_ln_after_pool else " after the final norm"
        mean = "mean of the patch tokens" + order
        self.pooled = (
            "attention pool, its first query, then the final norm" if attention else "CLS after the final norm" if plain else mean
        )

    def _embed(self, images: Tensor) -> Tensor:
        """Tokens before the blocks; positions of another size as open_clip's ``resize_pos_embed`` interpolates them."""
        visual = self.visual
        out: Tensor
        grid = (images.shape[-2] // visual.patch_size[0], images.shape[-1] // visual.patch_size[1])
        if grid == tuple(visual.grid_size):
            out = visual._embeds(images)
            return out
        from open_clip.model import resize_pos_embed

        own = visual.positional_embedding
        state = {"visual.positional_embedding": own.detach()}
        holder = nn.Module()
        holder.visual = nn.Module()
        holder.visual.grid_size = grid  # type: ignore[assignment]
        resize_pos_embed(state, holder)
        try:
            visual.positional_embedding = nn.Parameter(state["visual.positional_embedding"], requires_grad=False)
            out = visual._embeds(images)
            return out
        finally:
            visual.positional_embedding = own

    def features(self, images: Tensor) -> Features:
        visual = self.visual
        tokens = visual.transformer(self._embed(images))
        pooled, _ = visual._pool(tokens)
        size = visual.patch_size
        return Features(pooled, self.norm(tokens)[:, 1:], (images.shape[-2] // size[0], images.shape[-1] // size[1]))

    def project(self, pooled: Tensor) -> Tensor:
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        order = sorted(set(layers))
        _, outputs = self.visual.transformer.forward_intermediates(self._embed(images), indices=order)
        by_index = {i: self.norm(x) if norm else x for i, x in zip(order, outputs, strict=True)}
        return [(by_index[i][:, 1:], by_index[i][:, 0]) for i in layers]

    def last_block(self) -> nn.Module:
        out: nn.Module = self.visual.transformer.resblocks[-1]
        return out


class OwnResNet(Tower):
    """OpenAI's ResNet: the attention pool's output projection is the one into the joint space, so there is no feature before it."""

    pooled = "attention pool, in the joint space of images and texts"
    tokens = "the last stage's map, which has no norm of its own"
    visual: ModifiedResNet

    def features(self, images: Tensor) -> Features:
        outputs = self.visual.forward_intermediates(images, indices=1)
        stage = outputs["image_intermediates"][-1]
        return Features(outputs["image_features"], stage.flatten(2).transpose(1, 2), (stage.shape[2], stage.shape[3]))

    def project(self, pooled: Tensor) -> Tensor:
        return pooled


class TimmTower(Tower):
    """A timm model: what it pools, then its own classifier where that is the projection, then open_clip's head."""

    tokens = "after the final norm"
    visual: TimmModel

    def __init__(self, visual: TimmModel) -> None:
        super().__init__(visual)
        self.depth, self.class_token, self.pooled = (
            blocks_of(visual.trunk),
            class_token_of(visual.trunk),
            pooling_of(visual.trunk),
        )
        if self._pools_itself:
            self.class_token, self.pooled = (
                "",
                "open_clip's attention pool over the map, in the joint space where nothing follows it",
            )

    @property
    def _pools_itself(self) -> bool:
        return hasattr(self.visual.head, "pool")

    def features(self, images: Tensor) -> Features:
        output = timm_features(self.visual.trunk, images)
        if not self._pools_itself:
            return output
        return output._replace(pooled=self.visual.head.pool(self.visual.trunk(images)))

    def project(self, pooled: Tensor) -> Tensor:
        if self._pools_itself:
            for name, layer in self.visual.head.named_children():
                pooled = pooled if name == "pool" else layer(pooled)
            return pooled
        classifier = self.visual.trunk.get_classifier()
        out: Tensor = self.visual.head(classifier(pooled) if isinstance(classifier, nn.Module) else pooled)
        return out

    def blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        return timm_blocks(self.visual.trunk, images, layers, norm)


def tower_of(visual: VisionTransformer | ModifiedResNet | TimmModel, uri: str = "open_clip") -> Tower:
    """The reader of ``model.visual``. Raises UsageError for a tower whose tokens this module does not know."""
    if hasattr(visual, "trunk"):
        return TimmTower(visual)
    if hasattr(visual, "attnpool") and hasattr(visual, "layer4"):
        return OwnResNet(visual)
    if hasattr(visual, "transformer") and hasattr(visual, "positional_embedding"):
        return OwnViT(visual)
    raise UsageError(f"{uri}: its image tower {type(visual).__name__} is none whose patch tokens are known; use py:")
