"""Cards of the tasks that match patch tokens of one image with those of another,
without training: correspondence, propagation, instances, views."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from levl_eval.cards.base import DataSpec, TaskFields
from levl_eval.cards.fields import Between, Count, Layers, Neighbours, Scale, Seed, Side, TokenDtype, protocol

_Alpha = Annotated[float, Between(0, 1, above=True)]


class CorrespondenceCard(TaskFields):
    """Keypoints of one image found in another by the cosine of patch tokens (PCK)."""

    engine: Literal["correspondence"] = protocol("correspondence")
    # and what a row of samples is: a keypoint or a pair
    main_metric: Literal["pck_per_point", "pck_per_image"] = protocol("pck_per_point")
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    # Squash: to a square (DIFT, probe3d); pad: the longer side to ``size``, black around it (A Tale of Two Features).
    resize: Literal["squash", "pad"] = protocol("squash")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")  # of the images
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    # A keypoint's feature: bilinear between the centres of its four tokens (DIFT), or of the token that it lies in (Two Features).
    query: Literal["bilinear", "token"] = protocol("bilinear")
    # Where it is looked for: at every pixel of the target, its tokens interpolated bilinearly (DIFT), or at its tokens' centres.
    candidates: Literal["pixel", "token"] = protocol("pixel")
    # A keypoint is found where it is at most so many times the longer side away from the true one.
    alpha: _Alpha = protocol(0.1)
    more_alphas: Annotated[list[_Alpha], Field(max_length=20)] = protocol([0.05, 0.01])  # shown beside it
    # whose longer side: of the target's bounding box, or of the target image
    threshold: Literal["box", "image"] = protocol("box")


class PropagationCard(TaskFields):
    """The first frame's masks carried through a video by alike patch tokens (DINO's evaluation on DAVIS 2017), scored by J and F."""

    engine: Literal["propagation"] = protocol("propagation")
    main_metric: Literal["j_and_f", "j_mean", "f_mean"] = protocol("j_and_f")  # and what a row of samples holds of its object
    data: DataSpec = protocol()
    # Input: the short side in pixels, None: the backbone's own;
    # the long one, aspect kept, down to a multiple of ``multiple``, None: its patch.
    size: Side | None = protocol(None)
    multiple: Side | None = protocol(None)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bilinear")  # of the frames
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    # Frames that a frame's labels come from: so many before it, and the first one always.
    context_frames: Annotated[int, Between(0, 1_000)] = protocol(7)
    radius: Annotated[int, Between(0, 1_000)] = protocol(12)  # tokens a label may travel, along rows and columns; 0: anywhere
    top_k: Neighbours = protocol(5)  # tokens of all context frames that a token takes its label from
    temperature: Scale = protocol(0.1)  # they weigh exp(cosine / temperature)
    # F: the share of the diagonal that boundaries may lie apart; in pixels from 1 on.
    bound: Annotated[float, Between(0, 1_000, above=True)] = protocol(0.008)


class InstanceCard(TaskFields):
    """Images of the same place or thing ranked by the cosine of one vector an image (revisited Oxford and Paris)."""

    engine: Literal["instance"] = protocol("instance")
    main_metric: Literal["map_medium", "map_hard"] = protocol("map_medium")  # and what a row of samples holds of its query
    data: DataSpec = protocol()
    size: Side | None = protocol(None)  # input side in pixels; None: the backbone's own
    resize: Literal["squash", "pad"] = protocol("pad")  # pad: the longer side to ``size``, black around it
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")  # of the images
    layers: Layers | None = protocol(None)  # blocks whose outputs are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    # pooled: the encoder's own pooling; mean-patch, gem: the mean and the generalised mean of its patch tokens. The first is the main one.
    readouts: Annotated[list[Literal["pooled", "mean-patch", "gem"]], Field(min_length=1, max_length=3)] = protocol(
        ["pooled", "gem"]
    )
    # (Radenovic et al., TPAMI 2019); tokens are cut at 1e-6
    gem_power: Annotated[float, Between(0, 1_000, above=True)] = protocol(3.0)


class MultiviewCard(TaskFields):
    """Points of an object found in another view of it by alike patch tokens, the error in space (Probe3D's evaluation on NAVI)."""

    engine: Literal["multiview"] = protocol("multiview")
    main_metric: Literal["recall", "recall_mean_of_bins"] = protocol("recall")
    data: DataSpec = protocol()
    # input side in pixels, to which the square around the object is squashed; None: the backbone's own
    size: Side | None = protocol(None)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = protocol("bicubic")  # of the images
    layers: Layers | None = protocol(None)  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    # Cells a side on which points are compared; tokens are interpolated to them (bicubic).
    resolution: Annotated[int, Between(2, 1_024)] = protocol(128)
    matches: Count = protocol(1_000)  # of a pair, those kept whose best cell stands out most from the second (ratio test)
    threshold_cm: Annotated[float, Between(0, 1_000, above=True)] = protocol(2.0)  # a match is right where it is less far off
    more_thresholds_cm: Annotated[list[Annotated[float, Between(0, 1_000, above=True)]], Field(max_length=20)] = protocol(
        [1.0, 5.0]
    )
    # Pairs: of all images in order every ``every``-th one, each with one drawn from its scene's other views that are turned by
    # at most ``max_angle`` degrees, by a generator of ``pair_seed`` and the image's name.
    every: Annotated[int, Between(1, 1_000)] = protocol(4)
    max_angle: Annotated[float, Between(0, 180, above=True)] = protocol(120.0)
    pair_seed: Seed = protocol(8)
    # Edges of the ranges of that angle by which recall is shown too.
    angle_bins: Annotated[list[Annotated[float, Between(0, 180)]], Field(min_length=2, max_length=50)] = protocol(
        [0.0, 30.0, 60.0, 90.0, 120.0]
    )

    @model_validator(mode="after")
    def _rising(self) -> MultiviewCard:
        if any(high <= low for low, high in pairwise(self.angle_bins)):
            raise ValueError(f"`angle_bins`: {self.angle_bins} do not rise; give the edges from small to large, each once")
        return self
