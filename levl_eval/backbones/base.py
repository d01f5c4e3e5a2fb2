"""The Backbone contract: what every loader must give, and what every engine may rely on."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from levl_eval._compat import repair
from levl_eval.backbones.code import tokenizer_digest
from levl_eval.errors import LevlError

repair()  # every loader imports this module before its library, and with it torchvision


class Features(NamedTuple):
    """What an encoder sees of a batch of images.

    pooled: [B, D] the encoder's own global read-out before any projection head (CLS after the final norm, or its pooling).
    patches: [B, N, D'] patch tokens of the last layer after the final norm, without CLS and register tokens, raster order.
    grid: (h, w) with h * w == N.
    """

    pooled: Tensor
    patches: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """Image preprocessing as data, so that it can travel in cards, cache keys and records.

    resize: "squash" (to size x size), "shortest" (shortest side to ``resize_to``, then centre crop to ``size``).
    mean, std: per channel, for inputs in [0, 1].
    """

    size: int = 224
    resize: str = "shortest"
    resize_to: int | None = None  # None: equal to size
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> float32 [3, size, size]."""
        import numpy as np

        return self.normalize(torch.from_numpy(np.array(self.geometry(image.convert("RGB")))))

    def geometry(self, image: Image.Image, nearest: bool = False, fill: int = 0) -> Image.Image:
        """Resize and crop only; ``nearest`` for label maps, which must follow exactly the image's geometry.

        "shortest" is to the pixel what the published protocols use, torchvision's Resize and CenterCrop: the longer side is
        truncated, the crop's corner rounded (halves to even), and a crop larger than the picture has black, or ``fill``, around it.
        """
        method = Image.Resampling.NEAREST if nearest else Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return image.resize((self.size, self.size), method)
        target, short = self.resize_to or self.size, min(image.size)
        image = image.resize([target if side == short else int(target * side / short) for side in image.size], method)
        left, top = (_corner(side, self.size) for side in image.size)
        wide, high = image.size
        if wide >= self.size and high >= self.size:
            return image.crop((left, top, left + self.size, top + self.size))
        out = Image.new(
            image.mode, (self.size, self.size), fill if len(image.getbands()) == 1 else (fill,) * len(image.getbands())
        )
        out.paste(image, (-left, -top))
        return out

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W], scaled to [0, 1] and standardised."""
        x = pixels.movedim(-1, -3).float().div(255.0)
        mean = torch.tensor(self.mean, device=x.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(3, 1, 1)
        return (x - mean) / std


def _corner(side: int, crop: int) -> int:
    """Where a centred crop begins on a side; negative where the crop reaches beyond it (the odd pixel then lies behind)."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def join_layers(blocks: Sequence[tuple[Tensor, Tensor | None]], backbone: Backbone, images: Tensor) -> Features:
    """Blocks' (patches, class token or None) -> Features with concatenated channels."""
    pooled = torch.cat([p.mean(1) if c is None else c for p, c in blocks], -1)
    patches = torch.cat([p for p, _ in blocks], -1)
    # All loaders with blocks are plain ViTs: the grid scales with the input.
    stride = backbone.preprocess.size // backbone.grid[0]
    return Features(pooled, patches, (images.shape[-2] // stride, images.shape[-1] // stride))


class Readout(NamedTuple):
    """One way to compare images with texts: which image embedding with which text embedding."""

    name: str
    image: str
    text: str


class Backbone(nn.Module, abc.ABC):
    """A frozen image encoder, where it has one with its text encoder. Always in eval mode, parameters without gradient.

    Attributes set by every loader: ``name``, ``uri``, ``weights_sha256`` (of the parameters' bytes, not of a path), ``code``
    (what computes the features, backbones.code), ``preprocess``, ``dim`` (D of pooled), ``patch_dim`` (D' of patches), ``grid`` at
    the default size, ``info`` (free text for records).
    """

    name: str
    uri: str
    weights_sha256: str
    preprocess: Preprocess
    dim: int
    patch_dim: int
    grid: tuple[int, int]
    info: dict[str, Any]
    code: Mapping[str, str] = {}

    def encoder_parts(self) -> dict[str, Any]:
        """What moves features besides preprocessing, as identity parts: weights and code."""
        return {"weights": self.weights_sha256, "code": dict(self.code)}

    def text_parts(self) -> dict[str, Any]:
        """What moves text embeddings besides :meth:`encoder_parts`: tokenizer, maximal length, read-out. {} without text."""
        if not self.has_text:
            return {}
        tokenizer = getattr(self, "tokenizer", None)
        limits = {k: v for k in ("max_length", "readout") if isinstance(v := getattr(self, k, None), (int, str))}
        return {"tokenizer": tokenizer_digest(tokenizer), **limits}

    def open_data(self, data: str) -> None:
        """Called once before a run encodes anything, with where its data lie (a directory, or "hub").

        Raises UsageError where the backbone has nothing to say about them.
        """

    @abc.abstractmethod
    def encode(self, images: Tensor) -> Features:
        """float [B, 3, H, W], preprocessed -> Features. Called without gradient."""

    # Where the last layer's class token is: "pooled" (it is what ``encode`` pools), "blocks" (``encode`` pools otherwise, but
    # ``encode_layers`` gives it), or "" where the encoder has none.
    class_token: Literal["pooled", "blocks", ""] = ""

    # Number of transformer blocks whose output ``encode_layers`` can give; 0 where it cannot.
    depth: int = 0

    def encode_layers(self, images: Tensor, layers: Sequence[int]) -> Features:
        """Several blocks at once, concatenated over channels in the order of ``layers``: pooled [B, L D], patches [B, N, L D'].

        Each block's output passes the encoder's final norm (as DINOv2 reads its intermediate layers). Its global read-out is the
        class token, or the mean of the patch tokens where there is none: an attention pool is trained for the last block only.
        layers: block indices; negative ones count from the end, -1 is the last. Raises LevlError where the backbone has no
        blocks to show or not that many.
        """
        return join_layers(self._blocks(images, self.layer_indices(layers)), self, images)

    def _blocks(self, images: Tensor, layers: list[int]) -> list[tuple[Tensor, Tensor | None]]:
        """(patch tokens [B, N, D'], class token [B, D] or None) after the final norm of each of the blocks ``layers``."""
        raise NotImplementedError

    def layer_indices(self, layers: Sequence[int]) -> list[int]:
        """Block indices counted from 0; see :meth:`encode_layers`."""
        if not self.depth:
            raise LevlError(f"{self.name}: this backbone gives its last layer only; remove `layers` from the task")
        wrong = [i for i in layers if not -self.depth <= i < self.depth]
        if wrong or not layers:
            raise LevlError(
                f"{self.name}: field `layers`: {wrong[0] if wrong else '[]'} is not one of its {self.depth} blocks, "
                f"0..{self.depth - 1} or -{self.depth}..-1"
            )
        return [i % self.depth for i in layers]

    @property
    def has_text(self) -> bool:
        return False

    # Image-text read-outs (zero-shot, retrieval). The first read-out is the one the model's authors report.
    readouts: Sequence[Readout] = ()

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        """[B, D] pooled features -> l2-normalised embeddings [B, E] by name (e.g. embedding, predicted)."""
        raise NotImplementedError(f"{self.name} has no text encoder")

    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        """Texts -> l2-normalised embeddings [B, E] by name."""
        raise NotImplementedError(f"{self.name} has no text encoder")

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts -> [B, E]: the text side of the first read-out."""
        return self.text_embeddings(texts)[self.readouts[0].text]
