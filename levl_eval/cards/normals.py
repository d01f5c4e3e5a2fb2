"""Card of the task that predicts surface normals."""

from __future__ import annotations

from typing import Annotated, Literal

from levl_eval.cards.base import DataSpec, TaskFields
from levl_eval.cards.fields import BatchSize, Beta, Between, Epochs, Layers, Rate, Side, TokenDtype, protocol


class NormalsCard(TaskFields):
    """A linear head on cached patch tokens that predicts which way surfaces face, scored at the maps' own resolution in degrees."""

    engine: Literal["normals"] = protocol("normals")
    train: DataSpec = protocol()
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    # Of the images, squashed to a square.
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    head: Literal["linear", "ridge"] = protocol("linear")  # ridge: least squares to the components, solved
    # Of the linear head: the angle in radians;
    # or its likelihood under a spread that the head predicts as a fourth output (Bae et al., ICCV 2021).
    loss: Literal["angular", "angular-nll"] = protocol("angular-nll")
    ridge_lambda: Annotated[float, Between(0, 1e12)] = protocol(1.0)
    standardize: bool = protocol(True)  # tokens per dimension by all training tokens
    std_floor: Annotated[float, Between(0, 1_000)] = protocol(1e-8)
    lr: Rate = protocol(1e-3)
    betas: tuple[Beta, Beta] = protocol((0.9, 0.999))
    weight_decay: Rate = protocol(1e-4)
    epochs: Epochs = protocol(30)
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling, or the
    # loss on a tenth of the training images that are held out (engines.convergence), at least the epochs.
    until: Literal["epochs", "converged", "held-out"] = protocol("epochs")
    batch_size: BatchSize = protocol(64)  # images
    schedule: Literal["constant", "cosine"] = protocol("cosine")
    upsample: Literal["bilinear", "nearest"] = protocol("bilinear")  # of the predicted components
