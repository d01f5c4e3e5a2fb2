"""Cards of the tasks that match patch tokens of one image with those of another, without training: semantic correspondence."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from levl_eval.cards.base import DataSpec, TaskFields
from levl_eval.cards.fields import Between, Layers, Side, TokenDtype, protocol

_Alpha = Annotated[float, Between(0, 1, above=True)]


class CorrespondenceCard(TaskFields):
    """Keypoints of one image found in another by the cosine of patch tokens (PCK)."""

    engine: Literal["correspondence"] = protocol("correspondence")
    main_metric: Literal["pck_per_point", "pck_per_image"] = protocol(
        "pck_per_point"
    )  # and what a row of samples is: a keypoint or a pair
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
    threshold: Literal["box", "image"] = protocol(
        "box"
    )  # whose longer side: of the target's bounding box, or of the target image
