"""The Backbone contract: what every loader must give, and what every engine may rely on."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from levl_eval.backbones.code import structure_of, tokenizer_digest
from levl_eval.backbones.execution import EAGER, Execution
from levl_eval.core.errors import LevlError
from levl_eval.core.precision import Precision
from levl_eval.core.third_party import repair
from levl_eval.models.preprocess import Preprocess as Preprocess

repair()  # every loader imports this module before its library, and with it torchvision


class Features(NamedTuple):
    """What an encoder sees of a batch of images.

    pooled: [B, D] the encoder's own pooled feature before any projection head (CLS after the final norm, or its pooling).
    patches: [B, N, D'] patch tokens of the last layer after the final norm, without CLS and register tokens, raster order.
    grid: (h, w) with h * w == N.
    """

    pooled: Tensor
    patches: Tensor
    grid: tuple[int, int]


def join_layers(blocks: Sequence[tuple[Tensor, Tensor | None]], backbone: Backbone, images: Tensor) -> Features:
    """Blocks' (patches, class token or None) -> Features with concatenated channels."""
    pooled = torch.cat([p.mean(1) if c is None else c for p, c in blocks], -1)
    patches = torch.cat([p for p, _ in blocks], -1)
    return Features(pooled, patches, _plain_grid(patches.shape[1], backbone, images))


def _plain_grid(count: int, backbone: Backbone, images: Tensor) -> tuple[int, int]:
    """The grid of ``count`` patch tokens of a plain ViT, which all loaders with blocks are: it scales with the input.

    The patch is known to the pixel only where it divides the encoder's own size: of what is left at the edge, the count decides.
    Raises LevlError where no patch gives so many tokens.
    """
    size, rows = backbone.preprocess.size, backbone.grid[0]
    for stride in range(size // rows, size // (rows + 1), -1):
        grid = (images.shape[-2] // stride, images.shape[-1] // stride)
        if grid[0] * grid[1] == count:
            return grid
    raise LevlError(
        f"{count} patch tokens of an image of {images.shape[-2]} x {images.shape[-1]} do not form a grid like the encoder's own "
        f"{backbone.grid} at {size} pixels"
    )


def patch_of(size: int, rows: int, depth: int) -> int:
    """Pixels a side that one token stands for, of an encoder that has ``rows`` rows of them at ``size`` pixels.

    Plain ViTs (``depth`` above 0) leave what is beyond whole patches. Other encoders may round up: those that halve their maps five or six
    times are known by it, 8 rows of 240 pixels (EfficientNet-B1) being patches of 32, not of 30. Where several patches leave that
    many rows, the one that most twos divide.
    """
    for patch in () if depth else (32, 64):
        if rows in (size // patch, -(-size // patch)):
            return patch
    if rows < 1 or size % rows == 0:
        return max(1, size // max(1, rows))
    return max(range(size // (rows + 1) + 1, size // rows + 1), key=lambda p: (p & -p, p), default=max(1, size // rows))


def missing_pixels(images: Tensor, backbone: Backbone) -> tuple[int, int]:
    """(rows, columns) that images [..., H, W] lack to whole patches; none where they are squares of the encoder's own size."""
    own, high, wide = backbone.preprocess.size, images.shape[-2], images.shape[-1]
    if high == wide == own:
        return 0, 0
    patch = patch_of(own, backbone.grid[0], backbone.depth)
    return -high % patch, -wide % patch


ClassToken = Literal["pooled", "blocks", ""]


class Readout(NamedTuple):
    """One way to compare images with texts: which image embedding with which text embedding."""

    name: str
    image: str
    text: str


def checked_features(output: object, images: Tensor) -> Features:
    """What ``encode`` gave for ``images``, where it is what :class:`Features` says. Raises LevlError naming what is not."""
    if not isinstance(output, Features):
        raise LevlError(f"encode returned {type(output).__name__}; expected Features(pooled, patches, grid)")
    batch = len(images)
    for name, value, shape in (("pooled", output.pooled, "[B, D]"), ("patches", output.patches, "[B, N, D]")):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise LevlError(f"encode: `{name}` is no tensor of floats; expected {shape}")
        if value.ndim != shape.count(",") + 1 or len(value) != batch:
            raise LevlError(
                f"encode: `{name}` has shape {list(value.shape)} for {batch} image{'s' * (batch != 1)}; expected {shape}"
            )
    rows, columns = output.grid
    if rows * columns != output.patches.shape[1]:
        raise LevlError(
            f"{output.patches.shape[1]} patch tokens do not form its grid {tuple(output.grid)}; this loader does not fit the model"
        )
    return output


class Backbone(nn.Module, abc.ABC):
    """A frozen image encoder, where it has one with its text encoder. Always in eval mode, parameters without gradient.

    A user's own class gives ``preprocess`` and ``encode``; with text also ``readouts``, ``has_text``, ``image_embeddings`` and
    ``text_embeddings``; with ``depth`` also ``_blocks`` (:meth:`missing` names what is not there).

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
    info: dict[str, object]
    code: Mapping[str, str] = {}
    precision: Precision = "float32"  # that images are encoded in; another one only where a run chose it (backbones.deferred)
    execution: Execution = EAGER  # likewise

    def missing(self) -> str:
        """What this class must still give, in words; "" where nothing is missing."""
        if type(getattr(self, "preprocess", None)) is not Preprocess:  # a class of one's own would be known by its fields alone
            return "`preprocess`, a levl_eval.backbones.base.Preprocess and no class derived from it, set in its __init__"
        own = type(self)
        if self.depth and own._blocks is Backbone._blocks and own.encode_layers is Backbone.encode_layers:
            return "`_blocks`, since `depth` says that it has blocks to show"
        if self.readouts or self.has_text:
            given = {
                "`readouts`": bool(self.readouts), "`has_text`": own.has_text is not Backbone.has_text,
                "`image_embeddings`": own.image_embeddings is not Backbone.image_embeddings,
                "`text_embeddings`": own.text_embeddings is not Backbone.text_embeddings,
            }  # fmt: skip
            return ", ".join(name for name, there in given.items() if not there)
        return ""

    def encoder_parts(self) -> dict[str, object]:
        """What moves features besides preprocessing, as identity parts: weights, code, and what is built of the code."""
        if "_structure" not in self.__dict__:
            self.__dict__["_structure"] = structure_of(self)  # once: some modules note what they have last seen
        return {"weights": self.weights_sha256, "code": dict(self.code), "modules": self.__dict__["_structure"]}

    def text_parts(self) -> dict[str, object]:
        """What moves text embeddings besides :meth:`encoder_parts`: tokenizer, maximal length, read-out. {} without text."""
        if not self.has_text:
            return {}
        tokenizer = getattr(self, "tokenizer", None)
        limits = {k: v for k in ("max_length", "readout") if isinstance(v := getattr(self, k, None), (int, str))}
        return {"tokenizer": tokenizer_digest(tokenizer), **limits}

    def whole(self) -> Backbone:
        """The encoder itself, built: what is known of a backbone may stand in its place (backbones.deferred)."""
        return self

    def alike(self, other: Backbone) -> Backbone:
        """``other``, encoding in the precision and by the execution that this one does."""
        return other

    @property
    def device(self) -> torch.device:
        """Where it encodes."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def open_data(self, data: str) -> None:
        """Called once before a run encodes anything, with where its data lie (a directory, or "hub").

        Raises UsageError where the backbone has nothing to say about them.
        """

    @abc.abstractmethod
    def encode(self, images: Tensor) -> Features:
        """float [B, 3, H, W], preprocessed -> Features. Called without gradient."""

    # Where the last layer's class token is: "pooled" (it is what ``encode`` pools), "blocks" (``encode`` pools otherwise, but
    # ``encode_layers`` gives it), or "" where the encoder has none.
    class_token: ClassToken = ""

    # Number of transformer blocks whose output ``encode_layers`` can give; 0 where it cannot.
    depth: int = 0

    def encode_layers(self, images: Tensor, layers: Sequence[int], norm: bool = True) -> Features:
        """Several blocks at once, concatenated over channels in the order of ``layers``: pooled [B, L D], patches [B, N, L D'].

        Each block's output passes the encoder's final norm (as DINOv2 reads its intermediate layers), without ``norm`` none. Its
        pooled feature is the class token, or the mean of the patch tokens where there is none: an attention pool is trained for the
        last block only. layers: block indices; negative ones count from the end, -1 is the last. Raises LevlError where the backbone
        has no blocks to show, not that many, or (an encoder of the user's) none without the norm.
        """
        indices = self.layer_indices(layers)
        if norm:
            return join_layers(self._blocks(images, indices), self, images)
        if "norm" not in inspect.signature(self._blocks).parameters:
            raise LevlError(f"{self.name}: gives its blocks behind the final norm only; set `final_norm: true`")
        return join_layers(self._blocks(images, indices, norm=False), self, images)

    def _blocks(self, images: Tensor, layers: list[int], norm: bool = True) -> list[tuple[Tensor, Tensor | None]]:
        """(patch tokens [B, N, D'], class token [B, D] or None) of each of the blocks ``layers``, after the final norm or before it."""
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

    @property
    def projects_patches(self) -> bool:
        """Whether ``image_embeddings`` is defined of single patch tokens too.

        So it is where the pooled feature that it was made for is a class token behind the norm that patch tokens pass as well; an
        attention pool's or a mean's projection has never seen a single token.
        """
        return self.has_text and self.class_token == "pooled" and self.dim == self.patch_dim

    def last_block(self) -> nn.Module | None:
        """The last transformer block, whose attention takes a mask (backbones.values); None where there is none that does."""
        return None

    # Image-text read-outs (zero-shot, retrieval). The first read-out is the one the model's authors report.
    readouts: Sequence[Readout] = ()

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        """[B, D] pooled features -> l2-normalised embeddings [B, E] by name (e.g. embedding, predicted)."""
        raise NotImplementedError(f"{self.name} has no text encoder")

    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        """Texts -> l2-normalised embeddings [B, E] by name."""
        raise NotImplementedError(f"{self.name} has no text encoder")

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts -> [B, E]: the text side of the first read-out; [0, E] of no texts. Raises NotImplementedError without a text encoder.

        A single string is no list of texts: its letters would be embedded. Raises TypeError.
        """
        if isinstance(texts, str):
            raise TypeError(f"{self.name}: encode_text takes a list of texts; write [{texts[:20]!r}]")
        embeddings = self.text_embeddings(texts or [""])
        return embeddings[self.readouts[0].text][: len(texts)]
