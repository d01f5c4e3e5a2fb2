"""Cards of the dense tasks: segmentation on cached tokens, in context and by text, heads trained by mmsegmentation, and depth."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, model_validator

from levl_eval.cards.base import DataSpec, TaskFields
from levl_eval.cards.fields import (
    BatchSize,
    Beta,
    Between,
    Count,
    Epochs,
    Layers,
    Neighbours,
    Rate,
    Scale,
    Seed,
    Share,
    Side,
    Small,
    Steps,
    TokenDtype,
    Width,
    not_protocol,
    protocol,
)

_Rates = Annotated[list[Rate], Field(min_length=1, max_length=100)]
_StdFloor = Annotated[float, Between(0, 1_000)]


class SegmentationCard(TaskFields):
    engine: Literal["segmentation"] = protocol("segmentation")
    train: DataSpec = protocol()
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    resize: Literal["shortest", "squash"] = protocol("shortest")  # then centre crop; masks follow with nearest neighbour
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")  # of the images
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    window: Side | None = protocol(None)  # side of the sliding windows over the input in pixels; None: the whole input at once
    stride: Side | None = protocol(None)  # between windows; None: the window, without overlap
    flip: bool = protocol(False)  # every view also mirrored: trains on both, and scores the mean of both
    head: Literal["linear", "linear-bn", "conv", "knn", "ridge"] = protocol("linear")
    standardize: bool = protocol(True)  # tokens per dimension by all training tokens; linear-bn has its batch norm instead
    std_floor: _StdFloor = protocol(1e-8)  # least standard deviation divided by
    bias: bool = protocol(True)
    optimizer: Literal["adamw"] = protocol("adamw")
    betas: tuple[Beta, Beta] = protocol((0.9, 0.999))
    lr: Rate = protocol(1e-2)
    weight_decay: Rate = protocol(0.0)
    # Linear head: every pair of both is trained, the best one on held-out training images is scored; None: lr, weight_decay
    # as they are.
    sweep_lr: _Rates | None = protocol(None)
    sweep_weight_decay: _Rates | None = protocol(None)
    # Share of the training images that choose (at least one image), never trained on in a sweep.
    sweep_holdout: Share = protocol(0.1)
    conv_width: Width = protocol(256)  # conv head: channels between its 3x3 and its 1x1 convolution
    # Ridge head: penalty on the weights (not on the bias) of the sum of squares to one-hot labels.
    ridge_lambda: Annotated[float, Between(0, 1e12)] = protocol(1.0)
    knn_k: Neighbours = protocol(30)  # knn head: neighbours by cosine
    knn_temperature: Scale = protocol(0.02)  # their votes weigh exp(cosine / temperature)
    knn_memory: Count = protocol(100_000)  # labelled training tokens kept, a random subset
    epochs: Epochs = protocol(30)
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling, or the
    # loss on a tenth of the training images that are held out (engines.convergence), at least the epochs.
    until: Literal["epochs", "converged", "held-out"] = protocol("epochs")
    batch_size: BatchSize = protocol(256)  # images
    schedule: Literal["constant", "cosine"] = protocol("constant")
    # Labels at token resolution in training: the pixel at each token's centre, the one at its upper left corner (what torch's
    # nearest interpolation takes), or the most frequent label that is not void.
    label_grid: Literal["nearest", "corner", "majority"] = protocol("nearest")
    upsample: Literal["bilinear", "nearest"] = protocol("bilinear")  # of the class logits
    score: Literal["input", "original"] = protocol("input")  # masks scored in the input's geometry, or untouched (resize: squash)
    # With score: input, the side at which logits and masks are scored; None: the input size.
    score_size: Side | None = not_protocol("the size that came out stands in resolved.score_size", None)


class InContextCard(TaskFields):
    """Segmentation without training: patches take the labels of their nearest neighbours in a memory of labelled training patches."""

    engine: Literal["incontext"] = protocol("incontext")
    train: DataSpec = protocol()
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    resize: Literal["shortest", "squash"] = protocol("squash")  # squash: the whole image; masks follow with nearest neighbour
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bilinear")  # of the images
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    # Random crops of each training image that the memory is drawn from (open-hummingbird's augmentation epochs); 0: the plain image.
    views: Annotated[int, Between(0, 1_000)] = protocol(0)
    # Share of the image's area that a crop has; what is above 1 does not fit and is drawn again, up to ten times.
    view_scale: tuple[Annotated[float, Between(0, 4)], Annotated[float, Between(0, 4)]] = protocol((0.5, 2.0))
    # Width to height of the crop, drawn evenly in its logarithm.
    view_ratio: tuple[Annotated[float, Between(0, 100, above=True)], Annotated[float, Between(0, 100, above=True)]] = protocol(
        (0.75, 1.3333)
    )
    view_seed: Seed = protocol(0)
    # Patches in the memory, equally many of each training view, as far as it has them; None: all patches.
    memory_size: Count | None = protocol(1_024_000)
    # Which patches of a view. balanced: those of least score, u times the sum, over the classes in the patch, of how many of the
    # view's patches hold the class, u even in [0, 1); random: any.
    sampling: Literal["balanced", "random"] = protocol("balanced")
    neighbours: Neighbours = protocol(30)  # by cosine
    temperature: Scale = protocol(0.02)  # neighbours weigh by the softmax of cosine / temperature
    # What void pixels of a training patch are: left out of its label; class 0; or a class of their own, which is never right.
    void: Literal["dropped", "first", "class"] = protocol("dropped")
    upsample: Literal["bilinear", "nearest"] = protocol("bilinear")  # of the label shares
    score: Literal["input", "original"] = protocol("input")  # masks scored in the input's geometry, or untouched (resize: squash)
    # With score: input, the side at which shares and masks are scored; None: the input size.
    score_size: Side | None = protocol(None)


class TextSegmentationCard(TaskFields):
    """Segmentation by the classes' names: each patch token is compared with their texts in the backbone's image-text space."""

    engine: Literal["textseg"] = protocol("textseg")
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    resize: Literal["shortest", "squash"] = protocol("squash")  # squash: the whole image
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")  # of the images
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    window: Side | None = protocol(None)  # side of the sliding windows over the input in pixels; None: the whole input at once
    stride: Side | None = protocol(None)  # between windows; None: the window, without overlap
    flip: bool = protocol(False)  # every view also mirrored: scores the mean of both
    # How patch tokens get into the image-text space. projection: as the encoder gives them, through the projection of its class
    # token; value: the same after a last block in which every token attends to itself alone (MaskCLIP).
    patches: Literal["projection", "value"] = protocol("projection")
    # Several: an ensemble. "openai": CLIP's 80, from the open_clip package.
    templates: list[str] | str = protocol(["a photo of a {}."])
    # None: the data set's; a text file, whose lines take its place here. "_" and "-" are read as spaces.
    class_names: list[str] | str | None = protocol(None)
    # Of a name with several words for its class, separated by "," or ";": the first, or all, the best of which counts.
    synonyms: Literal["first", "all"] = protocol("first")
    readout: str | None = protocol(None)  # which read-out is compared; None: the one the backbone's authors report
    logit_scale: Scale = protocol(100.0)  # of the softmax over cosines behind the threshold
    # The class `background_class`. none: the set has no such class, all classes are alike. text: a class with a text of its own.
    # threshold: it has no text. void: it is no class; its pixels are not scored.
    background: Literal["none", "text", "threshold", "void"] = protocol("none")
    background_class: str = protocol("background")
    background_texts: list[str] | None = protocol(None)  # of `background: text`, the best of which counts; None: its name
    # text, threshold: a pixel whose largest probability, of the softmax over all texts, is below it is background.
    background_threshold: Share = protocol(0.1)
    upsample: Literal["bilinear", "nearest"] = protocol("bilinear")  # of the cosines
    # masks scored untouched (resize: squash), or in the input's geometry
    score: Literal["input", "original"] = protocol("original")
    # With score: input, the side at which cosines and masks are scored; None: the input size.
    score_size: Side | None = protocol(None)


MapCard: TypeAlias = "SegmentationCard | InContextCard | TextSegmentationCard"  # a map of classes from stored tokens


class MMSegCard(TaskFields):
    """A head trained by mmengine's Runner on augmented images, the frozen encoder run in each step; scored at full resolution."""

    engine: Literal["mmseg"] = protocol("mmseg")
    train: DataSpec = protocol()
    data: DataSpec = protocol()
    head: Literal["linear", "linear-bn", "fcn", "upernet", "segmenter"] = protocol("linear")
    # Blocks whose maps the head gets; None: the last, for upernet four evenly spread ones.
    layers: Layers | None = protocol(None)
    channels: Width = protocol(256)  # inside fcn, upernet and segmenter
    depth: Small = protocol(2)  # fcn: 3x3 convolutions; segmenter: transformer blocks
    heads: Small = protocol(4)  # segmenter: attention heads
    dropout: Annotated[float, Between(0, 0.999)] = protocol(0.0)  # before the classifier
    # The loss is the mean over labelled pixels; False, mmseg's default: over all, void ones as 0.
    avg_non_ignore: bool = protocol(False)
    crop: Side | None = protocol(None)  # side of training crops and of sliding windows in pixels; None: the backbone's own size
    # Images are resized, aspect kept, until their short side has so many pixels; None: the crop.
    short: Side | None = protocol(None)
    long: Annotated[float, Between(1, 1_000)] = protocol(4.0)  # but the long side at most so many times `short`
    # Training: both times a random factor of this range.
    ratio: tuple[Annotated[float, Between(0, 100, above=True)], Annotated[float, Between(0, 100, above=True)]] = protocol(
        (0.5, 2.0)
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bilinear")  # of the images, by OpenCV
    # Training: a crop is drawn again (ten times) where one class fills more of it.
    cat_max_ratio: Annotated[float, Between(0, 1, above=True)] = protocol(0.75)
    flip: Share = protocol(0.5)  # training: probability of a mirror image
    photometric: bool = protocol(True)  # training: random brightness, contrast, saturation and hue
    test: Literal["slide", "whole"] = protocol("slide")
    stride: Side | None = protocol(None)  # between windows; None: two thirds of the crop
    lr: Rate = protocol(1e-3)
    betas: tuple[Beta, Beta] = protocol((0.9, 0.999))
    weight_decay: Rate = protocol(1e-4)
    batch_size: BatchSize = protocol(16)
    steps: Steps = protocol(40_000)
    warmup: Annotated[float, Between(0, 0.999)] = protocol(0.0375)  # share of the steps, linear
    # poly: a polynomial decay to 0 after the warm-up; cosine: half a cosine over all steps, times the warm-up (DINOv3).
    schedule: Literal["poly", "cosine"] = protocol("poly")
    power: Annotated[float, Between(0, 100)] = protocol(1.0)  # of the polynomial
    # An mmseg config file: its model, pipelines, optimiser, schedule, batch and steps replace all of the above.
    config: str | None = not_protocol("a place; `config_text` is what the file says", None)
    # Its contents with everything it inherits, filled in when the card is read; what runs. Without --trust it names only types
    # that mmseg, mmengine and mmcv register (segmentation.mmseg_trust).
    config_text: str | None = protocol(None, max_length=1_000_000)
    # Steps.
    checkpoint_every: Steps = not_protocol("a resumed training gives the same head", 500)


class MetresFields(TaskFields):
    """What tasks that predict metres share: their sets, how maps are read, and which pixels are scored."""

    train: DataSpec = protocol()
    data: DataSpec = protocol()
    # What an integer depth image counts in a metre; floats are metres.
    depth_scale: Annotated[float, Between(0, 1e9, above=True)] = protocol(1000.0)
    test_depth_scale: Annotated[float, Between(0, 1e9, above=True)] | None = protocol(None)  # of the test set; None: the same
    # Metres; pixels outside (min, max] count neither in training nor in scoring, and predictions are clipped to this range.
    min_depth: Scale = protocol(1e-3)
    max_depth: Scale = protocol(10.0)
    test_max_depth: Scale | None = protocol(None)  # in scoring alone, of a set that ends nearer; None: the same
    # Scored: shares top, bottom, left, right; or a named part. eigen: Eigen's of NYUv2, by shares; eigen-pixels: its rows and
    # columns, whatever the size; eigen-kitti, garg: those of KITTI's frames, cut off to whole pixels.
    crop: Literal["none", "eigen", "eigen-pixels", "eigen-kitti", "garg"] | tuple[float, float, float, float] = protocol("none")
    # Bins: depth is the mean of their centres, weighted by the head's positive outputs.
    bins: Annotated[int, Between(2, 10_000)] = protocol(256)
    bin_spacing: Literal["uniform", "log"] = protocol("uniform")
    bin_weights: Literal["linear", "softmax"] = protocol("linear")  # linear: ReLU and 0.1, normalised (AdaBins, DINOv2)
    upsample: Literal["bilinear", "nearest"] = protocol("bilinear")  # of the predicted metres
    # Median: each prediction times the ratio of medians (for unscaled depth).
    align: Literal["none", "median"] = protocol("none")

    @model_validator(mode="after")
    def _check(self) -> MetresFields:
        if self.max_depth <= self.min_depth:
            raise ValueError(f"max_depth {self.max_depth} is not above min_depth {self.min_depth}")
        if self.test_max_depth is not None and self.test_max_depth <= self.min_depth:
            raise ValueError(f"test_max_depth {self.test_max_depth} is not above min_depth {self.min_depth}")
        if isinstance(self.crop, tuple) and not (0 <= self.crop[0] < self.crop[1] <= 1 and 0 <= self.crop[2] < self.crop[3] <= 1):
            raise ValueError(
                "crop: expected shares (top, bottom, left, right) with 0 <= top < bottom <= 1 and 0 <= left < right <= 1"
            )
        return self

    def scale_of(self, role: str) -> float:
        """What an integer counts in a metre of the ``test`` or the ``train`` set."""
        return self.test_depth_scale if role == "test" and self.test_depth_scale is not None else self.depth_scale

    def caps_of(self, role: str) -> tuple[float, float]:
        """Smallest and largest depth in metres of the ``test`` or the ``train`` set."""
        return self.min_depth, (self.in_scoring() if role == "test" else self).max_depth

    def in_scoring(self: _Metres) -> _Metres:
        """The card with the caps of scoring."""
        return self if self.test_max_depth is None else self.model_copy(update={"max_depth": self.test_max_depth})


_Metres = TypeVar("_Metres", bound=MetresFields)


class DepthCard(MetresFields):
    """A linear head on cached patch tokens that predicts metres, scored at the depth maps' own resolution."""

    engine: Literal["depth"] = protocol("depth")
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    # Of the images, squashed to a square.
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    head: Literal["bins", "regression", "ridge"] = protocol("bins")
    # Regression and ridge heads: what the linear layer gives. A regression's metres pass a softplus, which keeps them positive.
    target: Literal["metres", "log"] = protocol("log")
    loss: Literal["silog", "l1", "l2"] = protocol("silog")  # of bins and regression; l1 and l2 in metres
    # Silog: sqrt(mean d^2 - lambda mean(d)^2), d the difference of logarithms.
    silog_lambda: Share = protocol(0.85)
    ridge_lambda: Annotated[float, Between(0, 1e12)] = protocol(1.0)
    standardize: bool = protocol(True)  # tokens per dimension by all training tokens
    std_floor: _StdFloor = protocol(1e-8)
    # Depth of a token in training: of its cell's valid pixels, or at its centre.
    label_grid: Literal["mean", "nearest"] = protocol("mean")
    lr: Rate = protocol(1e-3)
    betas: tuple[Beta, Beta] = protocol((0.9, 0.999))
    weight_decay: Rate = protocol(1e-4)
    epochs: Epochs = protocol(30)
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling, or the
    # loss on a tenth of the training images that are held out (engines.convergence), at least the epochs.
    until: Literal["epochs", "converged", "held-out"] = protocol("epochs")
    batch_size: BatchSize = protocol(64)  # images
    schedule: Literal["constant", "cosine"] = protocol("cosine")


_Range = tuple[Annotated[float, Between(0, 100, above=True)], Annotated[float, Between(0, 100, above=True)]]


class DepthRecipeCard(MetresFields):
    """A depth head trained on augmented images,
    the frozen encoder run in each step, at the images' own size; scored on both sides' mean."""

    engine: Literal["depth-recipe"] = protocol("depth-recipe")
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    final_norm: bool = protocol(True)  # the encoder's last norm, which tokens of `layers` pass
    # Beside every patch token of `layers` its block's class token, or the mean of its patch tokens where there is none.
    class_token: bool = protocol(False)
    batch_norm: bool = protocol(True)  # of the tokens, before the linear layer
    init: Literal["normal", "torch"] = protocol("normal")  # of the linear layer: a deviation of 0.01 and no bias, or torch's own
    # Bins are weighted at so many times the grid,
    # to which the layer's outputs are interpolated (without `batch_norm` as if its inputs were).
    output_scale: Annotated[int, Between(1, 16)] = protocol(1)
    # Training: the part of each image that is used. nyu: columns 43 to 608 and rows 45 to 472 of 640 x 480, by shares.
    frame: Literal["none", "nyu"] = protocol("none")
    rotation: Annotated[float, Between(0, 180)] = protocol(2.5)  # training: degrees at most, of half the images
    flip: Share = protocol(0.5)  # training: probability of a mirror image
    # training: height and width of a random crop in pixels; None: all of it
    train_crop: tuple[Side, Side] | None = protocol(None)
    colour: Share = protocol(0.5)  # training: probability that the colours change, by the three below
    gamma: _Range = protocol((0.9, 1.1))  # exponent of the levels 0 to 255
    brightness: _Range = protocol((0.75, 1.25))  # factor
    channels: _Range = protocol((0.9, 1.1))  # factor of each channel
    test_flip: bool = protocol(True)  # depth is the mean of what is predicted for the image and for its mirror image
    loss_eps: Annotated[float, Between(0, 1)] = protocol(1e-3)  # metres added before the logarithm
    mean_weight: Share = protocol(0.15)  # loss: sqrt(var d + mean_weight mean(d)^2), d the difference of logarithms
    variance_from: Annotated[int, Between(0, 1_000_000)] = protocol(100)  # steps without the variance in it
    # Images over which d's mean and variance are taken, as where each GPU has so many; None: the whole batch.
    loss_images: BatchSize | None = protocol(None)
    lr: Rate = protocol(3e-4)
    betas: tuple[Beta, Beta] = protocol((0.9, 0.99))
    # The first of them over the training: 0 in the warm-up, then from one to the other by half a cosine; None: as in ``betas``.
    cycle: tuple[Beta, Beta] | None = protocol(None)
    # Share of the steps in which it first falls from the second to the first, by half a cosine too; None: 0 in the warm-up.
    cycle_fall: Annotated[float, Between(0, 0.999, above=True)] | None = protocol(None)
    weight_decay: Rate = protocol(1e-4)
    clip: Scale | None = protocol(35.0)  # largest norm of the gradient
    batch_size: BatchSize = protocol(16)
    steps: Steps = protocol(38_400)
    # share of the steps, linear, times half a cosine over all of them
    warmup: Annotated[float, Between(0, 0.999)] = protocol(1 / 3)

    @model_validator(mode="after")
    def _blocks(self) -> DepthRecipeCard:
        if self.layers is None and (self.class_token or not self.final_norm):
            raise ValueError("`class_token` and `final_norm: false` are of `layers`; for the last block alone set `layers: [-1]`")
        if self.cycle is None and self.cycle_fall is not None:
            raise ValueError("`cycle_fall` is a part of `cycle`, which is not set")
        return self
