"""An image processor of transformers as this suite's preprocessing, or one line on what of it cannot be followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from levl_eval.backbones.base import Preprocess
from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

_PIL = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Steps of some processors that would be left out here: padding, BGR, an offset, a second normalisation, ConvNeXt's crop by share.
_STEPS = ("do_pad", "do_flip_channel_order", "rescale_offset", "include_top", "crop_pct")
_PY = "use py: with your own preprocess"


def preprocess_of(processor: BaseImageProcessor, uri: str = "hf") -> Preprocess:
    """An image processor's settings as data.

    SigLIP 2 of variable size keeps the aspect ratio within a number of patches; the suite's images are squares, so it gets the
    largest square of so many. Raises UsageError for settings the suite's preprocessing cannot follow.
    """
    interpolation = _interpolation(processor, uri)
    mean, std = _statistics(processor, uri)
    unknown = [step for step in _STEPS if getattr(processor, step, None)]
    if unknown:
        raise UsageError(f"{uri}: its image processor sets {unknown[0]}, which this suite does not follow; {_PY}")
    if not getattr(processor, "do_resize", True):
        raise UsageError(f"{uri}: its image processor does not resize; this suite's images are squares of one size; {_PY}")
    if hasattr(processor, "max_num_patches"):
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        return Preprocess(side, "squash", None, interpolation, mean, std)
    size, crop = processor.size, getattr(processor, "crop_size", None)
    shortest, longest = _side(size, uri, "shortest_edge"), _side(size, uri, "longest_edge")
    cut = _side(crop, uri, "height", "width") if getattr(processor, "do_center_crop", False) and crop is not None else None
    side = shortest or _side(size, uri, "height", "width")
    if side is None:
        raise UsageError(f"{uri}: its image processor names neither a shortest edge nor height and width; {_PY}")
    if shortest and longest:
        raise UsageError(f"{uri}: its images keep their longest edge below {longest} pixels; this suite's are squares; {_PY}")
    if cut is not None and (shortest or cut != side):
        how = "shortest" if shortest else "squash-crop"
        return Preprocess(cut, how, side, interpolation, mean, std)
    return Preprocess(side, "shortest" if shortest else "squash", None, interpolation, mean, std)


def _interpolation(processor: BaseImageProcessor, uri: str) -> str:
    value = getattr(processor, "resample", None)
    name = None if value is None else _PIL.get(int(value))
    if name is None:
        raise UsageError(f"{uri}: its image processor resamples by {value!r}; expected one of Pillow's numbers 0 to 5; {_PY}")
    return name


def _statistics(processor: BaseImageProcessor, uri: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) for pixels in [0, 1]; neutral where it does not normalise."""
    factor = getattr(processor, "rescale_factor", None) or 1 / 255
    if not getattr(processor, "do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise UsageError(f"{uri}: its image processor does not scale pixels to [0, 1]; {_PY}")
    if not getattr(processor, "do_normalize", True) or processor.image_mean is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _three(processor.image_mean, "image_mean", uri), _three(processor.image_std, "image_std", uri)


def _three(values: float | Sequence[float] | None, field: str, uri: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(v) for v in values)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise UsageError(f"{uri}: field {field} of its image processor is {values!r}; expected three numbers") from None
    return red, green, blue


def _side(size: object, uri: str, *names: str) -> int | None:
    values = [size.get(n) if hasattr(size, "get") else getattr(size, n, None) for n in names]
    if len({v for v in values if v}) > 1:
        raise UsageError(f"{uri}: its images are {' x '.join(map(str, values))} pixels; this suite's are squares")
    return values[0]
