"""`hf:REPO_OR_DIR`: the image architectures of transformers itself (hf_families.py), with their own image processors.

Code from a repository is never run: what transformers does not hold natively is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Features
from levl_eval.backbones.common import EMBEDDING, finish, unit
from levl_eval.backbones.hf_families import CANONICAL, FAMILIES, canonical, final_norm, is_normed, pooling_of
from levl_eval.backbones.hf_pixels import check_pixels, preprocess_of
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.offline import hub_or_cache
from levl_eval.core.third_party import without_bars
from levl_eval.models.tokenizer import check_words

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# weights no feature comes from; vit's dense pooler among them
_UNUSED = ("pooler.dense", "position_ids", "mask_token", "decoder.")


def as_patches(images: Tensor, patch: int) -> dict[str, Tensor]:
    """Images [B, 3, H, W] as the variable-size SigLIP 2 takes them: patches [B, N, patch * patch * 3] row by row, none of them padding."""
    x = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, 3, h, p, w, p]
    rows, columns = x.shape[2], x.shape[4]
    flat = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": flat, "pixel_attention_mask": flat.new_ones(flat.shape[:2], dtype=torch.int32),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(images), device=images.device),
    }  # fmt: skip


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class HFBackbone(Backbone):
    """A vision tower of transformers; with text where the family has it."""

    def __init__(self, model: PreTrainedModel, family: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        super().__init__()
        self.model, self.family, self.tokenizer = model, family, tokenizer
        self.rules = FAMILIES[family]
        config = self._tower.config
        self.depth = 0 if family == "dinov3_convnext" else config.num_hidden_layers
        single = (self.rules.pooled == "cls" and self.depth) or pooling_of(family, self._tower).startswith("CLS")
        self.class_token = "pooled" if single else "blocks" if self.rules.prefix(config) and self.depth else ""
        if family == "vit_mae":
            config.mask_ratio = 0.0  # the encoder as it is used after training: all patches, in order (see _inputs)
        if tokenizer is not None:
            self.readouts = EMBEDDING

    @property
    def _tower(self) -> PreTrainedModel:
        return self.model.vision_model if hasattr(self.model, "vision_model") else self.model

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    def text_parts(self) -> dict[str, object]:
        parts = super().text_parts()
        return {**parts, "canonical": CANONICAL} if parts and self.rules.canonical else parts

    def _grid(self, images: Tensor) -> tuple[int, int]:
        if self.family == "dinov3_convnext":  # a stem of 4, then three halvings
            return images.shape[-2] // 4 // 2 // 2 // 2, images.shape[-1] // 4 // 2 // 2 // 2
        patch = _pair(self._tower.config.patch_size)
        return images.shape[-2] // patch[0], images.shape[-1] // patch[1]

    def _inputs(self, images: Tensor) -> Mapping[str, Tensor | bool]:
        """What the tower takes; positions are interpolated where the size is not the model's own.

        Raises LevlError for another size where the library itself does not interpolate.
        """
        config = self._tower.config
        if self.family == "siglip2":
            return as_patches(images, config.patch_size)
        inputs: dict[str, Tensor | bool] = {"pixel_values": images}
        if self.family == "vit_mae":
            rows, columns = self._grid(images)  # its shuffle sorts by noise: rising numbers keep the order
            inputs["noise"] = torch.arange(rows * columns, device=images.device).float().expand(len(images), -1)
        own = _pair(config.image_size) if hasattr(config, "image_size") else None
        if own is not None and (images.shape[-2], images.shape[-1]) != own:
            if self.rules.positions == "flag":
                inputs["interpolate_pos_encoding"] = True
            if self.rules.positions == "fixed" and not getattr(config, "is_native", False):
                raise LevlError(f"{self.family} of transformers takes images of {own[0]} x {own[1]} pixels only")
        return inputs

    def _blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        last, skip = final_norm(self.family, self._tower), self.rules.prefix(self._tower.config)
        # The embeddings, then every block.
        states = self._tower(**self._inputs(images), output_hidden_states=True).hidden_states
        tokens = [last(states[i + 1]) if norm else states[i + 1] for i in layers]
        return [(t[:, skip:], t[:, 0] if skip else None) for t in tokens]

    def encode(self, images: Tensor) -> Features:
        out = self._tower(**self._inputs(images))
        tokens = out.last_hidden_state
        if not is_normed(self.family, self._tower):
            tokens = final_norm(self.family, self._tower)(tokens)
        patches = tokens[:, self.rules.prefix(self._tower.config) :]
        if self.rules.pooled == "cls":
            pooled = tokens[:, 0]
        elif self.rules.pooled == "summary":
            pooled = out.summary
        else:
            own = out.pooler_output if self.rules.pooled == "pooler" else None
            pooled = patches.mean(1) if own is None else own
        return Features(pooled, patches, self._grid(images))

    def last_block(self) -> nn.Module | None:
        layers = getattr(getattr(self._tower, "encoder", None), "layers", None)
        return layers[-1] if self.family == "clip" and layers is not None else None

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        project = getattr(self.model, "visual_projection", None)
        return {"embedding": unit(pooled if project is None else project(pooled))}

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        assert self.tokenizer is not None
        text = self.model.text_model
        # SigLIP was trained on texts padded to full length and without a mask; CLIP reads at the end token.
        full = self.rules.text in ("full", "masked")
        batch = self.tokenizer(
            [canonical(t) for t in texts] if self.rules.canonical else texts, padding="max_length" if full else True,
            truncation=True, max_length=text.config.max_position_embeddings, return_tensors="pt",
        )  # fmt: skip
        device = next(self.parameters()).device
        inputs = {"input_ids": batch["input_ids"].to(device)}
        if self.rules.text != "full":
            inputs["attention_mask"] = batch["attention_mask"].to(device)
        pooled = text(**inputs).pooler_output
        project = getattr(self.model, "text_projection", None)
        return {"embedding": unit(pooled if project is None else project(pooled))}


def _config(repo: str, uri: str) -> tuple[PretrainedConfig, str]:
    """(configuration, family). Raises UsageError for what is not in the table, or not in transformers."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(repo, trust_remote_code=False)
    except ValueError as e:
        if "trust_remote_code" in str(e) or "custom code" in str(e):
            raise UsageError(
                f"{uri}: its code lies in the repository and not in transformers, and is not run; "
                "take the same weights from timm: or open_clip:"
            ) from None
        raise
    family = str(config.model_type).removesuffix("_model").removesuffix("_vision")
    if family not in FAMILIES:
        raise UsageError(
            f"{uri}: model type {config.model_type!r} is not one of {', '.join(FAMILIES)}; use timm:, open_clip: or py:"
        )
    return config, family


