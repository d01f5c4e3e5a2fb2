"""Cards of the dense tasks with an engine of their own: heads trained by mmsegmentation, and depth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from levl_eval.card_base import DataSpec, _TaskCard


class MMSegCard(_TaskCard):
    """A head trained by mmengine's Runner on augmented pictures, the frozen encoder run in each step; scored at full resolution."""

    engine: Literal["mmseg"] = "mmseg"
    train: DataSpec
    data: DataSpec
    head: Literal["linear", "linear-bn", "fcn", "upernet", "segmenter"] = "linear"
    layers: list[int] | None = None  # blocks whose maps the head gets; None: the last, for upernet four evenly spread ones
    channels: int = Field(256, ge=1)  # inside fcn, upernet and segmenter
    depth: int = Field(2, ge=1)  # fcn: 3x3 convolutions; segmenter: transformer blocks
    heads: int = Field(4, ge=1)  # segmenter: attention heads
    dropout: float = Field(0.0, ge=0, lt=1)  # before the classifier
    avg_non_ignore: bool = False  # the loss is the mean over labelled pixels; False, mmseg's default: over all, void ones as 0
    crop: int | None = None  # side of training crops and of sliding windows in pixels; None: the backbone's own size
    short: int | None = None  # pictures are resized, aspect kept, until their short side has so many pixels; None: the crop
    long: float = Field(4.0, ge=1)  # but the long side at most so many times `short`
    ratio: tuple[float, float] = (0.5, 2.0)  # training: both times a random factor of this range
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"  # of the pictures, by OpenCV
    cat_max_ratio: float = Field(0.75, gt=0, le=1)  # training: a crop is drawn again (ten times) where one class fills more of it
    flip: float = Field(0.5, ge=0, le=1)  # training: probability of a mirror image
    photometric: bool = True  # training: random brightness, contrast, saturation and hue
    test: Literal["slide", "whole"] = "slide"
    stride: int | None = None  # between windows; None: two thirds of the crop
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    batch_size: int = Field(16, ge=1)
    steps: int = Field(40_000, ge=1)
    warmup: float = Field(0.0375, ge=0, lt=1)  # share of the steps, linear
    power: float = 1.0  # of the polynomial decay to 0 after it
    config: str | None = (
        None  # an mmseg config file: its model, pipelines, optimiser, schedule, batch and steps replace all of the above
    )
    config_text: str | None = None  # its contents with everything it inherits, filled in when the card is read; what runs
    checkpoint_every: int = Field(500, ge=1)  # steps; changes no number


class DepthCard(_TaskCard):
    """A linear head on cached patch tokens that predicts metres, scored at the depth maps' own resolution."""

    engine: Literal["depth"] = "depth"
    train: DataSpec
    data: DataSpec
    depth_scale: float = Field(1000.0, gt=0)  # what an integer depth picture counts in a metre; floats are metres
    size: int | None = None  # input side in pixels; None: the backbone's own
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"  # of the pictures, squashed to a square
    layers: list[int] | None = None  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    min_depth: float = Field(1e-3, gt=0)  # metres; pixels outside (min, max] count neither in training nor in scoring,
    max_depth: float = Field(10.0, gt=0)  # and predictions are clipped to this range
    crop: Literal["none", "eigen", "garg"] | tuple[float, float, float, float] = "none"  # scored: shares top, bottom, left, right
    head: Literal["bins", "regression", "ridge"] = "bins"
    bins: int = Field(256, ge=2)  # bins head: depth is the mean of their centres, weighted by the head's positive outputs
    bin_spacing: Literal["uniform", "log"] = "uniform"
    bin_weights: Literal["linear", "softmax"] = "linear"  # linear: ReLU and 0.1, normalised (AdaBins, DINOv2)
    # Regression and ridge heads: what the linear layer gives. A regression's metres pass a softplus, which keeps them positive.
    target: Literal["metres", "log"] = "log"
    loss: Literal["silog", "l1", "l2"] = "silog"  # of bins and regression; l1 and l2 in metres
    silog_lambda: float = Field(0.85, ge=0, le=1)  # silog: sqrt(mean d^2 - lambda mean(d)^2), d the difference of logarithms
    ridge_lambda: float = Field(1.0, ge=0)
    standardize: bool = True  # tokens per dimension by all training tokens
    std_floor: float = 1e-8
    label_grid: Literal["mean", "nearest"] = "mean"  # depth of a token in training: of its cell's valid pixels, or at its centre
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    epochs: int = Field(30, ge=1)
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling
    # (levl_eval.convergence), at least the epochs.
    until: Literal["epochs", "converged"] = "epochs"
    batch_size: int = Field(64, ge=1)  # images
    schedule: Literal["constant", "cosine"] = "cosine"
    upsample: Literal["bilinear", "nearest"] = "bilinear"  # of the predicted metres
    align: Literal["none", "median"] = "none"  # median: each prediction times the ratio of medians (for unscaled depth)

    @model_validator(mode="after")
    def _check(self) -> DepthCard:
        if self.max_depth <= self.min_depth:
            raise ValueError(f"max_depth {self.max_depth} is not above min_depth {self.min_depth}")
        if isinstance(self.crop, tuple) and not (0 <= self.crop[0] < self.crop[1] <= 1 and 0 <= self.crop[2] < self.crop[3] <= 1):
            raise ValueError(
                "crop: expected shares (top, bottom, left, right) with 0 <= top < bottom <= 1 and 0 <= left < right <= 1"
            )
        return self
