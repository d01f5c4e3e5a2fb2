"""Cards of the heads on global features and of the tasks on text embeddings, and of the sets they share."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import model_validator

from levl_eval.cards.base import PROSE, DataSpec, StrictModel, TaskFields
from levl_eval.cards.fields import (
    BatchSize,
    Between,
    Bins,
    Count,
    Epochs,
    Layers,
    Name,
    Neighbours,
    Rate,
    Scale,
    Seed,
    Seeds,
    Share,
    Small,
    TokenDtype,
    not_protocol,
    protocol,
)

_SET = "a set's fields are copied into the card, and count there"
_SEEDS = "how many jobs there are; the seed of each is in its record"


class CarvedSpec(StrictModel):
    """A validation set taken out of the training set, for sets that have none: the same images for every backbone.

    Of each class that share, at least one where the class has two images; a class of one image stays in training.
    """

    share: float = protocol(0.1, gt=0, lt=1)
    seed: Seed = protocol(0)  # of the choice; never the probe's seed


class ReadoutCard(TaskFields):
    """How the heads on global features read them."""

    # pooled: the encoder's own pooling; cls: its class token, whatever it pools by; mean-patch: the mean of its patch tokens.
    readout: Literal["pooled", "cls", "mean-patch", "pooled+mean-patch"] = protocol("pooled")
    # Blocks whose outputs stand side by side (-1 the last, each after the final norm); None: the last.
    layers: Layers | None = protocol(None)
    standardize: bool = protocol(True)  # per dimension by the training images' mean and std
    l2_normalize: bool = protocol(False)  # before it
    seeds: Seeds = not_protocol(_SEEDS, 1)  # run with seeds 0 to seeds - 1 where --seeds is not given; one record each


class ProbeCard(ReadoutCard):
    """What the heads on global features have in common."""

    # A card of tasks/sets whose train, validation, data and chance are used where this card has none.
    set: str | None = not_protocol(_SET, None)
    train: DataSpec = protocol()
    data: DataSpec = protocol()
    # for choices only; where none is made, training keeps all its images
    validation: DataSpec | CarvedSpec = protocol(CarvedSpec())


class LinearTraining(ReadoutCard):
    """How one linear layer is trained (probes.linear.fit), wherever one is."""

    bias: bool = protocol(True)
    lr: Rate = protocol(0.1)
    weight_decay: Rate = protocol(1e-4)
    epochs: Epochs = protocol(50)
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling
    # (engines.convergence), at least the epochs.
    until: Literal["epochs", "converged"] = protocol("epochs")
    batch_size: BatchSize = protocol(4096)
    schedule: Literal["constant", "cosine"] = protocol("constant")


class LinearProbeCard(LinearTraining, ProbeCard):
    engine: Literal["linear"] = protocol("linear")
    # The epoch that is tested; best: of the validation set's accuracy (the paper does not say).
    keep: Literal["last", "best"] = protocol("last")
    ece_bins: Bins = protocol(15)
    seeds: Seeds = not_protocol(_SEEDS, 3)


class ShiftCard(LinearTraining, ProbeCard):
    """The linear probe of ``train`` read on ``data``, whose classes are some of those trained on (levl_eval/data/wordnet.py).

    main_metric: top1 chooses among the test set's classes, top1_all among all that were trained on.
    """

    engine: Literal["shift"] = protocol("shift")
    seeds: Seeds = not_protocol(_SEEDS, 3)


class ZeroShotCard(TaskFields):
    engine: Literal["zeroshot"] = protocol("zeroshot")
    set: str | None = not_protocol(_SET, None)
    data: DataSpec = protocol()
    # Several: an ensemble. "openai": CLIP's 80, from the open_clip package.
    templates: list[str] | str = protocol(["a photo of a {}."])
    # None: the data set's, "_" read as a space; a text file, whose lines take its place here; "openai" (ImageNet).
    class_names: list[str] | str | None = protocol(None)
    readout: str | None = protocol(None)  # which read-out `top1` is; None: the one the backbone's authors report
    logit_scale: Scale = protocol(100.0)  # of the softmax behind the calibration error; CLIP's, the paper names none
    ece_bins: Bins = protocol(15)


def _one_of(main: str, pattern: str, numbers: list[int]) -> str:
    """The main metric, or the last one measured where it is for a number (of shots, of neighbours) that is not among those set."""
    measured = [pattern.format(n) for n in numbers]
    return measured[-1] if measured and re.fullmatch(pattern.format(r"\d+"), main) and main not in measured else main


class LinearPathCard(ProbeCard):
    """Logistic regression, C * sum of losses + ||W||^2 / 2 (scikit-learn's scale), over a path of C chosen on validation."""

    engine: Literal["linear-path"] = protocol("linear-path")
    # C from 10 ** first to 10 ** last, as DINOv2 sweeps.
    c_powers: tuple[Annotated[float, Between(-30, 30)], Annotated[float, Between(-30, 30)]] = protocol((-6.0, 5.0))
    c_values: Annotated[int, Between(1, 10_000)] = protocol(45)
    # On the largest gradient entry of the mean loss; more moves accuracies at large C by points.
    tolerance: Annotated[float, Between(0, 1, above=True)] = protocol(1e-7)
    max_iterations: Annotated[int, Between(1, 1_000_000)] = protocol(1000)
    refit: bool = protocol(True)  # the chosen C once more on training and validation together
    ece_bins: Bins = protocol(15)
    shots: list[Count] = protocol([], max_length=100)  # few-shot: so many training images a class; empty: all
    draws: Small = protocol(5)  # of the few images; accuracies are means over them
    shot_validation: Count = protocol(4)  # few-shot: at most so many validation images a class, and never more than shots

    @model_validator(mode="after")
    def _main_is_measured(self) -> LinearPathCard:
        self.main_metric = _one_of(self.main_metric, "top1_{}shot", self.shots)
        return self


class KNNCard(ProbeCard):
    engine: Literal["knn"] = protocol("knn")
    k: list[Neighbours] = protocol([10, 20, 100, 200], min_length=1, max_length=100)  # DINO's
    temperature: Scale = protocol(0.07)
    standardize: bool = protocol(False)  # DINO compares the features as they are, by cosine

    @model_validator(mode="after")
    def _main_is_measured(self) -> KNNCard:
        self.main_metric = _one_of(self.main_metric, "top1_k{}", self.k)
        return self


class AttentiveCard(ProbeCard):
    """I-JEPA's attentive pooler and a linear layer on stored patch tokens.

    The published script sees a fresh crop of every image in every epoch: views: 20 does that here, at twenty times the encoding
    and storage; fewer views are taken in turn, and 0 trains on the plain images.
    """

    engine: Literal["attentive"] = protocol("attentive")
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    heads: Small = protocol(12)
    mlp_ratio: Annotated[float, Between(0, 64, above=True)] = protocol(4.0)
    lr: Rate = protocol(1e-3)
    final_lr: Share = protocol(0.01)  # share of lr at the end of the cosine
    weight_decay: Rate = protocol(1e-4)
    epochs: Epochs = protocol(20)
    batch_size: BatchSize = protocol(256)  # the published script's is 256 a GPU; their number is not known
    # Randomly cropped and flipped versions of each training image, encoded once and stored.
    views: Annotated[int, Between(0, 1_000)] = protocol(0)
    view_scale: tuple[Share, Share] = protocol((0.08, 1.0))  # share of the image's area, as in the published script
    # Width to height of the crop, drawn evenly in its logarithm.
    view_ratio: tuple[Annotated[float, Between(0, 100, above=True)], Annotated[float, Between(0, 100, above=True)]] = protocol(
        (0.75, 1.3333)
    )
    view_flip: Share = protocol(0.5)  # how often a view is mirrored
    # Of the crop to the input's size; bilinear is torchvision's default.
    view_interpolation: Literal["bilinear", "bicubic"] = protocol("bilinear")
    view_seed: Seed = protocol(0)
    drop_last: bool = protocol(True)  # leave out an epoch's incomplete last batch, as the published script's loader
    report_best: bool = protocol(True)  # also the best epoch on the test images, as the published script does
    ece_bins: Bins = protocol(15)


class RetrievalCard(TaskFields):
    engine: Literal["retrieval"] = protocol("retrieval")
    data: DataSpec = protocol()
    k: list[Neighbours] = protocol([1, 5, 10], min_length=1, max_length=100)
    captions_per_image: Count | None = protocol(5)  # the first so many; None: all
    folds: Small = protocol(1)  # recall within each of so many parts of the images, averaged (COCO 1K: 5 of 1,000)
    readout: str | None = protocol(None)  # which read-out the main metric is; None: the one the backbone's authors report


class ChoiceCard(TaskFields):
    """Choices by image-text score: which of an image's captions is right, or which caption belongs to which of two images.

    main_metric: accuracy (one image), text_score, image_score, group_score (two), or macro_ and one of them: the mean over kinds.
    """

    engine: Literal["choice"] = protocol("choice")
    data: DataSpec = protocol()
    template: str = protocol("{}")  # what stands around each caption
    readout: str | None = protocol(None)  # which read-out the main metric is; None: the one the backbone's authors report
    ties: Literal["wrong", "right"] = protocol("wrong")  # what a caption is that scores like the right one
    kinds_left_out: list[str] = protocol([], max_length=1_000)  # of the mean over kinds
    least_of_a_kind: Count = protocol(1)  # kinds with fewer pairs are not in the mean over kinds


class BackgroundsCard(LinearTraining):
    engine: Literal["backgrounds"] = protocol("backgrounds")
    train: DataSpec = protocol()  # ROOT/original/SPLIT/CLASS
    data: DataSpec = protocol()  # ROOT/VARIANT/SPLIT/CLASS
    variants: list[str] = protocol(["original", "mixed_same", "mixed_rand"])
    # Where they are present.
    optional_variants: list[str] = protocol(["mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"])
    l2_normalize: bool = protocol(True)
    seeds: Seeds = not_protocol(_SEEDS, 3)


class SetCard(StrictModel):
    """Facts of a classification set, shared by every head on it: ``HEAD@SET`` is task card HEAD with the set's fields."""

    kind: Literal["set"] = protocol("set")
    name: Name = not_protocol(_SET)
    description: str = not_protocol(PROSE, "")
    source: str = not_protocol(PROSE, "")
    chance: Share | None = not_protocol("a line beside the metrics, which do not use it", None)
    train: DataSpec | None = protocol(None)
    validation: DataSpec | CarvedSpec | None = protocol(None)
    data: DataSpec = protocol()
    templates: list[str] | str | None = protocol(None)
    class_names: list[str] | str | None = protocol(None)
