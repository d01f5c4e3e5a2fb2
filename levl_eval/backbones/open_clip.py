"""`open_clip:MODEL/PRETRAINED[?image_size=N]`: PRETRAINED is a tag of open_clip, or a checkpoint file (.pt or .safetensors).

`open_clip:hf-hub:ORG/REPO` and `open_clip:local-dir:DIR` read configuration and weights from a repository or directory, as open_clip
itself does. `image_size` is the library's `force_image_size`: positions are interpolated once, when the weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import EMBEDDING, finish, hub, unit
from levl_eval.backbones.open_clip_towers import Tower, tower_of
from levl_eval.core.errors import UsageError
from levl_eval.core.offline import hub_or_cache
from levl_eval.core.text import did_you_mean

if TYPE_CHECKING:
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer


class OpenClipBackbone(Backbone):
    """A model of open_clip, with text. Its image tower is its own ViT or ResNet, or one of timm."""

    def __init__(self, model: CLIP | CustomTextCLIP, tokenizer: HFTokenizer | SimpleTokenizer | None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.readouts = model, tokenizer, EMBEDDING
        self.depth, self.class_token = self._tower.depth, self._tower.class_token

    @property
    def _tower(self) -> Tower:
        return tower_of(self.model.visual)

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    def encode(self, images: Tensor) -> Features:
        return self._tower.features(images)

    def _blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        return self._tower.blocks(images, layers, norm)

    def last_block(self) -> nn.Module | None:
        return self._tower.last_block()

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        return {"embedding": unit(self._tower.project(pooled))}

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        assert self.tokenizer is not None
        tokens = self.tokenizer(texts).to(next(self.parameters()).device)
        return {"embedding": unit(self.model.encode_text(tokens, normalize=False))}


class Spec(NamedTuple):
    """A URI's parts: ``model`` as open_clip takes it, tag or file ("" with a schema), side of the images or None."""

    model: str
    pretrained: str
    image_size: int | None


