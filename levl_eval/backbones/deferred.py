"""A backbone that is known and not yet built: jobs whose features are stored already never need the encoder itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone, ClassToken, Features, Preprocess, Readout
from levl_eval.backbones.execution import EAGER, Execution, compiled, lay_out, pixels_for
from levl_eval.core.precision import Precision, encoding_in


@dataclass(frozen=True)
class Shapes:
    """What a backbone's features look like, as it says itself; plain JSON values but for tuples. readouts: (name, image, text) of each."""

    dim: int
    patch_dim: int
    grid: tuple[int, int]
    depth: int
    class_token: ClassToken
    readouts: tuple[tuple[str, str, str], ...]
    modules: str  # Backbone.encoder_parts: of what is built of the code

    @staticmethod
    def of(backbone: Backbone) -> Shapes:
        """Of a backbone that is built."""
        readouts = tuple((r.name, r.image, r.text) for r in backbone.readouts) if backbone.has_text else ()
        modules = str(backbone.encoder_parts()["modules"])
        grid = (int(backbone.grid[0]), int(backbone.grid[1]))
        return Shapes(backbone.dim, backbone.patch_dim, grid, backbone.depth, backbone.class_token, readouts, modules)


@dataclass(frozen=True)
class Known:
    """What is known of a backbone without building it."""

    name: str
    uri: str
    weights_sha256: str
    code: Mapping[str, str]
    text: Mapping[str, object]
    info: Mapping[str, object]
    preprocess: Preprocess
    shapes: Shapes

    @staticmethod
    def of(backbone: Backbone) -> Known:
        """Of a backbone that is built."""
        b = backbone
        return Known(b.name, b.uri, b.weights_sha256, b.code, b.text_parts(), b.info, b.preprocess, Shapes.of(b))


class DeferredBackbone(Backbone):
    """Answers what is known of it, and is built, on the device it was sent to, when it first has to encode something.

    Images are encoded in ``precision`` and by ``execution``, parts of what its features are known by; texts and projections stay in
    float32 and plain. Raises what loading raises, then.
    """

    def __init__(
        self, known: Known, load: Callable[[], Backbone], precision: Precision = "float32", execution: Execution = EAGER
    ) -> None:
        super().__init__()
        self.precision, self.execution = precision, execution
        self._compiled: dict[str, Callable[..., Features]] = {}
        self.name, self.uri, self.weights_sha256, self.code = known.name, known.uri, known.weights_sha256, known.code
        self.preprocess, self.info = known.preprocess, dict(known.info)
        shapes = known.shapes
        self.dim, self.patch_dim, self.grid, self.depth = shapes.dim, shapes.patch_dim, shapes.grid, shapes.depth
        self.class_token = shapes.class_token
        self.readouts = tuple(Readout(*r) for r in shapes.readouts)
        self._text, self._modules_digest = dict(known.text), shapes.modules
        self._load, self._target = load, torch.device("cpu")
        self._built: list[Backbone] = []  # in a list, so that torch does not take it for a part of this module

    def whole(self) -> Backbone:
        """The encoder itself."""
        if not self._built:
            self._built.append(self._load())
            self._built[0].to(self._target)
        return self._built[0]

    def to(self, device: torch.device | str) -> DeferredBackbone:  # type: ignore[override]
        """Where it will encode, or moved there where it is built."""
        self._target = torch.device(device)
        if self._built:
            self._built[0].to(self._target)
        return self

    @property
    def device(self) -> torch.device:
        return self._target

    @property
    def has_text(self) -> bool:
        return bool(self._text)

    def encoder_parts(self) -> dict[str, object]:
        own = {} if self.precision == "float32" else {"precision": self.precision}
        built = {"weights": self.weights_sha256, "code": dict(self.code), "modules": self._modules_digest}
        return {**built, **own, **self.execution.parts()}

    def alike(self, other: Backbone) -> Backbone:
        return DeferredBackbone(Known.of(other), lambda: other, self.precision, self.execution)

    def text_parts(self) -> dict[str, object]:
        return dict(self._text)

    def encode(self, images: Tensor) -> Features:
        return self._run("encode", images)

    def encode_layers(self, images: Tensor, layers: Sequence[int], norm: bool = True) -> Features:
        return self._run("encode_layers", images, tuple(layers), *(() if norm else (False,)))

    def _run(self, method: str, images: Tensor, *more: tuple[int, ...] | bool) -> Features:
        """A method of the encoder, in our precision and execution."""
        whole = self.whole()
        lay_out(whole, self.execution.channels_last)  # another job's may have left it otherwise
        function: Callable[..., Features] = getattr(whole, method)
        if self.execution.compiled:
            if method not in self._compiled:
                self._compiled[method] = compiled(function, self.name, self.execution.cuda_graphs)
            function = self._compiled[method]
        with encoding_in(self.precision, self._target):
            features = function(pixels_for(images, self.execution), *more)
        if not self.execution.cuda_graphs:
            return features
        return Features(features.pooled.clone(), features.patches.clone(), features.grid)

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        return self.whole().image_embeddings(pooled)

    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        return self.whole().text_embeddings(texts)