def class_of(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The bare model's class; a few vision towers stand in no list of transformers' own."""
    import transformers
    from transformers import AutoModel

    name = type(config).__name__.removesuffix("Config") + "Model"
    out: type[PreTrainedModel] = AutoModel if type(config) in AutoModel._model_mapping else getattr(transformers, name)
    return out


def options_of(family: str) -> dict[str, bool]:
    """data2vec's only final norm stands in a pooler that transformers builds on demand."""
    return {"add_pooling_layer": True} if family == "data2vec-vision" else {}


def _complete(loading: Mapping[str, Iterable[str]], uri: str) -> None:
    """Raises UsageError where weights were not in the checkpoint and would have stayed random."""
    missing = sorted(k for k in loading.get("missing_keys", ()) if not any(part in k for part in _UNUSED))
    if missing:
        raise UsageError(
            f"{uri}: the checkpoint lacks {len(missing)} weights of its architecture, {missing[0]} first; it is another model's"
        )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocabulary: int, uri: str) -> None:
    """Raises UsageError for a tokenizer that is not the text tower's, or cannot make texts of one length."""
    check_words(tokenizer, uri)
    if tokenizer.vocab_size > vocabulary:  # tokens added to it do not count: texts hardly hold them
        raise UsageError(
            f"{uri}: its tokenizer has {tokenizer.vocab_size} entries, the text tower {vocabulary}; they are of two models"
        )
    if tokenizer.pad_token_id is None:
        raise UsageError(f"{uri}: its tokenizer has no padding token; set pad_token in tokenizer_config.json")


def _finish(model: PreTrainedModel, family: str, repo: str, name: str, uri: str, more: Mapping[str, object]) -> Backbone:
    from transformers import AutoImageProcessor, AutoTokenizer

    with hub_or_cache(uri):
        processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=False)
        has_text = hasattr(model, "text_model") and FAMILIES[family].text
        tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=False) if has_text else None
        preprocess = preprocess_of(processor, uri)
    if tokenizer is not None:
        _check_tokenizer(tokenizer, model.text_model.config.vocab_size, uri)
    backbone = HFBackbone(model, family, tokenizer)
    info = {"library": "transformers", "family": family, "pooled": pooling_of(family, backbone._tower), **more}
    if family == "siglip2":
        info["protocol"] = "naflex-square: squashed to the largest square of its number of patches, the aspect ratio is not kept"
    loaded = finish(backbone, name, uri, preprocess, info)
    check_pixels(processor, preprocess, uri)
    return loaded


def load(repo: str, name: str, uri: str) -> Backbone:
    """Raises UsageError: not one of the families, incomplete directory or weights, hub not reached."""
    with hub_or_cache(uri), without_bars():
        config, family = _config(repo, uri)
        model, loading = class_of(config).from_pretrained(
            repo, dtype=torch.float32, output_loading_info=True, **options_of(family)
        )
        _complete(loading, uri)
    return _finish(model, family, repo, name, uri, {})


def load_random(repo: str, name: str, uri: str, seed: int) -> Backbone:
    """`random:hf:REPO_OR_DIR`: random weights of a repository's architecture, with its preprocessing and tokenizer."""
    with hub_or_cache(uri):
        config, family = _config(repo, uri)
        kind = class_of(config)
        model = (kind.from_config if hasattr(kind, "from_config") else kind)(config, **options_of(family))
    return _finish(model.float(), family, repo, name, uri, {"random_seed": seed})
