"""An image processor of transformers as this suite's preprocessing, or one line on what of it cannot be followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

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
    if shortest and cut is None:
        raise UsageError(
            f"{uri}: its image processor scales the shortest edge to {shortest} and crops nothing; this suite's images are squares; {_PY}"
        )
    if cut is not None and (shortest or cut != side):
        how = "shortest" if shortest else "squash-crop"
        return Preprocess(cut, how, side, interpolation, mean, std, "floor")
    return Preprocess(side, "squash", None, interpolation, mean, std)


def check_pixels(processor: BaseImageProcessor, preprocess: Preprocess, uri: str) -> None:
    """Raises UsageError where an image processor does not do what its settings say: where it gives images that are not square other
    pixels than ``preprocess``, which was read from them.

    transformers has most processors twice. That on Pillow must give the same pixels, but for a crop larger than the image, whose odd pixel
    the two lay on other sides. The one on torchvision's tensors, which is loaded where torchvision is there, rounds between two passes
    otherwise: on slopes of colour it must be within two levels of 255, and where it takes the nearest pixel within a shift by one.
    SigLIP 2 of variable size is squashed here on purpose and is not compared.
    """
    if hasattr(processor, "max_num_patches"):
        return
    side, pillow = preprocess.resize_to or preprocess.size, _by_pillow(processor)
    pairs = [(processor, 2 + (1.5 * 255 / side if preprocess.interpolation == "nearest" else 0))]
    if pillow is not None and preprocess.size <= side:
        pairs.append((pillow, 0.02))
    for wide, high in ((3 * side, 3 * side // 2), (3 * side + 2, 3 * side // 2), (side, 2 * side + 1)):
        image = _slopes(wide, high)
        ours, scale = preprocess(image), torch.tensor(preprocess.std)[:, None, None] * 255
        for one, most in pairs:
            theirs = _run(one, image, uri)
            if theirs is None:
                continue
            if theirs.shape != ours.shape:
                raise UsageError(
                    f"{uri}: its image processor makes {tuple(theirs.shape)} of an image of {wide} x {high}, "
                    f"its settings say {tuple(ours.shape)}; {_PY}"
                )
            levels = float(((theirs - ours) * scale).abs().max())
            if not levels <= most:
                raise UsageError(
                    f"{uri}: its image processor's pixels are {levels:.2g} of 255 levels from what its settings say; {_PY}"
                )


def _slopes(wide: int, high: int) -> Image.Image:
    """Red rises across, green down, blue falls across."""
    across = np.broadcast_to(np.linspace(0, 255, wide), (high, wide))
    down = np.broadcast_to(np.linspace(0, 255, high)[:, None], (high, wide))
    return Image.fromarray(np.stack([across, down, 255 - across / 2], -1).round().astype(np.uint8))


def _by_pillow(processor: BaseImageProcessor) -> BaseImageProcessor | None:
    """The same processor on Pillow, where transformers has one beside that on tensors."""
    import transformers

    name = type(processor).__name__
    if name.endswith("Pil"):
        return processor
    other = getattr(transformers, name.removesuffix("Fast") if name.endswith("Fast") else f"{name}Pil", None)
    out: BaseImageProcessor | None = None if other is None else other.from_dict(processor.to_dict())
    return out


def _run(processor: BaseImageProcessor, image: Image.Image, uri: str) -> torch.Tensor | None:
    """An image's pixels; None where torchvision has no such kernel. Raises UsageError where it asks for more than an image."""
    try:
        return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])
    except NotImplementedError:  # Pillow's box and hamming on tensors
        return None
    except Exception as e:  # whatever it asks for, it is no plain image processor
        raise UsageError(
            f"{uri}: its image processor cannot be run on an image alone ({type(e).__name__}: {' '.join(str(e).split())[:80]}); {_PY}"
        ) from e


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