def parse(spec: str, uri: str, random: bool = False) -> Spec:
    """Raises UsageError: package missing, unknown model or tag, no such file or directory, an unknown option."""
    try:
        import open_clip
    except ImportError as e:
        raise UsageError(f"{uri}: the package open_clip_torch is not installed; pip install 'levl-eval[open-clip]'") from e
    spec, _, query = spec.partition("?")
    key, _, value = query.partition("=")
    if query and (key != "image_size" or not value.isdigit() or int(value) == 0):
        raise UsageError(f"{uri}: after `?` only image_size=PIXELS is known, found {query!r}")
    side = int(value) if query else None
    if spec.startswith(("hf-hub:", "local-dir:")):
        folder = Path(spec.partition(":")[2]).expanduser()
        if spec.startswith("local-dir:") and not (folder / "open_clip_config.json").is_file():
            raise UsageError(
                f"{uri}: {folder} holds no open_clip_config.json; give a directory that open_clip's save_pretrained wrote"
            )
        return Spec(f"local-dir:{folder}" if spec.startswith("local-dir:") else spec, "", side)
    model, slash, pretrained = spec.partition("/")
    if not random and not (slash and pretrained):
        raise UsageError(f"{uri}: expected open_clip:MODEL/PRETRAINED, for example open_clip:ViT-B-16/openai")
    if model not in open_clip.list_models():
        raise UsageError(f"{uri}: open_clip knows no model {model!r}{did_you_mean(model, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    path = Path(pretrained).expanduser()
    if pretrained and not open_clip.get_pretrained_cfg(model, pretrained) and not (path.is_file() and not random):
        raise UsageError(
            f"{uri}: {pretrained!r} is neither a file nor weights that open_clip knows for {model}{did_you_mean(pretrained, tags)}; "
            f"it has {', '.join(tags) or 'none'}"
        )
    return Spec(model, str(path) if path.is_file() else pretrained, side)


class TagSettings(TypedDict, total=False):
    """Arguments of open_clip's ``create_model``."""

    force_preprocess_cfg: dict[str, object]
    force_quick_gelu: bool


def tag_settings(spec: Spec, uri: str) -> TagSettings:
    """Arguments of ``create_model`` that the weights themselves want: their preprocessing and their activation.

    A checkpoint file says neither; it is read with what all tags of its architecture agree on, else as open_clip reads it. Raises
    UsageError where weights trained with GELU meet an architecture of QuickGELU that has a sister of GELU; without one, the tag is
    silent and the architecture says it (roberta-ViT-B-32), as open_clip reads them.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg

    if not spec.pretrained and not spec.model.partition(":")[1]:
        known = [open_clip.get_pretrained_cfg(spec.model, t) for t in open_clip.list_pretrained_tags_by_model(spec.model)]
    else:
        known = [open_clip.get_pretrained_cfg(spec.model, spec.pretrained)] if spec.pretrained else []
        if known == [{}]:
            known = [open_clip.get_pretrained_cfg(spec.model, t) for t in open_clip.list_pretrained_tags_by_model(spec.model)]
    if not known:
        return {}
    fields = [f for f in PreprocessCfg.__dataclass_fields__ if f != "size"]
    out: TagSettings = {
        "force_preprocess_cfg": {
            f: known[0][f] for f in fields if all(k.get(f) == known[0].get(f) for k in known) and f in known[0]
        }
    }
    if len(known) == 1 and spec.pretrained and not Path(spec.pretrained).is_file():
        wanted = bool(known[0].get("quick_gelu", False))
        has = bool((open_clip.get_model_config(spec.model) or {}).get("quick_gelu", False))
        plain = spec.model.removesuffix("-quickgelu")
        if has and not wanted and plain != spec.model:
            raise UsageError(
                f"{uri}: the weights {spec.pretrained!r} were trained with GELU, "
                f"{spec.model} computes QuickGELU; take {plain}/{spec.pretrained}"
            )
        if wanted and not has:
            out["force_quick_gelu"] = True
    return out


def preprocess_of(net: CLIP | CustomTextCLIP, uri: str) -> Preprocess:
    """open_clip's evaluation transform as data. Raises UsageError where it pads or gives no squares."""
    import open_clip

    c = open_clip.get_model_preprocess_cfg(net)
    sides = {c["size"]} if isinstance(c["size"], int) else set(c["size"])
    mode = c.get("resize_mode") or "shortest"
    if len(sides) != 1 or mode not in ("shortest", "squash"):
        raise UsageError(
            f"{uri}: its images are prepared as {mode!r} of {c['size']} pixels; this suite's are squares, cut or squashed"
        )
    how = "bilinear" if c.get("interpolation") == "bilinear" else "bicubic"
    return Preprocess(sides.pop(), mode, None, how, tuple(c["mean"]), tuple(c["std"]))


def _build(spec: Spec, name: str, uri: str, weights: bool, more: Mapping[str, object]) -> Backbone:
    import open_clip

    settings = tag_settings(spec, uri)
    with hub_or_cache(uri) if weights or ":" in spec.model else hub(uri):
        net = open_clip.create_model(
            spec.model, pretrained=(spec.pretrained or None) if weights else None, load_weights=weights, pretrained_text=False,
            force_image_size=spec.image_size, require_pretrained=weights, weights_only=True, **settings,
        )  # fmt: skip
    tower = tower_of(net.visual, uri)
    with hub_or_cache(uri):
        tokenizer = open_clip.get_tokenizer(spec.model)
    info = {
        "library": "open_clip",
        "model": uri.partition("open_clip:")[2],
        "pooled": tower.pooled,
        "tokens": tower.tokens,
        **more,
    }
    if settings.get("force_quick_gelu"):
        info["activation"] = "QuickGELU, as the weights were trained"
    return finish(OpenClipBackbone(net, tokenizer), name, uri, preprocess_of(net, uri), info)


def load(spec: str, name: str, uri: str) -> Backbone:
    """Raises UsageError: package missing, unknown model or tag, hub not reached, file unreadable, no patch grid."""
    return _build(parse(spec, uri), name, uri, True, {})


def load_random(spec: str, name: str, uri: str, seed: int) -> Backbone:
    """Random weights with the preprocessing and activation of the tag, where one is given."""
    return _build(parse(spec, uri, random=True), name, uri, False, {"random_seed": seed})
